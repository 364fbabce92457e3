"""An emulated node as a capture: the same document that a host gives, from the node's own answers."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from bpfleet.abi.bpf import Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.captures.collect import identify
from bpfleet.captures.document import (
    SCHEMA,
    Cgroup,
    ChargesRead,
    Document,
    Host,
    Map,
    Payer,
    Process,
    Program,
    User,
)
from bpfleet.client.bpf import Node
from bpfleet.client.session import Verdict
from bpfleet.kernel.profile import machine_of, profile_named
from bpfleet.kernel.profile_file import profile_from_toml
from bpfleet.rpc.rlimits import memlock_record
from bpfleet.v1 import (
    bpf_pb2,
    cgroup_service_pb2,
    node_service_pb2,
    process_service_pb2,
    rlimit_pb2,
)

__all__ = ["capture_node"]

_USER: Final = "uid "
_ALL_CAPABILITIES: Final = (1 << 41) - 1


def capture_node(node: Node) -> Document:
    """The document of a node. Payers are read: the node's ledger knows them."""
    info = node.info()
    live = [process for process in node.list_processes() if process.alive]
    cgroups = [_cgroup(each) for each in node.list_cgroups()]
    if info.spec.swap_bytes:
        cgroups = [_with_swap(node, each) for each in cgroups]
    machine, page_size = _machine(info)
    payers = _Payers(cgroups)
    holders = _holders(live)
    maps = [_map(each, payers, holders.maps) for each in node.list_maps()]
    return Document(
        schema=SCHEMA,
        host=Host(
            name=info.name.removeprefix("nodes/"),
            release=info.kernel.release,
            machine=machine,
            page_size=page_size,
            possible_cpus=info.spec.possible_cpus,
            online_cpus=info.spec.possible_cpus,
            ram_bytes=info.spec.ram_bytes,
            swap_bytes=info.spec.swap_bytes,
            distribution=_kernel(info),
        ),
        charges=ChargesRead(read=True, how="ledger"),
        maps=tuple(maps),
        programs=tuple(_program(each, payers, holders.programs) for each in node.list_programs()),
        processes=tuple(_process(node, each) for each in live if _tells(each)),
        users=_users(live),
        cgroups=tuple(cgroups),
    )


def _kernel(info: node_service_pb2.Node) -> dict[str, str]:
    """The node's profile by name, and its file where it was made from one."""
    found = {"profile": info.kernel.profile}
    if info.spec.profile_file:
        found["profile_file"] = info.spec.profile_file
    return found


def _machine(info: node_service_pb2.Node) -> tuple[str, int]:
    """What uname -m and getconf PAGESIZE say on the node."""
    if info.spec.profile_file:
        profile = profile_from_toml(info.spec.profile_file)
    else:
        profile = profile_named(info.kernel.profile)
    return machine_of(profile), profile.page_bytes


class _Holders(NamedTuple):
    """Processes by the id of what they have a descriptor of."""

    maps: dict[int, list[int]]
    programs: dict[int, list[int]]


def _holders(processes: Iterable[process_service_pb2.Process]) -> _Holders:
    found = _Holders({}, {})
    for process in processes:
        for ids, by_id in ((process.map_ids, found.maps), (process.program_ids, found.programs)):
            for number in ids:
                by_id.setdefault(number, []).append(process.pid)
    return found


def _tells(process: process_service_pb2.Process) -> bool:
    """Whether a capture keeps a process: one that holds BPF objects or locked memory."""
    return bool(process.map_ids or process.program_ids or process.mlocked_bytes)


class _Payers:
    """Finds the payer that a map or program names."""

    def __init__(self, cgroups: Iterable[Cgroup]) -> None:
        self._paths: Final = {each.path for each in cgroups}

    def of(self, charged_to: str) -> Payer:
        """``charged_to`` is a path, ``uid N``, or empty."""
        if not charged_to or charged_to == "/":
            return Payer(kind="root", read=True)
        if charged_to.startswith(_USER):
            return Payer(kind="user", uid=int(charged_to.removeprefix(_USER)), read=True)
        removed = charged_to not in self._paths
        return Payer(kind="cgroup", path=charged_to, read=True, removed=removed)


