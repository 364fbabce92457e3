"""What an incident can do and look at: one function per step word, each yielding named observations."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, final

from bpfleet.abi.bpf import (
    ALL_CAPABILITIES,
    Capability,
    MapType,
    capabilities_of,
    map_type_from_name,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.errors import KernelError, TaskKilled
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.views.ledger import charged_by_owner
from bpfleet.runtime.probes import LIBRARIES, prepare_memlock
from bpfleet.runtime.replica import ReplicaRun
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
class Stage:
    """The kernel an incident plays on, and its processes, descriptors and applications by name."""

    def __init__(self, profile: KernelProfile, node: Mapping[str, Plain]) -> None:
        self.cpus: Final = int(node.get("possible_cpus", CPUS_DEFAULT))
        self.ram_bytes: Final = parse_bytes(str(node.get("ram", RAM_DEFAULT)))
        if node.get("jit_always_on"):
            profile = replace(profile, bpf_jit_always_on=True)
        self.kernel: Final = Kernel(profile, ram_bytes=self.ram_bytes, possible_cpus=self.cpus)
        self.tasks: Final[dict[str, Task]] = {}
        self.fds: Final[dict[tuple[str, str], int]] = {}
        self.kinds: Final[dict[str, MapType]] = {}

    def task(self, step: Step, name: str = "process") -> Task:
        """The process a step names."""
        found = self.tasks.get(step[name])
        if found is None:
            raise StepError(f"no process {step[name]!r} was started")
        return found

    def fd(self, step: Step) -> int:
        """The descriptor a step's process has for a step's map."""
        found = self.fds.get((step["process"], step["map"]))
        if found is None:
            raise StepError(f"process {step['process']!r} has not opened map {step['map']!r}")
        return found


def _size(value: Plain) -> int:
    return value if isinstance(value, int) else parse_bytes(str(value))


def _answer(call: Callable[[], object]) -> str:
    """``ok``, an errno by name, or ``killed``."""
    try:
        call()
    except TaskKilled:
        return "killed"
    except KernelError as error:
        return error.errno.name
    return "ok"


def _reason(error: KernelError) -> str:
    return "killed" if isinstance(error, TaskKilled) else error.errno.name


# -- cgroups and processes -----------------------------------------------------------------------------------------


def cgroup(stage: Stage, step: Step) -> Observations:
    """Makes a cgroup (with its parents) and sets limits."""
    path = ""
    for name in step["cgroup"].strip("/").split("/"):
        path = f"{path}/{name}"
        if path not in stage.kernel.list_cgroups():
            stage.kernel.mkdir(path)
    return limit(stage, step)


def limit(stage: Stage, step: Step) -> Observations:
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
            stage.kernel.write_file(step["cgroup"], file, text)
    return {}


def spawn(stage: Stage, step: Step) -> Observations:
    """Starts a process and touches its memory."""
    soft = step.get("memlock")
    task = stage.kernel.spawn(
        uid=step.get("uid", 0),
        caps=_caps(step.get("caps")),
        memlock=None if soft is None else (parse_limit(str(soft)),) * 2,
        cgroup=step.get("cgroup", "/"),
        oom_score_adj=step.get("oom_score_adj", 0),
        comm=step.get("comm", step["process"]),
        cpu=step.get("cpu", 0),
    )
    task.nofile = NOFILE
    stage.tasks[step["process"]] = task
    if "rss" in step:
        return {"answer": _answer(lambda: stage.kernel.touch(task.pid, _size(step["rss"])))}
    return {"answer": "ok"}


def _caps(names: Plain) -> frozenset[Capability] | None:
    if names is None:
        return None
    return ALL_CAPABILITIES if names == "all" else capabilities_of(names)


def touch(stage: Stage, step: Step) -> Observations:
    """Page faults of a process."""
    task = stage.task(step)
    return {"answer": _answer(lambda: stage.kernel.touch(task.pid, _size(step["bytes"])))}


def end(stage: Stage, step: Step) -> Observations:
    """A process exits; one that has ended already stays so."""
    task = stage.task(step)
    if task.alive:
        stage.kernel.exit(task.pid)
    return {}


def rmdir(stage: Stage, step: Step) -> Observations:
    """Removes a cgroup."""
    return {"answer": _answer(lambda: stage.kernel.rmdir(step["cgroup"]))}


def move(stage: Stage, step: Step) -> Observations:
    """Migrates a process."""
    pid = stage.task(step).pid
    return {
        "answer": _answer(lambda: stage.kernel.write_file(step["cgroup"], "cgroup.procs", str(pid)))
    }


def prlimit(stage: Stage, step: Step) -> Observations:
    """setrlimit(RLIMIT_MEMLOCK) of a process, soft and hard."""
    task = stage.task(step)
    soft = parse_limit(str(step["memlock"]))
    return {"answer": _answer(lambda: stage.kernel.prlimit(task.pid, "memlock", soft, soft))}


def prepare(stage: Stage, step: Step) -> Observations:
    """What a library does about RLIMIT_MEMLOCK before it loads anything: its probe, and perhaps a bump."""
    library = step["library"]
    if library not in LIBRARIES:
        raise StepError(f"no library {library!r}; there are {', '.join(LIBRARIES)}")
    done = prepare_memlock(stage.kernel, stage.task(step), library)
    return {"believes": done.believes, "bump": done.bump, "answer": done.answer}


def mlock(stage: Stage, step: Step) -> Observations:
    """mlock(2)."""
    task = stage.task(step)
    return {"answer": _answer(lambda: stage.kernel.locked.mlock(task, _size(step["bytes"])))}


def perf_buffer(stage: Stage, step: Step) -> Observations:
    """Opens perf events and maps their ring buffers, ``pages`` data pages each, ``count`` of them."""
    task = stage.task(step)
    done = 0
    answer = "ok"
    for _ in range(step.get("count", 1)):
        fd = stage.kernel.objects.perf_event(task)
        answer = _answer(lambda fd=fd: stage.kernel.locked.mmap_perf(task, fd, step["pages"] + 1))  # type: ignore[misc]
        if answer != "ok":
            break
        done += 1
    return {"answer": answer, "n": done}


# -- maps ------------------------------------------------------------------------------------------------------------


def create(stage: Stage, step: Step) -> Observations:
    """Creates a map, or ``count`` equal ones until the first refusal."""
    task = stage.task(step)
    attr = MapAttr(
        map_type_from_name(step["type"]),
        key_size=step.get("key", 0),
        value_size=step.get("value", 0),
        max_entries=_size(step["entries"]),
        map_flags=step.get("flags", 0),
        map_name=step.get("map", "")[:15],
    )
    wanted, done, answer = step.get("count", 1), 0, "ok"
    _check_count(wanted)
    while done < wanted and answer == "ok":
        try:
            fd = stage.kernel.bpf.map_create(task, attr).fd
            if "pin" in step:
                suffix = "" if wanted == 1 else f"-{done}"
                stage.kernel.bpf.obj_pin(task, f"/sys/fs/bpf/{step['pin']}{suffix}", fd)
            if step.get("close"):
                stage.kernel.close(task.pid, fd)
            elif "map" in step:
                stage.fds[(step["process"], step["map"])] = fd
                stage.kinds[step["map"]] = MapType(attr.map_type)
            done += 1
        except KernelError as error:
            answer = _reason(error)
    return {"answer": answer, "n": done}


def _check_count(count: int) -> None:
    if not 1 <= count <= COUNT_MAX:
        raise StepError(f"count {count} is out of range: 1 to {COUNT_MAX}")


def open_pin(stage: Stage, step: Step) -> Observations:
    """Opens a pinned map."""
    task = stage.task(step)

    def call() -> None:
        fd = stage.kernel.bpf.obj_get(task, f"/sys/fs/bpf/{step['pin']}")
        stage.fds[(step["process"], step["map"])] = fd

    return {"answer": _answer(call)}


def unpin(stage: Stage, step: Step) -> Observations:
    """Removes a pin, or ``count`` numbered ones from ``first`` on."""
    root = stage.kernel.spawn(comm="rm")
    names = [step["pin"]]
    if "count" in step:
        first = step.get("first", 0)
        names = [f"{step['pin']}-{number}" for number in range(first, first + step["count"])]
    for name in names:
        stage.kernel.bpf.unlink(root, f"/sys/fs/bpf/{name}")
    stage.kernel.exit(root.pid)
    stage.kernel.run_deferred()
    return {}


def close(stage: Stage, step: Step) -> Observations:
    """Closes a map's descriptor."""
    fd = stage.fd(step)
    del stage.fds[(step["process"], step["map"])]
    stage.kernel.close(stage.task(step).pid, fd)
    stage.kernel.run_deferred()
    return {}


