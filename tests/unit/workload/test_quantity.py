"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.workload.quantity import format_bytes, parse_bytes, parse_limit


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("64Ki", 65536),
        ("64KiB", 65536),
        ("1.5G", 3 << 29),
        (" 2 Gi ", 2 << 30),
        ("200mi", 200 << 20),
    ],
)
def test_sizes_are_powers_of_two(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "K", "-1", "1.G", "1e3", "5 apples", "0x10", "1KK"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write bytes, or a number with K, M, G or T"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["8192P", "99999999999999G", "9" * 20])
def test_sizes_beyond_any_memory_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="larger than any memory; use at most 8191P"):
        parse_limit(text)


@pytest.mark.parametrize("text", ["unlimited", "infinity", "max", "MAX"])
def test_no_limit_has_three_names(text: str) -> None:
    assert parse_limit(text) == RLIM_INFINITY


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (84 << 20, "84 MiB"), (-(3 << 30), "-3 GiB")],
)
def test_sizes_are_shown_short(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@given(st.integers(0, 1 << 60))
def test_what_is_shown_reads_back_to_about_the_same(size_bytes: int) -> None:
    assert abs(parse_bytes(format_bytes(size_bytes)) - size_bytes) <= size_bytes * 0.006
