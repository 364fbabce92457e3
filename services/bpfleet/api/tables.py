"""Results as tables: rows for programs, a frame for pandas, HTML for notebooks, text for terminals."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from bpfleet.workload.quantity import format_bytes

__all__ = ["Table"]

# JSON values of any type.
Plain = Any


class Table:
    """Rows of equal columns, bytes as whole numbers in columns that end in ``_bytes``. ``title`` says what they are."""

    def __init__(self, title: str, rows: Sequence[Mapping[str, Plain]]) -> None:
        self.title: Final = title
        self.rows: Final = tuple(dict(row) for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Plain]]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> dict[str, Plain]:
        return self.rows[index]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``. Raises ``ImportError`` where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame() needs pandas: pip install pandas") from None
        return pd.DataFrame(list(self.rows), columns=list(self.columns))

    def __repr__(self) -> str:
        lines = [self.title, "  ".join(self.columns)]
        lines += [
            "  ".join(_shown(name, row.get(name)) for name in self.columns) for row in self.rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{escape(name.removesuffix('_bytes'))}</th>" for name in self.columns)
        rows = "".join(
            "<tr>" + "".join(_cell(name, row.get(name)) for name in self.columns) + "</tr>"
            for row in self.rows
        )
        return (
            f"<table><caption>{escape(self.title)}</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )


def _cell(name: str, value: Plain) -> str:
    align = ' style="text-align:right"' if isinstance(value, (int, float)) else ""
    return f"<td{align}>{escape(_shown(name, value))}</td>"


def _shown(name: str, value: Plain) -> str:
    if value is None:
        return "none"
    if isinstance(value, int) and name.endswith("_bytes"):
        return format_bytes(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(name, each)}" for key, each in value.items())
    return str(value)
