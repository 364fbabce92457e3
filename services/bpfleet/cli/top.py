"""``bpfleet top``: nodes, cgroups and maps by what they use, refreshed until interrupted."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Final

import click

from bpfleet.cli.filling import fill_percent, percent
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, Column, listing, refreshing
from bpfleet.cli.output import word
from bpfleet.cli.remote import agent
from bpfleet.cli.servers import agent_options
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.v1 import bpf_pb2
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]

_SEEN: Final = "bpfleet.top"
_KILLS: Final = "OOM_KILL"


@click.group("top")
def command() -> None:
    """Nodes, cgroups and maps by what they use, refreshed until interrupted.

    \b
    Examples:
      bpfleet top nodes
      bpfleet top cgroups web-1 --interval 5
      bpfleet top maps web-1 --once --sort-by full
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    node: str
    kernel: str
    used_bytes: int
    used_percent: float
    bpf_charged_bytes: int
    bpf_change_bytes_per_second: int | None
    maps: int
    processes: int
    errors: int
    oom_kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cgroup:
    cgroup: str
    current_bytes: int
    change_bytes_per_second: int | None
    max_bytes: int | None
    full_percent: float | None
    anon_bytes: int
    kernel_bytes: int
    processes: int
    max_events: int
    oom_kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Map:
    id: int
    name: str
    type: str
    entries: int
    held: int
    full_percent: float | None
    charged_bytes: int
    change_bytes_per_second: int | None
    charged_to: str


def _rate(value: int | None) -> str:
    if value is None:
        return ""
    return f"{'+' if value > 0 else ''}{format_bytes(value)}/s" if value else "0"


def _changes(now: Mapping[str, int]) -> dict[str, int | None]:
    """Bytes a second since the last refresh; None at the first, and of what was not there."""
    memory = click.get_current_context().find_root().meta
    at = time.monotonic()
    before_at, before = memory.get(_SEEN, (at, {}))
    memory[_SEEN] = (at, dict(now))
    seconds = at - before_at
    return {
        name: round((size - before[name]) / seconds) if name in before and seconds > 0 else None
        for name, size in now.items()
    }


@command.command("nodes")
@agent_options
@refreshing
@listing(
    Column("node", lambda n: n.node, shrinks=True),
    Column("kernel", lambda n: n.kernel, priority=3),
    Column("used", lambda n: n.used_bytes, BYTES),
    Column("of RAM", lambda n: n.used_percent, NUMBER, percent),
    Column("BPF", lambda n: n.bpf_charged_bytes, BYTES),
    Column("change", lambda n: n.bpf_change_bytes_per_second, NUMBER, _rate, priority=1),
    Column("maps", lambda n: n.maps, COUNT, priority=2),
    Column("processes", lambda n: n.processes, COUNT, priority=4),
    Column("errors", lambda n: n.errors, COUNT),
    Column("OOM kills", lambda n: n.oom_kills, COUNT),
    data=asdict,
    screenful=True,
    largest_first=True,
)
def nodes(*, server: ChannelOptions) -> Iterable[_Node]:
    """The nodes of an agent, most BPF memory first.

    \b
    Examples:
      bpfleet top nodes
      bpfleet top nodes --once --sort-by oom-kills
    """
    with agent(server) as client:
        found = list(client.list_nodes())
    changes = _changes({each.name: each.status.bpf_charged_bytes for each in found})
    rows = [
        _Node(
            node=PurePosixPath(each.name).name,
            kernel=each.spec.profile,
            used_bytes=each.status.usage_bytes,
            used_percent=round(100 * each.status.usage_bytes / each.spec.ram_bytes, 1),
            bpf_charged_bytes=each.status.bpf_charged_bytes,
            bpf_change_bytes_per_second=changes[each.name],
            maps=each.status.map_count,
            processes=each.status.process_count,
            errors=sum(n for errno, n in each.status.verdicts.items() if errno != _KILLS),
            oom_kills=each.status.verdicts.get(_KILLS, 0),
        )
        for each in found
    ]
    return sorted(rows, key=lambda row: -row.bpf_charged_bytes)


