"""The one error of this package: a declaration that cannot be used, said in one line."""

from typing import Final

_SHOWN_VALUE_LENGTH_MAX: Final = 60


class SpecError(ValueError):
    """A scenario, inventory, catalogue or workload declaration is wrong.

    Reads as ``SOURCE: FIELD = VALUE: PROBLEM; REMEDY``. ``source`` is the file (or the caller's
    word for where the declaration came from), ``field`` the dotted path inside it.
    """

    def __init__(self, source: str, field: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(source, field, value, problem, remedy)
        self.source: Final = source
        self.field: Final = field
        self.value: Final = value
        self.problem: Final = problem
        self.remedy: Final = remedy

    def __str__(self) -> str:
        place = f"{self.source}: {self.field}" if self.field else self.source
        shown = "" if self.value is None else f" = {_shown(self.value)}"
        return f"{place}{shown}: {self.problem}; {self.remedy}"

    def under(self, prefix: str) -> "SpecError":
        """The same error, its field placed below ``prefix`` (``maps[3]``)."""
        field = f"{prefix}.{self.field}" if self.field else prefix
        return SpecError(self.source, field, self.value, self.problem, self.remedy)

    def within(self, source: str) -> "SpecError":
        """The same error, said of the file ``source``."""
        return SpecError(source, self.field, self.value, self.problem, self.remedy)


def _shown(value: object) -> str:
    text = repr(value).replace("\n", " ")
    if len(text) <= _SHOWN_VALUE_LENGTH_MAX:
        return text
    return f"{text[:_SHOWN_VALUE_LENGTH_MAX]}…"
