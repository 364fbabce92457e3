"""Kernel profiles, applications and scenarios that other installed packages bring, by entry points.

A package names them in the groups ``bpfleet.profiles``, ``bpfleet.applications`` and ``bpfleet.scenarios``; what an
entry point refers to is the text of a TOML file, or a function that returns it. Names that bpfleet has itself win.
"""

from importlib.metadata import entry_points
from typing import Final

__all__ = ["APPLICATIONS", "PROFILES", "SCENARIOS", "plugin_names", "plugin_text"]

PROFILES: Final = "bpfleet.profiles"
APPLICATIONS: Final = "bpfleet.applications"
SCENARIOS: Final = "bpfleet.scenarios"


def plugin_names(group: str) -> tuple[str, ...]:
    """The names that installed packages bring to ``group``, sorted."""
    return tuple(sorted({each.name for each in entry_points(group=group)}))


def plugin_text(group: str, name: str) -> str | None:
    """The TOML text of ``name``; None where no package brings it. Raises ``ValueError`` where one brings no text."""
    found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        return None
    what = found.load()
    text = what() if callable(what) else what
    if not isinstance(text, str):
        raise ValueError(
            f"entry point {group}: {name} = {found.value}: not a text; refer to a TOML file's text"
        )
    return text
