"""The answer: one row per kind of container over all captured hosts, today and after the change, worst first. Pure."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.calibrate.containers import Container, HostInput, normalised
from bpfleet.calibrate.emulate import OK, ContainerOutcome, emulate_host
from bpfleet.calibrate.verdict import Calibration, calibrate
from bpfleet.captures.document import Document
from bpfleet.kernel.profile import KernelProfile, sureness, sureness_line
from bpfleet.version import __version__
from bpfleet.workload.quantity import counted, format_bytes
from bpfleet.workload.spec import KILLED, Inventory

__all__ = [
    "Answer",
    "AnswerRow",
    "HostCase",
    "answer_data",
    "answer_for",
    "to_csv",
    "to_markdown",
    "with_head_room",
]

# JSON values of any type.
Plain = Any

_MIB: Final = 1 << 20
# Reading the kernel's BTF costs a libbpf program some 10 MB of its own at each start; what its peak shows may be
# more on a newer kernel, whose BTF is larger (measured: 7 to 9 MB on 6.1, 10 to 12 MB on 7.3).
BTF_READ_BYTES: Final = 10 << 20
_BTF_READ_BYTES_MAX: Final = 12 << 20
_HEAD_ROOM_PERCENT: Final = 10
# Worst first: what happens after the change, if it does not happen today.
_SEVERITY: Final = (
    "fails now",
    "fails anew",
    "may fail",
    "throttled",
    "stops failing",
    "fails as before",
    "fits",
)
# The same of several.
_MANY: Final = {
    "fails now": "fail now",
    "fails anew": "fail anew",
    "may fail": "may fail",
    "throttled": "throttled",
    "stops failing": "stop failing",
    "fails as before": "fail as before",
    "fits": "fit",
}
_NAMED_MAX: Final = 3


class HostCase(Struct, frozen=True, kw_only=True):
    """One host of the question: its capture, what is emulated of it before and after, and its kernel."""

    source: str
    document: Document
    before: HostInput
    after: HostInput
    kernel: KernelProfile


class AnswerRow(Struct, frozen=True, kw_only=True):
    """One kind of container under one change, to the kernel ``target``. Numbers are of the host where it is worst.

    ``when`` is at start, at restart or in operation. ``need_bytes`` is what it holds at its worst moment after the
    change; ``decides`` names the largest part of it. ``limit_path`` is the cgroup whose limit leaves the least room:
    the container's own (``path``) or one above it, which its neighbours use too; empty where there is none and where
    users pay. ``set_bytes`` is what that limit has to be.
    """

    container: str
    target: str
    change: str
    hosts: int
    affected: int
    before: str
    after: str
    when: str
    containers: int
    reproduced: int
    limit_bytes: int | None
    limit_path: str
    room_before: int | None
    room_after: int | None
    need_bytes: int
    set_limit: str
    set_bytes: int
    decides: str
    why: str
    host: str
    path: str


class Answer(Struct, frozen=True, kw_only=True):
    """All there is to say. ``groups`` is how many different hosts were emulated.

    ``kernels`` are those of the hosts, ``targets`` those asked about, each with how sure what is said of it is.
    """

    version: str
    hosts: int
    groups: int
    kernels: dict[str, str]
    targets: dict[str, str]
    rows: tuple[AnswerRow, ...]
    calibrations: tuple[tuple[str, Calibration], ...]
    assumptions: tuple[tuple[str, str], ...]

    @property
    def new_failures(self) -> int:
        """Rows that fail after the change and did not before."""
        return sum(row.change == "fails anew" for row in self.rows)

    @property
    def title(self) -> str:
        """The question in one line."""
        return (
            f"{counted(self.hosts, 'host')}: {', '.join(self.kernels)} to {', '.join(self.targets)}"
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence: how many kinds of container do what under which kernel, worst first.

        ``Of 4 kinds of container: under 6.12 1 fail anew (agent.service), 3 fit.``
        """
        if not self.rows:
            return "Nothing in the captures uses BPF: no container has a map or a program."
        parts = []
        for target in self.targets:
            rows = [row for row in self.rows if row.target == target]
            told = []
            for change in _SEVERITY:
                names = [row.container for row in rows if row.change == change]
                if names:
                    few = ", ".join(names[:_NAMED_MAX]) + (", …" if len(names) > _NAMED_MAX else "")
                    told.append(
                        f"{len(names)} {_MANY[change]}" + (f" ({few})" if change != "fits" else "")
                    )
            parts.append(f"under {target} {', '.join(told) or 'nothing runs BPF'}")
        kinds = counted(len({row.container for row in self.rows}), "kind")
        return f"Of {kinds} of container: {'; '.join(parts)}."

    @property
    def sureness(self) -> dict[str, str]:
        """The kernels of the hosts and those asked about."""
        return self.kernels | self.targets


