"""A capture as what can be emulated: one container per payer, with its maps, limits, process and heap. Pure.

Maps and programs belong to who pays for them. Where users pay (up to 5.10), and where the payer is not known, they
belong to the cgroup of the process that holds them. Whatever a capture does not tell is an assumption, in words.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from bpfleet.abi.bpf import (
    BPF_OBJ_NAME_LEN,
    F_NO_PREALLOC,
    Capability,
    MapType,
    ProgType,
    creation_flags,
)
from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.captures.document import Cgroup, Document, Map, Payer, Process, Program
from bpfleet.kernel.profile import X86_64
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import (
    INSNS_MAX,
    THREADS_MAX,
    Complexity,
    Inventory,
    MapDeclaration,
    ProgramDeclaration,
)

__all__ = [
    "Ancestor",
    "Container",
    "HostInput",
    "host_input",
    "normalised",
    "replaced",
    "with_fill",
]

FILL_MAX: Final = 4096
_INSN_BYTES: Final = 8
_INSTANCE: Final = re.compile(r"@[^.]*(?=\.)")
_NAME: Final = re.compile(r"[^a-z0-9-]+")
_MAPS_OF_MAPS: Final = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_HASHES: Final = (MapType.HASH, MapType.PERCPU_HASH)
_STAND_IN: Final = MapDeclaration(
    name="inner", map_type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1
)


class Ancestor(Struct, frozen=True):
    """A cgroup above a container that has a limit."""

    path: str
    max_bytes: int


class Container(Struct, frozen=True, kw_only=True):
    """One payer as it can be started again. ``maps`` and ``map_ids`` are in the same order.

    ``has_children``: cgroups below it have their own memory, which its statistics include.

    ``kind`` names what it is over all hosts: its unit, or the process in it. ``memlock_bytes`` is RLIM_INFINITY
    where nothing limits it. ``threads`` are those of all its processes, as if they were one's. ``left_out`` says
    which objects cannot be made again, and why. ``peak_bytes`` is the most its cgroup ever used,
    ``unreclaimable_bytes`` what it uses now besides page cache; None where the capture does not say.
    """

    kind: str
    path: str
    inventory: Inventory
    map_ids: tuple[int, ...]
    uid: int = 0
    capabilities: frozenset[Capability] | None = None
    memlock_bytes: int = RLIM_INFINITY
    oom_score_adj: int = 0
    threads: int = 1
    max_bytes: int | None = None
    high_bytes: int | None = None
    swap_max_bytes: int | None = None
    ancestors: tuple[Ancestor, ...] = ()
    has_children: bool = False
    reads_btf: bool = False
    unreclaimable_bytes: int | None = None
    peak_bytes: int | None = None
    assumptions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class HostInput(Struct, frozen=True, kw_only=True):
    """All that the emulation of a host depends on; equal hosts are emulated once."""

    release: str
    possible_cpus: int
    ram_bytes: int
    containers: tuple[Container, ...]
    swap_bytes: int = 0
    machine: str = X86_64
    page_bytes: int = PAGE_SIZE


def host_input(document: Document) -> HostInput:
    """What ``document`` tells, as the emulation takes it."""
    cgroups = {each.path: each for each in document.cgroups}
    groups: dict[str, tuple[list[Map], list[Program]]] = {}
    cgroup_of = {process.pid: process.cgroup for process in document.processes}
    for each in document.maps:
        groups.setdefault(_home(each.payer, each.holders, cgroup_of), ([], []))[0].append(each)
    for program in document.programs:
        home = _home(program.payer, program.holders, cgroup_of)
        groups.setdefault(home, ([], []))[1].append(program)
    by_id = {each.id: each for each in document.maps}
    inner = {number for each in document.maps for number in each.inner}
    containers = [
        _container(path, maps, programs, cgroups, document, by_id, inner)
        for path, (maps, programs) in sorted(groups.items())
    ]
    containers.sort(key=lambda each: (each.kind, each.path))
    return HostInput(
        release=document.host.release,
        possible_cpus=document.host.possible_cpus,
        ram_bytes=document.host.ram_bytes,
        containers=tuple(containers),
        swap_bytes=document.host.swap_bytes,
        machine=document.host.machine,
        page_bytes=document.host.page_size,
    )


def normalised(host: HostInput) -> HostInput:
    """``host`` without what no outcome depends on: numbers of maps, names of cgroups, and what was seen in use."""
    names: dict[str, str] = {}

    def renamed(path: str) -> str:
        if path == "/":
            return path
        above, _, _ = path.rpartition("/")
        if path not in names:
            names[path] = f"{renamed(above) if above else ''}/c{len(names)}"
        return names[path]

    return replace(
        host,
        containers=tuple(
            replace(
                each,
                path=renamed(each.path),
                map_ids=(),
                unreclaimable_bytes=None,
                peak_bytes=None,
                ancestors=tuple(Ancestor(renamed(a.path), a.max_bytes) for a in each.ancestors),
            )
            for each in host.containers
        ),
    )


def replaced(host: HostInput, kind: str, new: Inventory) -> HostInput:
    """``host`` with another set of maps and programs in containers of ``kind``; pinned maps of the old one live on."""
    return replace(
        host,
        containers=tuple(
            each
            if each.kind != kind
            else replace(each, map_ids=(), inventory=_rolled_out(each.inventory, new))
            for each in host.containers
        ),
    )


def _rolled_out(old: Inventory, new: Inventory) -> Inventory:
    kept = tuple(each for each in old.maps if each.pinned)
    heap = max(old.user_memory_bytes, new.user_memory_bytes)
    return replace(new, name=old.name, maps=kept + new.maps, user_memory_bytes=heap)


def _home(payer: Payer, holders: Sequence[int], cgroup_of: Mapping[int, str]) -> str:
    if payer.kind == "cgroup" and payer.path:
        return payer.path
    for pid in holders:
        if cgroup_of.get(pid):
            return cgroup_of[pid]
    return "/"


def _container(
    path: str,
    maps: Sequence[Map],
    programs: Sequence[Program],
    cgroups: Mapping[str, Cgroup],
    document: Document,
    by_id: Mapping[int, Map],
    inner: frozenset[int] | set[int],
) -> Container:
    inside = [p for p in document.processes if p.cgroup == path or (not p.cgroup and path == "/")]
    main = max(inside, key=lambda p: (len(p.maps) + len(p.programs), p.rss_anon), default=None)
    cgroup = cgroups.get(path)
    has_children = path == "/" or any(each.startswith(path + "/") for each in cgroups)
    has_children = has_children or (cgroup is not None and cgroup.children > 0)
    assumptions: list[str] = []
    left_out: list[str] = []
    declared: list[MapDeclaration] = []
    ids: list[int] = []
    for each in maps:
        if each.id in inner:
            continue  # made with its outer map
        made = _declared(each, by_id, left_out, assumptions)
        if made is not None:
            declared.append(made)
            ids.append(each.id)
    names = {number: each.name for number, each in zip(ids, declared, strict=True)}
    loaded = [p for p in (_program(each, names, left_out) for each in programs) if p is not None]
    if main is None:
        assumptions.append("no process holds its maps: RLIMIT_MEMLOCK unlimited, heap 0")
    capabilities = _capabilities(main, assumptions)
    kind = _kind(path, cgroup, main)
    heap = _heap(None if has_children else cgroup, inside)
    return Container(
        kind=kind,
        path=path,
        inventory=Inventory(
            name=_slug(kind), maps=tuple(declared), programs=tuple(loaded), user_memory_bytes=heap
        ),
        map_ids=tuple(ids),
        uid=main.uid if main is not None else 0,
        capabilities=capabilities,
        memlock_bytes=_memlock(main),
        oom_score_adj=main.oom_score_adj if main is not None else 0,
        threads=_threads(inside, cgroup),
        max_bytes=cgroup.max if cgroup is not None else None,
        high_bytes=cgroup.high if cgroup is not None else None,
        swap_max_bytes=cgroup.swap_max if cgroup is not None else None,
        ancestors=_ancestors(path, cgroups),
        has_children=has_children,
        reads_btf=any(program.btf_id for program in programs),
        unreclaimable_bytes=None if has_children else _unreclaimable(cgroup),
        peak_bytes=None if has_children or cgroup is None else cgroup.peak,
        assumptions=tuple(dict.fromkeys(assumptions)),
        left_out=tuple(left_out),
    )


def _kind(path: str, cgroup: Cgroup | None, main: Process | None) -> str:
    what = cgroup.what if cgroup is not None else {}
    if what.get("kind") == "unit":
        return _INSTANCE.sub("@", str(what["unit"]))
    if main is not None and main.comm:
        return main.comm
    return path.rsplit("/", 1)[-1] or "/"


def _slug(name: str) -> str:
    return _NAME.sub("-", name.lower()).strip("-")[:50].strip("-") or "host"


def _heap(cgroup: Cgroup | None, inside: Iterable[Process]) -> int:
    """Anonymous memory, the cgroup's where it says so."""
    if cgroup is not None:
        for name in ("anon", "rss"):
            if name in cgroup.stat:
                return cgroup.stat[name]
    return sum(process.rss_anon for process in inside)


