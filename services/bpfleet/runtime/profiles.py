"""Kernel profiles by name or by file: what every ``--profile`` and ``--model`` accepts."""

from pathlib import Path

from bpfleet.kernel.profile import KernelProfile, profile_named
from bpfleet.kernel.profile_file import profile_from_toml

__all__ = ["profile_from"]


def profile_from(name: str) -> KernelProfile:
    """A known kernel (``6.12``, ``6.12:nobpf``), or the profile in a TOML file (``host.toml``,
    ``./host``).

    Raises ``ValueError`` with one line that says what was wrong.
    """
    if not name.endswith(".toml") and "/" not in name:
        return profile_named(name)
    try:
        text = Path(name).read_text()
    except OSError as error:
        raise ValueError(f"profile file {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"profile file {name}: not text") from error
    try:
        return profile_from_toml(text)
    except ValueError as error:
        raise ValueError(f"profile file {name}: {error}") from error