def fill(stage: Stage, step: Step) -> Observations:
    """Inserts ``count`` keys from ``start`` on, one by one or in batches of ``batch``, until the first refusal."""
    task, fd = stage.task(step), stage.fd(step)
    info = stage.kernel.bpf.map_info(task, fd)
    value = bytes(info.value_size)
    start, count = step.get("start", 0), step["count"]
    _check_count(count)
    if "batch" in step:
        return _fill_in_batches(stage, task, fd, step, info.key_size, value)
    for done in range(count):
        key = _key(info.map_type, info.key_size, start + done)
        try:
            stage.kernel.bpf.map_update_elem(task, fd, key, value)
        except KernelError as error:
            return {"answer": _reason(error), "n": done}
    return {"answer": "ok", "n": count}


def _fill_in_batches(
    stage: Stage, task: Task, fd: int, step: Step, key_size: int, value: bytes
) -> Observations:
    start, count, batch = step.get("start", 0), step["count"], step["batch"]
    kind = int(stage.kernel.bpf.map_info(task, fd).map_type)
    done = 0
    while done < count:
        numbers = range(start + done, start + min(done + batch, count))
        keys = b"".join(_key(kind, key_size, number) for number in numbers)
        try:
            result = stage.kernel.bpf.map_update_batch(
                task, fd, keys, value * len(numbers), len(numbers)
            )
        except KernelError as error:
            return {"answer": _reason(error), "n": done}
        done += result.count
        if result.errno:
            return {"answer": Errno(result.errno).name, "n": done}
    return {"answer": "ok", "n": done}