def answer_for(
    cases: Iterable[HostCase],
    targets: Sequence[KernelProfile],
    *,
    grouping: bool = True,
    on_host: Callable[[], None] | None = None,
) -> Answer:
    """Emulates every host today and under each of ``targets``, hosts that are alike once.

    ``cases`` are taken one by one, and nothing of a document is kept.
    """
    known: dict[tuple[HostInput, str], tuple[ContainerOutcome, ...]] = {}

    def emulated(host: HostInput, profile: KernelProfile) -> tuple[ContainerOutcome, ...]:
        key = (normalised(host), profile.name)
        if not grouping:
            return emulate_host(host, profile)
        if key not in known:
            known[key] = emulate_host(host, profile)
        return known[key]

    found: dict[tuple[str, str], list[_Seen]] = {}
    calibrations: list[tuple[str, Calibration]] = []
    assumptions: dict[tuple[str, str], None] = {}
    distinct: set[tuple[HostInput, str]] = set()
    kernels: dict[str, KernelProfile] = {}
    hosts = 0
    for case in cases:
        hosts += 1
        kernels[case.kernel.name] = case.kernel
        distinct.add((normalised(case.before), case.kernel.name))
        before = emulated(case.before, case.kernel)
        lines = calibrate(case.document, case.before.containers, before, case.kernel)
        calibrations += [(case.document.host.name, line) for line in lines]
        for target in targets:
            after = emulated(case.after, target)
            used = _Used(case.after.containers, before, after, lines)
            for container, was, will, line in zip(
                case.after.containers, before, after, lines, strict=True
            ):
                host = _SeenHost(hosts, case.document.host.name, case.kernel)
                limits = used.limits(container)
                seen = _Seen(host, target, _bare(container), was, will, line, limits)
                found.setdefault((target.name, container.kind), []).append(seen)
        for container in case.after.containers:
            for text in container.assumptions:
                assumptions[container.kind, text] = None
        if on_host is not None:
            on_host()
    names = tuple(target.name for target in targets)
    rows = [_row(kind, seen) for (_, kind), seen in found.items()]
    rows.sort(
        key=lambda row: (
            names.index(row.target),
            _SEVERITY.index(row.change),
            -row.affected,
            row.container,
        )
    )
    return Answer(
        version=__version__,
        hosts=hosts,
        groups=len(distinct),
        kernels=sureness(dict(sorted(kernels.items()))),
        targets=sureness({target.name: target for target in targets}),
        rows=tuple(rows),
        calibrations=tuple(calibrations),
        assumptions=tuple(assumptions),
    )


class _SeenHost(NamedTuple):
    """What rows say of a host."""

    number: int
    name: str
    kernel: KernelProfile


class _Limit(NamedTuple):
    """memory.max of a container's cgroup or of one above it, and what its neighbours below that use."""

    path: str
    bytes: int
    beside_today: int = 0
    beside_after: int = 0

    @property
    def left_bytes(self) -> int:
        """What it leaves to the container after the change."""
        return self.bytes - self.beside_after


