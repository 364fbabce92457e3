"""Plays stories on the kernel at hand: processes in fresh cgroups that touch memory, make maps, load programs, and die.

Every actor is a forked child in a cgroup below a fresh one; the running process is never moved, and nothing stays
behind. Random stories come from a seed. The format is that of the recordings: a step, its answer, who lives, and the
counters of the cgroups that changed.
"""

import gc
import json
import mmap
import os
import random
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from bpfleet.abi.bpf import Cmd, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.oracle.record import live
from bpfleet.oracle.record.meter import find_memory_cgroup

__all__ = ["StoryRecorder", "random_stories", "random_story"]

Step = dict[str, Any]

PAGE: Final = 4096
REHEARSALS: Final = 3
STEPS: Final = 40  # of a random story
CALL_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 0.05  # RCU, work items, and a victim's end
GONE_SECONDS: Final = 5.0
LIMITS: Final = (1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20, 32 << 20, -1)
TYPES: Final = (
    "hash",
    "array",
    "percpu_hash",
    "percpu_array",
    "lru_hash",
    "lpm_trie",
    "queue",
    "ringbuf",
)
STAT_V2: Final = ("kernel", "slab", "percpu", "vmalloc", "anon", "file", "shmem", "sock")
_MOV_R0: Final = bytes.fromhex("b700000000000000")
_EXIT: Final = bytes.fromhex("9500000000000000")


# -- random stories ----------------------------------------------------------------------------------------------------


