"""What a replay found: per section the number of cases, the exact ones, the mismatches, what could not be tried."""

from collections.abc import Callable
from dataclasses import dataclass, field
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
from bpfleet.kernel.errors import KernelError

SHOWN_MISMATCHES: Final = 10
# Recorded with what a process held, and asked for by no command of bpf(2).
_NOT_ASKED_FOR: Final = frozenset({"NET_RAW"})
_SPELLINGS: Final = {"ENOTSUP": "EOPNOTSUPP", "524": "ENOTSUPP"}


class UnsupportedCaseError(Exception):
    """A case uses something the emulator does not have; its text says what."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One answer that differs. ``where`` names the case and the operation."""

    where: str
    expected: Any
    found: Any
    case: dict[str, Any]


@dataclass(slots=True)
class Section:
    """The cases of one kind in one file."""

    name: str
    cases: int = 0
    exact: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    unsupported: dict[str, int] = field(default_factory=dict)

    def compare(self, where: str, expected: Any, found: Any, case: dict[str, Any]) -> bool:
        """Counts one case as exact or as a mismatch."""
        self.cases += 1
        if expected == found:
            self.exact += 1
            return True
        self.mismatches.append(Mismatch(where, expected, found, case))
        return False

    def skip(self, reason: str) -> None:
        """Counts one case that could not be tried."""
        self.cases += 1
        self.unsupported[reason] = self.unsupported.get(reason, 0) + 1


@dataclass(slots=True)
class FileReport:
    """Everything one recording file yielded."""

    path: str
    sections: dict[str, Section] = field(default_factory=dict)

    def section(self, name: str) -> Section:
        """The section called ``name``, made on first use."""
        found = self.sections.get(name)
        if found is None:
            found = self.sections[name] = Section(name)
        return found

    @property
    def mismatched(self) -> int:
        """Mismatches in all sections."""
        return sum(len(section.mismatches) for section in self.sections.values())

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "file": self.path,
            "sections": {
                section.name: {
                    "cases": section.cases,
                    "exact": section.exact,
                    "mismatches": len(section.mismatches),
                    "unsupported": section.unsupported,
                    "first": [
                        {"where": m.where, "expected": m.expected, "found": m.found}
                        for m in section.mismatches[:SHOWN_MISMATCHES]
                    ],
                }
                for section in self.sections.values()
            },
        }


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


def answer_of(call: Callable[[], Any]) -> Any:
    """0 for a call that succeeds, else the name of its errno."""
    try:
        call()
    except KernelError as refused:
        return refused.errno.name
    return 0