def _map(info: bpf_pb2.MapInfo, payers: _Payers, holders: Mapping[int, list[int]]) -> Map:
    spec = info.spec
    return Map(
        id=info.map_id,
        type=int(spec.map_type),
        name=spec.map_name,
        key_size=spec.key_size_bytes,
        value_size=spec.value_size_bytes,
        max_entries=spec.max_entries,
        flags=spec.map_flags,
        extra=spec.map_extra,
        memlock_bytes=info.memlock_bytes,
        frozen=info.frozen,
        pinned=tuple(sorted(info.pinned_paths)),
        holders=tuple(holders.get(info.map_id, ())),
        inner=tuple(info.inner_map_ids),
        elements=len(info.inner_map_ids) or info.element_count,
        payer=payers.of(info.charged_to),
    )


def _program(
    info: bpf_pb2.ProgramInfo, payers: _Payers, holders: Mapping[int, list[int]]
) -> Program:
    return Program(
        id=info.program_id,
        type=int(info.program_type),
        name=info.program_name,
        insn_cnt=info.instruction_count,
        memlock_bytes=info.memlock_bytes,
        maps=tuple(info.map_ids),
        pinned=tuple(sorted(info.pinned_paths)),
        holders=tuple(holders.get(info.program_id, ())),
        payer=payers.of(info.charged_to),
    )


def _process(node: Node, info: process_service_pb2.Process) -> Process:
    limit = info.memlock
    status = node.read_proc("status", info.pid)
    return Process(
        pid=info.pid,
        comm=info.comm,
        uid=info.credentials.uid,
        euid=info.credentials.uid,
        capabilities=_capabilities(info.credentials),
        memlock=(_limit(limit.soft), _limit(limit.hard)),
        oom_score_adj=info.oom_score_adj,
        descriptors=info.fd_count,
        cgroup=info.cgroup,
        maps=tuple(info.map_ids),
        programs=tuple(info.program_ids),
        vm_pte=_kib(status, "VmPTE"),
        rss_anon=info.rss_bytes,
        vm_locked=info.mlocked_bytes,
    )


def _kib(status: str, name: str) -> int:
    """A size of /proc/PID/status."""
    line = next((line for line in status.splitlines() if line.startswith(f"{name}:")), "")
    words = line.split()
    return int(words[1]) * 1024 if len(words) > 1 else 0


def _limit(value: rlimit_pb2.RlimitValue) -> int | None:
    size = memlock_record(value, "memlock")
    return None if size >= RLIM_INFINITY else size


def _capabilities(credentials: process_service_pb2.Credentials) -> str:
    explicit = process_service_pb2.Credentials.CAPABILITY_MODE_EXPLICIT
    if credentials.capability_mode != explicit:
        return f"{0 if credentials.uid else _ALL_CAPABILITIES:016x}"
    known = {f"CAP_{name}": number for name, number in Capability.__members__.items()}
    return f"{sum(1 << known[name] for name in credentials.capabilities if name in known):016x}"


def _users(processes: Iterable[process_service_pb2.Process]) -> tuple[User, ...]:
    users: dict[int, User] = {}
    for each in processes:
        uid = each.credentials.uid
        before = users.get(uid, User(uid=uid))
        users[uid] = User(
            uid=uid,
            locked_pages=each.locked_bytes // PAGE_SIZE,
            mlocked_pages=before.mlocked_pages + each.mlocked_bytes // PAGE_SIZE,
        )
    return tuple(users[uid] for uid in sorted(users))


def _cgroup(info: cgroup_service_pb2.Cgroup) -> Cgroup:
    limits, usage, events = info.limits, info.usage, info.events
    return Cgroup(
        path=info.path,
        what=identify(info.path),
        max=limits.max_bytes if limits.HasField("max_bytes") else None,
        high=limits.high_bytes if limits.HasField("high_bytes") else None,
        low=limits.low_bytes,
        min=limits.min_bytes,
        current=max(0, usage.current_bytes),
        peak=max(0, usage.peak_bytes),
        stat={name: max(0, value) for name, value in usage.stat.items()},
        events={
            "low": events.low_count,
            "high": events.high_count,
            "max": events.max_count,
            "oom": events.oom_count,
            "oom_kill": events.oom_kill_count,
        },
    )


def _with_swap(node: Node, cgroup: Cgroup) -> Cgroup:
    """The cgroup with its swap; as it was where it has none of these files (the root, cgroup v1)."""
    try:
        limit = node.cgroup(cgroup.path).read("memory.swap.max").strip()
        current = node.cgroup(cgroup.path).read("memory.swap.current")
    except Verdict as refused:
        if refused.errno != Errno.ENOENT:
            raise
        return cgroup
    return replace(
        cgroup, swap_max=None if limit == "max" else int(limit), swap_current=int(current)
    )
