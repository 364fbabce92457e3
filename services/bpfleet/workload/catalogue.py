"""Real applications: their maps, sized for a node as each application sizes them
(``applications/*.toml``).
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from bpfleet.near import advice
from bpfleet.plain import toml_table
from bpfleet.plugins import APPLICATIONS, plugin_names, plugin_text
from bpfleet.workload.codec import from_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.sizing import resolve_numbers
from bpfleet.workload.spec import Inventory, NodeShape

__all__ = ["application_of_image", "applications", "default_options", "inventory_for"]

# One declared value of any type, as TOML and JSON readers return it.
Plain = Any

_FOLDER: Final = "applications"
_NOT_OF_INVENTORY: Final = frozenset({"images", "options", "maps", "programs"})
_NO_OPTIONS: Final[Mapping[str, int]] = {}


@cache
def applications() -> tuple[str, ...]:
    """Names of all catalogue entries, sorted: ours, and those of installed packages."""
    entries = (entry.name for entry in files("bpfleet.workload").joinpath(_FOLDER).iterdir())
    own = {name.removesuffix(".toml") for name in entries if name.endswith(".toml")}
    return tuple(sorted(own.union(plugin_names(APPLICATIONS))))


def inventory_for(
    application: str, shape: NodeShape, options: Mapping[str, int] = _NO_OPTIONS
) -> Inventory:
    """The inventory of ``application`` on a node of this shape.

    Raises ``SpecError`` for an unknown application or option, or where an option leads to a size
    out of range.
    """
    entry = _entry(application)
    source = f"application {application}"
    chosen = _options(entry, options, source)
    data = {name: value for name, value in entry.items() if name not in _NOT_OF_INVENTORY}
    for name in ("maps", "programs"):
        resolved = (resolve_numbers(item, shape, chosen, source) for item in entry.get(name, ()))
        data[name] = [item for item in resolved if item.get("count", 1) != 0]
    return from_data(Inventory, {"name": application, **data}, source)


def default_options(application: str) -> Mapping[str, int]:
    """The options of ``application`` and their defaults. Raises ``SpecError`` for an unknown one."""
    return dict(_entry(application).get("options", {}))


def application_of_image(image: str, container: str = "") -> str | None:
    """The application in a container image, by its repository's last parts; None for one that is not known.

    Some images hold several programs, and the name of the container tells which.

    >>> application_of_image("quay.io/cilium/cilium:v1.17.2@sha256:0123")
    'cilium'
    >>> application_of_image("gcr.io/datadoghq/agent:7", "system-probe")
    'datadog-npm'
    """
    repository = image.partition("@")[0]
    head, colon, tag = repository.rpartition(":")
    if colon and "/" not in tag:
        repository = head
    for name in applications():
        for known in _entry(name).get("images", ()):
            path, _, only = known.partition("#")
            if f"/{repository}".endswith(f"/{path}") and only in ("", container):
                return name
    return None


def _options(
    entry: Mapping[str, Plain], given: Mapping[str, int], source: str
) -> Mapping[str, int]:
    defaults: Mapping[str, int] = entry.get("options", {})
    for name, value in given.items():
        if name not in defaults:
            raise SpecError(
                source, f"options.{name}", value, "unknown option", advice(name, sorted(defaults))
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SpecError(source, f"options.{name}", value, "not a count", "use 0 or more")
    return {**defaults, **given}


@cache
def _entry(application: str) -> Mapping[str, Plain]:
    known = applications()
    if application not in known:
        raise SpecError(
            "catalogue", "application", application, "unknown", advice(application, known)
        )
    own = files("bpfleet.workload").joinpath(_FOLDER, f"{application}.toml")
    if own.is_file():
        return tomllib.loads(own.read_text("utf-8"))
    try:
        return toml_table(plugin_text(APPLICATIONS, application) or "")
    except ValueError as error:
        raise SpecError(f"application {application}", "", None, str(error), "correct it") from None
