"""Replays elements-TARGET.jsonl: what elements cost, as totals of the cgroup relative to before the creation.

Creating and inserting is compared byte for byte. What follows depends on how far RCU had come. A burst of deletions
that is shorter than a grace period leaves no choice: its total must be that of the emulator, where here no time passes
in a burst and all grace periods end after it. Longer bursts, tries (which wait for RCU first) and maps of maps (whose
every deletion waits) are a matter of time: their totals must lie between two runs, one where every grace period ends
at once, and one where none does. RCU frees on any CPU, and each keeps up to a page of what it freed out of the slab
statistics until it works for another cgroup [mod_objcg_state], so a recorded total may be that much higher.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.mm.memory import AllocKind
from bpfleet.kernel.units import round_up, round_up_8
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import UnsupportedCaseError, required
from bpfleet.oracle.replay.create import ATTRIBUTES, attr_of
from bpfleet.oracle.replay.machine import CASE_CGROUP, Target
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import answer_of

PAGE_TOLERANCE: Final = 2  # of totals that exist in whole pages only
_COLUMNS: Final = ("slab", "percpu", "vmalloc")
_COLUMN_OF: Final = {
    AllocKind.SLAB: "slab",
    AllocKind.SLAB_RECLAIMABLE: "slab",
    AllocKind.PERCPU: "percpu",
    AllocKind.VMALLOC: "vmalloc",
}
SHORT_BURST: Final = 5000  # elements; on hosts as well as under full emulation
_AT_ONCE_OPERATIONS: Final = 16
_FREED_TO_CACHES: Final = (
    "hash",
    "percpu_hash",
    "lru_hash",
    "lru_percpu_hash",
    "array",
    "queue",
    "stack",
)
_EXACT_PHASES: Final = ("create", "mmap", "insert")
_FIRST_IFINDEX: Final = 1
_SHORT_PREFIX: Final = 32
_NODE_BYTES_MIN: Final = (
    20  # of a trie node without key and value, less the 4 bytes of the key's prefix length
)


def replay_elements(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """Compares one case in the sections errno, memlock, exact and settling."""
    required(case, *ATTRIBUTES, "errno")
    where = f"{case['id']} on {target.name}: {case['type']} {case['ks']}/{case['vs']} x{case['me']}"
    settled = _Run(case, target, Grace.AFTER_BURSTS)
    errno = settled.create()
    if not report.section("errno").compare(where, case["errno"], errno, case) or errno:
        return
    required(case, "memlock", "points")
    _compare_memlock(where, case, settled, report)
    eager, pending = (_Lazily(case, target, grace) for grace in (Grace.AT_ONCE, Grace.NEVER))
    for number, point in enumerate(case["points"]):
        label = f"{where}: point {number} {point[:2]}"
        phase = point[0]
        exact = phase in _EXACT_PHASES and not (phase == "insert" and same_prefix(case))
        section = report.section("exact" if exact else "settling")
        want = _recorded(point)
        found = _between(want, settled.at(number), settled.at(number))
        withheld = (target.possible_cpus - 1) * PAGE_SIZE
        if found != want and not exact:
            # What the first overflow sent off may not have come back yet.
            total, late = settled.at(number), settled.overflow_bytes()
            found = _between(want, total, total, withheld, late)
        # The settled run lies between the other two, of which one is enough.
        for other in () if exact or is_determined(case) else (eager, pending):
            if found != want:
                found = _between(want, settled.at(number), other.at(number), withheld)
        section.compare(label, want, found, case)
    settled.kernel.check()


def _compare_memlock(where: str, case: dict[str, Any], run: "_Run", report: FileReport) -> None:
    """After creation, and with every element in."""
    memlock = [run.map.memlock_bytes()]
    inserted = [n for n, point in enumerate(case["points"]) if point[0] == "insert"]
    run.at(max(inserted, default=0))
    memlock.append(run.map.memlock_bytes())
    report.section("memlock").compare(where, case["memlock"], memlock, case)


def _recorded(point: list[Any]) -> dict[str, Any]:
    """The totals and the errno of a point; columns that were not recorded are left out."""
    _, _, *numbers = point
    recorded = dict(zip((*_COLUMNS, "kernel"), numbers, strict=False))
    return {**{name: n for name, n in recorded.items() if n is not None}, "errno": numbers[4]}


def _between(
    want: dict[str, Any], low: "_Totals", high: "_Totals", withheld: int = 0, late: int = 0
) -> dict[str, Any]:
    """``want`` where it lies between two totals, else the two. What exists in pages only may be off by two.

    ``withheld``: bytes that were freed and may still be counted as slab; ``late``: that may not be freed yet.
    """
    found: dict[str, Any] = {"errno": low.errno}
    for column in want:
        if column == "errno":
            continue
        slack = PAGE_TOLERANCE * PAGE_SIZE if column == "kernel" else 0
        least, most = sorted((low.of(column), high.of(column)))
        more = (withheld if column == "slab" else slack) + late
        inside = least - slack <= want[column] <= most + more
        found[column] = want[column] if inside else [least, most]
    return {name: found[name] for name in want}


def _no_time_passes(_: int) -> int:
    return 0


def same_prefix(case: dict[str, Any]) -> bool:
    """Whether the recorder's keys differed only behind their prefix, so that every insert replaced the one before.

    Seen where the memlock line of a trie, which counts prefixes, is that of a single one at the end.
    """
    if case["type"] != "lpm_trie" or case["memlock"][0]:
        return False
    return bool(case["memlock"][1] < 2 * (case["vs"] + case["ks"] + _NODE_BYTES_MIN))


class _Totals:
    """Bytes charged to the cgroup since before the creation, and the errno of the phase."""

    def __init__(self, charged: dict[str, int], errno: str | int) -> None:
        self.bytes: Final = charged
        self.errno: Final = errno

    def of(self, column: str) -> int:
        """One column; ``kernel`` is all of it in whole pages."""
        if column == "kernel":
            return round_up(sum(self.bytes.values()), PAGE_SIZE)
        return self.bytes[column]


def is_determined(case: dict[str, Any]) -> bool:
    """Whether the recorder's bursts were too short for a grace period to end in them."""
    most = max((int(point[1]) for point in case["points"]), default=0)
    return case["type"] in _FREED_TO_CACHES and most <= SHORT_BURST


