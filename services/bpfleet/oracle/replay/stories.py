"""Replays stories: many actors, cgroups, maps and limits at once, recorded step by step on real kernels.

A step is an operation, what it answered ("=>"), who lived afterwards, and the counters of the cgroups it changed. The
emulator makes the same calls; `tolerances` says how far what it shows may be from what was recorded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Final, final

from bpfleet.abi.bpf import Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.mm.memcg import Memcg
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import PROFILES, KernelProfile, profile_named
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import (
    UnsupportedCaseError,
    capabilities_named,
    map_type_named,
)
from bpfleet.oracle.replay.machine import Target, target_named
from bpfleet.oracle.replay.steps import (
    FD_VALUED,
    INNER_MAP,
    Answer,
    as_recorded,
    counted,
    map_attr,
    value_of,
)
from bpfleet.oracle.replay.tolerances import GUEST_PACE, Difference, Shown, StepTolerance
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import Actor, Stage, answer_of, numbered_key, run_of

Step = Mapping[str, Any]  # one JSON object of a recording

STORY_ROOT: Final = "/story"  # the recorder's own cgroup: its "/" is not the root of the tree
PIN_DIRECTORY: Final = "/sys/fs/bpf/"
# The recorder tells an actor what to do, waits for the answer and reads every file of every cgroup.
STEP_NS: Final = 50_000_000
GUEST_STEP_NS: Final = (
    1_400_000_000  # under full emulation: what waits 5 s is gone after the fourth step
)
DEAD: Final = "dead"
NO_DESCRIPTOR: Final = "nofd"
V1: Final = "v1"
RLIMIT: Final = "rlimit"
PROBE_VALUE_SIZE: Final = 8
LIMITS: Final = ("low", "min", "high", "oom_group", "max")
GUEST_WINDOW_PAGES: Final = 64  # their disk has a read_ahead_kb of 256
STANDARD: Final = "std"  # Debian's standard build, whose per-CPU allocator runs dry
MEMLOCK_LINES: Final = 60  # so many tell one build from another
_INNER: Final = "(inner map)"


@dataclass(frozen=True, slots=True)
class Story:
    """One recorded story. ``mode`` is where it was recorded: cgroup ``v1`` or ``v2``, or a kernel with ``rlimit``."""

    id: str
    mode: str
    steps: tuple[Step, ...]


def story_of(case: dict[str, Any]) -> Story:
    """One line of a recording file."""
    return Story(case["id"], case.get("mode", "v2"), tuple(case["steps"]))


def story_target(name: str, known: Mapping[str, Any], cases: Sequence[dict[str, Any]]) -> Target:
    """The machine that MODEL-VERSION-smpN names: of the builds of a version, that with the recorded memlock lines.

    Raises ``UnsupportedCaseError`` for a kernel without a profile.
    """
    words = name.split("-")
    version = words[-2].removesuffix(STANDARD) if len(words) > 1 else words[-1]
    cpus = words[-1].removeprefix("smp") if len(words) > 1 else ""
    named = target_named(f"{version}-smp{cpus}" if cpus else version, known)
    if len(words) > 1 and words[-2].endswith(STANDARD):
        return replace(named, profile=profile_named(f"{version}:dry"))
    builds = [
        named.profile,
        *(each for each in PROFILES.values() if each.name.startswith(f"{version}.")),
    ]
    if len(builds) == 1:
        return named
    lines = list(islice(_memlock_lines(cases), MEMLOCK_LINES))
    best = max(builds, key=lambda profile: _agreeing(profile, named, lines))
    return replace(named, profile=best)


def _memlock_lines(cases: Sequence[dict[str, Any]]) -> Iterator[Step]:
    for case in cases:
        for step in case["steps"]:
            made = step.get("op") == "create" and isinstance(step["=>"], dict)
            if made and step["type"] not in FD_VALUED:
                yield step


def _agreeing(profile: KernelProfile, target: Target, lines: Sequence[Step]) -> int:
    """How many recorded memlock lines a build shows."""
    kernel, task = replace(target, profile=profile).boot()
    agreeing = 0
    for step in lines:
        made = answer_of(lambda s=step: verbs.MAP_CREATE(kernel, task, map_attr(s, None)))  # type: ignore[misc]
        if made.refusal is None:
            shown = kernel.bpf.map_info(task, made.value.fd).memlock_bytes
            agreeing += shown == step["=>"]["memlock"]
            verbs.CLOSE(kernel, task.pid, made.value.fd)
    return agreeing


def check_story(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """Replays one story into a report: itself, itself with event counters left out, and its steps."""
    story = story_of(case)
    stories = report.section("stories", brief=True)
    uncounted = report.section("uncounted", brief=True)
    steps = report.section("steps")
    replay = StoryReplay(target.profile, target.possible_cpus, target.ram_bytes, story)
    first: tuple[int, Difference] | None = None
    first_uncounted: tuple[int, Difference] | None = None
    try:
        for number, differences in replay.run():
            where = f"{story.id} step {number} {story.steps[number]['op']}"
            steps.compare(where, [], [str(each) for each in differences], {})
            for each in differences:
                first = first or (number, each)
                if not each.is_count:
                    first_uncounted = first_uncounted or (number, each)
    except UnsupportedCaseError as missing:
        for section in (stories, uncounted):
            section.skip(str(missing))
        return
    for section, found in ((stories, first), (uncounted, first_uncounted)):
        if found is None:
            section.compare(story.id, 0, 0, {})
        else:
            number, each = found
            where = f"{story.id} step {number} {story.steps[number]['op']}: {each.field}"
            section.compare(where, each.recorded, each.emulated, {})


def first_difference(case: dict[str, Any], target: Target) -> tuple[int, Difference] | None:
    """The first field of a story that differs, event counters left out, and its step."""
    replay = StoryReplay(target.profile, target.possible_cpus, target.ram_bytes, story_of(case))
    for number, differences in replay.run():
        for each in differences:
            if not each.is_count:
                return number, each
    return None


@final
class StoryReplay:
    """One story on one kernel."""

    def __init__(
        self, profile: KernelProfile, possible_cpus: int, ram_bytes: int, story: Story
    ) -> None:
        self.story: Final = story
        self.kernel: Final = Kernel(
            replace(profile, cgroup_v1=story.mode == V1),
            ram_bytes=ram_bytes,
            possible_cpus=possible_cpus,
        )
        if story.mode != V1:
            self.kernel.page_cache.window_pages = GUEST_WINDOW_PAGES
            self.kernel.controller.pace = GUEST_PACE
        verbs.MKDIR(self.kernel, STORY_ROOT)
        self.stage: Final = Stage(self.kernel)
        self._recorder: Final = verbs.SPAWN(self.kernel, comm="recorder")
        self._map_types: Final[dict[str, tuple[str, int, int]]] = {}
        self._touched: Final[dict[str, list[int]]] = {}  # sizes of an actor's areas, oldest first
        self._cgroups: Final[dict[str, None]] = {"/": None}

    def run(self) -> Iterator[tuple[int, list[Difference]]]:
        """Issues step after step; yields each one's number and the fields that differ."""
        tolerance = StepTolerance(self.story.mode, self.kernel.profile, self.kernel.memory)
        steps = self.story.steps
        for number, step in enumerate(steps):
            answer = self.issue(step)
            after = steps[number + 1] if number + 1 < len(steps) else None
            yield number, tolerance.differences(step, after, self.show(answer))

    def issue(self, step: Step) -> Answer:
        """Makes the step's calls. Raises ``UnsupportedCaseError`` for one that the emulator does not have."""
        operation = _OPERATIONS.get(step.get("op", ""))
        if operation is None:
            raise UnsupportedCaseError(f"step {step.get('op')!r}")
        if "a" in step and step["op"] != "actor" and not self._lives(step["a"]):
            answer: Answer = DEAD
        else:
            told = answer_of(lambda: operation(self, step))
            answer = told.given if told.refusal is None else as_recorded(told)
        self.kernel.advance(STEP_NS if self.story.mode == V1 else GUEST_STEP_NS)
        self.kernel.check()
        return answer

    def _lives(self, name: str) -> bool:
        actor = self.stage.actors.get(name)
        return actor is not None and actor.task.alive

    def show(self, answer: Answer) -> Shown:
        """What there is to see after a step."""
        alive = sorted(name for name, actor in self.stage.actors.items() if actor.task.alive)
        return Shown(answer, alive, {path: self._memcg(path) for path in self._cgroups})

    def _memcg(self, path: str) -> Memcg:
        return self.kernel.cgroup(_path(path)).memcg

    # -- cgroups -----------------------------------------------------------------------------------------------------

    def cgroup(self, step: Step) -> Answer:
        """Makes a cgroup and sets its limits."""
        verbs.MKDIR(self.kernel, _path(step["path"]))
        self._cgroups[step["path"]] = None
        return self._set_limits(step["path"], step)

    def set(self, step: Step) -> Answer:
        """Changes limits of a cgroup, or reclaims from it."""
        return self._set_limits(step["cg"], step)

    def _set_limits(self, path: str, step: Step) -> Answer:
        for name in (*LIMITS, "reclaim"):
            value = step.get(name)
            if value is None:
                continue
            file = "memory.oom.group" if name == "oom_group" else f"memory.{name}"
            if self.story.mode == V1:
                file = "memory.limit_in_bytes"
            text = _limit_text(value, v1=self.story.mode == V1)
            verbs.WRITE_FILE(self.kernel, _path(path), file, text)
        return 0

    def rmdir(self, step: Step) -> Answer:
        """Removes a cgroup."""
        verbs.RMDIR(self.kernel, _path(step["path"]))
        del self._cgroups[step["path"]]
        return 0

    # -- processes ---------------------------------------------------------------------------------------------------

    def actor(self, step: Step) -> Answer:
        """Starts a process, which was forked elsewhere and moves into its cgroup."""
        if step["=>"] == Errno.EACCES.name:
            return step["=>"]  # the recorder's own rights did not reach so far: nobody was started
        task = verbs.SPAWN(
            self.kernel,
            uid=step["uid"],
            caps=self._caps(step.get("caps", "all")),
            memlock=(_limit_of(step["memlock"]), RLIM_INFINITY),
            cgroup=_path(step["cg"]),
            oom_score_adj=step["adj"],
            comm="actor",
        )
        if self.story.mode == V1:
            task.oom_score_adj_min = 0  # written without CAP_SYS_RESOURCE
        self.stage.enter(step["a"], task)
        self._touched[step["a"]] = []
        return 0

    def _caps(self, given: Any) -> frozenset[Capability]:
        """The live host's recorder had no CAP_SYS_RESOURCE: its capset(2) of a set with it gave nothing at all."""
        caps = capabilities_named(given)
        lacking = self.story.mode == V1 and Capability.SYS_RESOURCE in caps
        if not lacking:
            return caps
        return caps - {Capability.SYS_RESOURCE} if given == "all" else frozenset()

    def exit(self, step: Step) -> Answer:
        """A process ends by itself."""
        verbs.EXIT(self.kernel, self._task(step).pid)
        return 0

    def kill(self, step: Step) -> Answer:
        """A process is killed from outside."""
        verbs.KILL(self.kernel, self._task(step).pid)
        return 0

    def move(self, step: Step) -> Answer:
        """Migrates a process."""
        pid = str(self._task(step).pid)
        verbs.WRITE_FILE(self.kernel, _path(step["cg"]), "cgroup.procs", pid)
        return 0

    def adj(self, step: Step) -> Answer:
        """Sets oom_score_adj, as root where the recorder had all rights."""
        writer = self._task(step) if self.story.mode == V1 else self._recorder
        self.kernel.processes.set_oom_score_adj(self._task(step).pid, step["adj"], writer=writer)
        return 0

    def prlimit(self, step: Step) -> Answer:
        """Sets the soft RLIMIT_MEMLOCK."""
        soft = _limit_of(step["memlock"])
        verbs.PRLIMIT(self.kernel, self._task(step).pid, "memlock", soft, RLIM_INFINITY)
        return 0

    def setuid(self, step: Step) -> Answer:
        """Changes real and effective uid."""
        uid = step["uid"]
        verbs.SETRESUID(self.kernel, self._task(step).pid, ruid=uid, euid=uid)
        return 0

    # -- user memory -------------------------------------------------------------------------------------------------

    def touch(self, step: Step) -> Answer:
        """Maps an area and touches all of it."""
        verbs.TOUCH(self.kernel, self._task(step).pid, step["bytes"])
        self._touched[step["a"]].append(step["bytes"])
        return 0

    def release(self, step: Step) -> Answer:
        """Unmaps the area mapped last."""
        areas = self._touched[step["a"]]
        if areas:
            verbs.RELEASE(self.kernel, self._task(step).pid, areas.pop())
        return 0

    def read(self, step: Step) -> Answer:
        """Reads the beginning of a file on disk."""
        if step["=>"] == "skip":
            return "skip"
        self.kernel.read_file_pages(self._task(step).pid, step["file"], step["bytes"])
        return 0

    def tmpfs(self, step: Step) -> Answer:
        """Writes a tmpfs file."""
        self.kernel.write_tmpfs(self._task(step).pid, step["file"], step["bytes"])
        return 0

    def untmpfs(self, step: Step) -> Answer:
        """Removes a tmpfs file."""
        self.kernel.unlink_tmpfs(step["file"])
        return 0

    # -- maps and programs -------------------------------------------------------------------------------------------

    def create(self, step: Step) -> Answer:
        """Creates a map; one of maps needs an inner one first."""
        actor, name = self._actor(step), step["m"]
        self._map_types[name] = (step["type"], step["ks"], step["vs"])
        inner = None
        if step["type"] in FD_VALUED:
            made = answer_of(lambda: self._inner(actor))
            if made.refusal is not None:
                return DEAD if not actor.task.alive else f"inner {as_recorded(made)}"
            inner = made.value
        attr = map_attr(step, inner)
        actor.fds[name] = fd = verbs.MAP_CREATE(self.kernel, actor.task, attr).fd
        return {"e": 0, "memlock": self.kernel.bpf.map_info(actor.task, fd).memlock_bytes}

    def _inner(self, actor: Actor) -> int:
        """An array of four 8-byte values, made once by each process."""
        if _INNER not in actor.fds:
            actor.fds[_INNER] = verbs.MAP_CREATE(self.kernel, actor.task, INNER_MAP).fd
        return actor.fds[_INNER]

    def probe(self, step: Step) -> Answer:
        """Whether an array of 8-byte values would fit the locked memory that is left."""
        task = self._task(step)
        attr = MapAttr(
            MapType.ARRAY, key_size=4, value_size=PROBE_VALUE_SIZE, max_entries=step["me"]
        )
        verbs.CLOSE(self.kernel, task.pid, verbs.MAP_CREATE(self.kernel, task, attr).fd)
        return 0

    def fill(self, step: Step) -> Answer:
        """Updates keys start, start + 1, ... until the first refusal."""
        return self._each_key(step, self._update)

    def drop(self, step: Step) -> Answer:
        """Deletes keys start, start + 1, ...; the answer has how many went and the first refusal."""
        return self._each_key(step, self._delete)

    def _each_key(
        self, step: Step, operation: Callable[[Actor, str, bytes | None], object]
    ) -> Answer:
        actor, name = self._actor(step), step["m"]
        if name not in actor.fds:
            return NO_DESCRIPTOR
        kind, key_size, _ = self._map_types[name]
        if kind in FD_VALUED:
            self._inner(actor)
        first = step["start"]
        keys = (
            numbered_key(map_type_named(kind), key_size, number, "little") or None
            for number in range(first, first + step["count"])
        )
        ran = run_of(partial(operation, actor, name, key) for key in keys)
        return "killed" if not actor.task.alive else counted(ran)

    def _update(self, actor: Actor, name: str, key: bytes | None) -> None:
        kind, _, value_size = self._map_types[name]
        cpus = self.kernel.memory.possible_cpus
        value = value_of(kind, value_size, cpus, actor.fds.get(_INNER, 0))
        verbs.MAP_UPDATE_ELEM(self.kernel, actor.task, actor.fds[name], key, value, 0)

    def _delete(self, actor: Actor, name: str, key: bytes | None) -> None:
        verbs.MAP_DELETE_ELEM(self.kernel, actor.task, actor.fds[name], key)

    def close(self, step: Step) -> Answer:
        """Closes a map's descriptor."""
        return self._close(step, "m")

    def pclose(self, step: Step) -> Answer:
        """Closes a program's descriptor."""
        return self._close(step, "p")

    def _close(self, step: Step, what: str) -> Answer:
        actor = self._actor(step)
        fd = actor.fds.pop(step[what], None)
        if fd is None:
            return NO_DESCRIPTOR
        verbs.CLOSE(self.kernel, actor.task.pid, fd)
        return 0

    def load(self, step: Step) -> Answer:
        """Loads a socket filter of so many instructions, with a map it names."""
        actor, held = self._actor(step), step.get("m")
        if held is not None and held not in actor.fds:
            return NO_DESCRIPTOR
        maps = () if held is None else (actor.fds[held],)
        attr = ProgAttr(1, insn_cnt=step["insns"], map_fds=maps)
        actor.fds[step["p"]] = verbs.PROG_LOAD(self.kernel, actor.task, attr).fd
        return 0

    def pin(self, step: Step) -> Answer:
        """Pins a map."""
        actor = self._actor(step)
        if step["m"] not in actor.fds:
            return NO_DESCRIPTOR
        path = PIN_DIRECTORY + step["pin"]
        verbs.OBJ_PIN(self.kernel, actor.task, path, actor.fds[step["m"]])
        return 0

    def get(self, step: Step) -> Answer:
        """Opens a pinned map."""
        actor = self._actor(step)
        path = PIN_DIRECTORY + step["pin"]
        actor.fds[step["m"]] = verbs.OBJ_GET(self.kernel, actor.task, path)
        return 0

    def unlink(self, step: Step) -> Answer:
        """Removes a pin, as root."""
        return as_recorded(self.stage.unlink(PIN_DIRECTORY + step["pin"]))

    def send(self, step: Step) -> Answer:
        """Hands a descriptor to another process."""
        sender = self._actor(step)
        if not self._lives(step["b"]):
            return DEAD
        if step["m"] not in sender.fds:
            return NO_DESCRIPTOR
        receiver = self.stage.actor(step["b"])
        receiver.fds[step["m"]] = verbs.DUP(
            self.kernel, sender.task, sender.fds[step["m"]], receiver.task
        )
        return 0

    def _actor(self, step: Step) -> Actor:
        return self.stage.actor(step["a"])

    def _task(self, step: Step) -> Task:
        return self._actor(step).task