def _key(map_type: int, key_size: int, number: int) -> bytes:
    if map_type == MapType.LPM_TRIE:
        data = key_size - 4
        return (8 * data).to_bytes(4, "little") + number.to_bytes(data, "big")
    return number.to_bytes(key_size, "little") if key_size else b""


def drain(stage: Stage, step: Step) -> Observations:
    """Deletes ``count`` keys from ``start`` on."""
    task, fd = stage.task(step), stage.fd(step)
    info = stage.kernel.bpf.map_info(task, fd)
    start = step.get("start", 0)
    for number in range(start, start + step["count"]):
        answer = _answer(
            lambda n=number: stage.kernel.bpf.map_delete_elem(  # type: ignore[misc]
                task, fd, _key(info.map_type, info.key_size, n)
            )
        )
        if answer != "ok":
            return {"answer": answer, "n": number - start}
    return {"answer": "ok", "n": step["count"]}


def seccomp(stage: Stage, step: Step) -> Observations:
    """Loads ``count`` seccomp filters that are never released: each takes its share of the host's JIT budget."""
    task = stage.task(step)
    done, answer = 0, "ok"
    _check_count(step["count"])
    while done < step["count"] and answer == "ok":
        answer = _answer(
            lambda: stage.kernel.bpf.attachments.add_seccomp_filter(task, step.get("insns", 100))
        )
        done += answer == "ok"
    return {"answer": answer, "n": done}


# -- applications ------------------------------------------------------------------------------------------------------


def start(stage: Stage, step: Step) -> Observations:
    """Starts an application of the catalogue: its process, memory, maps and programs, until the first refusal."""
    shape = NodeShape(possible_cpus=stage.cpus, ram_bytes=stage.ram_bytes)
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
        stage.kernel,
        ReplicaSpec(
            workload=spec,
            serial=0,
            inventory=inventory_of(spec, shape),
            cgroup=step.get("cgroup", f"/{step['process']}"),
        ),
    )
    run.start()
    if run.task is not None:
        stage.tasks[step["process"]] = run.task
    failure = run.failure
    if run.phase is Phase.RUNNING or failure is None:
        return {"answer": "ok", "failed": "", "maps": run.maps_created}
    answer = "killed" if failure.oom_killed else failure.errno
    return {"answer": answer, "failed": failure.object, "maps": run.maps_created}


# -- time and faults ---------------------------------------------------------------------------------------------------


