"""Random cases in the recordings' format, one per seed, for comparing a live kernel with the emulator."""

import random
from typing import Any

Operation = dict[str, Any]

_HASHES = ("hash", "percpu_hash")
_LRUS = ("lru_hash", "lru_percpu_hash")
_KEYLESS = ("queue", "stack", "bloom_filter")
_NESTED = ("array_of_maps", "hash_of_maps")
_TYPES = (
    *_HASHES,
    *_LRUS,
    *_KEYLESS,
    *_NESTED,
    "array",
    "percpu_array",
    "lpm_trie",
    "stack_trace",
    "devmap",
    "devmap_hash",
    "cpumap",
)
_ZERO_SEED = 0x40
_UPDATE_FLAGS = (0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 8)
_LOOPBACK = 1


class _Case:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.type = self.random.choice(_TYPES)
        self.entries = self.random.choice((1, 2, 3, 4, 5, 8, 16, 33, 100))
        self.key_size, self.value_size, self.flags = self._shape()
        self.numbers = self.random.choice((4, self.entries + 2, self.entries * 2 + 3))

    def _shape(self) -> tuple[int, int, int]:
        pick = self.random.choice
        value = pick((1, 4, 8, 12, 16))
        if self.type in _HASHES:
            return pick((1, 2, 4, 5, 8, 12, 13, 16, 20, 24)), value, pick((0x40, 0x41))
        if self.type in _LRUS:
            return pick((2, 4, 8)), value, pick((0x40, 0x42))
        if self.type in _KEYLESS:
            return 0, value, _ZERO_SEED if self.type == "bloom_filter" else 0
        if self.type in _NESTED:
            return 4, 4, pick((0x40, 0x41)) if self.type == "hash_of_maps" else 0
        if self.type == "lpm_trie":
            return pick((5, 6, 8, 12, 20)), value, 1
        if self.type == "stack_trace":
            return 4, 80, 0
        return 4, pick((4, 8)) if self.type in ("devmap", "devmap_hash", "cpumap") else value, 0

    def key(self) -> str | None:
        if self.type in _KEYLESS:
            return None
        if self.type == "lpm_trie":
            return self._prefix()
        number = self.random.randrange(self.numbers)
        return number.to_bytes(max(self.key_size, 8), "little")[: self.key_size].hex()

    def _prefix(self) -> str:
        longest = 8 * (self.key_size - 4)
        length = self.random.choice((0, 1, 3, 7, 8, 9, 15, 17, longest - 1, longest, longest + 1))
        data = bytes(self.random.choice((0, 0, 1, 128, 255, 170)) for _ in range(longest // 8))
        return (length.to_bytes(4, "little") + data).hex()

    def value(self) -> Any:
        if self.type in _NESTED:
            return {"fd": self.random.choice(("i", "j")), "size": 4}
        if self.type.startswith("devmap"):
            device = self.random.choice((0, _LOOPBACK, _LOOPBACK, 999_999))
            return device.to_bytes(self.value_size, "little").hex()
        if self.type == "cpumap":
            queue = self.random.choice((0, 64, 192, 20000))
            return queue.to_bytes(self.value_size, "little").hex()
        return (bytes([self.random.randrange(250)]) * self.value_size).hex()

    def create(self) -> list[Operation]:
        made: Operation = {
            "op": "create",
            "type": self.type,
            "ks": self.key_size,
            "vs": self.value_size,
            "me": self.entries,
            "fl": self.flags,
        }
        if self.type not in _NESTED:
            return [made]
        inner = {"op": "create", "type": "array", "ks": 4, "vs": 8, "me": 4}
        return [{**inner, "m": "i"}, {**made, "inner": "i"}, {**inner, "m": "j"}]

    def operation(self) -> Operation:
        kind = self.random.choices(
            ("update", "lookup", "delete", "lookup_delete", "next_key", "walk", "count", "info",
             "fill", "lookup_batch", "lookup_delete_batch", "update_batch", "delete_batch"),
            (40, 12, 12, 6, 6, 6, 3, 2, 1, 3, 2, 4, 3),
        )[0]  # fmt: skip
        return {"op": kind, **self._arguments(kind)}

    def _arguments(self, kind: str) -> Operation:
        pick = self.random.choice
        if kind == "update":
            return {"k": self.key(), "v": self.value(), "fl": pick(_UPDATE_FLAGS)}
        if kind == "lookup" and self.type == "bloom_filter":
            return {"k": None, "v": self.value()}
        if kind in ("lookup", "delete", "lookup_delete", "next_key"):
            return {"k": self.key()}
        if kind == "walk":
            return {"ordered": 1}
        if kind == "fill":
            return {"start": self.random.randrange(10), "count": self.random.randrange(1, 40)}
        if kind in ("lookup_batch", "lookup_delete_batch"):
            return {"inb": None, "count": pick((1, 2, 5, 50)), "ordered": 1}
        count = self.random.randrange(1, 6)
        keys = {"ks": [self.key() or "" for _ in range(count)]}
        if kind == "update_batch":
            return {**keys, "vs": [self.value() for _ in range(count)]}
        return keys if kind == "delete_batch" else {}


def random_case(seed: int) -> list[Operation]:
    """A map of a random type and shape, and 5 to 60 operations on it."""
    case = _Case(seed)
    return case.create() + [case.operation() for _ in range(case.random.randrange(5, 60))]


def random_lru_case(seed: int) -> list[Operation]:
    """Filling, updating and deleting in an LRU map from two CPUs: eviction decides every answer."""
    chance = random.Random(seed)
    entries = chance.choice((2, 3, 4, 10, 31, 64, 128, 200, 256, 300, 600, 1000))
    operations: list[Operation] = [
        {"op": "cpu", "n": 0},
        {
            "op": "create",
            "type": chance.choice(_LRUS),
            "ks": 4,
            "vs": 8,
            "me": entries,
            "fl": chance.choice((0x40, 0x42)),
        },
    ]
    for _ in range(chance.randrange(3, 25)):
        kind = chance.choice(("cpu", "fill", "update", "delete", "walk"))
        if kind == "cpu":
            operations.append({"op": "cpu", "n": chance.randrange(2)})
        elif kind == "fill":
            start, count = chance.randrange(3 * entries), chance.randrange(1, entries + 50)
            operations.append({"op": "fill", "start": start, "count": count})
        elif kind == "walk":
            operations.append({"op": "walk", "ordered": 1})
        else:
            operations += [_touch(chance, kind, 4 * entries) for _ in range(10)]
    return [*operations, {"op": "walk", "ordered": 1}]


def _touch(chance: random.Random, kind: str, numbers: int) -> Operation:
    key = chance.randrange(numbers).to_bytes(4, "little").hex()
    if kind == "delete":
        return {"op": "delete", "k": key}
    return {"op": "update", "k": key, "v": "01" * 8, "fl": chance.choice((0, 0, 0, 1, 2))}
