"""What the replays of scenarios and of stories share: how a step names a map, and how an answer is written down."""

from collections.abc import Mapping
from typing import Any, Final

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.oracle.format.words import map_type_named, spelled
from bpfleet.verbs.stage import Answer as Told
from bpfleet.verbs.stage import Run

Answer = Any  # what a step answered: a JSON value

FD_VALUED: Final = frozenset({"array_of_maps", "hash_of_maps"})
INNER_MAP: Final = MapAttr(MapType.ARRAY, key_size=4, value_size=8, max_entries=4)


def map_attr(step: Mapping[str, Any], inner_fd: int | None) -> MapAttr:
    """The attributes that every recorded creation has."""
    return MapAttr(
        map_type_named(step["type"]),
        key_size=step["ks"],
        value_size=step["vs"],
        max_entries=step["me"],
        map_flags=step["fl"],
        inner_map_fd=inner_fd,
    )


def value_of(kind: str, value_size: int, possible_cpus: int, inner_fd: int) -> bytes:
    """What the recorder wrote as a value: of a map of maps its inner map, of a device map the loopback device."""
    if kind in FD_VALUED:
        return inner_fd.to_bytes(4, "little")
    if kind in ("devmap", "devmap_hash"):
        return (1).to_bytes(value_size, "little")
    if kind.startswith(("percpu_", "lru_percpu_")):
        return bytes(-(-value_size // 8) * 8 * possible_cpus)
    return bytes(value_size)


def as_recorded(answer: Told[Any]) -> Answer:
    """0, an errno by name, or "killed"."""
    return spelled(answer.word) if answer.word else 0


def counted(run: Run) -> Answer:
    """How often, and the first refusal."""
    return {"n": run.done, "e": spelled(run.word) if run.word else 0}
