"""Requests at random, of which many are right often enough to get past the first check."""

from google.protobuf.descriptor import FieldDescriptor as Field

NUMBERS = {
    Field.TYPE_INT32: [0, 1, 2, 3, 4, 5, -1, 100, 101, 4096, 2**31 - 1, -(2**31)],
    Field.TYPE_INT64: [0, 1, 2, 4, 8, 64, -1, 4096, 10**6, 2**32, 2**63 - 1, -(2**63)],
    Field.TYPE_DOUBLE: [0.0, 0.5, -1.0, float("nan"), float("inf")],
}
BYTES = [b"", b"\0\0\0\0", bytes(8), bytes(64), b"\xff" * 1000]
DEPTH_MAX = 5


def fill(message, chance, likely, texts, share=0.65):
    """Fills a share of a message's fields in place and returns it.

    ``likely`` has good values by field name, ``texts`` any others; with a large share most of ``likely`` are there.
    """
    _Filler(chance, likely, texts, share).fill(message, 0)
    return message


class _Filler:
    def __init__(self, chance, likely, texts, share):
        self.chance, self.likely, self.texts = chance, likely, texts
        self.share, self.likely_share = share, 0.95 if share > 0.5 else share

    def fill(self, message, depth):
        chance = self.chance
        for field in message.DESCRIPTOR.fields:
            is_likely = field.name in self.likely or field.name in ("caller", "spec")
            wanted = self.likely_share if is_likely else self.share
            if chance.random() > wanted or depth > DEPTH_MAX:
                continue
            if field.containing_oneof is not None and chance.random() < 0.5:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._fill_map(getattr(message, field.name), field)
            elif field.is_repeated:
                for _ in range(chance.choice([1, 2, 3])):
                    self._append(message, field, depth)
            elif field.type == Field.TYPE_MESSAGE:
                getattr(message, field.name).SetInParent()
                self.fill(getattr(message, field.name), depth + 1)
            else:
                setattr(message, field.name, self._value(field))

    def _fill_map(self, entries, field):
        for _ in range(self.chance.choice([0, 0, 1, 2])):
            key, value = field.message_type.fields
            entries[self._value(key, field.name)] = self._value(value, field.name)

    def _append(self, message, field, depth):
        if field.type == Field.TYPE_MESSAGE:
            self.fill(getattr(message, field.name).add(), depth + 1)
        else:
            getattr(message, field.name).append(self._value(field))

    def _value(self, field, name=""):
        """Mostly something that could be meant, so that requests get past the first check."""
        chance = self.chance
        meant = chance.random() < 0.85
        if meant and (name or field.name) in self.likely:
            return chance.choice(self.likely[name or field.name])
        if meant and field.type in (Field.TYPE_INT32, Field.TYPE_INT64):
            return chance.choice([0, 0, 1, 2, 4, 8, 64])
        if meant and field.type == Field.TYPE_ENUM:
            return chance.choice(field.enum_type.values).number
        if field.type == Field.TYPE_STRING:
            return chance.choice(self.texts)
        if field.type == Field.TYPE_BYTES:
            return chance.choice(BYTES)
        if field.type == Field.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == Field.TYPE_ENUM:
            return chance.choice([*range(len(field.enum_type.values)), 99, -1])
        return chance.choice(NUMBERS[field.type])
