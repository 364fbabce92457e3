"""The words of recordings: types, capabilities and errnos by name."""

from typing import Any, Final

from bpfleet.abi.bpf import (
    ALL_CAPABILITIES,
    Capability,
    MapType,
    ProgType,
    capabilities_of,
    map_type_from_name,
)
from bpfleet.abi.errno import Errno

# Recorded with what a process held, and asked for by no command of bpf(2).
_NOT_ASKED_FOR: Final = frozenset({"NET_RAW"})
_SPELLINGS: Final = {"ENOTSUP": "EOPNOTSUPP", "524": "ENOTSUPP"}


class UnsupportedCaseError(Exception):
    """A case uses something the emulator does not have; its text says what."""


def required(case: dict[str, Any], *names: str) -> None:
    """Raises ``UnsupportedCaseError`` naming the fields that a case lacks."""
    missing = [name for name in names if name not in case]
    if missing:
        raise UnsupportedCaseError(f"a case without {', '.join(missing)}")


def map_type_named(name: str) -> MapType:
    """The map type a recording names. Raises ``UnsupportedCaseError`` for one that is not emulated."""
    try:
        return map_type_from_name(name)
    except KeyError:
        raise UnsupportedCaseError(f"map type {name!r}") from None


def prog_type_named(name: str) -> ProgType:
    """The program type a recording names. Raises ``UnsupportedCaseError`` for one that is not emulated."""
    try:
        return ProgType[name.upper()]
    except KeyError:
        raise UnsupportedCaseError(f"program type {name!r}") from None


def capabilities_named(given: str | list[str]) -> frozenset[Capability]:
    """``"all"`` or capabilities by name. Those that nothing here asks for are left out."""
    if given == "all":
        return ALL_CAPABILITIES
    return capabilities_of(name for name in given if name not in _NOT_ASKED_FOR)


def errno_name(errno: int) -> str | int:
    """An errno as recordings spell it; 0 for success."""
    return Errno(errno).name if errno else 0


def same_errno(spelled: Any) -> Any:
    """Folds the spellings of one errno: ENOTSUP is Linux's EOPNOTSUPP, "524" is ENOTSUPP."""
    return _SPELLINGS.get(spelled, spelled) if isinstance(spelled, str) else spelled


def spelled(name: str) -> str:
    """An errno's name as the recorder of stories wrote it: ENOTSUPP has none in user space."""
    return "524" if name == "ENOTSUPP" else name