def sysctl(stage: Stage, step: Step) -> Observations:
    """Sets a sysctl of the node."""
    if step["name"] != "net.core.bpf_jit_limit":
        raise StepError(f"no sysctl {step['name']!r} here; there is net.core.bpf_jit_limit")
    stage.kernel.host.jit_limit_bytes = int(step["value_set"])
    return {}


def settle(stage: Stage, step: Step) -> Observations:
    """Lets all deferred work run."""
    stage.kernel.run_deferred()
    return {}


def fault(stage: Stage, step: Step) -> Observations:
    """Injects a fault."""
    stage.kernel.inject_fault(step["kind"], step.get("nth", 1))
    return {}


# -- looking -----------------------------------------------------------------------------------------------------------


def observe(stage: Stage, step: Step) -> Observations:
    """Looks at something; the observation is ``value``."""
    what = step["what"]
    if what not in _LOOKS:
        raise StepError(f"what = {what!r} is unknown; there are {', '.join(sorted(_LOOKS))}")
    return {"value": _LOOKS[what](stage, step)}


def _usage(stage: Stage, step: Step) -> Plain:
    """memory.current without what CPUs hold in stock: what is really charged."""
    stage.kernel.run_deferred()
    stage.kernel.controller.drain_stocks()
    return stage.kernel.cgroup(step["cgroup"]).memcg.usage_bytes


def _bpf_charge(stage: Stage, step: Step) -> Plain:
    """What all maps are charged, whoever pays."""
    stage.kernel.run_deferred()
    return sum(charged_by_owner(stage.kernel.memory, "map").values())


def _event(stage: Stage, step: Step) -> Plain:
    return stage.kernel.cgroup(step["cgroup"]).memcg.events[step["event"]]


def _locked(stage: Stage, step: Step) -> Plain:
    stage.kernel.run_deferred()
    return stage.kernel.user(step.get("uid", 0)).locked_vm_pages * PAGE_SIZE


def _memlock_line(stage: Stage, step: Step) -> Plain:
    return stage.kernel.bpf.map_info(stage.task(step), stage.fd(step)).memlock_bytes


def _memlock_sum(stage: Stage, step: Step) -> Plain:
    """What bpftool sums to over all maps."""
    return sum(bpf_map.memlock_bytes() for bpf_map in stage.kernel.bpf.maps())


def _charged_to(stage: Stage, step: Step) -> Plain:
    """Who pays for a map now."""
    owner = stage.task(step).file(stage.fd(step)).target
    for bpf_map in stage.kernel.bpf.maps():
        if bpf_map is owner:
            creator = bpf_map.site.creator
            return creator.memcg.path if creator is not None else "/"
    return ""


def _tool(stage: Stage, step: Step) -> Plain:
    for view in stage.kernel.tool_views(step["cgroup"]):
        if (view.tool, view.field) == (step["tool"], step.get("field", "")):
            return view.bytes
    raise StepError(f"no tool {step['tool']!r} with field {step.get('field', '')!r}")


_LOOKS: Final[dict[str, Callable[[Stage, Step], Plain]]] = {
    "alive": lambda stage, step: stage.task(step).alive,
    "bpf charge": _bpf_charge,
    "charged to": _charged_to,
    "clock": lambda stage, step: stage.kernel.now_ns // NS_PER_S,
    "crashed": lambda stage, step: bool(stage.kernel.crashed),
    "event": _event,
    "killed": lambda stage, step: stage.kernel.events.total_by_kind.get(EventKind.OOM_KILL, 0),
    "locked": _locked,
    "maps": lambda stage, step: len(stage.kernel.bpf.maps()),
    "max_entries": lambda stage, step: (
        stage.kernel.bpf.map_info(stage.task(step), stage.fd(step)).max_entries
    ),
    "memlock line": _memlock_line,
    "memlock sum": _memlock_sum,
    "node used": lambda stage, step: stage.kernel.ram.used_bytes,
    "orphans": lambda stage, step: len(stage.kernel.orphans()),
    "tool": _tool,
    "usage": _usage,
}

STEPS: Final[dict[str, Callable[[Stage, Step], Observations]]] = {
    "cgroup": cgroup,
    "close": close,
    "create": create,
    "drain": drain,
    "exit": end,
    "fault": fault,
    "fill": fill,
    "limit": limit,
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

__all__ = ["STEPS", "Stage", "StepError"]
