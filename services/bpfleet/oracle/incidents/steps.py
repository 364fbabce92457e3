"""What an incident can do and look at: one function per step word, each yielding named observations."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, Final, final

from bpfleet.abi.bpf import (
    ALL_CAPABILITIES,
    Capability,
    ProgType,
    capabilities_of,
    map_type_from_name,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.complexity import Complexity
from bpfleet.kernel.bpf.info import MapInfo
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile, Payer
from bpfleet.kernel.views.ledger import charged_by_owner
from bpfleet.runtime.probes import LIBRARIES, prepare_memlock
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import Run, Stage, answer_of, numbered_key, run_of
from bpfleet.workload.phase import Phase
from bpfleet.workload.quantity import parse_bytes, parse_limit
from bpfleet.workload.resolve import inventory_of
from bpfleet.workload.spec import NodeShape, ReplicaSpec, WorkloadSpec

Plain = Any  # a value TOML can hold
Step = Mapping[str, Plain]
Observations = dict[str, Plain]

RAM_DEFAULT: Final = "16G"
CPUS_DEFAULT: Final = 4
NS_PER_S: Final = 1_000_000_000
NOFILE: Final = 1 << 20
COUNT_MAX: Final = 1_000_000


class StepError(ValueError):
    """A step that cannot be issued as written."""


@final
class Play(Stage):
    """The play an incident plays on: a node of the size its file says."""

    def __init__(self, profile: KernelProfile, node: Mapping[str, Plain]) -> None:
        self.cpus: Final = int(node.get("possible_cpus", CPUS_DEFAULT))
        self.ram_bytes: Final = parse_bytes(str(node.get("ram", RAM_DEFAULT)))
        if node.get("jit_always_on"):
            profile = replace(profile, bpf_jit_always_on=True)
        super().__init__(Kernel(profile, ram_bytes=self.ram_bytes, possible_cpus=self.cpus))

    def task(self, step: Step) -> Task:
        """The process a step names."""
        return self.actor(step["process"]).task

    def fd(self, step: Step) -> int:
        """The descriptor a step's process has for a step's map."""
        return self.actor(step["process"]).fd(step["map"])


def _size(value: Plain) -> int:
    return value if isinstance(value, int) else parse_bytes(str(value))


def _answer(call: Callable[[], object]) -> str:
    """``ok``, an errno by name, or ``killed``."""
    return answer_of(call).word or "ok"


def _counted(run: Run) -> Observations:
    """How the run ended, and how often it was done."""
    return {"answer": run.word or "ok", "n": run.done}


# -- cgroups and processes -----------------------------------------------------------------------------------------


def cgroup(play: Play, step: Step) -> Observations:
    """Makes a cgroup (with its parents) and sets limits."""
    path = ""
    for name in step["cgroup"].strip("/").split("/"):
        path = f"{path}/{name}"
        if path not in play.kernel.list_cgroups():
            verbs.MKDIR(play.kernel, path)
    return limit(play, step)


def limit(play: Play, step: Step) -> Observations:
    """Writes memory.max, memory.high or memory.oom.group of a cgroup."""
    for name, file in (
        ("max", "memory.max"),
        ("high", "memory.high"),
        ("oom_group", "memory.oom.group"),
    ):
        if name in step:
            value = step[name]
            text = (
                "max"
                if value == "max"
                else str(int(value) if isinstance(value, bool) else _size(value))
            )
            verbs.WRITE_FILE(play.kernel, step["cgroup"], file, text)
    return {}


def spawn(play: Play, step: Step) -> Observations:
    """Starts a process and touches its memory."""
    soft = step.get("memlock")
    task = verbs.SPAWN(
        play.kernel,
        uid=step.get("uid", 0),
        caps=_caps(step.get("caps")),
        memlock=None if soft is None else (parse_limit(str(soft)),) * 2,
        cgroup=step.get("cgroup", "/"),
        oom_score_adj=step.get("oom_score_adj", 0),
        comm=step.get("comm", step["process"]),
        cpu=step.get("cpu", 0),
    )
    task.nofile = NOFILE
    play.enter(step["process"], task)
    if "rss" in step:
        return {"answer": _answer(lambda: verbs.TOUCH(play.kernel, task.pid, _size(step["rss"])))}
    return {"answer": "ok"}


def _caps(names: Plain) -> frozenset[Capability] | None:
    if names is None:
        return None
    return ALL_CAPABILITIES if names == "all" else capabilities_of(names)


def touch(play: Play, step: Step) -> Observations:
    """Page faults of a process."""
    task = play.task(step)
    return {"answer": _answer(lambda: verbs.TOUCH(play.kernel, task.pid, _size(step["bytes"])))}


def end(play: Play, step: Step) -> Observations:
    """A process exits; one that has ended already stays so."""
    task = play.task(step)
    if task.alive:
        verbs.EXIT(play.kernel, task.pid)
    return {}


def rmdir(play: Play, step: Step) -> Observations:
    """Removes a cgroup."""
    return {"answer": _answer(lambda: verbs.RMDIR(play.kernel, step["cgroup"]))}


def move(play: Play, step: Step) -> Observations:
    """Migrates a process."""
    pid = play.task(step).pid
    return {
        "answer": _answer(
            lambda: verbs.WRITE_FILE(play.kernel, step["cgroup"], "cgroup.procs", str(pid))
        )
    }


def prlimit(play: Play, step: Step) -> Observations:
    """setrlimit(RLIMIT_MEMLOCK) of a process, soft and hard."""
    task = play.task(step)
    soft = parse_limit(str(step["memlock"]))
    return {"answer": _answer(lambda: verbs.PRLIMIT(play.kernel, task.pid, "memlock", soft, soft))}


def prepare(play: Play, step: Step) -> Observations:
    """What a library does about RLIMIT_MEMLOCK before it loads anything: its probe, and perhaps a bump."""
    library = step["library"]
    if library not in LIBRARIES:
        raise StepError(f"no library {library!r}; there are {', '.join(LIBRARIES)}")
    done = prepare_memlock(play.kernel, play.task(step), library)
    return {"believes": done.believes, "bump": done.bump, "answer": done.answer}


def mlock(play: Play, step: Step) -> Observations:
    """mlock(2)."""
    task = play.task(step)
    return {"answer": _answer(lambda: verbs.MLOCK(play.kernel, task, _size(step["bytes"])))}


def perf_buffer(play: Play, step: Step) -> Observations:
    """Opens perf events and maps their ring buffers, ``pages`` data pages each, ``count`` of them."""
    task = play.task(step)

    def call() -> None:
        fd = verbs.PERF_EVENT_OPEN(play.kernel, task)
        verbs.MMAP_PERF(play.kernel, task, fd, step["pages"] + 1)

    return _counted(run_of(repeat(call, step.get("count", 1))))


# -- maps ------------------------------------------------------------------------------------------------------------


def create(play: Play, step: Step) -> Observations:
    """Creates a map, or ``count`` equal ones until the first refusal."""
    task = play.task(step)
    attr = MapAttr(
        map_type_from_name(step["type"]),
        key_size=step.get("key", 0),
        value_size=step.get("value", 0),
        max_entries=_size(step["entries"]),
        map_flags=step.get("flags", 0),
        map_name=step.get("map", "")[:15],
    )
    wanted = step.get("count", 1)
    _check_count(wanted)

    def call(number: int) -> None:
        with _selected(play, task, step) as memcg_fd:
            fd = verbs.MAP_CREATE(play.kernel, task, replace(attr, memcg_fd=memcg_fd)).fd
        if "pin" in step:
            suffix = "" if wanted == 1 else f"-{number}"
            verbs.OBJ_PIN(play.kernel, task, f"/sys/fs/bpf/{step['pin']}{suffix}", fd)
        if step.get("close"):
            verbs.CLOSE(play.kernel, task.pid, fd)
        elif "map" in step:
            play.actor(step["process"]).fds[step["map"]] = fd

    return _counted(run_of(partial(call, number) for number in range(wanted)))


@contextmanager
def _selected(play: Play, task: Task, step: Step) -> Iterator[int | None]:
    """The cgroup that ``memcg`` names to pay; None where the kernel lets nobody choose."""
    kernel = play.kernel
    if "memcg" not in step or kernel.profile.payer is not Payer.SELECTABLE:
        yield None
        return
    directory = verbs.OPEN_CGROUP(kernel, task, kernel.cgroup(step["memcg"]))
    try:
        yield directory
    finally:
        verbs.CLOSE(kernel, task.pid, directory)


def _check_count(count: int) -> None:
    if not 1 <= count <= COUNT_MAX:
        raise StepError(f"count {count} is out of range: 1 to {COUNT_MAX}")


def open_pin(play: Play, step: Step) -> Observations:
    """Opens a pinned map."""
    task = play.task(step)

    def call() -> None:
        fd = verbs.OBJ_GET(play.kernel, task, f"/sys/fs/bpf/{step['pin']}")
        play.actor(step["process"]).fds[step["map"]] = fd

    return {"answer": _answer(call)}


def unpin(play: Play, step: Step) -> Observations:
    """Removes a pin, or ``count`` numbered ones from ``first`` on."""
    names = [step["pin"]]
    if "count" in step:
        first = step.get("first", 0)
        names = [f"{step['pin']}-{number}" for number in range(first, first + step["count"])]
    play.unlink(*(f"/sys/fs/bpf/{name}" for name in names)).check()
    play.kernel.run_deferred()
    return {}


def close(play: Play, step: Step) -> Observations:
    """Closes a map's descriptor."""
    fd = play.fd(step)
    del play.actor(step["process"]).fds[step["map"]]
    verbs.CLOSE(play.kernel, play.task(step).pid, fd)
    play.kernel.run_deferred()
    return {}


