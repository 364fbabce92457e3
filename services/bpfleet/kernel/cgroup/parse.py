"""How control files read numbers: memparse, page_counter_memparse, kstrtoint [lib/cmdline.c, mm/page_counter.c]."""

from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.page_counter import PAGE_COUNTER_MAX
from bpfleet.kernel.units import round_down

_BLANKS: Final = " \t\n\v\f\r\xa0"  # isspace() of the kernel's Latin-1 table
_U64_MASK: Final = (1 << 64) - 1
_INT_MAX: Final = (1 << 31) - 1
_SUFFIX_SHIFTS: Final = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_DIGITS: Final = {8: "01234567", 10: "0123456789", 16: "0123456789abcdefABCDEF"}


def strstrip(text: str) -> str:
    """strstrip(): without blanks at both ends."""
    return text.strip(_BLANKS)


def invalid(file: str, text: str, expected: str) -> KernelError:
    """EINVAL for a value a control file does not take."""
    shown = text if len(text) <= 40 else text[:40] + "..."
    return KernelError(
        Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"{file} does not take {shown!r}: expected {expected}"
    )


def _base_of(text: str) -> tuple[int, int]:
    """(base, position of the first digit) of a C-style number [_parse_integer_fixup_radix]."""
    if text[:1] == "0":
        if text[1:2] in ("x", "X") and text[2:3] in _DIGITS[16] and text[2:3]:
            return 16, 2
        return 8, 0
    return 10, 0


def memparse(text: str) -> tuple[int, str]:
    """A number with an optional suffix k m g t p e, as unsigned 64-bit that wraps; and the rest of the text.

    >>> memparse("64M"), memparse("0x10k!"), memparse("max")
    ((67108864, ''), (16384, '!'), (0, 'ax'))
    """
    base, start = _base_of(text)
    end = start
    while end < len(text) and text[end] in _DIGITS[base]:
        end += 1
    value = int(text[start:end], base) & _U64_MASK if end > start else 0
    if end < len(text) and (shift := _SUFFIX_SHIFTS.get(text[end].lower())) is not None:
        value = value << shift & _U64_MASK
        end += 1
    return value, text[end:]


def page_counter_memparse(
    file: str, text: str, *, unlimited: str = "max", page_bytes: int = PAGE_SIZE
) -> int:
    """``unlimited`` or a size in bytes, rounded down to pages, in units of 4 KiB. Raises EINVAL for anything left over.

    >>> page_counter_memparse("memory.max", "4097"), page_counter_memparse("memory.max", "max") == PAGE_COUNTER_MAX
    (1, True)
    """
    stripped = strstrip(text)
    if stripped == unlimited:
        return PAGE_COUNTER_MAX
    size_bytes, rest = memparse(stripped)
    if rest:
        raise invalid(file, stripped, f"{unlimited} or a size in bytes such as 64M")
    return min(round_down(size_bytes, page_bytes) // PAGE_SIZE, PAGE_COUNTER_MAX)


def page_counter_text(pages: int) -> str:
    """Bytes, or ``max``, with a newline [seq_puts_memcg_tunable]."""
    return "max\n" if pages >= PAGE_COUNTER_MAX else f"{pages * PAGE_SIZE}\n"


def kstrtopid(file: str, text: str) -> int:
    """A process id. Raises EINVAL, also beyond 32 bits [cgroup_procs_write_start]."""
    try:
        pid = kstrtoint(file, text)
    except KernelError:
        pid = -1
    if pid < 0:
        raise invalid(file, strstrip(text), "a process id")
    return pid


def kstrtoint(file: str, text: str) -> int:
    """A whole C-style int, blanks trimmed. Raises EINVAL, ERANGE beyond 32 bits."""
    stripped = strstrip(text)
    sign, digits = (-1, stripped[1:]) if stripped[:1] == "-" else (1, stripped.removeprefix("+"))
    base, start = _base_of(digits)
    body = digits[start:]
    if not body or any(c not in _DIGITS[base] for c in body):
        raise invalid(file, stripped, "an integer")
    value = sign * int(body, base)
    if not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise KernelError(Errno.ERANGE, Reason.BAD_ATTRIBUTE, f"{file} does not take {value}")
    return value