class _Used:
    """What the containers of one host use, today and after the change."""

    def __init__(
        self,
        containers: Sequence[Container],
        before: Sequence[ContainerOutcome],
        after: Sequence[ContainerOutcome],
        lines: Sequence[Calibration],
    ) -> None:
        self._rows: Final = [
            (
                each.path,
                was.steady_bytes + _other_bytes(line, was),
                will.steady_bytes + _other_bytes(line, will),
            )
            for each, was, will, line in zip(containers, before, after, lines, strict=True)
        ]

    def limits(self, container: Container) -> tuple[_Limit, ...]:
        """The limits that count for a container: those above it, the outermost first, and its own."""
        above = [self._above(container, each.path, each.max_bytes) for each in container.ancestors]
        if container.max_bytes is not None:
            above.append(_Limit(container.path, container.max_bytes))
        return tuple(above)

    def _above(self, container: Container, path: str, max_bytes: int) -> _Limit:
        beside = [
            (today, after)
            for each, today, after in self._rows
            if each != container.path and (each == path or each.startswith(f"{path}/"))
        ]
        return _Limit(path, max_bytes, sum(t for t, _ in beside), sum(a for _, a in beside))


def _other_bytes(line: Calibration, outcome: ContainerOutcome) -> int:
    """Kernel memory of its processes: what the capture tells, or what is emulated of it where that is more."""
    return max(line.other_bytes, outcome.process_bytes)


_NOTHING: Final = Inventory(name="nothing")


def _bare(container: Container) -> Container:
    """A container without its maps and programs, which have been emulated."""
    return replace(container, inventory=_NOTHING, map_ids=())


class _Seen:
    """One container on one host, before and after."""

    def __init__(
        self,
        host: _SeenHost,
        target: KernelProfile,
        container: Container,
        was: ContainerOutcome,
        will: ContainerOutcome,
        line: Calibration,
        limits: tuple[_Limit, ...],
    ) -> None:
        self.host = host
        self.target = target
        self.container = container
        self.was = was
        self.will = will
        self.line = line
        self.limits = limits
        self.counts_memory = not target.is_rlimit
        self.limit = self._deciding()

    def _deciding(self) -> _Limit | None:
        """The limit that refused the start, else the one that leaves the least; of two alike the inner one."""
        refused = self.will.limiting_ancestor
        if refused is not None:
            return self.limits[refused]
        return min(reversed(self.limits), key=lambda each: each.left_bytes, default=None)

    @property
    def shares_limit(self) -> bool:
        """Whether the limit that decides is one above the container."""
        return self.limit is not None and self.limit.path != self.container.path

    @property
    def need_bytes(self) -> int:
        """Its worst moment after the change: the start, or all maps full."""
        if not self.counts_memory:
            return self.will.locked_bytes
        full = self.will.steady_bytes + _other_bytes(self.line, self.will) + self.will.growth_bytes
        return max(self.start_need, full)

    @property
    def start_need(self) -> int:
        """What the start takes: what stays, what verifying holds meanwhile, and what the program takes to read BTF."""
        stays = self.will.steady_bytes + _other_bytes(self.line, self.will)
        return stays + self.will.loading_bytes + self.btf_bytes

    @property
    def btf_bytes(self) -> int:
        """What reading the kernel's BTF takes: no more than its peak, or its limit, has room for today."""
        container, was = self.container, self.was
        if not container.reads_btf:
            return 0
        charged = was.kernel_bytes + _other_bytes(self.line, was)
        counted = 0 if self.host.kernel.is_rlimit else charged
        used = max(was.heap_bytes + counted, container.unreclaimable_bytes or 0)
        room = [BTF_READ_BYTES]
        if container.peak_bytes is not None:
            room = [_BTF_READ_BYTES_MAX, container.peak_bytes - used - was.loading_bytes]
        for each in self.limits:
            room.append(each.bytes - each.beside_today - used - was.loading_bytes)
        return max(0, min(room))

    def change(self) -> tuple[str, str, str]:
        """What changes, what happens, and when."""
        was, will = self.was, self.will
        bad = next(
            (
                (what, when)
                for what, when in ((will.start, "at start"), (will.restart, "at restart"))
                if what != OK
            ),
            None,
        )
        failed_before = was.start != OK or was.restart != OK
        if bad is not None:
            what, when = bad
            return ("fails as before" if failed_before else "fails anew"), _words(what), when
        if failed_before:
            return "stops failing", OK, ""
        if self.limit is not None and self.counts_memory:
            room = self.limit.left_bytes + will.swappable_bytes
            if self.start_need > room:
                return "may fail", "OOM kill", "at start"
            if self.need_bytes > room:
                return "may fail", "ENOMEM or OOM kill", "in operation"
        if will.throttled and not was.throttled:
            return "throttled", "memory.high", "in operation"
        return "fits", OK, ""

    def room_today(self) -> int | None:
        """What is left under the limit that counts today, once it runs."""
        beside = 0 if self.limit is None else self.limit.beside_today
        return self._room(self.was, self.host.kernel, beside)

    def room_after(self) -> int | None:
        """The same after the change."""
        beside = 0 if self.limit is None else self.limit.beside_after
        return self._room(self.will, self.target, beside)

    def _room(self, outcome: ContainerOutcome, profile: KernelProfile, beside: int) -> int | None:
        if profile.is_rlimit:
            limit = self.container.memlock_bytes
            return None if limit >= RLIM_INFINITY else limit - outcome.locked_bytes
        if self.limit is None:
            return None
        other = _other_bytes(self.line, outcome)
        return self.limit.bytes - beside - outcome.steady_bytes - other

    def decides(self) -> str:
        """The largest part of what it needs."""
        if not self.counts_memory:
            return f"locked memory {format_bytes(self.will.locked_bytes)}"
        parts = {
            "maps and programs": self.will.kernel_bytes,
            "heap": self.will.heap_bytes,
            "elements of full maps": self.will.growth_bytes,
            "its processes in the kernel": _other_bytes(self.line, self.will),
            "reading BTF at start": self.btf_bytes,
            "verifying at start": self.will.loading_bytes,
        }
        if self.limit is not None and self.shares_limit:
            parts["its neighbours"] = self.limit.beside_after
        name = max(parts, key=lambda part: parts[part])
        return f"{name} {format_bytes(parts[name])}"


