"""The user's configuration file: contexts, each with where servers are and how output looks."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from bpfleet.cli.output import write_file
from bpfleet.near import unknown

__all__ = [
    "KEYS",
    "OUTPUTS",
    "Configuration",
    "choose_context",
    "chosen_context",
    "configuration",
    "configuration_file",
    "save",
    "setting",
]

OUTPUTS: Final = ("table", "wide", "json", "yaml", "csv", "name")
# What a context may say, and what of it.
KEYS: Final[dict[str, str]] = {
    "coordinator": "HOST:PORT of a coordinator; several, separated by commas",
    "agent": "HOST:PORT of a node agent",
    "token_file": "file with the token that servers ask for",
    "tls_ca": "CA of the servers (PEM); switches TLS on",
    "tls_cert": "certificate to show to servers (PEM)",
    "tls_key": "its key (PEM)",
    "output": f"form of listings: {', '.join(OUTPUTS)}",
}
_DEFAULT: Final = "default"
_CHOSEN: Final = "bpfleet.context"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file as it stands: the name of the current context, and what each says."""

    current: str = _DEFAULT
    contexts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def configuration_file() -> Path:
    """``BPFLEET_CONFIG``, or ``bpfleet/config.toml`` in the user's folder of configuration (XDG)."""
    named = os.environ.get("BPFLEET_CONFIG")
    if named:
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(folder) / "bpfleet" / "config.toml"


def configuration() -> Configuration:
    """What the file says; an empty one where there is none. Raises ``ValueError`` with the file and the field."""
    path = configuration_file()
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Configuration()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}; correct it, or remove the file") from None
    contexts = data.get("contexts", {})
    if not isinstance(contexts, dict) or not all(isinstance(c, dict) for c in contexts.values()):
        raise ValueError(f"{path}: contexts: not tables; write [contexts.NAME]")
    for extra in data.keys() - {"current", "contexts"}:
        raise ValueError(f"{path}: {unknown('field', extra, ['current', 'contexts'])}")
    for name, values in contexts.items():
        for key, value in values.items():
            problem = _problem(key, value)
            if problem:
                raise ValueError(f"{path}: contexts.{name}: {problem}")
    return Configuration(str(data.get("current", _DEFAULT)), contexts)


def _problem(key: str, value: object) -> str:
    if key not in KEYS:
        return unknown("field", key, KEYS)
    if not isinstance(value, str):
        return f"{key} = {value!r}: not a text; write it in quotes"
    if key == "output" and value not in OUTPUTS:
        return unknown("output", value, OUTPUTS)
    return ""


def save(changed: Configuration) -> Path:
    """Writes the file. Raises ``ValueError`` for a field that cannot be, ``OSError``."""
    lines = [f"current = {json.dumps(changed.current)}\n"]
    for name, values in sorted(changed.contexts.items()):
        lines.append(f"\n[contexts.{json.dumps(name)}]\n")
        for key, value in values.items():
            problem = _problem(key, value)
            if problem:
                raise ValueError(problem)
            lines.append(f"{key} = {json.dumps(value)}\n")
    path = configuration_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "".join(lines))
    return path


def choose_context(context: click.Context, name: str) -> None:
    """The configuration's context of this run, instead of the file's current one."""
    context.find_root().meta[_CHOSEN] = name


def chosen_context() -> str | None:
    """The context that this run was told to use; None where it was not."""
    run = click.get_current_context(silent=True)
    found = run.find_root().meta.get(_CHOSEN) if run is not None else None
    return found if isinstance(found, str) else None


def setting(key: str) -> str | None:
    """What the context of this run says of ``key``; None where it says nothing.

    Raises ``ValueError`` for a file that cannot be used and for a context that is not in it.
    """
    found = configuration()
    named = chosen_context()
    name = named or found.current
    if name in found.contexts:
        return found.contexts[name].get(key)
    if named is None and name == _DEFAULT:
        return None
    raise ValueError(f"{configuration_file()}: {unknown('context', name, found.contexts)}")
