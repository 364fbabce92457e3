"""Scenario files: the scenario in a TOML file, with the listings and captures that its workloads name read in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.calibrate.containers import Container, host_input
from bpfleet.captures.document import read_document
from bpfleet.captures.listings import TEXT_LENGTH_MAX, read_listing
from bpfleet.near import advice
from bpfleet.plain import toml_table
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.scenario import Scenario, builtin_scenario, builtin_scenarios
from bpfleet.workload.scenario_schema import FILE_FIELDS

__all__ = ["read_scenario", "read_text", "scenario_from_file"]

# TOML and JSON values of any type.
Plain = Any

_LISTING: Final = "listing"
_CAPTURE: Final = "capture"
_CONTAINER: Final = "container"


def read_scenario(name: str) -> Scenario:
    """A built-in scenario by name, or the one in a TOML file. Raises ``SpecError``, ``OSError``."""
    if name in builtin_scenarios():
        return builtin_scenario(name)
    path = Path(name)
    if not path.exists() and path.suffix != ".toml":
        remedy = advice(name, builtin_scenarios())
        raise SpecError("scenario", "", name, "neither a built-in scenario nor a file", remedy)
    return scenario_from_file(path)


def scenario_from_file(path: Path) -> Scenario:
    """The scenario in ``path``; files that its workloads name are looked up beside it.

    Raises ``SpecError`` naming file and field, ``OSError`` for a file that cannot be read.
    """
    source = str(path)
    try:
        data: dict[str, Plain] = toml_table(read_text(path))
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(source, "", None, str(error), "correct the line") from None
    workloads = data.get("workloads")
    if isinstance(workloads, list):
        data["workloads"] = [
            _resolved(each, path, f"workloads[{index}]") if isinstance(each, Mapping) else each
            for index, each in enumerate(workloads)
        ]
    return from_data(Scenario, data, source)


def read_text(path: Path) -> str:
    """The text of an input file. Raises ``SpecError`` if it is huge or not UTF-8, ``OSError``."""
    if path.stat().st_size > TEXT_LENGTH_MAX:
        raise SpecError(str(path), "", None, "larger than 64 MiB", "split it into several files")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(
            str(path), f"byte {error.start}", None, "not UTF-8 text", "save it as UTF-8"
        ) from None


def _resolved(workload: Mapping[str, Plain], path: Path, where: str) -> Mapping[str, Plain]:
    """The workload with an inventory in place of the file it names."""
    named = {name: workload[name] for name in FILE_FIELDS if name in workload}
    if not named:
        return workload
    for name, value in named.items():
        if not isinstance(value, str):
            raise SpecError(str(path), f"{where}.{name}", value, "not text", "write it in quotes")
    rest = {name: value for name, value in workload.items() if name not in FILE_FIELDS}
    if _LISTING in named and _CAPTURE not in named and _CONTAINER not in named:
        file = path.parent / named[_LISTING]
        name = str(workload.get("name", "")) or file.stem
        listing = read_listing(read_text(file), str(file), name=name)
        return {
            "user_memory_bytes": 0,
            "memlock_bytes": RLIM_INFINITY,
            "inventory": to_data(listing.inventory),
            **rest,
        }
    if _CAPTURE in named and _LISTING not in named:
        file = path.parent / named[_CAPTURE]
        containers = host_input(read_document(file.read_bytes(), str(file))).containers
        return {**_as_workload(_chosen(containers, named, str(path), where)), **rest}
    raise SpecError(
        str(path),
        where,
        None,
        "listing, capture and container do not go together so",
        "give listing, or capture with container",
    )


def _chosen(
    containers: tuple[Container, ...], named: Mapping[str, str], source: str, where: str
) -> Container:
    wanted = named.get(_CONTAINER)
    found = [each for each in containers if wanted in (None, each.kind)]
    if wanted is not None and found:
        return found[0]
    if len(found) == 1:
        return found[0]
    known = sorted({each.kind for each in containers})
    raise SpecError(
        source,
        f"{where}.{_CONTAINER}",
        wanted,
        "missing" if wanted is None else "no such container in the capture",
        advice(wanted or "", known),
    )


def _as_workload(container: Container) -> dict[str, Plain]:
    """The fields of a workload that a container of a capture tells."""
    data: dict[str, Plain] = {
        "inventory": to_data(container.inventory),
        "uid": container.uid,
        "memlock_bytes": container.memlock_bytes,
        "oom_score_adj": container.oom_score_adj,
        "threads": container.threads,
    }
    if container.max_bytes is not None:
        data["memory_limit_bytes"] = container.max_bytes
    if container.capabilities is not None:
        data["capabilities"] = sorted(each.name.lower() for each in container.capabilities)
    return data