def _words(errno: str) -> str:
    return "OOM kill" if errno == KILLED else errno


def _row(kind: str, seen: Sequence[_Seen]) -> AnswerRow:
    changes = [each.change() for each in seen]
    worst = min(
        range(len(seen)), key=lambda n: (_SEVERITY.index(changes[n][0]), -seen[n].need_bytes)
    )
    each, (change, after, when) = seen[worst], changes[worst]
    need = max(one.need_bytes for one in seen)
    limit = each.limit if each.counts_memory else None
    memlock = None if each.counts_memory else _finite(each.container.memlock_bytes)
    beside = limit.beside_after if limit is not None else 0
    return AnswerRow(
        container=kind,
        target=each.target.name,
        change=change,
        hosts=len({one.host.number for one in seen}),
        affected=len(
            {
                one.host.number
                for one, found in zip(seen, changes, strict=True)
                if found[0] == change
            }
        ),
        before=_words(each.was.start if each.was.start != OK else each.was.restart),
        after=after,
        when=when,
        containers=len(seen),
        reproduced=sum(one.line.reproduced for one in seen),
        limit_bytes=memlock if limit is None else limit.bytes,
        limit_path="" if limit is None else limit.path,
        room_before=each.room_today(),
        room_after=each.room_after(),
        need_bytes=need,
        set_limit="memory.max" if each.counts_memory else "LimitMEMLOCK",
        set_bytes=with_head_room(need + beside),
        decides=each.decides(),
        why=each.will.failure,
        host=each.host.name,
        path=each.container.path,
    )


def _finite(limit: int) -> int | None:
    return None if limit >= RLIM_INFINITY else limit


