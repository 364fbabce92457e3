"""What the emulator shows of a node, as messages: cgroups, the ledger, orphans, what tools would say."""

from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.views.ledger import LedgerLine
from bpfleet.kernel.views.orphans import Orphan
from bpfleet.kernel.views.tools import ToolView
from bpfleet.rpc import names
from bpfleet.v1 import cgroup_service_pb2, node_service_pb2

__all__ = [
    "cgroup_message",
    "ledger_line_message",
    "memory_stat",
    "orphan_message",
    "tool_view_message",
]


_MAX: Final = {False: "memory.max", True: "memory.limit_in_bytes"}
_PEAK: Final = {False: "memory.peak", True: "memory.max_usage_in_bytes"}


def cgroup_message(kernel: Kernel, cgroup: Cgroup) -> cgroup_service_pb2.Cgroup:
    """A cgroup with its limits, usage and events, as its control files say them."""
    path = cgroup.path
    v1 = kernel.profile.cgroup_v1
    unlimited = cgroup.memcg.limit_bytes is None
    limits = cgroup_service_pb2.MemoryLimits(
        max_bytes=None if v1 and unlimited else _limit(kernel, path, _MAX[v1]),
        high_bytes=_limit(kernel, path, "memory.high"),
        low_bytes=_limit(kernel, path, "memory.low") or 0,
        min_bytes=_limit(kernel, path, "memory.min") or 0,
    )
    usage = cgroup_service_pb2.MemoryUsage(
        current_bytes=cgroup.memcg.usage_bytes,
        peak_bytes=_limit(kernel, path, _PEAK[v1]) or 0,
    )
    counts = {
        f"{name}_count": count for name, count in _table(kernel, path, "memory.events").items()
    }
    return cgroup_service_pb2.Cgroup(
        node=names.node_name(kernel.node),
        path=path,
        limits=limits,
        usage=usage,
        events=cgroup_service_pb2.MemoryEvents(**counts),
        pids=sorted(cgroup.pids),
        child_count=len(cgroup.children),
    )


def memory_stat(kernel: Kernel, path: str) -> dict[str, int]:
    """The lines of a cgroup's memory.stat; empty where it has none."""
    return _table(kernel, path, "memory.stat")


def ledger_line_message(line: LedgerLine) -> node_service_pb2.LedgerLine:
    """One line of the ledger."""
    return node_service_pb2.LedgerLine(
        cgroup=line.cgroup,
        owner=line.owner,
        kind=line.kind,
        size_bytes=line.bytes,
        block_count=line.count,
    )


def orphan_message(orphan: Orphan) -> node_service_pb2.Orphan:
    """A map nobody visible uses."""
    return node_service_pb2.Orphan(
        map_id=orphan.map_id,
        map_name=orphan.name,
        map_type=orphan.map_type,
        why=orphan.why,
        created_in=orphan.created_in,
        charged_to=orphan.charged_to,
        charged_bytes=orphan.charged_bytes,
        memlock_bytes=orphan.memlock_bytes,
        pinned_paths=orphan.pinned_paths,
    )


def tool_view_message(view: ToolView) -> node_service_pb2.ToolView:
    """What one tool says in one of its fields."""
    return node_service_pb2.ToolView(
        tool=view.tool, field=view.field, size_bytes=view.bytes, counts=view.counts
    )


def _limit(kernel: Kernel, path: str, file: str) -> int | None:
    text = _text(kernel, path, file).strip()
    return int(text) if text.isdigit() else None


def _table(kernel: Kernel, path: str, file: str) -> dict[str, int]:
    pairs = (line.split() for line in _text(kernel, path, file).splitlines())
    return {name: int(value) for name, value in pairs}


def _text(kernel: Kernel, path: str, file: str) -> str:
    """The text of a file; "" where this cgroup (the root) or this kernel has no such file."""
    try:
        return kernel.read_file(path, file)
    except KernelError as error:
        if error.errno is Errno.ENOENT:
            return ""
        raise