def fill(play: Play, step: Step) -> Observations:
    """Inserts ``count`` keys from ``start`` on, one by one or in batches of ``batch``, until the first refusal."""
    task, fd = play.task(step), play.fd(step)
    info = play.kernel.bpf.map_info(task, fd)
    value = bytes(info.value_size)
    start, count = step.get("start", 0), step["count"]
    _check_count(count)
    if "batch" in step:
        return _fill_in_batches(play, task, fd, step, info, value)
    calls = (
        partial(verbs.MAP_UPDATE_ELEM, play.kernel, task, fd, _key(info, number), value)
        for number in range(start, start + count)
    )
    return _counted(run_of(calls))


def _fill_in_batches(
    play: Play, task: Task, fd: int, step: Step, info: MapInfo, value: bytes
) -> Observations:
    start, count, batch = step.get("start", 0), step["count"], step["batch"]
    done = 0
    while done < count:
        numbers = range(start + done, start + min(done + batch, count))
        keys = b"".join(_key(info, number) for number in numbers)
        answer = play.answer(
            verbs.MAP_UPDATE_BATCH, task, fd, keys, value * len(numbers), len(numbers)
        )
        if answer.word:
            return {"answer": answer.word, "n": done}
        done += answer.value.count
        if answer.value.errno:
            return {"answer": Errno(answer.value.errno).name, "n": done}
    return {"answer": "ok", "n": done}


