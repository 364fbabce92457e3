"""Calibration: what a capture saw beside what the emulation of the same kernel says, and what to think of it. Pure.

A map is reproduced when its memlock is. A container is reproduced when all its maps are, it starts as it did on the
host, no kill was seen that the emulation has room for, and no more of its kernel memory is unexplained than 1 % or
16 KiB. What is not BPF is told by the kernel or counted object by object (`other_memory`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.calibrate.containers import Container
from bpfleet.calibrate.emulate import OK, ContainerOutcome
from bpfleet.calibrate.other_memory import OtherMemory, other_memory
from bpfleet.captures.document import Cgroup, Document, Map
from bpfleet.kernel.profile import KernelProfile

__all__ = ["Calibration", "MapCalibration", "calibrate"]

UNEXPLAINED_BYTES_MAX: Final = 16 << 10
_UNEXPLAINED_PERCENT: Final = 1
_PARTS: Final = ("kernel_stack", "pagetables", "percpu", "sock", "slab")
_UNNAMED: Final = ("vmalloc", "pages")
_EVENTS: Final = ("oom_kill", "oom", "max", "high")


class MapCalibration(Struct, frozen=True, kw_only=True):
    """One map: the memlock the host showed, and what the emulated kernel shows, by how full the map is."""

    id: int
    name: str
    seen: int
    least: int
    most: int

    @property
    def exact(self) -> bool:
        """Whether the emulated kernel shows the same."""
        return self.least <= self.seen <= self.most


class Calibration(Struct, frozen=True, kw_only=True):
    """One container. ``seen_bytes`` is its kernel memory on the host, None where the host does not tell it apart.

    ``emulated_bytes`` is BPF's part, ``told`` what else the kernel tells by name, ``modelled`` what is counted object
    by object. ``uncertain_bytes`` may be there or not: a process that moved in left it where it was forked.
    ``seen_events`` are those of its memory.events that are not 0, ``seen_peak_bytes`` its memory.peak.
    """

    container: str
    path: str
    verdict: str
    reproduced: bool
    maps: int
    exact_maps: int
    seen_memlock: int
    emulated_memlock: int
    seen_bytes: int | None
    emulated_bytes: int
    told: Mapping[str, int] = {}
    modelled: Mapping[str, int] = {}
    uncertain_bytes: int = 0
    seen_peak_bytes: int | None = None
    seen_events: Mapping[str, int] = {}
    emulated_failure: str = ""
    differing: tuple[MapCalibration, ...] = ()

    @property
    def told_bytes(self) -> int:
        """What the kernel tells by name beside BPF."""
        return sum(self.told.values())

    @property
    def modelled_bytes(self) -> int:
        """What is counted object by object beside BPF."""
        return sum(self.modelled.values())

    @property
    def other_bytes(self) -> int:
        """Kernel memory beside BPF that counts against the container's limit."""
        return self.told_bytes + self.modelled_bytes if self.seen_bytes is not None else 0

    @property
    def unexplained_bytes(self) -> int | None:
        """What neither the emulation nor the capture explains; negative where they explain too much."""
        if self.seen_bytes is None:
            return None
        rest = self.seen_bytes - self.emulated_bytes - self.told_bytes - self.modelled_bytes
        return rest if rest < 0 else max(0, rest - self.uncertain_bytes)

    @property
    def is_explained(self) -> bool:
        """Whether no more than 1 % or 16 KiB is unexplained."""
        rest = self.unexplained_bytes
        percent = (self.seen_bytes or 0) * _UNEXPLAINED_PERCENT // 100
        return rest is None or abs(rest) <= max(UNEXPLAINED_BYTES_MAX, percent)


def calibrate(
    document: Document,
    containers: Sequence[Container],
    outcomes: Sequence[ContainerOutcome],
    profile: KernelProfile,
) -> list[Calibration]:
    """One line per container, in their order. ``profile`` is the kernel they were emulated under."""
    maps = {each.id: each for each in document.maps}
    cgroups = {each.path: each for each in document.cgroups}
    return [
        _calibration(container, outcome, maps, cgroups.get(container.path), document, profile)
        for container, outcome in zip(containers, outcomes, strict=True)
    ]


