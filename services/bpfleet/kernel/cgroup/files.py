"""The control files of a cgroup directory: exact text, exact parsing [kernel/cgroup/cgroup.c, mm/memcontrol.c].

`CONTROL_FILES` is the directory: one class per kind of file, one entry per name. A file that a kernel, the root, or a
directory without the memory controller does not have answers ENOENT; one that cannot be read or written EINVAL.
"""

from collections.abc import Mapping
from typing import Final, Protocol, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.cgroup.parse import (
    invalid,
    kstrtoint,
    kstrtopid,
    memparse,
    page_counter_memparse,
    page_counter_text,
    strstrip,
)
from bpfleet.kernel.cgroup.pressure import pressure_text
from bpfleet.kernel.cgroup.stat import LaggingStats, memory_stat_text
from bpfleet.kernel.cgroup.tree import UNLIMITED, Cgroup, CgroupTree
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm.current import KernelContext
from bpfleet.kernel.mm.memcontrol import MAX_RECLAIM_RETRIES, Memcg, MemcgEvent, SwapEvent
from bpfleet.kernel.mm.vmscan import MAX_SWAPPINESS
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import bytes_of, whole_pages

PROACTIVE_RECLAIM_SHARE: Final = 4


class Members(Protocol):
    """What control files do to processes; wired in by the kernel."""

    def move(self, pid: int, cgroup: Cgroup, *, thread: bool) -> None:
        """Migrates a process, or a thread alone. Raises ESRCH, EBUSY, EOPNOTSUPP."""

    def kill_below(self, cgroup: Cgroup) -> None:
        """Sends SIGKILL to every process of the subtree."""


@final
class FileHost:
    """What the files need of their node, and which there are: those of cgroup v2 or of v1."""

    def __init__(
        self,
        tree: CgroupTree,
        timeline: Timeline,
        members: Members,
        files: "Mapping[str, ControlFile]",
        lagging_stats: LaggingStats | None = None,
    ) -> None:
        self.files: Final = files
        self.lagging_stats: Final = lagging_stats
        self.tree: Final = tree
        self.timeline: Final = timeline
        self.members: Final = members
        self.profile: Final[KernelProfile] = tree.controller.profile


class ControlFile:
    """One file of a cgroup directory. ``memory`` files exist only where the memory controller is enabled."""

    memory = True
    on_root = False

    def exists(self, profile: KernelProfile) -> bool:
        """Whether this kernel has the file at all."""
        return True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        """The file's text. Raises EINVAL for a file that can only be written."""
        raise KernelError(Errno.EINVAL, Reason.OPERATION_UNSUPPORTED, "this file cannot be read")

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        """Takes a value. Raises EINVAL for a file that can only be read."""
        raise KernelError(Errno.EINVAL, Reason.OPERATION_UNSUPPORTED, "this file cannot be written")


# -- memory.* ----------------------------------------------------------------------------------------------------


@final
class MemoryCurrent(ControlFile):
    """memory.current: charged pages, including what CPUs hold in stock."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{cgroup.memcg.usage_bytes}\n"


@final
class MemoryPeak(ControlFile):
    """memory.peak: the highest usage so far. From 6.12 a write resets it for that open file, so for nobody else."""

    def exists(self, profile: KernelProfile) -> bool:
        return profile.has_memory_peak

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{bytes_of(cgroup.memcg.memory.watermark)}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        if not host.profile.memory_peak_resets:
            super().write(cgroup, text, host)


@final
class MemoryMin(ControlFile):
    """memory.min: never reclaimed below this."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return page_counter_text(cgroup.memcg.memory.min)

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        cgroup.memcg.memory.min = page_counter_memparse(
            "memory.min", text, page_bytes=host.profile.page_bytes
        )


@final
class MemoryLow(ControlFile):
    """memory.low: not reclaimed below this while others have something to give."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return page_counter_text(cgroup.memcg.memory.low)

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        cgroup.memcg.memory.low = page_counter_memparse(
            "memory.low", text, page_bytes=host.profile.page_bytes
        )


@final
class MemoryHigh(ControlFile):
    """memory.high: throttles tasks that exceed it; a write reclaims down to it and never kills."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return page_counter_text(cgroup.memcg.memory.high)

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        pages = page_counter_memparse("memory.high", text, page_bytes=host.profile.page_bytes)
        host.tree.controller.set_high(cgroup.memcg, pages, _writer())
        limit_changed(cgroup, host, "memory.high", pages)


