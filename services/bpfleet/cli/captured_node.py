"""A captured host as an emulated node: the same cgroups, processes, maps, programs, pins and descriptors.

What the capture does not tell is left out: contents of maps (elements are numbered keys with zeros), links, and objects
of types that the kernel of the node refuses. Each is a line of what ``build_node`` gives back.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from msgspec.structs import replace

from bpfleet.abi.bpf import Capability, MapType, ProgType, creation_flags
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.api.host_kernel import own_kernel_and_text
from bpfleet.calibrate.containers import FILL_MAX
from bpfleet.calibrate.emulate import safe_path
from bpfleet.captures.document import Cgroup, Document, Map, Payer, Program
from bpfleet.captures.document import Process as Seen
from bpfleet.client.bpf import AgentClient, Node, Process
from bpfleet.client.bpf import Map as OpenMap
from bpfleet.client.session import CallError, Verdict
from bpfleet.runtime.maps import BPFFS, legal_name
from bpfleet.workload.errors import SpecError
from bpfleet.workload.ops import key_bytes, value_bytes
from bpfleet.workload.spec import MapDeclaration

__all__ = ["build_node"]

_LIMITS: Final = {
    "max": "memory.max",
    "high": "memory.high",
    "low": "memory.low",
    "min": "memory.min",
    "swap_max": "memory.swap.max",
}
_TELL_AT_ZERO: Final = ("max", "high", "swap_max")
_MAPS_OF_MAPS: Final = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_SHORT_COMM: Final = 15
_HEX: Final = re.compile(r"[0-9a-fA-F]{1,16}")
_UID_MAX: Final = (1 << 31) - 1
_MAKER: Final = "maker"
_GONE: Final = "gone"


def build_node(client: AgentClient, name: str, document: Document) -> list[str]:
    """Boots node ``name`` and puts it into the state of ``document``; returns what could not be made, one line each.

    Processes are made first and in the order of their pids, maps and programs in the order of their ids, so that a
    capture of the node built from a capture of a node is that capture.
    """
    profile, text = own_kernel_and_text(document)
    node = client.create_node(
        name,
        profile=profile.name,
        profile_file=text,
        ram_bytes=document.host.ram_bytes,
        swap_bytes=document.host.swap_bytes,
        possible_cpus=document.host.possible_cpus,
    )
    try:
        return _Builder(node, _with_safe_paths(document)).build()
    except (CallError, SpecError):
        with suppress(CallError):
            node.delete()
        raise


def _with_safe_paths(document: Document) -> Document:
    """Names of cgroups as every kernel admits them: a capture from within a container may have relative ones."""

    def paid(each: Map | Program) -> Payer:
        return (
            replace(each.payer, path=safe_path(each.payer.path)) if each.payer.path else each.payer
        )

    return replace(
        document,
        cgroups=tuple(replace(each, path=safe_path(each.path)) for each in document.cgroups),
        processes=tuple(
            replace(each, cgroup=safe_path(each.cgroup)) for each in document.processes
        ),
        maps=tuple(replace(each, payer=paid(each)) for each in document.maps),
        programs=tuple(replace(each, payer=paid(each)) for each in document.programs),
    )


class _Builder:
    def __init__(self, node: Node, document: Document) -> None:
        self._node: Final = node
        self._document: Final = document
        self._left_out: Final[list[str]] = []
        self._cgroups: Final[set[str]] = {"/"}
        self._inner_cgroups: Final = {_above(each.path) for each in document.cgroups}
        self._cgroup_of: Final = {each.path: each for each in document.cgroups}
        self._seen: Final = {each.pid: each for each in document.processes}
        self._rss_anon: Final = Counter[str]()  # of the processes of a cgroup together
        for each in document.processes:
            self._rss_anon[each.cgroup] += each.rss_anon
        self._processes: Final[dict[int, Process]] = {}
        self._maps: Final[dict[int, int]] = {}  # ids there by ids here

    def build(self) -> list[str]:
        for cgroup in sorted(self._document.cgroups, key=lambda each: each.path):
            if not cgroup.removed:
                self._make_cgroup(cgroup)
        for seen in self._document.processes:
            self._processes[seen.pid] = self._process(seen)
        for each in self._document.maps:
            with self._refusals(f"map {each.name or each.id}"):
                if each.type in set(MapType):
                    self._map(each)
                else:
                    self._left_out.append(
                        f"map {each.name or each.id}: type {each.type} is not known"
                    )
        for program in self._document.programs:
            with self._refusals(f"program {program.name or program.id}"):
                self._program(program)
        for seen in self._document.processes:
            with self._refusals(f"memory of process {seen.pid}"):
                self._memory(seen)
        return self._left_out

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except Verdict as refused:
            self._left_out.append(f"{what}: {refused}")

    # -- cgroups and processes

    def _make_cgroup(self, cgroup: Cgroup) -> None:
        if cgroup.path == "/":
            return
        self._mkdir(cgroup.path)
        for field, file in _LIMITS.items():
            value = getattr(cgroup, field)
            if value is not None and (value or field in _TELL_AT_ZERO):
                self._node.cgroup(cgroup.path).write(file, str(value))

    def _mkdir(self, path: str) -> None:
        if path in self._cgroups:
            return
        self._mkdir(_above(path))
        self._node.create_cgroup(path)
        self._cgroups.add(path)

    def _leaf(self, path: str) -> str:
        """Processes belong in leaves: those of an inner cgroup (possible on cgroup v1) get one of their own below."""
        leaf = f"{path.rstrip('/')}/own" if path in self._inner_cgroups and path != "/" else path
        self._mkdir(leaf)
        return leaf

    def _process(self, seen: Seen) -> Process:
        mask = int(seen.capabilities, 16) if _HEX.fullmatch(seen.capabilities) else 0
        soft = seen.memlock[0]
        if seen.uid > _UID_MAX:
            raise SpecError(
                self._document.host.name,
                "processes.uid",
                seen.uid,
                f"over {_UID_MAX}, the largest a node takes",
                "map it to another user",
            )
        return self._node.create_process(
            uid=seen.uid,
            cgroup=self._leaf(seen.cgroup or "/"),
            memlock_bytes=RLIM_INFINITY if soft is None else min(soft, RLIM_INFINITY),
            capabilities=[f"CAP_{each.name}" for each in Capability if mask >> each & 1],
            oom_score_adj=seen.oom_score_adj,
            comm=seen.comm[:_SHORT_COMM],
        )

    def _memory(self, seen: Seen) -> None:
        process = self._processes[seen.pid]
        if seen.vm_locked:
            process.lock(seen.vm_locked)
        touched = process.info().rss_bytes
        wanted = self._charged_memory(seen)
        if wanted > touched:
            process.allocate(wanted - touched)

    def _charged_memory(self, seen: Seen) -> int:
        """Its anonymous memory, as far as its cgroup pays: a process that moved in left some where it was touched."""
        cgroup = self._cgroup_of.get(seen.cgroup)
        stat = cgroup.stat if cgroup is not None and seen.cgroup not in self._inner_cgroups else {}
        charged = stat.get("anon", stat.get("rss"))
        total = self._rss_anon[seen.cgroup]
        if charged is None or charged >= total:
            return seen.rss_anon
        return seen.rss_anon * charged // total

    @contextmanager
    def _maker(self, payer: Payer, holders: tuple[int, ...]) -> Iterator[Process]:
        """Who makes an object so that its payer is charged: a holder, or a process that ends when others hold it."""
        for pid in holders:
            seen = self._seen.get(pid)
            if seen is None:
                continue
            pays = payer.path == seen.cgroup or payer.kind in ("root", "unknown")
            if pays or (seen.uid == payer.uid and payer.kind == "user"):
                yield self._processes[pid]
                return
        path = payer.path if payer.kind == "cgroup" and not payer.removed else "/"
        # An inner cgroup pays for what a removed one below it had.
        gone = (
            self._node.create_cgroup(f"{path}/{_GONE}")
            if path in self._inner_cgroups - {"/"}
            else None
        )
        made = self._node.create_process(
            uid=payer.uid if payer.kind == "user" else 0,
            cgroup=self._leaf(path) if gone is None else gone.path,
            memlock_bytes=RLIM_INFINITY,
            capabilities=[f"CAP_{each.name}" for each in Capability],
            comm=_MAKER,
        )
        try:
            yield made
        finally:
            made.kill()
            if gone is not None:
                gone.delete()

    # -- objects

    def _map(self, each: Map) -> None:
        with self._maker(each.payer, each.holders) as process:
            template = self._template(process, each)
            made = process.create_map(
                MapType(each.type),
                key_size=each.key_size,
                value_size=each.value_size,
                max_entries=each.max_entries,
                map_flags=creation_flags(MapType(each.type), each.flags),
                name=each.name,
                inner=template,
                map_extra=each.extra,
            )
            if template is not None:
                template.close()
            self._maps[each.id] = made.map_id
            self._fill(made, each)
            if each.frozen:
                made.freeze()
            for path in each.pinned:
                made.pin(_pin(path))
            for pid in each.holders:
                if pid in self._processes and self._processes[pid] is not process:
                    self._processes[pid].open_map(made.map_id)

    def _template(self, process: Process, each: Map) -> OpenMap | None:
        """The first inner map; ids rise, so a map that took another's place may be younger: then a small array."""
        if each.type not in _MAPS_OF_MAPS:
            return None
        number = next((self._maps[n] for n in each.inner if n in self._maps), None)
        if number is not None:
            return process.open_map(number)
        return process.create_map(
            MapType.ARRAY, key_size=4, value_size=8, max_entries=1, name="inner"
        )

    def _fill(self, made: OpenMap, each: Map) -> None:
        if each.type in _MAPS_OF_MAPS:
            for slot, number in enumerate(n for n in each.inner if n in self._maps):
                inner = made.process.open_map(self._maps[number])
                made.update(slot.to_bytes(each.key_size, "little"), inner.fd.to_bytes(4, "little"))
                inner.close()
            return
        count = min(each.elements or 0, each.max_entries, FILL_MAX)
        if count and each.type in _FILLED:
            declared = MapDeclaration(
                name="filled", map_type=MapType(each.type), key_size=each.key_size,
                value_size=each.value_size, max_entries=each.max_entries,
            )  # fmt: skip
            value = value_bytes(declared, self._document.host.possible_cpus)
            for key in range(count):
                made.update(key_bytes(declared, key), value)

    def _program(self, each: Program) -> None:
        with self._maker(each.payer, each.holders) as process:
            maps = [process.open_map(self._maps[n]) for n in each.maps if n in self._maps]
            loaded = process.load_program(
                ProgType(each.type), max(1, each.insn_cnt), maps=maps, name=each.name
            )
            for opened in maps:
                opened.close()
            for path in each.pinned:
                process.pin(loaded.fd, _pin(path))
            for pid in each.holders:
                if pid in self._processes and self._processes[pid] is not process:
                    self._processes[pid].open_program(loaded.program_id)


_FILLED: Final = frozenset(
    {MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH, MapType.LPM_TRIE}
)


def _pin(path: str) -> str:
    """Where the node pins it: all names stand in the root of its bpffs."""
    return f"{BPFFS}/{legal_name(path.removeprefix(BPFFS).strip('/'))}"


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "/"