def _threads(inside: Iterable[Process], cgroup: Cgroup | None) -> int:
    """One, and all that its processes have beyond their first."""
    more = sum(max(0, process.threads - 1) for process in inside)
    if cgroup is not None:
        more += max(0, cgroup.others.threads - cgroup.others.processes)
    return min(1 + more, THREADS_MAX)


def _unreclaimable(cgroup: Cgroup | None) -> int | None:
    if cgroup is None:
        return None
    stat = cgroup.stat
    if "anon" in stat and "kernel" in stat:
        return stat["anon"] + stat["kernel"] + stat.get("shmem", 0)
    if "rss" in stat and cgroup.kmem is not None:
        return stat["rss"] + cgroup.kmem + stat.get("shmem", 0)
    return None


def _memlock(main: Process | None) -> int:
    soft = main.memlock[0] if main is not None else None
    return RLIM_INFINITY if soft is None else min(soft, (1 << 63) - 1)


def _capabilities(main: Process | None, assumptions: list[str]) -> frozenset[Capability]:
    """Those of the process. Many drop them once their programs are loaded: what loading needs was there."""
    held: frozenset[Capability] = frozenset()
    if main is not None:
        try:
            mask = int(main.capabilities, 16)
        except ValueError:
            mask = 0
        held = frozenset(each for each in Capability if mask >> each & 1)
    if main is not None and not held & {Capability.BPF, Capability.SYS_ADMIN}:
        assumptions.append(
            "it has no capability for BPF now: it is taken to have had them when it started"
        )
    return held | {Capability.BPF, Capability.PERFMON, Capability.NET_ADMIN, Capability.SYS_ADMIN}


