"""Kernel profiles by name or by file: what every ``--profile`` and ``--model`` accepts."""

from pathlib import Path

from bpfleet.kernel.profile import KernelProfile, profile_named
from bpfleet.kernel.profile_file import profile_from_toml

__all__ = ["profile_file_text", "profile_from"]


def profile_from(name: str) -> KernelProfile:
    """A known kernel (``6.12``, ``6.12:nobpf``), or the profile in a TOML file (``host.toml``,
    ``./host``).

    Raises ``ValueError`` with one line that says what was wrong.
    """
    text = profile_file_text(name)
    if text is None:
        return profile_named(name)
    try:
        return profile_from_toml(text)
    except ValueError as error:
        shown = "" if text is name else f" {name}"
        raise ValueError(f"profile file{shown}: {error}") from error


def profile_file_text(name: str) -> str | None:
    """The text of the profile file that ``name`` stands for; None where it is the name of a kernel.

    What has several lines is such a text itself: so a setting carries a file to where an agent runs.
    Raises ``ValueError`` with one line where the file cannot be read.
    """
    if "\n" in name:
        return name
    if not name.endswith(".toml") and "/" not in name:
        return None
    try:
        return Path(name).read_text()
    except OSError as error:
        raise ValueError(f"profile file {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"profile file {name}: not text") from error
