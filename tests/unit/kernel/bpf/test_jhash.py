"""The bucket hash against a straight transcription of include/linux/jhash.h."""

from hypothesis import given
from hypothesis import strategies as st

from bpfleet.kernel.bpf.jhash import jhash

M = 0xFFFFFFFF


def _rol(word, by):
    return (word << by | word >> (32 - by)) & M


def _reference(key, seed):
    """jhash(): bytes taken one by one, as the C source does."""
    a = b = c = (0xDEADBEEF + len(key) + seed) & M
    length, at = len(key), 0
    words = [0, 0, 0]
    while length > 12:
        words = [int.from_bytes(key[at + i : at + i + 4], "little") for i in (0, 4, 8)]
        a, b, c = ((x + y) & M for x, y in zip((a, b, c), words, strict=True))
        a = (a - c) & M
        a ^= _rol(c, 4)
        c = (c + b) & M
        b = (b - a) & M
        b ^= _rol(a, 6)
        a = (a + c) & M
        c = (c - b) & M
        c ^= _rol(b, 8)
        b = (b + a) & M
        a = (a - c) & M
        a ^= _rol(c, 16)
        c = (c + b) & M
        b = (b - a) & M
        b ^= _rol(a, 19)
        a = (a + c) & M
        c = (c - b) & M
        c ^= _rol(b, 4)
        b = (b + a) & M
        length -= 12
        at += 12
    if not length:
        return c
    tail = key[at:]
    total = [a, b, c]
    for index, byte in enumerate(tail):
        total[index // 4] = (total[index // 4] + (byte << 8 * (index % 4))) & M
    a, b, c = total
    for x, y, by in (("c", "b", 14), ("a", "c", 11), ("b", "a", 25), ("c", "b", 16)):
        a, b, c = _final(a, b, c, x, y, by)
    for x, y, by in (("a", "c", 4), ("b", "a", 14), ("c", "b", 24)):
        a, b, c = _final(a, b, c, x, y, by)
    return c


def _final(a, b, c, x, y, by):
    value = {"a": a, "b": b, "c": c}
    value[x] = ((value[x] ^ value[y]) - _rol(value[y], by)) & M
    return value["a"], value["b"], value["c"]


@given(st.binary(max_size=64), st.integers(0, M))
def test_equals_the_c_source_word_by_word(key, seed):
    assert jhash(key, seed) == _reference(key, seed)


def test_known_answers():
    assert jhash(b"", 0) == 0xDEADBEEF
    assert jhash(bytes(4), 0) == 0x049396B8
