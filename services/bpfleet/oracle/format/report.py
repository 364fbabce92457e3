"""What a replay found: per section the number of cases, the exact ones, the mismatches, what could not be tried."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

SHOWN_MISMATCHES: Final = 10


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
    brief: bool = False  # mismatches are shown in one line each, all of them
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

    @property
    def shown(self) -> list[Mismatch]:
        """The mismatches to print."""
        return self.mismatches if self.brief else self.mismatches[:SHOWN_MISMATCHES]

    def skip(self, reason: str) -> None:
        """Counts one case that could not be tried."""
        self.cases += 1
        self.unsupported[reason] = self.unsupported.get(reason, 0) + 1


@dataclass(slots=True)
class FileReport:
    """Everything one recording file yielded."""

    path: str
    sections: dict[str, Section] = field(default_factory=dict)

    def section(self, name: str, *, brief: bool = False) -> Section:
        """The section called ``name``, made on first use."""
        found = self.sections.get(name)
        if found is None:
            found = self.sections[name] = Section(name, brief=brief)
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
                        for m in section.shown
                    ],
                }
                for section in self.sections.values()
            },
        }


def render(report: FileReport) -> str:
    """The report as a table, then the first mismatches of each section in full."""
    lines = [f"{report.path}"]
    for section in report.sections.values():
        skipped = sum(section.unsupported.values())
        lines.append(
            f"  {section.name:<14} {section.cases:>6} cases {section.exact:>6} exact"
            f" {len(section.mismatches):>5} mismatches {skipped:>5} unsupported"
        )
    for section in report.sections.values():
        for mismatch in section.shown:
            if section.brief:
                lines.append(
                    f"  {section.name}: {mismatch.where}:"
                    f" recorded {json.dumps(mismatch.expected)}, emulated {json.dumps(mismatch.found)}"
                )
                continue
            lines += [
                f"  {section.name}: {mismatch.where}",
                f"    expected {mismatch.expected!r}",
                f"    found    {mismatch.found!r}",
                f"    case     {json.dumps(mismatch.case)}",
            ]
        for reason, count in sorted(section.unsupported.items()):
            lines.append(f"  {section.name}: unsupported x{count}: {reason}")
    return "\n".join(lines)