@final
class MemoryMax(ControlFile):
    """memory.max: the limit. A write below usage reclaims, then kills; it succeeds even where neither helps."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return page_counter_text(cgroup.memcg.memory.max)

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        pages = page_counter_memparse("memory.max", text, page_bytes=host.profile.page_bytes)
        host.tree.controller.set_max(cgroup.memcg, pages, _writer())
        limit_changed(cgroup, host, "memory.max", pages)


@final
class MemoryOomGroup(ControlFile):
    """memory.oom.group: 1 makes the OOM killer take the whole cgroup."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{int(cgroup.memcg.oom_group)}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        value = kstrtoint("memory.oom.group", text)
        if value not in (0, 1):
            raise invalid("memory.oom.group", strstrip(text), "0 or 1")
        cgroup.memcg.oom_group = value == 1


@final
class MemoryEvents(ControlFile):
    """memory.events (here and below) and memory.events.local (here alone)."""

    def __init__(self, *, local: bool) -> None:
        self._local: Final = local

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        memcg = cgroup.memcg
        counts = memcg.event_counts_local if self._local else memcg.event_counts
        return "".join(
            f"{event.name.lower()} {counts[event]}\n"
            for event in MemcgEvent
            if event is not MemcgEvent.OOM_GROUP_KILL or host.profile.has_oom_group_kill_event
        )


@final
class MemoryStat(ControlFile):
    """memory.stat, exact unless the node is to show it as late as Linux does."""

    on_root = True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        memcg, lagging = cgroup.memcg, host.lagging_stats
        stat = memcg.stat if lagging is None else lagging.read(memcg, host.timeline.now_ns)
        return memory_stat_text(stat, host.profile)


@final
class MemoryReclaim(ControlFile):
    """memory.reclaim: frees that many bytes; EAGAIN when it could not free them all."""

    on_root = True

    def exists(self, profile: KernelProfile) -> bool:
        return profile.has_memory_reclaim

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        stripped = strstrip(text)
        size_bytes, rest = memparse(stripped)
        if rest == stripped:
            raise invalid("memory.reclaim", stripped, "a size in bytes such as 64M")
        swappiness = _reclaim_swappiness(rest, host.profile)
        wanted = whole_pages(size_bytes)
        freed, retries = 0, MAX_RECLAIM_RETRIES
        while freed < wanted:
            batch = (wanted - freed) // PROACTIVE_RECLAIM_SHARE
            got = host.tree.controller.reclaim_proactively(cgroup.memcg, batch, swappiness)
            if not got:
                if not retries:
                    raise KernelError(
                        Errno.EAGAIN,
                        Reason.NOTHING_TO_RECLAIM,
                        f"{bytes_of(freed)} of {size_bytes} bytes could be freed in {cgroup.path}",
                        cgroup=cgroup.path,
                    )
                retries -= 1
            freed += got


def _reclaim_swappiness(rest: str, profile: KernelProfile) -> int | None:
    """The value of swappiness=, the last one given; None without. Raises EINVAL for anything else."""
    swappiness: int | None = None
    for option in strstrip(rest).split(" "):
        if not option:
            continue
        name, _, value = option.partition("=")
        if not profile.reclaim_takes_swappiness or name != "swappiness" or not value.isdecimal():
            raise invalid("memory.reclaim", option, "a size in bytes such as 64M")
        if int(value) > MAX_SWAPPINESS:
            raise invalid("memory.reclaim", option, f"swappiness=0 to {MAX_SWAPPINESS}")
        swappiness = int(value)
    return swappiness


@final
class MemoryPressure(ControlFile):
    """memory.pressure: how long tasks waited for memory. Throttling is what makes them wait here."""

    memory = False
    on_root = True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return pressure_text(cgroup.memcg, host.timeline.now_ns)

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        raise KernelError(
            Errno.EOPNOTSUPP, Reason.OPERATION_UNSUPPORTED, "pressure triggers are not emulated"
        )