def _calibration(
    container: Container,
    outcome: ContainerOutcome,
    maps: Mapping[int, Map],
    cgroup: Cgroup | None,
    document: Document,
    profile: KernelProfile,
) -> Calibration:
    found = [
        MapCalibration(
            id=number, name=maps[number].name, seen=maps[number].memlock_bytes, least=low, most=high
        )
        for place, (low, high) in outcome.memlock.items()
        if (number := container.map_ids[place]) in maps
    ]
    seen, emulated = _kernel_bytes(None if container.has_children else cgroup, outcome)
    if document.charges.how == "user":
        seen, emulated = None, outcome.locked_bytes
    line = Calibration(
        container=container.kind,
        path=container.path,
        verdict="",
        reproduced=False,
        maps=len(found),
        exact_maps=sum(each.exact for each in found),
        seen_memlock=sum(each.seen for each in found),
        emulated_memlock=sum(_nearest(each) for each in found),
        seen_bytes=seen,
        emulated_bytes=emulated,
        seen_peak_bytes=container.peak_bytes,
        seen_events=_events(cgroup),
        emulated_failure=outcome.failure,
        differing=tuple(each for each in found if not each.exact),
    )
    if seen is not None:
        found_other = other_memory(container, cgroup, document, profile, by_kind=outcome.by_kind)
        line = min(
            (_with(line, other) for other in found_other),
            key=lambda each: abs(each.unexplained_bytes or 0),
        )
    verdict, reproduced = _verdict(container, outcome, line)
    return replace(line, verdict=verdict, reproduced=reproduced)


def _with(line: Calibration, other: OtherMemory) -> Calibration:
    return replace(
        line,
        told=other.told,
        modelled=other.modelled,
        uncertain_bytes=other.uncertain_bytes,
    )


def _nearest(each: MapCalibration) -> int:
    return min(max(each.seen, each.least), each.most)


def _verdict(
    container: Container, outcome: ContainerOutcome, line: Calibration
) -> tuple[str, bool]:
    reasons = (*container.left_out, *outcome.refused)
    if reasons:
        return f"cannot be reproduced because of {len(reasons)}: {reasons[0]}", False
    if outcome.start != OK:
        return (
            f"cannot be reproduced because it runs here, but not in the emulation: {outcome.failure}",
            False,
        )
    if line.differing:
        missing = line.seen_memlock - line.emulated_memlock
        percent = 100 * abs(missing) / line.seen_memlock if line.seen_memlock else 100.0
        text = f"off by {percent:.1f} % ({len(line.differing)} of {line.maps} maps)"
        return text, percent <= _UNEXPLAINED_PERCENT
    if line.seen_bytes is None:
        return "reproduced (maps alone can be compared)", True
    if not line.is_explained:
        percent = 100 * abs(line.unexplained_bytes or 0) / max(1, line.seen_bytes)
        return f"off by {percent:.1f} % (all maps exact, {_rest(line)})", False
    kills = _unseen_kills(container, outcome, line)
    if kills:
        return f"off: {kills} OOM kills seen, but the emulation has room", False
    return "reproduced", True


def _rest(line: Calibration) -> str:
    """What is unexplained, in words. Where nothing is told by name, cached dentries and inodes are a part of it."""
    if (line.unexplained_bytes or 0) > 0 and not set(line.told) - {"page tables", "stacks"}:
        return (
            "other kernel memory, which cgroup v1 does not tell apart: mostly dentries and inodes"
        )
    return "other kernel memory"


def _unseen_kills(container: Container, outcome: ContainerOutcome, line: Calibration) -> int:
    """OOM kills of the capture where all that is emulated, and what a start takes, stays below the limit."""
    kills = line.seen_events.get("oom_kill", 0)
    if not kills or container.max_bytes is None:
        return 0
    need = outcome.steady_bytes + outcome.growth_bytes + outcome.loading_bytes
    need += max(line.other_bytes, outcome.process_bytes)
    return kills if need + PAGE_SIZE < container.max_bytes else 0  # less than a page is no room


def _events(cgroup: Cgroup | None) -> dict[str, int]:
    events = cgroup.events if cgroup is not None else {}
    return {name: events[name] for name in _EVENTS if events.get(name)}


def _kernel_bytes(cgroup: Cgroup | None, outcome: ContainerOutcome) -> tuple[int | None, int]:
    """Kernel memory of a container's own cgroup, and the emulated part that it can be compared with.

    None where its statistics include other cgroups'. Kernels without a vmalloc line (5.11 to 5.16) tell the rest only.
    """
    emulated = outcome.kernel_bytes
    if cgroup is None:
        return None, emulated
    if cgroup.kmem is not None:
        return cgroup.kmem, emulated
    if "kernel" in cgroup.stat:
        return cgroup.stat["kernel"], emulated
    parts = [cgroup.stat[name] for name in _PARTS if name in cgroup.stat]
    if not parts:
        return None, emulated
    return sum(parts), emulated - sum(outcome.by_kind.get(name, 0) for name in _UNNAMED)
