"""Invariants that are checked in production, whatever the interpreter's options."""

__all__ = ["BrokenInvariantError", "require"]


class BrokenInvariantError(AssertionError):
    """A bug of ours: nothing that was decided since can be trusted."""


def require(holds: object, text: str) -> None:
    """Raises ``BrokenInvariantError`` where something that must hold does not."""
    if not holds:
        raise BrokenInvariantError(text)
