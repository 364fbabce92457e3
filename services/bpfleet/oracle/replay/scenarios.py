"""Replays the story recordings (scenarios-*.jsonl) and says where the emulator answers otherwise than the real kernel.

A story is a list of steps by named processes; "=>" is what the real kernel answered. The recorder let deferred work
settle and drained the per-CPU stocks before it read anything, and when processes came or went; other steps followed
each other at once. The replay does the same. memory.current and the statistics are compared within a few pages,
insertions at a limit within 1 %; where an answer depends on how long a grace period or the death of another process
took, only the side that does not.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Final, final

from bpfleet.abi.bpf import ALL_CAPABILITIES, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.bpf.prog import RunResult
from bpfleet.kernel.bpf.program import ProgAttr, ProgOp
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.oracle.format.words import (
    UnsupportedCaseError,
    capabilities_named,
    map_type_named,
    spelled,
)
from bpfleet.oracle.replay.steps import (
    FD_VALUED,
    INNER_MAP,
    Answer,
    as_recorded,
    counted,
    map_attr,
    value_of,
)
from bpfleet.oracle.replay.tolerances import EVENTS_PER_KILL, GUEST_PACE
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import Actor, Stage, UnknownNameError, answer_of, numbered_key, run_of

Step = dict[str, Any]  # one JSON object of a recording

TEST_ROOT: Final = "/test"  # the recorder's own cgroup: its "/" is not the root of the tree
INNER_UID: Final = 65_534  # inner maps are made by somebody else, whose budget does not count
STEP_NS: Final = 200_000  # how long a step takes where the recorder did not wait
RECREATE_NS: Final = 1_000_000  # between a close and the creation after it
BTF_TYPES: Final = (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, 8))
PAGES_TOLERANCE: Final = 3
FILL_TOLERANCE: Final = 0.01
HIGH_EVENTS_TOLERANCE: Final = (
    17  # one throttled return: which step it falls into can hang on a page
)
STAT_FIELDS: Final = ("current", "kernel", "slab", "percpu", "vmalloc", "anon")
# A fault shows as that of a page, of its table, or of its area; an open file as its dentry or its own structure.
DIRECT_RECLAIM_BITS: Final = 0x200400  # of 4.18 and since
FAULT_FLAGS: Final = frozenset(
    {
        frozenset({"GFP_KERNEL"}),
        frozenset({"GFP_KERNEL", "__GFP_ZERO"}),
        frozenset({"GFP_KERNEL_ACCOUNT"}),
        frozenset({"GFP_KERNEL_ACCOUNT", "__GFP_ZERO"}),
        frozenset({"GFP_KERNEL_ACCOUNT", "__GFP_COMP", "__GFP_ZERO"}),
    }
)
SYSCALL_HOOK: Final = "sys_enter"
TIMER_HOOK: Final = "perf-event"
INSERTION_VALUE: Final = b"\x01"
PROG_INSNS_ROOT: Final = 1_000_000  # how far the recorder went
PROG_INSNS_USER: Final = 4096
GROWN_TABLES: Final = {
    "E18": 4096
}  # the executor had opened so many descriptors before it entered its cgroup
LAST_PAGE_PASSES: Final = (
    18  # from 6.19 the last page of an area is asked for once or twice: by chance
)
NOWAIT_SPREAD: Final = 8  # how often a cache asked for more before it was empty
OOM_PASSES_SPREAD: Final = {"oom": 3_000}
# Descriptors of an actor that are of no map of the story.
_INNER: Final = "(inner map)"
_PROG: Final = "(program)"
_BTF: Final = "(btf)"
_PERF: Final = "(perf event)"
_RING: Final = "(io_uring)"
_XSK: Final = "(xsk)"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One recorded story."""

    id: str
    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A step that the emulator answered differently."""

    story: str
    number: int
    op: str
    recorded: Answer
    emulated: Answer

    def __str__(self) -> str:
        return (
            f"{self.story} step {self.number} {self.op}:"
            f" recorded {json.dumps(self.recorded)}, emulated {json.dumps(self.emulated)}"
        )


@dataclass(frozen=True, slots=True)
class OddRecording:
    """A recorded answer that the same recording contradicts elsewhere, and why."""

    story: str
    step: int
    why: str


ODD_RECORDINGS: Final = (
    OddRecording(
        "D1-root",
        158,
        "the search was refused sizes that fit: 524545 percpu_array entries of 8 bytes cost 12,591,144 bytes of 16 MiB."
        " The charge of an earlier attempt was still pending. At 1 MiB and for 100-byte values the same formula holds",
    ),
    OddRecording(
        "D1-root",
        167,
        "prog_array costs what perf_event_array and cgroup_array cost, for which steps 168 and 169 record 2097112"
        " entries; the programs of a prog_array are dropped by one more work item, so an uncharge was still pending",
    ),
)


def read_scenarios(path: Path) -> list[Scenario]:
    """Every story of a recording file."""
    found = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            found.append(scenario_of(json.loads(line)))
    return found


def scenario_of(case: dict[str, Any]) -> Scenario:
    """One line of a recording file."""
    return Scenario(case["id"], case.get("title", ""), tuple(case["steps"]))


@final
class ScenarioReplay:
    """One story on one kernel.

    ``steps_tried`` and ``unsupported`` say, after ``run``, where it had to stop and why.
    """

    def __init__(self, profile: KernelProfile, possible_cpus: int, ram_bytes: int) -> None:
        self.kernel: Final = Kernel(profile, ram_bytes=ram_bytes, possible_cpus=possible_cpus)
        self.kernel.controller.pace = GUEST_PACE
        verbs.MKDIR(self.kernel, TEST_ROOT)
        self.stage: Final = Stage(self.kernel)
        self._names: Final[dict[int, str]] = {}
        self._map_types: Final[dict[str, tuple[str, int, int]]] = {}
        self._map_ids: Final[dict[str, int]] = {}
        self.steps_tried = 0
        self.unsupported = ""
        self._log_read = 0
        self._high_path: str | None = None
        self._waited_for_death = (
            False  # another process was killed: passes until it was gone are chance
        )
        self._killed_by_limit = False  # who lowers one looks all the time until a victim is gone
        self._max_fds = 0
        self._refused_creations = 0
        self._freed_by_grace_period = False  # elements were deleted: what is back already is chance
        self._short: Final[dict[str, int]] = {}  # so many fewer fitted into a map at a limit
        self._prog_id = 0
        self._hooked: tuple[str, str] | None = (
            None  # what the program hangs on, and who passes there
        )
        self._ran: RunResult | None = None
        self._inner_maker: Task | None = None

    def run(self, story: Scenario) -> list[Difference]:
        """Issues every step, up to one that the emulator does not have; returns those answered differently."""
        found = []
        self._max_fds = GROWN_TABLES.get(story.id, 0)
        for number, step in enumerate(story.steps):
            try:
                emulated = self._issue(step)
            except UnsupportedCaseError as missing:
                self.unsupported = str(missing)
                break
            self.steps_tried += 1
            recorded = step.get("=>")
            if _is_odd(story.id, number):
                continue
            if not self._agrees(step, recorded, emulated):
                found.append(Difference(story.id, number, step["op"], recorded, emulated))
        return found

    def _issue(self, step: Step) -> Answer:
        operation = _OPERATIONS.get(step.get("op", ""))
        if operation is None:
            raise UnsupportedCaseError(f"step {step.get('op')!r}")
        if step["op"] in _SETTLED:
            self.kernel.run_deferred()
        before = len(self.kernel.tasks())
        answer = answer_of(lambda: operation(self, step))
        emulated = answer.given if answer.refusal is None else as_recorded(answer)
        died = before - len(self.kernel.tasks())
        if step["op"] not in ("exit", "actor") and died > (emulated == "killed"):
            self._waited_for_death = True
        self.kernel.advance(STEP_NS)
        self.kernel.check()
        return emulated

    # -- comparing -----------------------------------------------------------------------------------------------

    def _agrees(self, step: Step, recorded: Answer, emulated: Answer) -> bool:
        op: str = step["op"]
        if op == "note" and isinstance(emulated, dict):
            return bool(abs(step["high"] - emulated["high"]) <= HIGH_EVENTS_TOLERANCE)
        if recorded is None or op in ("note", "actor"):
            return True
        told = recorded if isinstance(recorded, dict) else {}
        if told and op != "prog_load" and not isinstance(emulated, dict):
            return False
        if op == "state":
            return self._state_agrees(recorded, emulated)
        if op == "who_lives":
            return _lives_agree(recorded, emulated)
        if op == "cgroup.stat":
            return all(bool(recorded.get(name) == value) for name, value in emulated.items())
        if op == "close_create":
            return self._racing_creations_agree(recorded, emulated)
        if op in ("prog_load", "btf_load") and "copies" in step:
            return _costs_agree(step, recorded, emulated)
        if "log" in told and op == "prog_load":
            return bool(recorded["e"] == emulated)
        if op == "fill" and isinstance(recorded, dict):
            agrees = self._fills_agree(recorded, emulated)
            if agrees and recorded["e"]:
                short = self._short.get(step["map"], 0)
                self._short[step["map"]] = max(short, recorded["n"] - emulated["n"])
            return agrees
        if op == "drop" and told.get("e") == 0 and emulated["e"] == Errno.ENOENT.name:
            missing = recorded["n"] - emulated["n"]
            return bool(0 <= missing <= self._short.get(step["map"], 0))
        if op == "drop" and isinstance(recorded, dict) and recorded["e"]:
            return bool(recorded["e"] == emulated["e"]) and _close(recorded["n"], emulated["n"])
        if op in ("create_until", "load_until") and not self.kernel.profile.is_rlimit:
            return bool(recorded["e"] == emulated["e"]) and _close(recorded["n"], emulated["n"])
        if op == "rmdir":
            return bool(recorded is True) == bool(emulated == 0)
        return bool(recorded == emulated)

    def _state_agrees(self, recorded: Answer, emulated: Answer) -> bool:
        pages = PAGES_TOLERANCE + self.kernel.memory.possible_cpus
        for field in STAT_FIELDS:
            if field not in recorded:
                continue
            difference = emulated[field] - recorded[field]
            moved_by_chance = self._freed_by_grace_period and field not in ("vmalloc", "anon")
            if abs(difference) > pages * PAGE_SIZE and not moved_by_chance:
                return False
        return all(
            self._events_agree(recorded.get(which, {}), emulated[which])
            for which in ("events", "local")
        )

    def _events_agree(self, recorded: dict[str, int], emulated: dict[str, int]) -> bool:
        """The same counts; where another process died, those of the passes until it had gone within the spread."""
        kills = max(recorded.get("oom_kill", 0), 1) if self._waited_for_death else 0
        for name in {*recorded, *emulated}:
            difference = abs(recorded.get(name, 0) - emulated.get(name, 0))
            spread = OOM_PASSES_SPREAD if self._killed_by_limit else EVENTS_PER_KILL
            allowed = HIGH_EVENTS_TOLERANCE if name == "high" else kills * spread.get(name, 0)
            if name == "max" and self.kernel.profile.vmalloc_takes_large_orders:
                allowed += self._refused_creations * LAST_PAGE_PASSES
            if name == "max" and self.kernel.profile.nowait_charge_raises_max:
                allowed += NOWAIT_SPREAD
            if difference > allowed:
                return False
        return True

    def _fills_agree(self, recorded: Answer, emulated: Answer) -> bool:
        if self._freed_by_grace_period and not self.kernel.profile.mem_alloc_reuses_waiting:
            return bool(recorded["e"] == emulated["e"] or emulated["e"] == 0)
        if recorded["e"] != emulated["e"]:
            return False
        return _close(recorded["n"], emulated["n"])

    def _racing_creations_agree(self, recorded: Answer, emulated: Answer) -> bool:
        """How often a creation right after a close found the old charge still there: always, never, or between."""
        if recorded["tries"] != emulated["tries"]:
            return False
        often, here = recorded["eperm"] / recorded["tries"], emulated["eperm"] / emulated["tries"]
        return bool((often >= 0.5) == (here >= 0.5))

    # -- processes and cgroups -------------------------------------------------------------------------------------

    def cgroup(self, step: Step) -> Answer:
        """Makes a cgroup and sets its limits."""
        path = _path(step["path"])
        verbs.MKDIR(self.kernel, path, cpu=step.get("cpu", 0))
        return self._set_limits(path, step)

    def set(self, step: Step) -> Answer:
        """Changes limits of a cgroup."""
        return self._set_limits(_path(step["cgroup"]), step)

    def _set_limits(self, path: str, step: Step) -> Answer:
        before = len(self.kernel.tasks())
        for name in ("max", "high", "low", "min", "oom_group"):
            value = step.get(name)
            if value is not None:
                file = "memory.oom.group" if name == "oom_group" else f"memory.{name}"
                self._high_path = path if name == "high" else self._high_path
                text = "max" if value == -1 else str(int(value))
                answer = _answer(lambda f=file, t=text: verbs.WRITE_FILE(self.kernel, path, f, t))  # type: ignore[misc]
                if answer:
                    return answer
        if len(self.kernel.tasks()) < before:
            self._waited_for_death = self._killed_by_limit = True
        return 0

    def actor(self, step: Step) -> Answer:
        """Starts a process and touches its memory."""
        memlock = step.get("memlock", RLIM_INFINITY)
        soft = RLIM_INFINITY if memlock is None or memlock < 0 else memlock
        task = verbs.SPAWN(
            self.kernel,
            uid=step["uid"],
            caps=capabilities_named(step.get("caps", "all")),
            memlock=(soft, RLIM_INFINITY),
            cgroup=_path(step["cgroup"]) if step.get("cgroup") else "/",
            oom_score_adj=int(step.get("oom_score_adj") or step.get("adj") or 0),
            comm="bpfx",
            cpu=step.get("cpu", 0),
        )
        task.nofile = 1 << 20
        task.max_fds = self._max_fds or task.max_fds
        self.stage.enter(step["actor"], task)
        self._names[task.pid] = step["actor"]
        if step.get("rss"):
            return self._touch(task, step["rss"])
        return None

    def exit(self, step: Step) -> Answer:
        """A process ends."""
        task = self._task(step)
        return _answer(lambda: verbs.EXIT(self.kernel, task.pid)) if task.alive else 0

    def touch(self, step: Step) -> Answer:
        """Page faults."""
        return self._touch(self._task(step), step["bytes"])

    def _touch(self, task: Task, size_bytes: int) -> Answer:
        return _answer(lambda: verbs.TOUCH(self.kernel, task.pid, size_bytes))

    def move(self, step: Step) -> Answer:
        """Migrates a process."""
        pid = self._task(step).pid
        return _answer(
            lambda: verbs.WRITE_FILE(self.kernel, _path(step["cgroup"]), "cgroup.procs", str(pid))
        )

    def rmdir(self, step: Step) -> Answer:
        """Removes a cgroup."""
        return _answer(lambda: verbs.RMDIR(self.kernel, _path(step.get("cgroup") or step["path"])))

    def setrlimit(self, step: Step) -> Answer:
        """Sets the soft RLIMIT_MEMLOCK; the hard one stays."""
        task = self._task(step)
        soft = RLIM_INFINITY if step["memlock"] < 0 else step["memlock"]
        hard = max(soft, task.memlock_hard_bytes)
        return _answer(lambda: verbs.PRLIMIT(self.kernel, task.pid, "memlock", soft, hard))

    def setresuid(self, step: Step) -> Answer:
        """Changes real and effective uid."""
        pid = self._task(step).pid
        return _answer(
            lambda: verbs.SETRESUID(self.kernel, pid, ruid=step.get("ruid"), euid=step.get("euid"))
        )

    def capset(self, step: Step) -> Answer:
        """Changes the capabilities."""
        pid = self._task(step).pid
        return _answer(lambda: verbs.CAPSET(self.kernel, pid, capabilities_named(step["caps"])))

    # -- maps ------------------------------------------------------------------------------------------------------

    def create(self, step: Step) -> Answer:
        """Creates a map; on kernels that precharge the answer has the charge."""
        actor = self._actor(step)
        name = step["map"]
        self._map_types[name] = (step["type"], step["ks"], step["vs"])

        def call() -> int:
            inner = self._inner(actor) if step["type"] in FD_VALUED else None
            attr = map_attr(step, inner)
            if _BTF in actor.fds:
                attr = replace(attr, btf_fd=actor.fds[_BTF], btf_key_type_id=1, btf_value_type_id=2)
            return verbs.MAP_CREATE(self.kernel, actor.task, attr).fd

        made = answer_of(call)
        if made.refusal is not None:
            self._refused_creations += 1
            return as_recorded(made)
        fd = made.value
        actor.fds[name] = fd
        info = self.kernel.bpf.map_info(actor.task, fd)
        self._map_ids[name] = info.id
        if isinstance(step.get("=>"), dict):
            return {"e": 0, "memlock": info.memlock_bytes}
        return 0

    def _inner(self, actor: Actor) -> int:
        """A map of four 8-byte entries for maps of maps; made by somebody else where locked pages are counted."""
        if _INNER not in actor.fds:
            if self.kernel.profile.is_rlimit:
                actor.fds[_INNER] = self._foreign_inner(actor)
            else:
                actor.fds[_INNER] = verbs.MAP_CREATE(self.kernel, actor.task, INNER_MAP).fd
        return actor.fds[_INNER]

    def _foreign_inner(self, actor: Actor) -> int:
        if self._inner_maker is None:
            self._inner_maker = verbs.SPAWN(
                self.kernel,
                uid=INNER_UID,
                caps=ALL_CAPABILITIES,
                memlock=(RLIM_INFINITY, RLIM_INFINITY),
            )
        fd = verbs.MAP_CREATE(self.kernel, self._inner_maker, INNER_MAP).fd
        return verbs.DUP(self.kernel, self._inner_maker, fd, actor.task)

    def get_by_id(self, step: Step) -> Answer:
        """Opens another process's map by its id."""
        actor, name = self._actor(step), step["map"]

        def call() -> None:
            actor.fds[name] = verbs.MAP_GET_FD_BY_ID(
                self.kernel, actor.task, self._map_ids.get(name, 0)
            )
            if self._shape_of(name)[0] in FD_VALUED:
                self._inner(actor)

        return _answer(call)

    def pin(self, step: Step) -> Answer:
        """Pins a map."""
        actor = self._actor(step)
        return _answer(
            lambda: verbs.OBJ_PIN(self.kernel, actor.task, step["path"], _fd(actor, step["map"]))
        )

    def get(self, step: Step) -> Answer:
        """Opens a pinned map."""
        actor = self._actor(step)

        def call() -> None:
            actor.fds[step["map"]] = verbs.OBJ_GET(self.kernel, actor.task, step["path"])

        return _answer(call)

    def unlink(self, step: Step) -> Answer:
        """Removes a pin, as root."""
        return as_recorded(self.stage.unlink(step["path"]))

    def close(self, step: Step) -> Answer:
        """Closes a map's descriptor."""
        actor = self._actor(step)
        fd = actor.fds.pop(step["map"], -1)
        self._freed_by_grace_period = False
        return _answer(lambda: verbs.CLOSE(self.kernel, actor.task.pid, fd))

    def fill(self, step: Step) -> Answer:
        """Updates keys start, start + 1, ... until the first refusal."""
        return self._each_key(step, self._update, stop=True)

    def drop(self, step: Step) -> Answer:
        """Deletes keys start, start + 1, ...; the answer has how many went and the first refusal."""
        kind = self._shape_of(step["map"])[0]
        if self._frees_late(kind) and step["count"] > SMALL_DROP:
            self._freed_by_grace_period = True
        return self._each_key(step, self._delete, stop=False)

    def _frees_late(self, kind: str) -> bool:
        """Whether deleted elements come back only after grace periods whose number depends on the moment."""
        profile = self.kernel.profile
        if kind in ("hash", "percpu_hash", "hash_of_maps"):
            return profile.hash_uses_mem_alloc
        return kind == "lpm_trie" and profile.lpm_uses_mem_alloc

    def update(self, step: Step) -> Answer:
        """One update."""
        return self._one(step, self._update)

    def delete(self, step: Step) -> Answer:
        """One delete."""
        return self._one(step, self._delete)

    def _one(self, step: Step, operation: Callable[[Actor, str, bytes, int], object]) -> Answer:
        actor, name = self._actor(step), step["map"]
        key = step.get("k")
        encoded = bytes.fromhex(key) if isinstance(key, str) else self._key(name, int(key or 0))
        return _answer(lambda: operation(actor, name, encoded, step.get("fl", 0)))

    def _each_key(
        self,
        step: Step,
        operation: Callable[[Actor, str, bytes, int], object],
        *,
        stop: bool,
    ) -> Answer:
        actor, name = self._actor(step), step["map"]
        numbers = range(step["start"], step["start"] + step["count"])
        calls = (partial(operation, actor, name, self._key(name, number), 0) for number in numbers)
        return counted(run_of(calls, stop=stop))

    def _key(self, name: str, number: int) -> bytes:
        kind, key_size, _ = self._shape_of(name)
        return numbered_key(map_type_named(kind), key_size, number, "little")

    def _update(self, actor: Actor, name: str, key: bytes, flags: int) -> None:
        kind, _, value_size = self._shape_of(name)
        fd = _fd(actor, name)
        inner = self._inner(actor) if kind in FD_VALUED else 0
        value = value_of(kind, value_size, self.kernel.memory.possible_cpus, inner)
        verbs.MAP_UPDATE_ELEM(self.kernel, actor.task, fd, key, value, flags)

    def _delete(self, actor: Actor, name: str, key: bytes, flags: int) -> None:
        verbs.MAP_DELETE_ELEM(self.kernel, actor.task, _fd(actor, name), key)

    # -- what a limit allows ---------------------------------------------------------------------------------------

    def largest(self, step: Step) -> Answer:
        """The largest max_entries that a limit allows, what it is charged, and the refusal of the next."""
        actor = self._actor(step)
        self._limit(actor, step["memlock"])
        inner = self._inner(actor) if step["type"] in FD_VALUED else None

        def attempt(entries: int) -> tuple[int, int]:
            return self._attempt(actor, map_attr({**step, "me": entries}, inner))

        return _largest(attempt, _sizes_of(step["type"]), "max_entries")

    def headroom(self, step: Step) -> Answer:
        """What the process could still create as one array of 8-byte values."""
        actor = self._actor(step)

        def attempt(entries: int) -> tuple[int, int]:
            attr = MapAttr(MapType.ARRAY, key_size=4, value_size=8, max_entries=entries)
            return self._attempt(actor, attr)

        found = _largest(attempt, lambda number: number, "max_entries")
        return {
            "max_entries": found["max_entries"],
            "memlock": found["charged"] or 0,
            "next": found["next"],
        }

    def largest_prog(self, step: Step) -> Answer:
        """The longest program that a limit allows."""
        actor = self._actor(step)
        self._limit(actor, step["memlock"])

        def attempt(insns: int) -> tuple[int, int]:
            return self._load(actor, insns)

        longest = PROG_INSNS_ROOT if actor.task.uid == 0 else PROG_INSNS_USER
        return _largest(attempt, lambda number: number, "insns", minimum=2, maximum=longest)

    def create_until(self, step: Step) -> Answer:
        """How many equal maps fit a limit."""
        actor = self._actor(step)
        if "memlock" in step:
            self._limit(actor, step["memlock"])
        inner = self._inner(actor) if step["type"] in FD_VALUED else None
        attr = map_attr(step, inner)
        return self._until(lambda: verbs.MAP_CREATE(self.kernel, actor.task, attr).fd)

    def load_until(self, step: Step) -> Answer:
        """How many equal programs fit a limit."""
        actor = self._actor(step)
        if "memlock" in step:
            self._limit(actor, step["memlock"])
        attr = ProgAttr(1, insn_cnt=step["insns"])
        return self._until(lambda: verbs.PROG_LOAD(self.kernel, actor.task, attr).fd)

    def _until(self, call: Callable[[], object]) -> Answer:
        return counted(run_of(repeat(call)))

    def close_create(self, step: Step) -> Answer:
        """Closes a map and creates another like it at once, over and over: how often the old charge is still there."""
        actor = self._actor(step)
        attr = MapAttr(
            map_type_named(step["type"]),
            key_size=4,
            value_size=8,
            max_entries=step["me"],
            map_flags=step["fl"],
        )
        refused = 0
        for _ in range(step["=>"]["tries"]):
            fd = verbs.MAP_CREATE(self.kernel, actor.task, attr).fd
            verbs.CLOSE(self.kernel, actor.task.pid, fd)
            self.kernel.advance(RECREATE_NS)
            again = self.stage.answer(verbs.MAP_CREATE, actor.task, attr)
            if again.refusal is None:
                verbs.CLOSE(self.kernel, actor.task.pid, again.value.fd)
            else:
                refused += 1
            self.kernel.run_deferred()
        return {"tries": step["=>"]["tries"], "eperm": refused}

    def _attempt(self, actor: Actor, attr: MapAttr) -> tuple[int, int]:
        """Creates a map and closes it again: (errno, bytes charged)."""
        made = self.stage.answer(verbs.MAP_CREATE, actor.task, attr)
        if made.refusal is not None:
            return int(made.refusal.errno), 0
        fd = made.value.fd
        charged = self.kernel.bpf.map_info(actor.task, fd).memlock_bytes
        verbs.CLOSE(self.kernel, actor.task.pid, fd)
        self.kernel.run_deferred()
        return 0, charged

    def _limit(self, actor: Actor, memlock: int) -> None:
        soft = RLIM_INFINITY if memlock < 0 else memlock
        task = actor.task
        verbs.PRLIMIT(self.kernel, task.pid, "memlock", soft, max(soft, task.memlock_hard_bytes))

    # -- programs and BTF --------------------------------------------------------------------------------------------

    def prog_load(self, step: Step) -> Answer:
        """Loads a program: one that inserts into map m and counts in map c, or copies of a bare one for their cost."""
        actor = self._actor(step)
        if "copies" in step:
            attr = ProgAttr(1, insn_cnt=step["insns"])
            return self._cost(
                actor, step, lambda: verbs.PROG_LOAD(self.kernel, actor.task, attr).fd
            )
        if "insns" in step:
            if "memlock" in step:
                self._limit(actor, step["memlock"])
            errno, memlock = self._load(actor, step["insns"])
            return {"e": _name(errno) if errno else 0, "memlock": memlock if not errno else None}
        return self._load_inserter(actor, step["prog_type"])

    def _load(self, actor: Actor, insns: int) -> tuple[int, int]:
        made = self.stage.answer(verbs.PROG_LOAD, actor.task, ProgAttr(1, insn_cnt=insns))
        if made.refusal is not None:
            return int(made.refusal.errno), 0
        fd = made.value.fd
        memlock = -(-(56 + 8 * insns) // PAGE_SIZE) * PAGE_SIZE
        verbs.CLOSE(self.kernel, actor.task.pid, fd)
        self.kernel.run_deferred()
        return 0, memlock

    def _load_inserter(self, actor: Actor, prog_type: int) -> Answer:
        attr = ProgAttr(
            prog_type,
            insn_cnt=40,
            map_fds=(_fd(actor, "m"), _fd(actor, "c")),
            ops=(ProgOp("update", 0, value=INSERTION_VALUE),),
        )

        def call() -> None:
            actor.fds[_PROG] = verbs.PROG_LOAD(self.kernel, actor.task, attr).fd
            self._prog_id = verbs.OBJ_GET_INFO_BY_FD(self.kernel, actor.task, actor.fds[_PROG]).id

        return _answer(call)

    def prog_fd_by_id(self, step: Step) -> Answer:
        """Opens the loaded program by its id."""
        actor = self._actor(step)

        def call() -> None:
            actor.fds[_PROG] = verbs.PROG_GET_FD_BY_ID(self.kernel, actor.task, self._prog_id)

        return _answer(call)

    def test_run(self, step: Step) -> Answer:
        """Runs the program in the context of a system call."""
        actor = self._actor(step)

        def call() -> None:
            if _PROG not in actor.fds:
                actor.fds[_PROG] = verbs.PROG_GET_FD_BY_ID(self.kernel, actor.task, self._prog_id)
            self._ran = verbs.PROG_TEST_RUN(
                self.kernel, actor.task, actor.fds[_PROG], repeat=step["repeat"]
            )

        return _answer(call)

    def raw_tracepoint_open(self, step: Step) -> Answer:
        """Attaches the program to system calls of a process."""
        return self._hook(step, SYSCALL_HOOK, step["pid"])

    def perf_event_open(self, step: Step) -> Answer:
        """Opens a perf event: one that fires while another process runs, or one to map a buffer of."""
        if "target" in step:
            return self._hook(step, TIMER_HOOK, step["target"])
        return self._open_other(
            self._actor(step), _PERF, lambda task: verbs.PERF_EVENT_OPEN(self.kernel, task)
        )

    def _hook(self, step: Step, hook: str, runner: str) -> Answer:
        actor = self._actor(step)
        prog_fd = _fd(actor, _PROG)
        self._hooked = (hook, runner)
        pid = self._named(runner).task.pid
        return _answer(lambda: verbs.OPEN_HOOK(self.kernel, actor.task, hook, prog_fd, pid))

    def counter(self, step: Step) -> Answer:
        """What the program counted. How often its hook was passed is the recorder's to say: it is passed that often."""
        if self._hooked is not None:
            hook, runner = self._hooked
            task = self._named(runner).task
            self._ran = self.kernel.bpf.fire(hook, task, step["=>"]["insertions"])
        ran = self._ran
        if ran is None:
            return None
        return {"insertions": ran.runs - ran.failed_ops, "last_result": -ran.errno}

    def btf_load(self, step: Step) -> Answer:
        """Loads BTF."""
        actor = self._actor(step)
        if "copies" in step:
            return self._cost(actor, step, lambda: self._load_btf(actor))
        return _answer(lambda: self._load_btf(actor))

    def _load_btf(self, actor: Actor) -> int:
        actor.fds[_BTF] = verbs.BTF_LOAD(self.kernel, actor.task, BTF_TYPES)
        return actor.fds[_BTF]

    def _cost(self, actor: Actor, step: Step, call: Callable[[], int]) -> Answer:
        """What one of several equal objects costs the process's cgroup; closes them again."""
        before = self._read_state(actor.task.cgroup.path)
        fds = [call() for _ in range(step["copies"])]
        after = self._read_state(actor.task.cgroup.path)
        for fd in fds:
            verbs.CLOSE(self.kernel, actor.task.pid, fd)
        return {
            field: (after[field] - before[field]) / step["copies"]
            for field in STAT_FIELDS
            if field in step["=>"]
        }

    # -- other holders of locked memory ------------------------------------------------------------------------------

    def mmap_perf(self, step: Step) -> Answer:
        """Maps a perf ring buffer."""
        actor = self._actor(step)
        return _answer(
            lambda: verbs.MMAP_PERF(self.kernel, actor.task, _fd(actor, _PERF), step["pages"])
        )

    def io_uring_setup(self, step: Step) -> Answer:
        """Opens an io_uring."""
        actor = self._actor(step)
        return self._open_other(
            actor, _RING, lambda task: verbs.IO_URING_SETUP(self.kernel, task, step["entries"])
        )

    def register_buffers(self, step: Step) -> Answer:
        """Registers io_uring buffers, opening a ring first if there is none."""
        actor = self._actor(step)
        if _RING not in actor.fds:
            self._open_other(actor, _RING, lambda task: verbs.IO_URING_SETUP(self.kernel, task, 8))
        return _answer(
            lambda: verbs.IO_URING_REGISTER(
                self.kernel, actor.task, _fd(actor, _RING), step["bytes"]
            )
        )

    def open_xsk(self, step: Step) -> Answer:
        """Opens an AF_XDP socket."""
        actor = self._actor(step)
        return self._open_other(actor, _XSK, lambda task: verbs.SOCKET(self.kernel, task, "xsk"))

    def register_umem(self, step: Step) -> Answer:
        """Registers an AF_XDP umem."""
        actor = self._actor(step)
        return _answer(
            lambda: verbs.XDP_UMEM_REG(
                self.kernel, actor.task, _fd(actor, _XSK), step["pages"] * PAGE_SIZE
            )
        )

    def mlock(self, step: Step) -> Answer:
        """Locks memory: counted elsewhere."""
        actor = self._actor(step)
        return _answer(lambda: verbs.MLOCK(self.kernel, actor.task, _length(step)))

    def shm_lock(self, step: Step) -> Answer:
        """Locks shared memory: counted elsewhere."""
        actor = self._actor(step)
        return _answer(lambda: verbs.SHM_LOCK(self.kernel, actor.task, _length(step)))

    def _open_other(self, actor: Actor, name: str, opener: Callable[[Task], int]) -> Answer:
        def call() -> None:
            actor.fds[name] = opener(actor.task)

        return _answer(call)

    # -- reading -----------------------------------------------------------------------------------------------------

    def note(self, step: Step) -> Answer:
        """A remark of the recorder; with ``high``, how often that event had been raised so far."""
        if "high" not in step or self._high_path is None:
            return None
        counted = _table(verbs.READ_FILE(self.kernel, self._high_path, "memory.events"))["high"]
        return {"high": counted}

    def nothing(self, step: Step) -> Answer:
        """A step whose effect is part of a later one."""
        return 0

    def who_lives(self, step: Step) -> Answer:
        """Which actors live, and what the kernel logged about killing since the last time."""
        alive = sorted(name for name, actor in self.stage.actors.items() if actor.task.alive)
        return {"alive": alive, "log": self._new_log_lines()}

    def _new_log_lines(self) -> list[str]:
        lines = []
        log = self.kernel.events
        for event in log.since(max(self._log_read, log.oldest_revision - 1), limit=log.capacity):
            if event.kind is EventKind.KERNEL_LOG:
                lines.extend(self._recorder_line(str(event.fields["line"])))
        self._log_read = self.kernel.events.revision
        return lines

    def _recorder_line(self, line: str) -> list[str]:
        """A kernel log line in the recorder's short form."""
        if "invoked oom-killer" in line:
            return ["invoked: " + line.partition("gfp_mask=")[2].partition(", order")[0]]
        if line.startswith("oom-kill:"):
            fields = dict(part.partition("=")[::2] for part in line[9:].split(","))
            return [f"constraint={fields['constraint']},task={fields['task']}"]
        if "Killed process" in line:
            pid = int(line.partition("Killed process ")[2].split()[0])
            return [f"killed {self._names.get(pid, pid)}"]
        return []

    def state(self, step: Step) -> Answer:
        """Counters and events of a cgroup."""
        return self._read_state(_path(step["cgroup"]))

    def _read_state(self, path: str) -> dict[str, Any]:
        kernel = self.kernel
        kernel.run_deferred()
        kernel.controller.drain_stocks()
        stat = _table(verbs.READ_FILE(kernel, path, "memory.stat"))
        state: dict[str, Any] = {
            "current": _number(verbs.READ_FILE(kernel, path, "memory.current")),
            **{field: stat.get(field, 0) for field in STAT_FIELDS[1:]},
        }
        for name, file in (("events", "memory.events"), ("local", "memory.events.local")):
            counts = _table(verbs.READ_FILE(kernel, path, file))
            state[name] = {event: count for event, count in counts.items() if count}
        return state

    def cgroup_stat(self, step: Step) -> Answer:
        """cgroup.stat: the lines this kernel and the recorded one have in common."""
        counts = _table(verbs.READ_FILE(self.kernel, _path(step["cgroup"]), "cgroup.stat"))
        return {name: count for name, count in counts.items() if name in step["=>"]}

    def _actor(self, step: Step) -> Actor:
        return self._named(step.get("actor", ""))

    def _named(self, name: str) -> Actor:
        try:
            return self.stage.actor(name)
        except UnknownNameError:
            raise UnsupportedCaseError(f"a process {name!r} that was never started") from None

    def _shape_of(self, name: str) -> tuple[str, int, int]:
        """Type, key size and value size of a map."""
        shape = self._map_types.get(name)
        if shape is None:
            raise UnsupportedCaseError(f"a map {name!r} that was never made")
        return shape

    def _task(self, step: Step) -> Task:
        return self._actor(step).task


# Steps before which the recorder waited until nothing moved any more.
_SETTLED: Final = frozenset(
    {
        "actor",
        "cgroup",
        "cgroup.stat",
        "exit",
        "headroom",
        "largest",
        "largest_prog",
        "rmdir",
        "set",
        "state",
    }
)
SMALL_DROP: Final = 64  # so few deletions stay in the per-CPU caches

_OPERATIONS: Final[dict[str, Callable[[ScenarioReplay, Step], Answer]]] = {
    "IORING_REGISTER_BUFFERS": ScenarioReplay.register_buffers,
    "PERF_EVENT_IOC_SET_BPF": ScenarioReplay.nothing,
    "SHM_LOCK": ScenarioReplay.shm_lock,
    "XDP_UMEM_REG": ScenarioReplay.register_umem,
    "actor": ScenarioReplay.actor,
    "btf_load": ScenarioReplay.btf_load,
    "capset": ScenarioReplay.capset,
    "cgroup": ScenarioReplay.cgroup,
    "cgroup.stat": ScenarioReplay.cgroup_stat,
    "close": ScenarioReplay.close,
    "close_create": ScenarioReplay.close_create,
    "counter": ScenarioReplay.counter,
    "create": ScenarioReplay.create,
    "create_until": ScenarioReplay.create_until,
    "delete": ScenarioReplay.delete,
    "drop": ScenarioReplay.drop,
    "exit": ScenarioReplay.exit,
    "fill": ScenarioReplay.fill,
    "get": ScenarioReplay.get,
    "get_by_id": ScenarioReplay.get_by_id,
    "headroom": ScenarioReplay.headroom,
    "io_uring_setup": ScenarioReplay.io_uring_setup,
    "largest": ScenarioReplay.largest,
    "largest_prog": ScenarioReplay.largest_prog,
    "load_until": ScenarioReplay.load_until,
    "mlock": ScenarioReplay.mlock,
    "mmap perf": ScenarioReplay.mmap_perf,
    "move": ScenarioReplay.move,
    "note": ScenarioReplay.note,
    "perf_event_open": ScenarioReplay.perf_event_open,
    "pin": ScenarioReplay.pin,
    "prog_fd_by_id": ScenarioReplay.prog_fd_by_id,
    "prog_load": ScenarioReplay.prog_load,
    "raw_tracepoint_open": ScenarioReplay.raw_tracepoint_open,
    "rmdir": ScenarioReplay.rmdir,
    "set": ScenarioReplay.set,
    "setresuid": ScenarioReplay.setresuid,
    "setrlimit": ScenarioReplay.setrlimit,
    "socket AF_XDP": ScenarioReplay.open_xsk,
    "state": ScenarioReplay.state,
    "syscalls": ScenarioReplay.nothing,
    "test_run": ScenarioReplay.test_run,
    "touch": ScenarioReplay.touch,
    "unlink": ScenarioReplay.unlink,
    "update": ScenarioReplay.update,
    "who_lives": ScenarioReplay.who_lives,
}


def _is_odd(story: str, number: int) -> bool:
    return any((odd.story, odd.step) == (story, number) for odd in ODD_RECORDINGS)


# -- pure helpers ----------------------------------------------------------------------------------------------------


def _path(path: str) -> str:
    return TEST_ROOT if path == "/" else TEST_ROOT + path


def _fd(actor: Actor, name: str) -> int:
    """A descriptor; -1, which every call refuses, for what could not be opened."""
    return actor.fds.get(name, -1)


def _answer(call: Callable[[], object]) -> Answer:
    return as_recorded(answer_of(call))


def _name(errno: int) -> str:
    return spelled(Errno(errno).name)


def _length(step: Step) -> int:
    return int(step["bytes"]) if "bytes" in step else int(step["pages"]) * PAGE_SIZE


def _sizes_of(kind: str) -> Callable[[int], int]:
    """The sizes a type can have, in order: ring buffers powers of two of pages, others every number."""
    if kind in ("ringbuf", "user_ringbuf"):
        return lambda number: PAGE_SIZE << number - 1
    return lambda number: number


def _largest(
    attempt: Callable[[int], tuple[int, int]],
    size_of: Callable[[int], int],
    name: str,
    *,
    minimum: int = 1,
    maximum: int = 1 << 31,
) -> dict[str, Any]:
    """The largest size that succeeds, what it was charged, and the errno of the next size (0: ``maximum`` succeeds)."""
    errno, charged = attempt(size_of(minimum))
    if errno:
        return {name: None, "charged": None, "next": _name(errno)}
    low, high = minimum, minimum
    refusal = 0
    while not refusal and size_of(high) < maximum:
        low, high = high, min(high * 2, maximum)
        refusal, _ = attempt(size_of(high))
    if not refusal:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        errno, _ = attempt(size_of(middle))
        if errno:
            high, refusal = middle, errno
        else:
            low = middle
    _, charged = attempt(size_of(low))
    return {name: size_of(low), "charged": charged, "next": _name(refusal) if refusal else 0}


def _table(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def _number(text: str) -> int:
    return int(text)


def _close(recorded: int, emulated: int) -> bool:
    return abs(recorded - emulated) <= max(recorded * FILL_TOLERANCE, 1)


def _lives_agree(recorded: Answer, emulated: Answer) -> bool:
    """Same survivors, same kills in the same order. A fault shows as that of a page or of its page table."""
    if sorted(recorded["alive"]) != emulated["alive"]:
        return False
    return [_shape(line) for line in recorded["log"]] == [_shape(line) for line in emulated["log"]]


def _shape(line: str) -> str:
    if not line.startswith("invoked: "):
        return line
    number, _, names = line.removeprefix("invoked: ").rstrip(")").partition("(")
    flags = frozenset(names.split("|"))
    if flags in FAULT_FLAGS:
        return f"fault {int(number, 16) & DIRECT_RECLAIM_BITS:#x}"
    return f"{number} {sorted(flags)}"  # 6.16 and later spell them in another order


def _costs_agree(step: Step, recorded: Answer, emulated: Answer) -> bool:
    slack = (PAGES_TOLERANCE * PAGE_SIZE) / step["copies"]
    return all(abs(recorded[field] - emulated[field]) <= slack for field in emulated)
