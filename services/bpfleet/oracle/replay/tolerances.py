"""How far a replayed story may be from the recorded one, field by field, and why.

Errnos and memlock are exact. So are insertions, but at a limit, where they may differ by 1 %. What lives may lag one
step behind a kill in the recording, and so may what the dead one held: the recorder looked before it was gone.
memory.current has, beside what is charged, up to a batch of pages per CPU and cgroup in stock. Statistics are batched
per CPU: they may be off by as many pages until somebody flushes them. What is freed behind grace periods may be there
for two steps more. How many page tables a process needs depends on where mmap put its memory: one more or less. Event
counters depend on how often a charge tried again while a victim ended.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.mm.memcg import Memcg, MemcgEvent, Stat
from bpfleet.kernel.mm.memory import Memory
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of

Step = Mapping[str, Any]
Answer = Any  # a JSON value

FILL_TOLERANCE: Final = 0.01
PAGES_TOLERANCE: Final = 4  # partly filled pages of the byte stocks
EVENT_TOLERANCE: Final = 0.25
# So many more or fewer are one charge that tried once more. failcnt counts refused batches as well: as many as there
# are pages in a stock, or not, where the limit came near.
EVENTS_FREE: Final = {"max": 24, "fail": 88, "oom": 1, "high": 24}
# A victim takes 0.3 to 2.8 ms to end, a pass of the charge that waits for it some 25 us.
EVENTS_PER_KILL: Final = {"max": 80, "fail": 80, "oom": 5}
# The guests ran under full emulation: what a CPU does takes longer there than it should beside a grace period.
GUEST_PACE: Final = 40
# What waits for grace periods and work items may be there for two steps more than here.
FREED_LATE: Final = frozenset({"current", "kernel", "slab", "percpu", "vmalloc"})
LATE_STEPS: Final = 2
EVENT: Final = "event"  # what names of event fields begin with
_KILLED: Final = frozenset({"killed", "dead"})
_V1: Final = "v1"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that differs after a step: ``answer``, ``alive``, ``/c1 kernel``, ``event / max``."""

    field: str
    recorded: Any
    emulated: Any

    @property
    def is_count(self) -> bool:
        """Whether only an event counter differs."""
        return self.field.startswith(EVENT)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the emulator shows after a step."""

    answer: Answer
    alive: list[str]
    memcgs: Mapping[str, Memcg]


@final
class StepTolerance:
    """Compares what is shown with what was recorded. Keeps the counters that a step did not change."""

    def __init__(self, mode: str, profile: KernelProfile, memory: Memory) -> None:
        self._v1: Final = mode == _V1
        self._profile: Final = profile
        self._memory: Final = memory
        self._recorded: Final[dict[str, dict[str, Any]]] = {}
        self._before: Final[dict[str, dict[str, Any]]] = {}  # what a changed cgroup had shown
        self._shown_lately: Final[dict[tuple[str, str], deque[tuple[int, int]]]] = {}
        self._lived = 0  # how many actors did after the step before
        self._home: Final[dict[str, str]] = {}  # the cgroups of the actors
        self._toucher_of: Final[dict[str, str]] = {}  # where those were that touched memory

    def differences(self, step: Step, after: Step | None, shown: Shown) -> list[Difference]:
        """The fields of one step that are further apart than they may be. ``after`` is the next step."""
        found = []
        self._follow(step)
        if not answers_agree(step.get("=>"), shown.answer):
            found.append(Difference("answer", step.get("=>"), shown.answer))
        seen_alive = [step["alive"]] if after is None else [step["alive"], after["alive"]]
        if shown.alive not in [sorted(names) for names in seen_alive]:
            found.append(Difference("alive", step["alive"], shown.alive))
        died = len(step["alive"]) < self._lived or step.get("=>") == "killed"
        self._lived = len(step["alive"])
        for path, counters in step.get("st", {}).items():
            if counters is None:
                self._recorded.pop(path, None)
            else:
                self._before[path] = self._recorded.get(path, {})
                self._recorded[path] = counters
        for path, counters in self._recorded.items():
            memcg = shown.memcgs.get(path)
            if memcg is None:
                found.append(Difference(f"{path} exists", True, False))
            else:
                later = after["st"].get(path) or {} if after is not None and died else {}
                found += self._of_cgroup(path, memcg, counters, later)
        return found

    def _follow(self, step: Step) -> None:
        """Who is where, and who has page tables."""
        if step["op"] in ("actor", "move"):
            self._home[step["a"]] = step["cg"]
        elif step["op"] == "touch":
            self._toucher_of.setdefault(step["a"], self._home[step["a"]])
        for gone in self._toucher_of.keys() - set(step["alive"]):
            del self._toucher_of[gone]

    def _of_cgroup(
        self, path: str, memcg: Memcg, counters: Mapping[str, Any], later: Mapping[str, Any]
    ) -> list[Difference]:
        found = []
        low, high = self._current_range(memcg)
        slack, tables = self._slack_bytes(), self._touched(path) * PAGE_SIZE
        low, high = self._lately(path, "current", low - tables, high + tables)
        if not low - slack <= counters["current"] <= high + slack:
            found.append(Difference(f"{path} current", counters["current"], [low, high]))
        for field, value in _fields(memcg).items():
            if field not in counters:
                continue
            allowed = slack if self._is_exact(field) else slack + self._lag_bytes()
            if field == "kernel":
                allowed += tables
            if self._is_behind(path, memcg, field, counters, value):
                continue
            recorded = {counters[field], later.get(field, counters[field])}
            least, most = self._lately(path, field, value, value)
            if all(not least - allowed <= each <= most + allowed for each in recorded):
                found.append(Difference(f"{path} {field}", counters[field], value))
        for event, count in self._events(memcg, counters).items():
            recorded = counters["ev"].get(event, 0) if event != "fail" else counters["fail"]
            following = later.get("ev", {}).get(event, recorded)
            kills = counters["ev"].get("oom_kill", 0) if not self._v1 else self._kills_below(path)
            groups = counters["ev"].get("oom_group_kill", 0)
            if not self._counts_agree(
                event, recorded, following, count, kills=kills, groups=groups
            ):
                found.append(Difference(f"{EVENT} {path} {event}", recorded, count))
        return found

    def _is_behind(
        self, path: str, memcg: Memcg, field: str, counters: Mapping[str, Any], value: int
    ) -> bool:
        """A group with children whose statistic is on its way from what it was to what it is.

        It is not flushed for what a child has flushed already, however much that is; the children are compared
        themselves [memcg_rstat_updated].
        """
        before = self._before.get(path, {}).get(field)
        if not memcg.children or self._is_exact(field) or before is None:
            return False
        lag = self._lag_bytes() + self._slack_bytes()
        low, high = min(before, value) - lag, max(before, value) + lag
        return bool(low <= counters[field] <= high)

    def _lately(self, path: str, field: str, low: int, high: int) -> tuple[int, int]:
        """The range of a field of kernel memory over this step and the two before: grace periods take their time."""
        if field not in FREED_LATE:
            return low, high
        history = self._shown_lately.setdefault((path, field), deque(maxlen=LATE_STEPS + 1))
        history.append((low, high))
        return low, max(most for _, most in history)

    def _current_range(self, memcg: Memcg) -> tuple[int, int]:
        """Bytes charged, and those with as full a stock as there can be."""
        controller = self._memory.controller
        below = memcg.pre_order()
        charged = memcg.memory.usage - sum(controller.stocked_pages(each) for each in below)
        stocks = min(len(below), self._profile.memcg_stock_slots) * self._memory.possible_cpus
        return bytes_of(charged), bytes_of(charged + stocks * self._profile.memcg_charge_batch)

    def _slack_bytes(self) -> int:
        return (PAGES_TOLERANCE + self._memory.possible_cpus) * PAGE_SIZE

    def _touched(self, path: str) -> int:
        """Processes that touched memory here or below."""
        return sum(1 for cgroup in self._toucher_of.values() if _is_below(cgroup, path))

    def _lag_bytes(self) -> int:
        return self._memory.possible_cpus * self._profile.memcg_charge_batch * PAGE_SIZE

    def _is_exact(self, field: str) -> bool:
        """memory.kmem.usage_in_bytes of v1 is a counter of pages, not a statistic."""
        return self._v1 and field == "kernel"

    def _events(self, memcg: Memcg, counters: Mapping[str, Any]) -> dict[str, int]:
        if self._v1:
            return {
                "oom_kill": memcg.event_counts_local[MemcgEvent.OOM_KILL],
                "fail": memcg.memory.failcnt,
            }
        return {name: count for name, count in memcg.events.items() if name != "low"}

    def _kills_below(self, path: str) -> int:
        """Processes killed here or below: on v1 each cgroup counts its own only."""
        return sum(
            counters["ev"].get("oom_kill", 0)
            for below, counters in self._recorded.items()
            if _is_below(below, path)
        )

    def _counts_agree(
        self, event: str, recorded: int, following: int, emulated: int, *, kills: int, groups: int
    ) -> bool:
        """``groups`` were killed as a whole: the victim counts twice where it still has its memory when found again."""
        if event == "oom_kill" and groups:
            return abs(emulated - recorded) <= groups
        if event in ("oom_kill", "oom_group_kill"):
            return emulated in (recorded, following)
        allowed = max(EVENTS_FREE[event], EVENT_TOLERANCE * recorded)
        return abs(recorded - emulated) <= allowed + EVENTS_PER_KILL.get(event, 0) * kills


def answers_agree(recorded: Answer, emulated: Answer) -> bool:
    """The same answer. A recorder that found nobody to ask says "dead" of one who was killed meanwhile."""
    if isinstance(recorded, dict) and isinstance(emulated, dict) and "n" in recorded:
        return recorded["e"] == emulated["e"] and _close(recorded["n"], emulated["n"])
    return bool(recorded == emulated)


def _is_below(path: str, above: str) -> bool:
    return f"{path}/".startswith(f"{above.rstrip('/')}/")


def _close(recorded: int, emulated: int) -> bool:
    return abs(recorded - emulated) <= max(recorded * FILL_TOLERANCE, 1)


def _fields(memcg: Memcg) -> dict[str, int]:
    """The statistics that recordings carry, in bytes."""
    stat = memcg.stat
    return {
        "kernel": bytes_of(stat[Stat.KERNEL_PAGES]),
        "slab": stat[Stat.SLAB_RECLAIMABLE] + stat[Stat.SLAB_UNRECLAIMABLE],
        "percpu": stat[Stat.PERCPU],
        "vmalloc": bytes_of(stat[Stat.VMALLOC_PAGES]),
        "anon": bytes_of(stat[Stat.ANON_PAGES]),
        "file": bytes_of(stat[Stat.FILE_PAGES]),
        "shmem": bytes_of(stat[Stat.SHMEM_PAGES]),
        "sock": 0,
    }
