"""Calibration: what a capture saw beside what the emulation of the same kernel says, and what to think of it. Pure.

A map is reproduced when its memlock is. A container is reproduced when all its maps are, it starts as it did on the
host, and no more of its kernel memory is unexplained than 1 % or 16 KiB. What is not BPF is told apart where the kernel
tells it: page tables, stacks, sockets, BTF and links.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.calibrate.containers import Container
from bpfleet.calibrate.emulate import OK, ContainerOutcome
from bpfleet.capture.document import Cgroup, Document, Map, Process

__all__ = ["Calibration", "MapCalibration", "calibrate"]

UNEXPLAINED_BYTES_MAX: Final = 16 << 10
_UNEXPLAINED_PERCENT: Final = 1
# What any process costs its cgroup in slab objects: its task, files, mappings and dentries.
_PROCESS_BYTES: Final = 32 << 10
_STACK_BYTES: Final = 16 << 10
_DESCRIPTOR_BYTES: Final = 512  # a file, and what anonymous inodes and sockets add
_PROGRAM_BYTES: Final = 4 << 10  # its event, trampoline, symbol and attachment
_LINK_BYTES: Final = 512
_BTF_FACTOR: Final = 1.7  # the text of a BTF, and the tables of its types
_LINE_BYTES: Final = 24
_FUNCTION_BYTES: Final = 8


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

    ``emulated_bytes`` is BPF's part, ``told_bytes`` what else the kernel tells apart. ``estimated_bytes`` is what
    processes, BTF and links can take at most beyond that: a process that moved in left its share where it started.
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
    told_bytes: int
    estimated_bytes: int
    differing: tuple[MapCalibration, ...] = ()

    @property
    def unexplained_bytes(self) -> int | None:
        """What neither the emulation nor the capture explains; negative where they explain too much."""
        if self.seen_bytes is None:
            return None
        return _unexplained(
            self.seen_bytes, self.emulated_bytes + self.told_bytes, self.estimated_bytes
        )


def calibrate(
    document: Document, containers: Sequence[Container], outcomes: Sequence[ContainerOutcome]
) -> list[Calibration]:
    """One line per container, in their order."""
    maps = {each.id: each for each in document.maps}
    cgroups = {each.path: each for each in document.cgroups}
    return [
        _calibration(container, outcome, maps, cgroups.get(container.path), document)
        for container, outcome in zip(containers, outcomes, strict=True)
    ]


def _calibration(
    container: Container,
    outcome: ContainerOutcome,
    maps: dict[int, Map],
    cgroup: Cgroup | None,
    document: Document,
) -> Calibration:
    found = [
        MapCalibration(
            id=number, name=maps[number].name, seen=maps[number].memlock_bytes, least=low, most=high
        )
        for place, (low, high) in outcome.memlock.items()
        if (number := container.map_ids[place]) in maps
    ]
    exact = sum(each.exact for each in found)
    seen_bytes = _kernel_bytes(cgroup, document)
    told = _told_bytes(cgroup)
    estimated = _estimated_bytes(container, document, told=told)
    found_text, reproduced = _verdict(container, outcome, found, seen_bytes, (told, estimated))
    return Calibration(
        container=container.kind,
        path=container.path,
        verdict=found_text,
        reproduced=reproduced,
        maps=len(found),
        exact_maps=exact,
        seen_memlock=sum(each.seen for each in found),
        emulated_memlock=sum(min(max(each.seen, each.least), each.most) for each in found),
        seen_bytes=seen_bytes,
        emulated_bytes=outcome.locked_bytes
        if document.charges.how == "user"
        else outcome.kernel_bytes,
        told_bytes=told,
        estimated_bytes=estimated,
        differing=tuple(each for each in found if not each.exact),
    )


def _verdict(
    container: Container,
    outcome: ContainerOutcome,
    maps: Iterable[MapCalibration],
    seen_bytes: int | None,
    other: tuple[int, int],
) -> tuple[str, bool]:
    found = list(maps)
    if container.left_out or outcome.refused:
        reasons = (*container.left_out, *outcome.refused)
        return f"cannot be reproduced because of {len(reasons)}: {reasons[0]}", False
    if outcome.start != OK:
        return (
            f"cannot be reproduced because it runs here, but not in the emulation: {outcome.failure}",
            False,
        )
    off = [each for each in found if not each.exact]
    if off:
        seen = sum(each.seen for each in found)
        missing = sum(each.seen - min(max(each.seen, each.least), each.most) for each in off)
        percent = 100 * abs(missing) / seen if seen else 100.0
        return (
            f"off by {percent:.1f} % ({len(off)} of {len(found)} maps)",
            percent <= _UNEXPLAINED_PERCENT,
        )
    if seen_bytes is None:
        return "reproduced (maps alone can be compared)", True
    rest = _unexplained(seen_bytes, outcome.kernel_bytes + other[0], other[1])
    if abs(rest) <= max(UNEXPLAINED_BYTES_MAX, seen_bytes * _UNEXPLAINED_PERCENT // 100):
        return "reproduced", True
    return (
        f"off by {100 * abs(rest) / max(1, seen_bytes):.1f} % (all maps exact, other kernel memory)",
        False,
    )


def _kernel_bytes(cgroup: Cgroup | None, document: Document) -> int | None:
    """Kernel memory of a container's own cgroup; None for the root, and where users pay instead of cgroups."""
    if cgroup is None or cgroup.path == "/" or document.charges.how == "user":
        return None
    if cgroup.kmem is not None:
        return cgroup.kmem
    if "kernel" in cgroup.stat:
        return cgroup.stat["kernel"]
    parts = [
        cgroup.stat[n]
        for n in ("kernel_stack", "pagetables", "percpu", "sock", "vmalloc", "slab")
        if n in cgroup.stat
    ]
    return sum(parts) if parts else None


def _unexplained(seen: int, least: int, estimated: int) -> int:
    """How far ``seen`` is from what can be explained: ``least``, and up to ``estimated`` more."""
    return seen - min(max(seen, least), least + estimated)


def _told_bytes(cgroup: Cgroup | None) -> int:
    """Kernel memory beside slab, per-CPU and vmalloc, as memory.stat of cgroup v2 tells it."""
    stat = cgroup.stat if cgroup is not None else {}
    return sum(
        stat.get(name, 0) for name in ("kernel_stack", "pagetables", "sec_pagetables", "sock")
    )


def _estimated_bytes(container: Container, document: Document, *, told: int) -> int:
    """What processes, BTF, line tables and links can take at most, beyond what the kernel tells apart."""
    inside = [process for process in document.processes if process.cgroup == container.path]
    found = _PROCESS_BYTES * len(inside)
    if not told:
        found += sum(_page_tables_and_stacks(process) for process in inside)
    found += sum(_DESCRIPTOR_BYTES * process.descriptors for process in inside)
    programs = [p for p in document.programs if p.payer.path == container.path]
    found += _PROGRAM_BYTES * len(programs)
    found += sum(p.lines * _LINE_BYTES + p.functions * _FUNCTION_BYTES for p in programs)
    held = {number for process in inside for number in process.btfs}
    held |= {p.btf_id for p in programs}
    held |= {m.btf_id for m in document.maps if m.payer.path == container.path}
    found += sum(int(b.bytes * _BTF_FACTOR) for b in document.btfs if b.id in held and not b.kernel)
    return found + _LINK_BYTES * len({number for process in inside for number in process.links})


def _page_tables_and_stacks(process: Process) -> int:
    tables = -(-process.vm_pte // PAGE_SIZE) * PAGE_SIZE
    return tables + _STACK_BYTES * process.threads