@final
class SwapLimit(ControlFile):
    """memory.swap.max: no more goes out; what is out stays. memory.swap.high: throttles those that have more out."""

    def __init__(self, *, high: bool) -> None:
        self._high: Final = high

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        swap = cgroup.memcg.swap
        return page_counter_text(swap.high if self._high else swap.max)

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        if self._high:
            pages = page_counter_memparse(
                "memory.swap.high", text, page_bytes=host.profile.page_bytes
            )
            host.tree.controller.set_swap_high(cgroup.memcg, pages)
        else:
            cgroup.memcg.swap.max = page_counter_memparse(
                "memory.swap.max", text, page_bytes=host.profile.page_bytes
            )


@final
class Constant(ControlFile):
    """A file whose text never changes here, because what it reports is not emulated (freezing, threads)."""

    def __init__(self, text: str, *, memory: bool = True, on_root: bool = False) -> None:
        self._text: Final = text
        self.memory = memory
        self.on_root = on_root

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return self._text


@final
class SwapPeak(ControlFile):
    """memory.swap.peak: the most that was out at a time."""

    def exists(self, profile: KernelProfile) -> bool:
        return profile.has_memory_swap_peak

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{bytes_of(cgroup.memcg.swap.watermark)}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        if not host.profile.memory_peak_resets:
            super().write(cgroup, text, host)


@final
class SwapCurrent(ControlFile):
    """memory.swap.current: what is out of memory and charged here."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{bytes_of(cgroup.memcg.swap.usage)}\n"


@final
class SwapEvents(ControlFile):
    """memory.swap.events, here and below: throttled, refused by memory.swap.max, not swapped out for any reason."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        counts = cgroup.memcg.swap_event_counts
        return "".join(f"{event.name.lower()} {counts[event]}\n" for event in SwapEvent)


# -- cgroup.* ----------------------------------------------------------------------------------------------------


@final
class CgroupProcs(ControlFile):
    """cgroup.procs, and cgroup.threads: processes here have one thread. A write to the former moves a process here."""

    memory = False
    on_root = True

    def __init__(self, *, threads: bool) -> None:
        self._name: Final = "cgroup.threads" if threads else "cgroup.procs"
        self._threads: Final = threads

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return "".join(f"{pid}\n" for pid in sorted(cgroup.pids))

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        pid = kstrtopid(self._name, text)
        host.members.move(pid, cgroup, thread=self._threads)


@final
class CgroupControllers(ControlFile):
    """cgroup.controllers: what the parent offers. Memory is the only controller here."""

    memory = False
    on_root = True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return "memory\n" if cgroup.has_memory else ""


@final
class CgroupSubtreeControl(ControlFile):
    """cgroup.subtree_control: +memory gives every child a memcg, -memory takes them away."""

    memory = False
    on_root = True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return "memory\n" if cgroup.subtree_memory else ""

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        enable: bool | None = None
        for token in strstrip(text).split(" "):
            if not token:
                continue
            if token[1:] != "memory" or token[0] not in "+-":
                raise invalid("cgroup.subtree_control", token, "+memory or -memory")
            enable = token[0] == "+"
        if enable is True:
            host.tree.enable_memory(cgroup)
        elif enable is False:
            host.tree.disable_memory(cgroup)


@final
class CgroupEvents(ControlFile):
    """cgroup.events: whether anything lives here or below."""

    memory = False

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"populated {int(cgroup.populated)}\nfrozen 0\n"


@final
class CgroupStat(ControlFile):
    """cgroup.stat: descendants, living and dying; from 6.12 also per controller."""

    memory = False
    on_root = True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        descendants = sum(1 for _ in cgroup.pre_order()) - 1
        dying = host.tree.dying_below(cgroup)
        lines = [f"nr_descendants {descendants}"]
        if host.profile.cgroup_stat_has_subsystems:
            memory = sum(1 for member in cgroup.pre_order() if member.has_memory)
            lines.append(f"nr_subsys_memory {memory}")
        lines.append(f"nr_dying_descendants {dying}")
        if host.profile.cgroup_stat_has_subsystems:
            lines.append(f"nr_dying_subsys_memory {dying}")
        return "\n".join(lines) + "\n"


@final
class CgroupMaximum(ControlFile):
    """cgroup.max.depth and cgroup.max.descendants."""

    memory = False
    on_root = True

    def __init__(self, *, depth: bool) -> None:
        self._depth: Final = depth
        self._name: Final = "cgroup.max.depth" if depth else "cgroup.max.descendants"

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        value = cgroup.max_depth if self._depth else cgroup.max_descendants
        return "max\n" if value == UNLIMITED else f"{value}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        value = UNLIMITED if strstrip(text) == "max" else kstrtoint(self._name, text)
        if value < 0:
            raise KernelError(
                Errno.ERANGE, Reason.BAD_ATTRIBUTE, f"{self._name} does not take {value}"
            )
        if self._depth:
            cgroup.max_depth = value
        else:
            cgroup.max_descendants = value


