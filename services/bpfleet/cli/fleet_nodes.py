"""Commands of ``bpfleet fleet`` about nodes, spelled as kubectl spells them."""

import time
from collections.abc import Iterable
from typing import Final

import click

from bpfleet.cli.listing import (
    BYTES,
    COUNT,
    WATCH_SECONDS,
    Column,
    data_options,
    listing,
    watchable,
)
from bpfleet.cli.output import message_data, print_json
from bpfleet.cli.remote import fleet
from bpfleet.cli.servers import fleet_options
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.enums import TAINT_EFFECTS
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import workload_pb2

__all__ = ["node_commands"]

_OVERWRITE: Final = click.option("--overwrite", is_flag=True, help="Replace existing values.")
_JSON: Final = data_options


def _state(node: pb.FleetNode) -> str:
    marks = {
        "not ready": not node.ready,
        "cordoned": node.cordoned,
        "draining": node.draining,
        "memory pressure": node.memory_pressure,
    }
    return ", ".join(mark for mark, is_set in marks.items() if is_set) or "ready"


def _labels_text(node: pb.FleetNode) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(node.labels.items())) or "none"


def _taints_text(node: pb.FleetNode) -> str:
    texts = (
        f"{taint.key}{taint.value and '='}{taint.value}:{TAINT_EFFECTS.word(taint.effect)}"
        for taint in node.taints
    )
    return ",".join(texts) or "none"


@click.command("nodes")
@fleet_options
@watchable
@listing(
    Column("node", lambda n: n.name.removeprefix("nodes/"), shrinks=True),
    Column("agent", lambda n: n.agent, shrinks=True, priority=2),
    Column("kernel", lambda n: n.profile),
    Column("cpus", lambda n: n.possible_cpus, COUNT, priority=4),
    Column("booked", lambda n: n.booked_bytes, BYTES),
    Column("allocatable", lambda n: n.allocatable_bytes, BYTES, priority=1),
    Column("BPF charged", lambda n: n.bpf_charged_bytes, BYTES),
    Column("replicas", lambda n: n.replica_count, COUNT, priority=3),
    Column("state", _state),
    Column("labels", _labels_text, wide=True),
    Column("taints", _taints_text, wide=True),
)
def nodes(*, server: ChannelOptions) -> Iterable[pb.FleetNode]:
    """Every node with its bookings and charges.

    \b
    Examples:
      bpfleet fleet nodes
      bpfleet fleet nodes --watch
      bpfleet fleet nodes -o wide --filter state=ready
    """
    with fleet(server) as client:
        return list(client.list_nodes())


@click.command("cordon")
@click.argument("node")
@fleet_options
def cordon(*, node: str, server: ChannelOptions) -> None:
    """Places nothing new on a node.

    \b
    Examples:
      bpfleet fleet cordon a1-00007
    """
    with fleet(server) as client:
        client.cordon(node)
    click.echo(f"{node}: cordoned")


@click.command("uncordon")
@click.argument("node")
@fleet_options
def uncordon(*, node: str, server: ChannelOptions) -> None:
    """Allows placing on a node again.

    \b
    Examples:
      bpfleet fleet uncordon a1-00007
    """
    with fleet(server) as client:
        client.uncordon(node)
    click.echo(f"{node}: schedulable")


@click.command("drain")
@click.argument("node")
@fleet_options
@click.option(
    "--watch", is_flag=True, help="Wait until the node is empty; stop waiting with Ctrl-C."
)
def drain(*, node: str, watch: bool, server: ChannelOptions) -> None:
    """Cordons a node and moves its replicas away, within the disruption budgets.

    \b
    Examples:
      bpfleet fleet drain a1-00007
      bpfleet fleet drain a1-00007 --watch
    """
    with fleet(server) as client:
        remaining = client.drain(node).remaining_count
        click.echo(f"{node}: draining, {remaining} replicas left")
        while watch and remaining:
            time.sleep(WATCH_SECONDS)
            found = client.node(node)
            if not found.draining:
                raise click.ClickException(f"{node}: an uncordon ended the drain")
            if found.replica_count != remaining:
                remaining = found.replica_count
                click.echo(f"{node}: {remaining} replicas left")
    if watch:
        click.echo(f"{node}: drained")