_OPERATIONS: Final[dict[str, Callable[[StoryReplay, Step], Answer]]] = {
    "actor": StoryReplay.actor,
    "adj": StoryReplay.adj,
    "cgroup": StoryReplay.cgroup,
    "close": StoryReplay.close,
    "create": StoryReplay.create,
    "drop": StoryReplay.drop,
    "exit": StoryReplay.exit,
    "fill": StoryReplay.fill,
    "get": StoryReplay.get,
    "kill": StoryReplay.kill,
    "load": StoryReplay.load,
    "move": StoryReplay.move,
    "pclose": StoryReplay.pclose,
    "pin": StoryReplay.pin,
    "prlimit": StoryReplay.prlimit,
    "probe": StoryReplay.probe,
    "read": StoryReplay.read,
    "release": StoryReplay.release,
    "rmdir": StoryReplay.rmdir,
    "send": StoryReplay.send,
    "set": StoryReplay.set,
    "setuid": StoryReplay.setuid,
    "tmpfs": StoryReplay.tmpfs,
    "touch": StoryReplay.touch,
    "unlink": StoryReplay.unlink,
    "untmpfs": StoryReplay.untmpfs,
}


# -- pure helpers ------------------------------------------------------------------------------------------------------


def _path(path: str) -> str:
    return STORY_ROOT if path == "/" else STORY_ROOT + path


def _limit_of(memlock: int) -> int:
    return RLIM_INFINITY if memlock < 0 else memlock


def _limit_text(value: int, *, v1: bool) -> str:
    if value == -1:
        return "-1" if v1 else "max"
    return str(int(value))