def _key(info: MapInfo, number: int) -> bytes:
    return numbered_key(info.map_type, info.key_size, number)


def drain(play: Play, step: Step) -> Observations:
    """Deletes ``count`` keys from ``start`` on."""
    task, fd = play.task(step), play.fd(step)
    info = play.kernel.bpf.map_info(task, fd)
    start = step.get("start", 0)
    calls = (
        partial(verbs.MAP_DELETE_ELEM, play.kernel, task, fd, _key(info, number))
        for number in range(start, start + step["count"])
    )
    return _counted(run_of(calls))


def load(play: Play, step: Step) -> Observations:
    """Loads a program, or ``count`` equal ones until the first refusal. ``branches`` and the like are what the verifier
    meets in it.
    """
    task = play.task(step)
    attr = ProgAttr(
        ProgType[step.get("type", "socket_filter").upper()],
        insn_cnt=step["insns"],
        complexity=Complexity(**{n: step[n] for n in Complexity.__slots__ if n in step}),
    )
    wanted = step.get("count", 1)
    _check_count(wanted)
    call = partial(verbs.PROG_LOAD, play.kernel, task, attr)
    return _counted(run_of(repeat(call, wanted)))


def seccomp(play: Play, step: Step) -> Observations:
    """Loads ``count`` seccomp filters that are never released: each takes its share of the host's JIT budget."""
    task = play.task(step)
    _check_count(step["count"])
    add = partial(play.kernel.bpf.attachments.add_seccomp_filter, task, step.get("insns", 100))
    return _counted(run_of(repeat(add, step["count"])))


# -- applications ------------------------------------------------------------------------------------------------------


def start(play: Play, step: Step) -> Observations:
    """Starts an application of the catalogue: its process, memory, maps and programs, until the first refusal."""
    shape = NodeShape(possible_cpus=play.cpus, ram_bytes=play.ram_bytes)
    memlock = step.get("memlock")
    spec = WorkloadSpec(
        name=step["process"],
        application=step["application"],
        options=step.get("options", {}),
        uid=step.get("uid", 0),
        capabilities=_caps(step.get("caps")),
        memory_limit_bytes=_size(step["max"]) if "max" in step else None,
        memlock_bytes=None if memlock is None else parse_limit(str(memlock)),
    )
    run = ReplicaRun(
        play.kernel,
        ReplicaSpec(
            workload=spec,
            serial=0,
            inventory=inventory_of(spec, shape),
            cgroup=step.get("cgroup", f"/{step['process']}"),
        ),
    )
    run.start()
    if run.task is not None:
        play.enter(step["process"], run.task)
    failure = run.failure
    if run.phase is Phase.RUNNING or failure is None:
        return {"answer": "ok", "failed": "", "maps": run.maps_created}
    answer = "killed" if failure.oom_killed else failure.errno
    return {"answer": answer, "failed": failure.object, "maps": run.maps_created}


# -- time and faults ---------------------------------------------------------------------------------------------------


