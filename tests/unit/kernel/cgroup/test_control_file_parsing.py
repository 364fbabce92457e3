"""How control files read what is written to them; the values were tried on real kernels or follow from memparse()."""

import pytest

from bpfleet.abi.errno import Errno
from bpfleet.kernel.cgroup.parse import (
    kstrtoint,
    memparse,
    page_counter_memparse,
    page_counter_text,
    strstrip,
)
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm.page_counter import PAGE_COUNTER_MAX
from tests.kernels import refused

PAGE = 4096


@pytest.mark.parametrize(
    ("text", "value", "rest"),
    [
        ("0", 0, ""),
        ("4096", 4096, ""),
        ("1k", 1 << 10, ""),
        ("1K", 1 << 10, ""),
        ("3m", 3 << 20, ""),
        ("2G", 2 << 30, ""),
        ("1t", 1 << 40, ""),
        ("1P", 1 << 50, ""),
        ("1e", 1 << 60, ""),
        ("1kb", 1 << 10, "b"),
        ("0x1000", 4096, ""),
        ("0X10k", 16 << 10, ""),
        ("0x", 0, "x"),
        ("010", 8, ""),
        ("08", 0, "8"),
        ("-1", 0, "-1"),
        ("+1", 0, "+1"),
        ("", 0, ""),
        ("k", 0, ""),
        ("16e", 0, ""),  # wraps
        ("18446744073709551615", (1 << 64) - 1, ""),
        ("18446744073709551617", 1, ""),
    ],
)
def test_memparse_reads_c_numbers_with_a_suffix_and_wraps(text: str, value: int, rest: str) -> None:
    assert memparse(text) == (value, rest)


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("max", PAGE_COUNTER_MAX),
        (" max\n", PAGE_COUNTER_MAX),
        ("0", 0),
        ("4095", 0),
        ("8191", 1),
        ("64M\n", 16384),
        ("", 0),
        ("\n", 0),
        ("9223372036854775807", PAGE_COUNTER_MAX),
    ],
)
def test_sizes_are_rounded_down_to_pages(text: str, pages: int) -> None:
    assert page_counter_memparse("memory.max", text) == pages


@pytest.mark.parametrize(
    "text", ["Max", "max1", "1M 2M", "64MB", "-4096", "1.5M", "0x", "08", "m1"]
)
def test_anything_left_over_is_refused(text: str) -> None:
    with refused(Errno.EINVAL) as caught:
        page_counter_memparse("memory.max", text)
    assert "memory.max" in caught.value.detail


def test_a_very_long_value_is_shortened_in_the_message() -> None:
    with refused(Errno.EINVAL) as caught:
        page_counter_memparse("memory.max", "x" * 5000)
    assert len(caught.value.detail) < 200


def test_what_is_read_back_is_what_was_set() -> None:
    assert page_counter_text(PAGE_COUNTER_MAX) == "max\n"
    assert page_counter_text(0) == "0\n"
    assert page_counter_text(3) == f"{3 * PAGE}\n"


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), (" 7\n", 7), ("+7", 7), ("-7", -7), ("0x1f", 31), ("017", 15)]
)
def test_kstrtoint_reads_a_whole_c_integer(text: str, value: int) -> None:
    assert kstrtoint("cgroup.procs", text) == value


@pytest.mark.parametrize("text", ["", "seven", "7k", "1 2", "--7", "0x", "08"])
def test_kstrtoint_refuses_anything_else(text: str) -> None:
    with refused(Errno.EINVAL):
        kstrtoint("cgroup.procs", text)


@pytest.mark.parametrize("text", ["2147483648", "-2147483649", "99999999999999999999"])
def test_kstrtoint_is_32_bits_wide(text: str) -> None:
    with refused(Errno.ERANGE):
        kstrtoint("cgroup.procs", text)


def test_the_no_break_space_of_latin_1_is_a_blank_too() -> None:
    assert strstrip("\xa0\t 1 \v\f\r\n") == "1"
    assert page_counter_memparse("memory.max", "\xa04096") == 1


def test_refusals_are_kernel_errors_with_the_file_name() -> None:
    with pytest.raises(KernelError, match=r"memory\.oom\.group"):
        kstrtoint("memory.oom.group", "yes")