def random_stories(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """``count`` stories, each from a seed of its own."""
    for number in range(seed, seed + count):
        yield {"id": f"r{number}", "steps": random_story(number)}


def random_story(seed: int) -> list[Step]:
    """The steps of one story, without answers: a cgroup and an actor, then whatever chance brings."""
    chance = random.Random(seed)
    told = _Teller(chance)
    told.cgroup()
    told.actor()
    while len(told.steps) < STEPS:
        told.anything()
    return told.steps


class _Teller:
    """What has been told so far: only things that exist, or existed, are spoken of."""

    def __init__(self, chance: random.Random) -> None:
        self.steps: list[Step] = []
        self._chance = chance
        self._cgroups: list[str] = []
        self._actors: list[str] = []
        self._maps: list[tuple[str, str, int]] = []  # owner, name, max_entries
        self._programs = 0

    def anything(self) -> None:
        """One more step."""
        telling = (
            (self.touch, 8), (self.create, 8), (self.fill, 5), (self.load, 3), (self.actor, 4),
            (self.cgroup, 2), (self.limit, 2), (self.close, 2), (self.end, 2), (self.release, 1),
        )  # fmt: skip
        self._chance.choices([call for call, _ in telling], [weight for _, weight in telling])[0]()

    def cgroup(self) -> None:
        """A new cgroup with a limit."""
        path = f"/c{len(self._cgroups) + 1}"
        self._cgroups.append(path)
        self.steps.append({"op": "cgroup", "path": path, "max": self._chance.choice(LIMITS)})

    def actor(self) -> None:
        """A new process."""
        name = f"a{len(self._actors) + 1}"
        self._actors.append(name)
        cgroup = self._chance.choice(self._cgroups)
        rest = {"uid": 0, "caps": "all", "memlock": -1, "adj": 0}
        self.steps.append({"op": "actor", "a": name, "cg": cgroup, **rest})

    def touch(self) -> None:
        """Page faults."""
        pages = int(2 ** self._chance.uniform(2, 11))
        self._tell("touch", bytes=pages * PAGE)

    def release(self) -> None:
        """The area mapped last goes."""
        self._tell("release")

    def create(self) -> None:
        """A map of any of a few types."""
        kind = self._chance.choice(TYPES)
        entries = int(2 ** self._chance.uniform(0, 13))
        key, value, flags = 4, self._chance.choice((4, 8, 64, 256, 1024)), 0
        if kind == "ringbuf":
            key, value, entries = 0, 0, PAGE << self._chance.randrange(6)
        elif kind == "queue":
            key = 0
        elif kind == "lpm_trie":
            key, flags = 8, 1
        elif kind in ("hash", "percpu_hash"):
            flags = self._chance.randrange(2)
        owner, name = self._chance.choice(self._actors), f"m{len(self._maps) + 1}"
        self._maps.append((owner, name, entries))
        shape = {"type": kind, "ks": key, "vs": value, "me": entries, "fl": flags}
        self.steps.append({"op": "create", "a": owner, "m": name, **shape})

    def fill(self) -> None:
        """Elements of a map."""
        if self._maps:
            owner, name, entries = self._chance.choice(self._maps)
            count = self._chance.choice((1, 20, min(entries, 1000), min(entries + 1, 1001)))
            self.steps.append({"op": "fill", "a": owner, "m": name, "start": 0, "count": count})

    def load(self) -> None:
        """A program."""
        self._programs += 1
        insns = self._chance.choice((2, 100, 500, 2000))
        self._tell("load", p=f"p{self._programs}", insns=insns)

    def close(self) -> None:
        """A descriptor goes."""
        if self._maps:
            owner, name, _ = self._chance.choice(self._maps)
            self.steps.append({"op": "close", "a": owner, "m": name})

    def limit(self) -> None:
        """Another limit."""
        cgroup, limit = self._chance.choice(self._cgroups), self._chance.choice(LIMITS)
        self.steps.append({"op": "set", "cg": cgroup, "max": limit})

    def end(self) -> None:
        """A process ends or is killed."""
        self._tell(self._chance.choice(("exit", "kill")))

    def _tell(self, op: str, **arguments: Any) -> None:
        self.steps.append({"op": op, "a": self._chance.choice(self._actors), **arguments})


# -- playing -----------------------------------------------------------------------------------------------------------


class StoryRecorder:
    """Plays stories, each below a cgroup of its own. Raises ``Unmeasurable`` where no memory cgroup can be made."""

    def __init__(self) -> None:
        self._parent, self._v2 = find_memory_cgroup()
        self.mode: Final = "v2" if self._v2 else "v1"
        self._serial = 0

    def record(self, story: dict[str, Any]) -> dict[str, Any]:
        """The story with what this kernel answered."""
        self._serial += 1
        root = self._parent / f"bpfleet-story-{os.getpid()}-{self._serial}"
        root.mkdir()
        play = _Play(root, v2=self._v2)
        try:
            steps = [play.step(step) for step in story["steps"]]
        finally:
            play.end()
        return {"id": story["id"], "mode": self.mode, "files": False, "steps": steps}


class _Play:
    """One story going on."""

    def __init__(self, root: Path, *, v2: bool) -> None:
        self._root, self._v2 = root, v2
        self._actors: dict[str, _Actor] = {}
        self._cgroups = ["/"]
        self._shown: dict[str, Any] = {}
        if v2:
            (root / "cgroup.subtree_control").write_text("+memory")

    def step(self, step: Step) -> Step:
        """Plays one step; returns it with its answer, who lives, and the counters that changed."""
        plain = {name: value for name, value in step.items() if name not in ("=>", "alive", "st")}
        answer = self._answer(plain)
        time.sleep(SETTLE_SECONDS)
        alive = sorted(name for name, actor in self._actors.items() if actor.lives())
        return {**plain, "=>": answer, "alive": alive, "st": self._changed()}

    def _answer(self, step: Step) -> Any:
        op = step["op"]
        try:
            if op == "cgroup":
                (self._root / step["path"].lstrip("/")).mkdir()
                self._cgroups.append(step["path"])
                return self._limit(step["path"], step["max"])
            if op == "set":
                return self._limit(step["cg"], step["max"])
            if op == "actor":
                actor = self._actors[step["a"]] = _Actor()
                (self._path(step["cg"]) / "cgroup.procs").write_text(str(actor.pid))
                return 0
        except OSError as refused:
            return Errno(refused.errno or 0).name
        actor = self._actors[step["a"]]
        if not actor.lives():
            return "dead"
        if op in ("exit", "kill"):
            actor.stop()
            return 0
        return actor.ask(step)

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _limit(self, path: str, value: int) -> int:
        file = "memory.max" if self._v2 else "memory.limit_in_bytes"
        text = "max" if self._v2 and value < 0 else str(value)
        (self._path(path) / file).write_text(text)
        return 0

    def _changed(self) -> dict[str, Any]:
        changed = {}
        for path in self._cgroups:
            shown = _counters_v2(self._path(path)) if self._v2 else _counters_v1(self._path(path))
            if shown != self._shown.get(path):
                changed[path] = self._shown[path] = shown
        return changed

    def end(self) -> None:
        """Ends all actors and removes all cgroups."""
        for actor in self._actors.values():
            actor.stop()
        for path in reversed(self._cgroups):
            _remove(self._path(path))


def _remove(path: Path) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _table(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs}


def _counters_v2(cgroup: Path) -> dict[str, Any]:
    (cgroup / "cpu.stat").read_text()  # flushes, up to 6.15
    stat, events = _table(cgroup / "memory.stat"), _table(cgroup / "memory.events")
    return {
        "current": int((cgroup / "memory.current").read_text()),
        **{name: stat[name] for name in STAT_V2 if name in stat},
        "ev": {name: count for name, count in events.items() if count},
    }


def _counters_v1(cgroup: Path) -> dict[str, Any]:
    stat = _table(cgroup / "memory.stat")
    killed = _table(cgroup / "memory.oom_control").get("oom_kill", 0)
    return {
        "current": int((cgroup / "memory.usage_in_bytes").read_text()),
        "kernel": int((cgroup / "memory.kmem.usage_in_bytes").read_text()),
        "anon": stat["total_rss"],
        "file": stat["total_cache"],
        "shmem": stat["total_shmem"],
        "ev": {"oom_kill": killed} if killed else {},
        "fail": int((cgroup / "memory.failcnt").read_text()),
    }


# -- actors ------------------------------------------------------------------------------------------------------------


class _Actor:
    """A forked child that makes calls when asked."""

    def __init__(self) -> None:
        hears, self._asks = os.pipe()
        self._reads, tells = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._asks)
            os.close(self._reads)
            _act(hears, tells)
        os.close(hears)
        os.close(tells)
        os.read(self._reads, 1)  # it has copied what it will need of its parent's memory
        self._gone = False

    def lives(self) -> bool:
        """Whether the process is still there."""
        if not self._gone:
            with suppress(ChildProcessError):
                self._gone = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return not self._gone

    def ask(self, step: Step) -> Any:
        """What the process answers; "killed" where it died of it."""
        with suppress(BrokenPipeError):
            os.write(self._asks, json.dumps(step).encode() + b"\n")
        if not select.select([self._reads], [], [], CALL_SECONDS)[0]:
            self.stop()
            return "killed"
        told = os.read(self._reads, 1 << 16)
        if told:
            return json.loads(told)
        self.stop()
        return "killed"

    def stop(self) -> None:
        """Kills the process and waits for its end."""
        if not self._gone:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            os.close(self._asks)
            os.close(self._reads)
            self._gone = True


