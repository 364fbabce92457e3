"""Kernel profiles by name or by file: what every ``--kernel`` accepts."""

from pathlib import Path

from bpfleet.kernel.profile import PROFILES as KERNELS
from bpfleet.kernel.profile import KernelProfile, profile_named
from bpfleet.kernel.profile_file import profile_from_toml
from bpfleet.plugins import PROFILES as PLUGINS
from bpfleet.plugins import plugin_names, plugin_text

__all__ = ["profile_and_text", "profile_from"]


def profile_from(name: str) -> KernelProfile:
    """A known kernel (``6.12``, ``6.12:nobpf``), the profile in a TOML file (``host.toml``, ``./host``), or one that an
    installed package brings.

    Raises ``ValueError`` with one line that says what was wrong.
    """
    return profile_and_text(name)[0]


def profile_and_text(name: str) -> tuple[KernelProfile, str]:
    """The profile, and the text of the file it came from; empty where ``name`` is that of a kernel.

    What has several lines is such a text itself: so a setting carries a file to where an agent runs. Raises
    ``ValueError`` with one line that says what was wrong.
    """
    if "\n" in name:
        text, where = name, "profile file"
    elif name.endswith(".toml") or "/" in name:
        where = f"profile file {name}"
        text = _read(name, where)
    elif name in plugin_names(PLUGINS) and name not in KERNELS:
        text, where = plugin_text(PLUGINS, name) or "", f"profile {name}"
    else:
        return profile_named(name), ""
    try:
        return profile_from_toml(text), text
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read(name: str, where: str) -> str:
    try:
        return Path(name).read_text()
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not text") from error