class Grace(Enum):
    """When grace periods end in a run."""

    AFTER_BURSTS = auto()
    AT_ONCE = auto()
    NEVER = auto()


class _Lazily:
    """A run that is made only when a total needs it."""

    def __init__(self, case: dict[str, Any], target: Target, grace: Grace) -> None:
        self._case = case
        self._target = target
        self._grace = grace
        self._run: _Run | None = None

    def at(self, number: int) -> _Totals:
        """The totals at one point."""
        if self._run is None:
            self._run = _Run(self._case, self._target, self._grace)
            self._run.create()
        return self._run.at(number)


class _Run:
    """One pass over the phases of a case. Before a total is read every deferred free runs, where any does."""

    def __init__(self, case: dict[str, Any], target: Target, grace: Grace) -> None:
        self.case: Final = case
        self.kernel, self.task = target.boot()
        self.kernel.controller.elapse = _no_time_passes
        self._target: Final = target
        self._grace: Final = grace
        self._operations = 0
        self._totals: Final[list[_Totals]] = []
        self._present = 0
        self._value_of_delete = 0
        self._handles: list[int] = []
        self._address = 0
        self._attr: Final = self._attributes()
        self._value: Final = self._value_source()
        self.kernel.run_deferred()  # descriptor tables the set-up outgrew
        self._before: Final = self._charged()

    def create(self) -> str | int:
        """Creates the map; returns the errno."""
        made = answer_of(lambda: verbs.MAP_CREATE(self.kernel, self.task, self._attr))
        if made.word:
            return made.word
        self.fd = made.value.fd
        return 0

    @property
    def map(self) -> BpfMap:
        """The map of the case."""
        target = self.task.file(self.fd).target
        assert isinstance(target, BpfMap)
        return target

    def overflow_bytes(self) -> int:
        """What one overflow of the map's caches sends off; 0 once the map is closed."""
        if self.fd not in self.task.fds:
            return 0
        return sum(caches.overflow_bytes for caches in self.map.site.mem_allocs)

    def at(self, number: int) -> _Totals:
        """The totals at one point; runs the phases up to it."""
        points = self.case["points"]
        while len(self._totals) <= number:
            phase, count, *numbers = points[len(self._totals)]
            # A phase that failed is recorded with the elements before the failing one.
            self._value_of_delete = self._value_pointer(numbers[4])
            errno = self._phase(phase, count + 1 if numbers[4] else count)
            if self._grace is not Grace.NEVER:
                self.kernel.run_deferred()
            charged, before = self._charged(), self._before
            self._totals.append(
                _Totals({name: charged[name] - before[name] for name in charged}, errno)
            )
        return self._totals[number]

    # -- set-up --------------------------------------------------------------------------------------------------

    def _attributes(self) -> MapAttr:
        attr = attr_of(self.case, self.kernel, self.task)
        if self.case["type"] == "cpumap":
            return replace(attr, max_entries=self._target.possible_cpus)
        return attr

    def _value_source(self) -> Callable[[int], bytes]:
        """Makes what values refer to before anything is measured; returns the value of element number n."""
        case = self.case
        kind = case.get("value")
        if kind == "ifindex":
            return lambda n: _FIRST_IFINDEX.to_bytes(case["vs"], "little")
        if kind == "qsize":
            return lambda n: int(case["qsize"]).to_bytes(case["vs"], "little")
        if kind == "storage":
            self._make_handles()
            return lambda n: b"\x01" * int(case["vs"])
        if kind == "socket":
            sockets = self._sockets()
            return lambda n: sockets[n % len(sockets)].to_bytes(case["vs"], "little")
        fd = self._referred(kind)
        if fd is not None:
            return lambda n: fd.to_bytes(4, "little")
        width = case["vs"]
        if "percpu" in case["type"]:
            width = round_up_8(width) * self._target.possible_cpus
        return lambda n: b"\x01" * width

    def _referred(self, kind: str | None) -> int | None:
        """The one object every element refers to; None for plain values."""
        kernel, task = self.kernel, self.task
        if kind == "inner":
            return self._attr.inner_map_fd
        if kind == "perf":
            return verbs.PERF_EVENT_OPEN(kernel, task)
        if kind == "prog":
            return verbs.PROG_LOAD(kernel, task, ProgAttr(1, 2)).fd
        if kind == "cgroup":
            return verbs.OPEN_CGROUP(kernel, task, kernel.cgroup(CASE_CGROUP))
        if kind not in (None, "touch"):
            raise UnsupportedCaseError(f"values that are a {kind}")
        return None

    def _sockets(self) -> list[int]:
        """The socket of all elements; of a reuseport array, where a socket has one place, as many as elements."""
        kind = {"xskmap": "xsk", "reuseport_sockarray": "udp_reuse"}.get(
            self.case["type"], "tcp_est"
        )
        wanted = self._most() if self.case["type"] == "reuseport_sockarray" else 1
        return [verbs.SOCKET(self.kernel, self.task, kind) for _ in range(wanted)]

    def _most(self) -> int:
        """Elements at the fullest point, and the one that failed after them."""
        return 1 + max((int(point[1]) for point in self.case.get("points", ())), default=0)

    def _make_handles(self) -> None:
        """Descriptors that local storage hangs on, one per element."""
        self._handles.extend(self._owner(number) for number in range(self._most()))

    def _owner(self, number: int) -> int:
        kernel, kind = self.kernel, self.case["type"]
        if kind == "inode_storage":
            return verbs.OPEN(kernel, self.task, f"/file{number}")
        if kind == "task_storage":
            return verbs.PIDFD_OPEN(kernel, self.task, self.task)
        if kind == "cgrp_storage":
            return verbs.OPEN_CGROUP(kernel, self.task, kernel.cgroup(CASE_CGROUP))
        return verbs.SOCKET(kernel, self.task, "udp")

    # -- phases --------------------------------------------------------------------------------------------------

    def _phase(self, phase: str, count: int) -> str | int:
        actions: dict[str, Callable[[int], object]] = {
            "create": lambda n: None,
            "mmap": lambda n: self._map_arena(),
            "insert": self._insert_up_to,
            "reinsert": self._insert_up_to,
            "update": self._update_all,
            "delete": lambda n: self._delete_all(),
            "delete2": lambda n: self._delete_all(),
            "munmap": lambda n: verbs.MUNMAP(self.kernel, self.task, self._address),
            "close": lambda n: verbs.CLOSE(self.kernel, self.task.pid, self.fd),
        }
        if phase not in actions:
            raise UnsupportedCaseError(f"phase {phase!r}")
        return answer_of(lambda: actions[phase](count)).word or 0

    def _map_arena(self) -> None:
        length = self.case["me"] * PAGE_SIZE
        self._address = verbs.MMAP(self.kernel, self.task, self.fd, length, prot=3)

    def _insert_up_to(self, count: int) -> None:
        while self._present < count:
            self._store(self._present)
            self._present += 1

    def _update_all(self, count: int) -> None:
        for number in range(self._present):
            self._store(number)

    def _store(self, number: int) -> None:
        if self.case.get("value") == "touch":
            self.kernel.bpf.touch_arena(self.task, self._address, 1, number)
            return
        key = self._key(number)
        verbs.MAP_UPDATE_ELEM(self.kernel, self.task, self.fd, key, self._value(number))
        self._end_grace_periods()

    def _end_grace_periods(self) -> None:
        """At once is often enough: fewer operations than overflow a cache."""
        self._operations += 1
        if self._grace is Grace.AT_ONCE and self._operations % _AT_ONCE_OPERATIONS == 0:
            self.kernel.run_deferred()

    def _delete_all(self) -> None:
        popping = self.case["type"] in ("queue", "stack")
        for number in range(self._present):
            if popping:
                verbs.MAP_LOOKUP_AND_DELETE_ELEM(self.kernel, self.task, self.fd, None)
            else:
                key = self._key(number)
                verbs.MAP_DELETE_ELEM(self.kernel, self.task, self.fd, key, self._value_of_delete)
                self._end_grace_periods()
        self._present = 0

    def _value_pointer(self, recorded: str | int) -> int:
        """What the recorder left in the value field when it deleted: seen where every delete was refused.

        Elements of storage were deleted one by one, without it.
        """
        refused = recorded == "EINVAL" and not self._handles
        return self._target.value_pointer_of_delete if refused else 0

    def _key(self, number: int) -> bytes | None:
        size = self.case["ks"]
        if self._handles:
            return self._handles[number].to_bytes(size, "little")
        if self.case["type"] == "lpm_trie":
            prefix = _SHORT_PREFIX if same_prefix(self.case) else 8 * (size - 4)
            return prefix.to_bytes(4, "little") + number.to_bytes(size - 4, "big")
        return number.to_bytes(max(size, 8), "little")[:size] if size else None

    # -- measuring -----------------------------------------------------------------------------------------------

    def _charged(self) -> dict[str, int]:
        memcg = self.kernel.cgroup(CASE_CGROUP).memcg
        sums = dict.fromkeys((*_COLUMNS, "pages"), 0)
        for account in self.kernel.memory.accounts.values():
            if account.objcg is not None and account.objcg.memcg is memcg:
                sums[_COLUMN_OF.get(account.kind, "pages")] += account.charged_bytes
        return sums