def _act(hears: int, tells: int) -> NoReturn:
    """The child: one line of JSON in, one out."""
    performer = _Performer()
    try:
        _rehearse(tells)
        with os.fdopen(hears) as lines:
            for line in lines:
                os.write(tells, json.dumps(performer.perform(json.loads(line))).encode())
    finally:
        os._exit(0)


def _rehearse(tells: int) -> None:
    """Makes every call once before the process enters its cgroup: later ones find the interpreter's pages copied."""
    gc.disable()
    performer = _Performer()
    shape = {"type": "array", "ks": 4, "vs": 8, "me": 4, "fl": 0}
    for _ in range(REHEARSALS):
        for step in (
            {"op": "touch", "bytes": 16 * PAGE},
            {"op": "release"},
            {"op": "create", "m": "m", **shape},
            {"op": "fill", "m": "m", "start": 0, "count": 5},
            {"op": "close", "m": "m"},
            {"op": "load", "p": "p", "insns": 2},
        ):
            json.dumps(performer.perform(json.loads(json.dumps(step))))
    for held in gc.get_objects():
        del held  # counting the reference copies the page
    os.write(tells, b"r")


class _Performer:
    """What an actor has opened and mapped."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, int, int]] = {}
        self._areas: list[mmap.mmap] = []

    def perform(self, step: Step) -> Any:
        """Makes the step's calls."""
        return getattr(self, step["op"])(step)

    def touch(self, step: Step) -> int:
        area = mmap.mmap(-1, step["bytes"], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, step["bytes"], PAGE):
            area[offset] = 1
        self._areas.append(area)
        return 0

    def release(self, step: Step) -> int:
        if self._areas:
            self._areas.pop().close()
        return 0

    def create(self, step: Step) -> Any:
        kind = MapType[step["type"].upper()]
        sizes = (step["ks"], step["vs"], step["me"])
        attr = live.map_create_attr(kind, sizes, flags=step["fl"])
        fd = live.bpf(Cmd.MAP_CREATE, attr, live.ATTR_BYTES)
        if fd < 0:
            return _name(fd)
        self._fds[step["m"]] = fd
        self._shapes[step["m"]] = (kind, step["ks"], step["vs"])
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        memlock = next(line.split()[1] for line in lines if line.startswith("memlock:"))
        return {"e": 0, "memlock": int(memlock)}

    def fill(self, step: Step) -> Any:
        if step["m"] not in self._fds:
            return "nofd"
        kind, key_size, value_size = self._shapes[step["m"]]
        percpu = kind in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY)
        value = live.Buffer(
            -(-value_size // 8) * 8 * (os.cpu_count() or 1) if percpu else value_size
        )
        for done in range(step["count"]):
            key = live.Buffer(_key(kind, key_size, step["start"] + done))
            fields = (self._fds[step["m"]], key.address if key_size else 0, value.address, 0)
            content = b"".join(field.to_bytes(8, "little") for field in fields)
            attr = live.Buffer(content.ljust(live.ATTR_BYTES, b"\0"))
            answer = live.bpf(Cmd.MAP_UPDATE_ELEM, attr, live.ATTR_BYTES)
            if answer < 0:
                return {"n": done, "e": _name(answer)}
        return {"n": step["count"], "e": 0}

    def load(self, step: Step) -> Any:
        insns = _MOV_R0 * (step["insns"] - 1) + _EXIT
        fd = live.prog_load(ProgType.SOCKET_FILTER, insns=insns)
        if fd >= 0:
            self._fds[step["p"]] = fd
        return _name(fd)

    def close(self, step: Step) -> Any:
        fd = self._fds.pop(step["m"], None)
        if fd is None:
            return "nofd"
        os.close(fd)
        return 0


def _name(result: int) -> str | int:
    """An errno as stories spell it: ENOTSUPP has no name in user space."""
    name = live.errno_name(result)
    return "524" if name == "ENOTSUPP" else name


def _key(kind: int, size: int, number: int) -> bytes:
    if kind == MapType.LPM_TRIE:
        data = size - 4
        return (8 * data).to_bytes(4, "little") + number.to_bytes(data, "little")
    return number.to_bytes(size, "little") if size else b""


# -- the smallest story ------------------------------------------------------------------------------------------------


def smaller_stories(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Stories with less in them, the boldest cuts first: without a half, a quarter, one step; then halved numbers."""
    length = len(steps) // 2
    while length:
        for start in range(0, len(steps), length):
            yield [*steps[:start], *steps[start + length :]]
        length //= 2
    for position, step in enumerate(steps):
        for name in ("bytes", "me", "count", "insns"):
            if isinstance(step.get(name), int) and step[name] > 1:
                yield [*steps[:position], {**step, name: step[name] // 2}, *steps[position + 1 :]]
