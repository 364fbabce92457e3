"""What the launcher says when it cannot do what was asked."""

__all__ = ["LaunchError"]


class LaunchError(Exception):
    """One line for people: what was wrong, which value, what to do."""