@command.command("cgroups")
@click.argument("node")
@agent_options
@refreshing
@listing(
    Column("cgroup", lambda c: c.cgroup, shrinks=True),
    Column("current", lambda c: c.current_bytes, BYTES),
    Column("change", lambda c: c.change_bytes_per_second, NUMBER, _rate, priority=2),
    Column("max", lambda c: c.max_bytes, BYTES, lambda v: "max" if v is None else format_bytes(v)),
    Column("full", lambda c: c.full_percent, NUMBER, percent),
    Column("anon", lambda c: c.anon_bytes, BYTES, priority=3),
    Column("kernel", lambda c: c.kernel_bytes, BYTES, priority=1),
    Column("processes", lambda c: c.processes, COUNT, priority=4),
    Column("max events", lambda c: c.max_events, COUNT, priority=5),
    Column("OOM kills", lambda c: c.oom_kills, COUNT),
    data=asdict,
    screenful=True,
    largest_first=True,
)
def cgroups(*, node: str, server: ChannelOptions) -> Iterable[_Cgroup]:
    """The cgroups of a node, largest first; what is below a cgroup counts in it.

    \b
    Examples:
      bpfleet top cgroups web-1
      bpfleet top cgroups web-1 --filter 'full>80' --once
    """
    with agent(server) as client:
        found = list(client.node(node).list_cgroups())
    changes = _changes({each.path: each.usage.current_bytes for each in found})
    rows = []
    for each in found:
        limit = each.limits.max_bytes if each.limits.HasField("max_bytes") else None
        current, stat = each.usage.current_bytes, each.usage.stat
        rows.append(
            _Cgroup(
                cgroup=each.path,
                current_bytes=current,
                change_bytes_per_second=changes[each.path],
                max_bytes=limit,
                full_percent=round(100 * current / limit, 1) if limit else None,
                anon_bytes=stat.get("anon", 0),
                kernel_bytes=stat.get("kernel", 0),
                processes=len(each.pids),
                max_events=each.events.max_count,
                oom_kills=each.events.oom_kill_count,
            )
        )
    return sorted(rows, key=lambda row: -row.current_bytes)


@command.command("maps")
@click.argument("node")
@agent_options
@refreshing
@listing(
    Column("id", lambda m: m.id, NUMBER),
    Column("name", lambda m: m.name, shrinks=True),
    Column("type", lambda m: m.type, priority=2),
    Column("entries", lambda m: m.entries, COUNT, priority=3),
    Column("held", lambda m: m.held, COUNT, priority=1),
    Column("full", lambda m: m.full_percent, NUMBER, percent),
    Column("charged", lambda m: m.charged_bytes, BYTES),
    Column("change", lambda m: m.change_bytes_per_second, NUMBER, _rate, priority=4),
    Column("charged to", lambda m: m.charged_to or "nobody", shrinks=True),
    data=asdict,
    name=lambda m: str(m.id),
    screenful=True,
    largest_first=True,
)
def maps(*, node: str, server: ChannelOptions) -> Iterable[_Map]:
    """The maps of a node, largest first.

    \b
    Examples:
      bpfleet top maps web-1
      bpfleet top maps web-1 --once --filter 'full>=90'
    """
    with agent(server) as client:
        found = list(client.node(node).list_maps())
    changes = _changes({each.name: each.charged_bytes for each in found})
    rows = [
        _Map(
            id=each.map_id,
            name=each.spec.map_name,
            type=word(bpf_pb2.MapType.Name(each.spec.map_type), "MAP_TYPE_", "_"),
            entries=each.spec.max_entries,
            held=each.element_count,
            full_percent=fill_percent(each),
            charged_bytes=each.charged_bytes,
            change_bytes_per_second=changes[each.name],
            charged_to=each.charged_to,
        )
        for each in found
    ]
    return sorted(rows, key=lambda row: -row.charged_bytes)
