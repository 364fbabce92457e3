"""Who pays for BPF on a host: one row per payer with the maps and programs below it, from a capture. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.captures.document import Cgroup, Document, Payer

__all__ = ["ChargedObject", "PayerRow", "about_process", "openmetrics", "payer_rows"]

_LABEL_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


class ChargedObject(Struct, frozen=True, kw_only=True):
    """One map or program of a payer. ``bytes`` is its memlock, as the kernel shows it."""

    kind: str
    id: int
    type: str
    name: str
    bytes: int
    read: bool


class PayerRow(Struct, frozen=True, kw_only=True):
    """One payer. ``usage`` and ``limit`` are the cgroup's, or the user's counter and RLIMIT_MEMLOCK.

    ``read`` counts objects whose payer the kernel told; the others were deduced from their holders. ``other`` is what
    of a user's counter is not BPF: perf, AF_XDP, io_uring and zero-copy.
    """

    payer: str
    what: str
    maps: int = 0
    programs: int = 0
    bytes: int = 0
    usage: int | None = None
    limit: int | None = None
    other: int | None = None
    read: int = 0
    objects: tuple[ChargedObject, ...] = ()

    @property
    def how(self) -> str:
        """How the payer is known."""
        total = self.maps + self.programs
        if not total or self.read == total:
            return "read"
        return "deduced" if not self.read else f"{total - self.read} of {total} deduced"


def payer_rows(document: Document) -> list[PayerRow]:
    """Payers, the largest first; then users whose counter is not empty."""
    objects: dict[str, list[ChargedObject]] = {}
    payers: dict[str, Payer] = {}
    for name, payer, each in _objects(document):
        objects.setdefault(name, []).append(each)
        payers.setdefault(name, payer)
    cgroups = {cgroup.path: cgroup for cgroup in document.cgroups}
    rows = [_row(name, payers[name], found, cgroups, document) for name, found in objects.items()]
    known = {row.payer for row in rows}
    rows += [row for row in _users(document) if row.payer not in known]
    return sorted(rows, key=lambda row: (-row.bytes, row.payer))


def _objects(document: Document) -> Iterable[tuple[str, Payer, ChargedObject]]:
    for each in document.maps:
        yield (
            _name(each.payer),
            each.payer,
            ChargedObject(
                kind="map",
                id=each.id,
                type=MapType(each.type).name.lower()
                if each.type in set(MapType)
                else str(each.type),
                name=each.name,
                bytes=each.memlock_bytes,
                read=each.payer.read,
            ),
        )
    for program in document.programs:
        kind = program.type
        yield (
            _name(program.payer),
            program.payer,
            ChargedObject(
                kind="program",
                id=program.id,
                type=ProgType(kind).name.lower() if kind in set(ProgType) else str(kind),
                name=program.name,
                bytes=program.memlock_bytes,
                read=program.payer.read,
            ),
        )


def _name(payer: Payer) -> str:
    match payer.kind:
        case "user":
            return f"uid {payer.uid}"
        case "cgroup":
            return f"{payer.path} (removed)" if payer.removed else payer.path
        case "root":
            return "/"
        case _:
            return "not known"


def _row(
    name: str,
    payer: Payer,
    found: Sequence[ChargedObject],
    cgroups: Mapping[str, Cgroup],
    document: Document,
) -> PayerRow:
    total = sum(each.bytes for each in found)
    row = PayerRow(
        payer=name,
        what="",
        maps=sum(each.kind == "map" for each in found),
        programs=sum(each.kind == "program" for each in found),
        bytes=total,
        read=sum(each.read for each in found),
        objects=tuple(sorted(found, key=lambda each: (-each.bytes, each.kind, each.id))),
    )
    if payer.kind == "user":
        user = next(
            (each for each in _users(document, {payer.uid: total}) if each.payer == name), None
        )
        if user is None:
            return _with(row, what="user")
        return _with(row, what="user", usage=user.usage, limit=user.limit, other=user.other)
    cgroup = cgroups.get("/" if payer.kind == "root" else payer.path)
    if cgroup is None:
        return _with(row, what="removed cgroup" if payer.removed else "")
    return _with(row, what=_what(cgroup), usage=cgroup.current, limit=cgroup.max)


def _with(row: PayerRow, **changes: object) -> PayerRow:
    return PayerRow(**{**{name: getattr(row, name) for name in row.__struct_fields__}, **changes})


def _what(cgroup: Cgroup) -> str:
    kind, name = str(cgroup.what.get("kind", "")), str(cgroup.what.get("name", ""))
    version = " (cgroup v1)" if cgroup.version == 1 else ""
    if kind in ("cgroup", "root", ""):
        return (kind or "cgroup") + version
    return f"{kind} {name}{version}"


def _users(document: Document, of_bpf: Mapping[int, int] | None = None) -> list[PayerRow]:
    limits: dict[int, list[int]] = {}
    for process in document.processes:
        if process.memlock[0] is not None:
            limits.setdefault(process.uid, []).append(process.memlock[0])
    rows = []
    for user in document.users:
        locked = user.locked_pages * PAGE_SIZE
        if not locked and not (of_bpf or {}).get(user.uid):
            continue
        bpf = (of_bpf or {}).get(user.uid, 0) if document.charges.how == "user" else 0
        rows.append(
            PayerRow(
                payer=f"uid {user.uid}",
                what="user",
                usage=locked,
                limit=min(limits[user.uid]) if user.uid in limits else None,
                other=max(0, locked - bpf),
            )
        )
    return rows


def about_process(document: Document, pid: int | None) -> list[str]:
    """Who holds the counters a process can run into: its user's, and those of its cgroup and the ones above.

    Without a process: the largest payers.
    """
    rows = payer_rows(document)
    if pid is None:
        return [_sentence(row) for row in rows[:_SHOWN]] or ["nobody pays for BPF here"]
    process = next((each for each in document.processes if each.pid == pid), None)
    if process is None:
        return [f"process {pid} holds no BPF object and no locked memory"]
    soft = process.memlock[0]
    lines = [
        f"process {pid} ({process.comm}) of uid {process.uid} in {process.cgroup}: RLIMIT_MEMLOCK"
        f" {'unlimited' if soft is None else f'{soft:,} bytes'}"
    ]
    by_name = {row.payer: row for row in rows}
    user = by_name.get(f"uid {process.uid}")
    if user is not None:
        lines.append(_sentence(user))
    cgroups = {each.path: each for each in document.cgroups}
    for path in _upwards(process.cgroup):
        row, cgroup = by_name.get(path), cgroups.get(path)
        if row is not None:
            lines.append(_sentence(row))
        elif cgroup is not None and cgroup.max is not None:
            lines.append(f"{path}: {cgroup.current or 0:,} of {cgroup.max:,} bytes in use")
    return lines


def _upwards(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _sentence(row: PayerRow) -> str:
    limit = "no limit" if row.limit is None else f"a limit of {row.limit:,}"
    usage = "" if row.usage is None else f", {row.usage:,} bytes in use under {limit}"
    held = ", ".join(f"{each.name or each.type} {each.bytes:,}" for each in row.objects[:_SHOWN])
    return (
        f"{row.payer}: {row.maps} maps and {row.programs} programs, {row.bytes:,} bytes ({row.how}){usage}"
        + (f"; largest: {held}" if held else "")
    )


_SHOWN: Final = 5
_METRICS: Final[tuple[tuple[str, str, Callable[[PayerRow], int | None]], ...]] = (
    ("bpfleet_payer_bpf_bytes", "Memory of BPF objects a payer is charged for.", lambda r: r.bytes),
    ("bpfleet_payer_maps", "BPF maps a payer is charged for.", lambda r: r.maps),
    ("bpfleet_payer_programs", "BPF programs a payer is charged for.", lambda r: r.programs),
    (
        "bpfleet_payer_usage_bytes",
        "Usage of the cgroup, or counter of the user.",
        lambda r: r.usage,
    ),
    ("bpfleet_payer_limit_bytes", "Limit of the cgroup or of the user.", lambda r: r.limit),
)


def openmetrics(rows: Iterable[PayerRow], host: str) -> str:
    """The rows for node_exporter's textfile collector."""
    found = list(rows)
    lines = []
    for name, text, value in _METRICS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for row in found:
            number = value(row)
            if number is not None:
                labels = (
                    f'host="{_label(host)}",payer="{_label(row.payer)}",what="{_label(row.what)}"'
                )
                lines.append(f"{name}{{{labels}}} {number}")
    return "\n".join([*lines, "# EOF", ""])


def _label(text: str) -> str:
    return "".join(_LABEL_ESCAPES.get(character, character) for character in text)