@click.command("label")
@click.argument("node")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@fleet_options
@_OVERWRITE
@_JSON
def label(
    *, node: str, changes: tuple[str, ...], overwrite: bool, server: ChannelOptions, as_json: bool
) -> None:
    """Sets labels of a node (KEY=VALUE) and removes some (KEY-).

    What is set or removed here wins over what the node's agent announces, now and later.

    \b
    Examples:
      bpfleet fleet label node-7 tier=gold disk=ssd
      bpfleet fleet label node-7 tier=iron --overwrite
      bpfleet fleet label node-7 disk-
    """
    labels: dict[str, str] = {}
    removed: list[str] = []
    for change in changes:
        key, equals, value = change.partition("=")
        if equals:
            labels[key] = value
        elif change.endswith("-"):
            removed.append(change[:-1])
        else:
            raise click.UsageError(f"{change!r}: write KEY=VALUE to set a label, KEY- to remove it")
    with fleet(server) as client:
        found = client.label(node, labels, removed=removed, overwrite=overwrite)
    if as_json:
        print_json(message_data(found))
    else:
        click.echo(f"{node}: labels {_labels_text(found)}")


@click.command("taint")
@click.argument("node")
@click.argument("changes", nargs=-1, required=True, metavar="KEY[=VALUE]:EFFECT|KEY[:EFFECT]-...")
@fleet_options
@_OVERWRITE
@_JSON
def taint(
    *, node: str, changes: tuple[str, ...], overwrite: bool, server: ChannelOptions, as_json: bool
) -> None:
    """Sets taints of a node (KEY=VALUE:EFFECT) and removes some (KEY:EFFECT-, or all of a key: KEY-).

    EFFECT is NoSchedule, PreferNoSchedule or NoExecute; NoExecute also moves away what runs there and does not
    tolerate it.

    \b
    Examples:
      bpfleet fleet taint node-7 repair=disk:NoExecute
      bpfleet fleet taint node-7 gpu:NoSchedule
      bpfleet fleet taint node-7 repair-
    """
    taints = [_taint(text) for text in changes if not text.endswith("-")]
    removed = [_taint(text[:-1], removes=True) for text in changes if text.endswith("-")]
    with fleet(server) as client:
        found = client.taint(node, taints, removed=removed, overwrite=overwrite)
    if as_json:
        print_json(message_data(found))
    else:
        click.echo(f"{node}: taints {_taints_text(found)}")


def _taint(text: str, *, removes: bool = False) -> workload_pb2.Taint:
    mark, colon, effect = text.partition(":")
    key, _, value = mark.partition("=")
    if not (colon or removes):
        raise click.UsageError(
            f"{text!r}: write KEY=VALUE:EFFECT to set a taint, KEY- to remove it"
        )
    if colon and effect not in TAINT_EFFECTS.words:
        raise click.UsageError(
            f"{text!r}: effect {effect!r} is unknown; use {', '.join(TAINT_EFFECTS.words)}"
        )
    return workload_pb2.Taint(key=key, value=value, effect=TAINT_EFFECTS.word_message(effect))


@click.command("remove")
@click.argument("node")
@click.option(
    "--force", is_flag=True, help="Remove it even if Ready; its agent may register it again."
)
@fleet_options
def remove(*, node: str, force: bool, server: ChannelOptions) -> None:
    """Forgets a node, with the labels, taints and cordon an operator gave it.

    \b
    Examples:
      bpfleet fleet remove a1-00007
    """
    with fleet(server) as client:
        client.remove_node(node, force=force)
    click.echo(f"{node}: removed")


node_commands: Final[Iterable[click.Command]] = (
    nodes,
    cordon,
    uncordon,
    drain,
    label,
    taint,
    remove,
)