def _ancestors(path: str, cgroups: Mapping[str, Cgroup]) -> tuple[Ancestor, ...]:
    found = []
    parts = path.strip("/").split("/")
    for count in range(1, len(parts)):
        above = cgroups.get("/" + "/".join(parts[:count]))
        if above is not None and above.max is not None:
            found.append(Ancestor(above.path, above.max))
    return tuple(found)


def _declared(
    each: Map, by_id: Mapping[int, Map], left_out: list[str], assumptions: list[str]
) -> MapDeclaration | None:
    """The map as its maker asked for it; None, with a reason, for one that cannot be made again."""
    if each.type not in set(MapType) or each.type == MapType.UNSPEC:
        left_out.append(f"map {each.name or each.id}: type {each.type} is not known here")
        return None
    kind = MapType(each.type)
    if each.ifindex:
        left_out.append(f"map {each.name or each.id}: it is offloaded to a device")
        return None
    inner, count = None, 0
    if kind in _MAPS_OF_MAPS:
        template = next((by_id[number] for number in each.inner if number in by_id), None)
        made = None if template is None else _declared(template, {}, [], [])
        if made is None:
            assumptions.append("inner maps that are not known are taken for small arrays")
        # A map may stand in many slots: it is there once.
        inner, count = made or _STAND_IN, min(len(set(each.inner)), each.max_entries)
    elements = each.elements or 0
    if each.elements is None and kind in (MapType.HASH, MapType.LPM_TRIE):
        assumptions.append(
            "maps whose elements were not counted are taken for empty (--count-elements, --fill)"
        )
    try:
        return MapDeclaration(
            name=_object_name(each),
            map_type=kind,
            key_size=each.key_size,
            value_size=each.value_size,
            max_entries=each.max_entries,
            map_flags=creation_flags(kind, each.flags),
            map_extra=each.extra,
            inner=inner,
            inner_count=count,
            fill_entries=min(elements, each.max_entries, FILL_MAX)
            if inner is None and _grows(kind, each.flags)
            else 0,
            pinned=bool(each.pinned),
            frozen=each.frozen,
            churn_weight=0,
        )
    except SpecError as error:
        left_out.append(f"map {each.name or each.id}: {error.problem}")
        return None


def _grows(kind: int, flags: int) -> bool:
    """Whether elements cost memory of their own: in all other maps their room is there from the beginning."""
    return kind == MapType.LPM_TRIE or (kind in _HASHES and bool(flags & F_NO_PREALLOC))


def _object_name(each: Map | Program) -> str:
    return each.name[: BPF_OBJ_NAME_LEN - 1]


def _program(
    each: Program, names: Mapping[int, str], left_out: list[str]
) -> ProgramDeclaration | None:
    if each.type not in set(ProgType) or each.type == ProgType.UNSPEC:
        left_out.append(f"program {each.name or each.id}: type {each.type} is not known here")
        return None
    try:
        return ProgramDeclaration(
            name=_object_name(each),
            prog_type=ProgType(each.type),
            insn_cnt=min(max(1, each.insn_cnt, _least_insns(each)), INSNS_MAX),
            map_names=tuple(
                dict.fromkeys(names[number] for number in each.maps if number in names)
            ),
            pinned=bool(each.pinned),
            complexity=Complexity(verified_insns=min(each.verified_insns, INSNS_MAX)),
        )
    except SpecError as error:
        left_out.append(f"program {each.name or each.id}: {error.problem}")
        return None


def _least_insns(each: Program) -> int:
    """The fewest instructions that fill as many pages as its memlock shows."""
    return max(0, each.memlock_bytes - PAGE_SIZE) // _INSN_BYTES


def with_fill(host: HostInput, share: float) -> HostInput:
    """``host`` with every map filled to ``share`` of its entries."""
    return replace(
        host,
        containers=tuple(
            replace(c, inventory=_filled(c.inventory, share)) for c in host.containers
        ),
    )


def _filled(inventory: Inventory, share: float) -> Inventory:
    maps = tuple(
        each
        if each.inner is not None or not _grows(each.map_type, each.map_flags)
        else replace(each, fill_entries=min(int(each.max_entries * share), FILL_MAX))
        for each in inventory.maps
    )
    return replace(inventory, maps=maps)
