"""The error of a setting that cannot be right."""

__all__ = ["SettingsError"]


class SettingsError(ValueError):
    """A setting that cannot be right, in one sentence that names it."""