def sysctl(play: Play, step: Step) -> Observations:
    """Sets a sysctl of the node."""
    if step["name"] != "net.core.bpf_jit_limit":
        raise StepError(f"no sysctl {step['name']!r} here; there is net.core.bpf_jit_limit")
    play.kernel.host.jit_limit_bytes = int(step["value_set"])
    return {}


def settle(play: Play, step: Step) -> Observations:
    """Lets all deferred work run."""
    play.kernel.run_deferred()
    return {}


def fault(play: Play, step: Step) -> Observations:
    """Injects a fault."""
    play.kernel.inject_fault(step["kind"], step.get("nth", 1))
    return {}


# -- looking -----------------------------------------------------------------------------------------------------------


def observe(play: Play, step: Step) -> Observations:
    """Looks at something; the observation is ``value``."""
    what = step["what"]
    if what not in _LOOKS:
        raise StepError(f"what = {what!r} is unknown; there are {', '.join(sorted(_LOOKS))}")
    return {"value": _LOOKS[what](play, step)}


def _usage(play: Play, step: Step) -> Plain:
    """memory.current without what CPUs hold in stock: what is really charged."""
    play.kernel.run_deferred()
    play.kernel.controller.drain_stocks()
    return play.kernel.cgroup(step["cgroup"]).memcg.usage_bytes


def _bpf_charge(play: Play, step: Step) -> Plain:
    """What all maps are charged, whoever pays."""
    play.kernel.run_deferred()
    return sum(charged_by_owner(play.kernel.memory, "map").values())


def _event(play: Play, step: Step) -> Plain:
    return play.kernel.cgroup(step["cgroup"]).memcg.events[step["event"]]


def _locked(play: Play, step: Step) -> Plain:
    play.kernel.run_deferred()
    return play.kernel.user(step.get("uid", 0)).locked_vm_pages * PAGE_SIZE


def _memlock_line(play: Play, step: Step) -> Plain:
    return play.kernel.bpf.map_info(play.task(step), play.fd(step)).memlock_bytes


def _memlock_sum(play: Play, step: Step) -> Plain:
    """What bpftool sums to over all maps."""
    return sum(bpf_map.memlock_bytes() for bpf_map in play.kernel.bpf.maps())


def _charged_to(play: Play, step: Step) -> Plain:
    """Who pays for a map now."""
    owner = play.task(step).file(play.fd(step)).target
    for bpf_map in play.kernel.bpf.maps():
        if bpf_map is owner:
            creator = bpf_map.site.creator
            return creator.memcg.path if creator is not None else "/"
    return ""


def _tool(play: Play, step: Step) -> Plain:
    for view in play.kernel.tool_views(step["cgroup"]):
        if (view.tool, view.field) == (step["tool"], step.get("field", "")):
            return view.bytes
    raise StepError(f"no tool {step['tool']!r} with field {step.get('field', '')!r}")


_LOOKS: Final[dict[str, Callable[[Play, Step], Plain]]] = {
    "alive": lambda play, step: play.task(step).alive,
    "bpf charge": _bpf_charge,
    "charged to": _charged_to,
    "clock": lambda play, step: play.kernel.now_ns // NS_PER_S,
    "crashed": lambda play, step: bool(play.kernel.crashed),
    "event": _event,
    "killed": lambda play, step: play.kernel.events.total_by_kind.get(EventKind.OOM_KILL, 0),
    "locked": _locked,
    "maps": lambda play, step: len(play.kernel.bpf.maps()),
    "max_entries": lambda play, step: (
        play.kernel.bpf.map_info(play.task(step), play.fd(step)).max_entries
    ),
    "memlock line": _memlock_line,
    "memlock sum": _memlock_sum,
    "node used": lambda play, step: play.kernel.ram.used_bytes,
    "rss": lambda play, step: play.task(step).rss_bytes,
    "orphans": lambda play, step: len(play.kernel.orphans()),
    "tool": _tool,
    "usage": _usage,
}

STEPS: Final[dict[str, Callable[[Play, Step], Observations]]] = {
    "cgroup": cgroup,
    "close": close,
    "create": create,
    "drain": drain,
    "exit": end,
    "fault": fault,
    "fill": fill,
    "limit": limit,
    "load": load,
    "mlock": mlock,
    "move": move,
    "observe": observe,
    "open": open_pin,
    "perf buffer": perf_buffer,
    "prepare": prepare,
    "prlimit": prlimit,
    "rmdir": rmdir,
    "seccomp": seccomp,
    "settle": settle,
    "spawn": spawn,
    "start": start,
    "sysctl": sysctl,
    "touch": touch,
    "unpin": unpin,
}

__all__ = ["STEPS", "Play", "StepError"]