@final
class CgroupKill(ControlFile):
    """cgroup.kill: 1 kills every process here and below."""

    memory = False

    def exists(self, profile: KernelProfile) -> bool:
        return profile.has_cgroup_kill

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        value = kstrtoint("cgroup.kill", text)
        if value != 1:
            raise KernelError(
                Errno.ERANGE, Reason.BAD_ATTRIBUTE, f"cgroup.kill takes 1 only, not {value}"
            )
        host.members.kill_below(cgroup)


CONTROL_FILES: Final[dict[str, ControlFile]] = {
    "cgroup.controllers": CgroupControllers(),
    "cgroup.events": CgroupEvents(),
    "cgroup.freeze": Constant("0\n", memory=False),
    "cgroup.kill": CgroupKill(),
    "cgroup.max.depth": CgroupMaximum(depth=True),
    "cgroup.max.descendants": CgroupMaximum(depth=False),
    "cgroup.procs": CgroupProcs(threads=False),
    "cgroup.stat": CgroupStat(),
    "cgroup.subtree_control": CgroupSubtreeControl(),
    "cgroup.threads": CgroupProcs(threads=True),
    "cgroup.type": Constant("domain\n", memory=False),
    "memory.current": MemoryCurrent(),
    "memory.events": MemoryEvents(local=False),
    "memory.events.local": MemoryEvents(local=True),
    "memory.high": MemoryHigh(),
    "memory.low": MemoryLow(),
    "memory.max": MemoryMax(),
    "memory.min": MemoryMin(),
    "memory.oom.group": MemoryOomGroup(),
    "memory.peak": MemoryPeak(),
    "memory.pressure": MemoryPressure(),
    "memory.reclaim": MemoryReclaim(),
    "memory.stat": MemoryStat(),
    "memory.swap.current": SwapCurrent(),
    "memory.swap.events": SwapEvents(),
    "memory.swap.high": SwapLimit(high=True),
    "memory.swap.max": SwapLimit(high=False),
    "memory.swap.peak": SwapPeak(),
}


def list_files(cgroup: Cgroup, host: FileHost) -> list[str]:
    """The names of the control files this directory has, sorted."""
    return [name for name, file in host.files.items() if _is_there(file, cgroup, host)]


def read_file(cgroup: Cgroup, name: str, host: FileHost) -> str:
    """The exact text of a control file. Raises ENOENT, EINVAL."""
    return _find(cgroup, name, host).read(cgroup, host)


def write_file(cgroup: Cgroup, name: str, text: str, host: FileHost) -> int:
    """Writes a control file in one write(2). Returns the bytes written; an empty write changes nothing.

    Raises ENOENT, EINVAL and what the file itself answers.
    """
    file = _find(cgroup, name, host)
    if text:
        file.write(cgroup, text, host)
    return len(text.encode())


def _find(cgroup: Cgroup, name: str, host: FileHost) -> ControlFile:
    file = host.files.get(name)
    if file is None or not _is_there(file, cgroup, host):
        raise KernelError(
            Errno.ENOENT,
            Reason.NO_SUCH_OBJECT,
            f"cgroup {cgroup.path} has no file {name!r}",
            cgroup=cgroup.path,
        )
    return file


def _is_there(file: ControlFile, cgroup: Cgroup, host: FileHost) -> bool:
    if cgroup.parent is None and not file.on_root:
        return False
    return file.exists(host.profile) and (cgroup.has_memory or not file.memory)


def _writer() -> KernelContext:
    """Who writes control files: an administrator in the root cgroup, whose process is not modelled."""
    return KernelContext(comm="sh", in_task=True)


def limit_changed(cgroup: Cgroup, host: FileHost, file: str, pages: int) -> None:
    """Tells the node's log of a limit that was written."""
    memcg: Memcg = cgroup.memcg
    host.timeline.emit(
        EventKind.LIMIT_CHANGED,
        cgroup=cgroup.path,
        file=file,
        value=strstrip(page_counter_text(pages)),
        usage_bytes=memcg.usage_bytes,
    )