def with_head_room(need: int) -> int:
    """A limit for a need, in whole MiB."""
    with_room = need * (100 + _HEAD_ROOM_PERCENT) // 100
    return max(_MIB, -(-with_room // _MIB) * _MIB)


# -- forms


def answer_data(answer: Answer) -> Plain:
    """The answer for JSON."""
    return {
        "verdict": answer.verdict,
        "version": answer.version,
        "hosts": answer.hosts,
        "groups": answer.groups,
        "kernels": answer.kernels,
        "targets": answer.targets,
        "new_failures": answer.new_failures,
        "rows": [
            {name: getattr(row, name) for name in AnswerRow.__struct_fields__}
            for row in answer.rows
        ],
        "calibration": [
            {
                "host": host,
                "unexplained_bytes": line.unexplained_bytes,
                "told_bytes": line.told_bytes,
                "modelled_bytes": line.modelled_bytes,
                **{
                    name: getattr(line, name)
                    for name in Calibration.__struct_fields__
                    if name != "differing"
                },
                "differing": [
                    {name: getattr(each, name) for name in each.__struct_fields__}
                    for each in line.differing
                ],
            }
            for host, line in answer.calibrations
        ],
        "assumptions": [
            {"container": kind, "assumption": text} for kind, text in answer.assumptions
        ],
    }


def to_csv(answer: Answer) -> str:
    """One line per kind of container."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = AnswerRow.__struct_fields__
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in answer.rows)
    return text.getvalue()


def row_cells(row: AnswerRow) -> tuple[str, ...]:
    """A row for people, as ``ROW_HEADS`` names its cells."""
    shaky = "" if row.reproduced == row.containers else " (not reproduced)"
    of = f" of {row.limit_path}" if row.limit_path not in ("", row.path) else ""
    return (
        row.container,
        row.target,
        row.change + shaky,
        f"{row.affected} of {row.hosts}",
        row.before,
        f"{row.after} {row.when}".strip(),
        _size(row.limit_bytes, "max") + of,
        _size(row.room_before, ""),
        _size(row.room_after, ""),
        f"{row.set_limit} {format_bytes(row.set_bytes)}{of}",
        row.decides,
    )


ROW_HEADS: Final = (
    "container", "kernel", "change", "hosts", "today", "after", "limit", "room today", "room after",
    "needs at least", "decided by",
)  # fmt: skip


def _size(value: int | None, none: str) -> str:
    if value is None:
        return none
    return f"-{format_bytes(-value)}" if value < 0 else format_bytes(value) if value else "0"


CALIBRATION_HEADS: Final = (
    "host", "container", "verdict", "maps exact", "memlock", "kernel memory", "BPF", "told by name", "counted",
    "unexplained", "peak", "events",
)  # fmt: skip


def calibration_cells(host: str, line: Calibration) -> tuple[str, ...]:
    """A line of the calibration for people."""
    return (
        host,
        line.container,
        line.verdict,
        f"{line.exact_maps} of {line.maps}",
        format_bytes(line.seen_memlock),
        _size(line.seen_bytes, "not told"),
        format_bytes(line.emulated_bytes),
        _size(line.told_bytes or None, ""),
        _size(line.modelled_bytes or None, ""),
        _size(line.unexplained_bytes, ""),
        _size(line.seen_peak_bytes, ""),
        ", ".join(f"{name} {count:,}" for name, count in line.seen_events.items()),
    )


def to_markdown(answer: Answer) -> str:
    """Answer and calibration as tables."""
    parts = [
        f"## {answer.title}",
        answer.verdict,
        _table(ROW_HEADS, map(row_cells, answer.rows)),
        "### Calibration",
    ]
    parts.append(
        _table(
            CALIBRATION_HEADS, (calibration_cells(host, line) for host, line in answer.calibrations)
        )
    )
    if answer.assumptions:
        parts += [
            "### Assumed",
            "\n".join(f"- {kind}: {text}" for kind, text in answer.assumptions),
        ]
    parts.append(f"Kernels: {sureness_line(answer.sureness)}.")
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
