"""``bpfleet fleet``: workloads and nodes of a coordinator."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import grpc

from bpfleet.cli.completion import names
from bpfleet.cli.fleet_nodes import node_commands
from bpfleet.cli.inputs import Limit, Size, application_options, read_text
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, Column, Rows, data_options, listing, watchable
from bpfleet.cli.output import message_data, print_json, print_table, word
from bpfleet.cli.remote import fleet
from bpfleet.cli.servers import fleet_options
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError
from bpfleet.plain import toml_table
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.enums import POLICIES
from bpfleet.rpc.workloads import spec_message
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import replica_pb2
from bpfleet.workload.catalogue import applications, inventory_for
from bpfleet.workload.codec import from_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.spec import NodeShape, WorkloadSpec

__all__ = ["command"]

_ANY_SHAPE = NodeShape(possible_cpus=4, ram_bytes=8 << 30)

# One declared value of any type, as the TOML reader returns it.
Plain = Any


@click.group("fleet")
def command() -> None:
    """Workloads and nodes of a coordinator.

    \b
    Examples:
      bpfleet fleet status
      bpfleet fleet create falco --application falco --per-node --memory-limit 512M
      bpfleet fleet apply workloads.toml
      bpfleet fleet show falco
      bpfleet fleet explain falco
      bpfleet fleet scale web --replicas 20
      bpfleet fleet nodes --watch
      bpfleet fleet drain node-7 --watch
    """


for _node_command in node_commands:
    command.add_command(_node_command)


@command.command("status")
@fleet_options
@data_options
@watchable
def status(*, server: ChannelOptions, as_json: bool) -> None:
    """The fleet in numbers.

    \b
    Examples:
      bpfleet fleet status
      bpfleet fleet status --json
    """
    with fleet(server) as client:
        found = client.status()
    if as_json:
        print_json(message_data(found))
        return
    replicas = ", ".join(f"{n:,} {word(phase, '')}" for phase, n in sorted(found.replicas.items()))
    store = found.store + ("" if found.store_available else " (not available)")
    rows = [
        ("nodes", f"{found.ready_node_count:,} of {found.node_count:,} ready, "
                  f"{found.agent_count:,} agents"),
        ("workloads", f"{found.workload_count:,}"),
        ("replicas", replicas or "none"),
        ("memory", f"{format_bytes(found.booked_bytes)} of "
                   f"{format_bytes(found.allocatable_bytes)} booked"),
        ("store", f"{store}, leader epoch {found.leader_epoch}, revision {found.revision}"),
        ("placement", word(pb.PlacementPolicy.Name(found.policy), "PLACEMENT_POLICY_")),
        ("version", found.version),
    ]  # fmt: skip
    print_table(("fleet", ""), rows, numbers_from=2)


@command.command("workloads")
@fleet_options
@watchable
@listing(
    Column("workload", lambda w: w.name.removeprefix("workloads/"), shrinks=True),
    Column("program", lambda w: w.spec.application or w.spec.inventory.name, shrinks=True),
    Column("running", lambda w: w.status.running_count, COUNT),
    Column("wanted", lambda w: w.status.wanted_count, COUNT),
    Column("pending", lambda w: w.status.pending_count, COUNT),
    Column("back-off", lambda w: w.status.back_off_count, COUNT),
    Column("restarts", lambda w: w.status.restart_count, COUNT),
    Column("message", lambda w: w.status.message, folds=True, priority=1),
)
def list_workloads(*, server: ChannelOptions) -> Iterable[pb.Workload]:
    """Every workload and how it is doing: `workloads` or `list`.

    \b
    Examples:
      bpfleet fleet list
      bpfleet fleet workloads --watch
    """
    with fleet(server) as client:
        return list(client.list_workloads())


# kubectl's users look for `workloads`, bpftool's for `list`.
command.add_command(list_workloads, "list")


@command.command("show")
@click.argument("workload")
@fleet_options
@listing(
    Column("replica", lambda r: r.replica, shrinks=True),
    Column("node", lambda r: r.node or "–", shrinks=True),
    Column("phase", lambda r: _phase(r.phase)),
    Column("restarts", lambda r: r.restart_count, COUNT, priority=2),
    Column("charged", lambda r: r.charged_bytes, BYTES, priority=1),
    Column("last reason", lambda r: f"{r.last_reason} {r.message}".strip(), folds=True),
)
def show(*, workload: str, server: ChannelOptions) -> Rows:
    """One workload with all its replicas.

    \b
    Examples:
      bpfleet fleet show falco
      bpfleet fleet show falco --json
    """
    with fleet(server) as client:
        found = client.workload(workload)
    return Rows(rows=list(found.replicas), document=message_data(found), above=_about(found))


def _phase(number: replica_pb2.ReplicaPhase.ValueType) -> str:
    return word(replica_pb2.ReplicaPhase.Name(number), "REPLICA_PHASE_")


def _about(found: pb.Workload) -> str:
    """One line on a workload: what it runs, how much of it, under which limits."""
    spec, status = found.spec, found.status
    limits = [
        f"memory.max {format_bytes(spec.memory_limit_bytes)}"
        if spec.HasField("memory_limit_bytes")
        else "no memory.max",
        f"request {format_bytes(spec.memory_request_bytes)}",
    ]
    return (
        f"{spec.name}: {spec.application or spec.inventory.name}, {status.running_count:,} of"
        f" {status.wanted_count:,} running, {status.restart_count:,} restarts, {', '.join(limits)}"
    )


@command.command("create")
@click.argument("workload")
@fleet_options
@click.option(
    "--application",
    required=True,
    shell_complete=names(applications),
    help="Name in the catalogue (bpfleet application list).",
)
@click.option("--replicas", type=click.IntRange(0), default=1, show_default=True)
@click.option("--per-node", is_flag=True, help="One replica on every node, instead of --replicas.")
@click.option("--uid", type=click.IntRange(0), default=0, show_default=True)
@click.option("--priority", default=0, show_default=True)
@click.option("--memory-request", type=Size(), help="Memory request [default: the limit].")
@click.option("--memory-limit", type=Limit(), help="memory.max [default: none].")
@click.option(
    "--memlock", type=Size(), help="RLIMIT_MEMLOCK, or unlimited [default: the kernel's]."
)
@click.option(
    "--option", "options", multiple=True, metavar="NAME=N", help="Option of the application."
)
@data_options
def create(
    *,
    workload: str,
    server: ChannelOptions,
    application: str,
    replicas: int,
    per_node: bool,
    uid: int,
    priority: int,
    memory_request: int | None,
    memory_limit: int | None,
    memlock: int | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Submits a workload from the catalogue.

    \b
    Examples:
      bpfleet fleet create web --application katran --replicas 3 --memory-limit 2G
      bpfleet fleet create falco --application falco --per-node --memory-limit 512M
    """
    spec = WorkloadSpec(
        name=workload,
        application=application,
        options=application_options(options),
        replicas=replicas,
        per_node=per_node,
        uid=uid,
        priority=priority,
        memory_request_bytes=memory_limit or 0 if memory_request is None else memory_request,
        memory_limit_bytes=memory_limit,
        memlock_bytes=memlock,
    )
    if application in applications():
        # A mistyped option is found here; of an application only the server knows, the server decides.
        inventory_for(application, _ANY_SHAPE, spec.options)
    with fleet(server) as client:
        made = client.create_workload(spec_message(spec))
    if as_json:
        print_json(message_data(made))
    else:
        click.echo(f"{workload}: created, {made.status.wanted_count} replicas wanted")


@command.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@fleet_options
def apply(*, file: Path, server: ChannelOptions) -> None:
    """Creates or updates every [[workloads]] entry of a TOML file (a scenario file works too).

    An entry's [workloads.scheduling] says how it is placed and changed: gang, disruption_budget, max_unavailable,
    required, preferred.

    \b
    Example of a file:
      [[workloads]]
      name = "web"
      application = "beyla"
      replicas = 6
      memory_limit_bytes = "512M"
      spread = { topology_key = "zone" }
      [workloads.scheduling]
      disruption_budget = 2
      required = [{ key = "tier", operator = "In", values = ["gold"] }]

    \b
    Examples:
      bpfleet fleet apply workloads.toml
    """
    workloads = list(_workloads(file))
    with fleet(server) as client:
        for workload in workloads:
            click.echo(f"{workload.name}: {_apply(client, workload)}")


def _apply(client: FleetClient, workload: WorkloadSpec) -> str:
    """Creates or updates it; returns kubectl's word for what happened."""
    message = spec_message(workload)
    try:
        client.create_workload(message)
    except CallError as error:
        if error.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise
        if client.workload(workload.name).spec == message:
            return "unchanged"
        client.update_workload(message)
        return "configured"
    return "created"


def _workloads(file: Path) -> Iterator[WorkloadSpec]:
    try:
        data: dict[str, Plain] = toml_table(read_text(file))
    except ValueError as error:
        raise SpecError(str(file), "", None, str(error), "correct the line") from None
    entries = data.get("workloads")
    if not isinstance(entries, list):
        raise SpecError(str(file), "workloads", None, "missing", "add [[workloads]] entries")
    for index, entry in enumerate(entries):
        try:
            yield from_data(WorkloadSpec, entry, str(file))
        except SpecError as error:
            raise error.under(f"workloads[{index}]") from None


@command.command("scale")
@click.argument("workload")
@click.option("--replicas", type=click.IntRange(0), required=True)
@fleet_options
def scale(*, workload: str, replicas: int, server: ChannelOptions) -> None:
    """Changes the number of replicas.

    \b
    Examples:
      bpfleet fleet scale web --replicas 20
    """
    with fleet(server) as client:
        client.scale_workload(workload, replicas)
    click.echo(f"{workload}: {replicas} replicas wanted")


@command.command("delete")
@click.argument("workload")
@fleet_options
def delete(*, workload: str, server: ChannelOptions) -> None:
    """Stops all replicas of a workload and forgets it.

    \b
    Examples:
      bpfleet fleet delete web
    """
    with fleet(server) as client:
        client.delete_workload(workload)
    click.echo(f"{workload}: deleted")


@command.command("explain")
@click.argument("workload")
@fleet_options
@click.option(
    "--policy",
    type=click.Choice(POLICIES.words),
    help="Placement policy to ask [default: the coordinator's].",
)
@listing(
    Column("node", lambda s: s.node.removeprefix("nodes/"), shrinks=True),
    Column("score", lambda s: s.score if s.feasible else None, NUMBER, lambda v: _score(v)),
    Column("booked", lambda s: s.booked_bytes, BYTES, priority=1),
    Column("free", lambda s: s.free_bytes, BYTES),
    Column("reason", lambda s: f"{s.reason} {s.message}".strip(), folds=True),
)
def explain(*, workload: str, policy: str | None, server: ChannelOptions) -> Rows:
    """Where the next replica would go, and why not elsewhere.

    \b
    Examples:
      bpfleet fleet explain falco
      bpfleet fleet explain falco --json
    """
    number = POLICIES.word_message(policy) if policy else pb.PLACEMENT_POLICY_UNSPECIFIED
    with fleet(server) as client:
        pages = list(client.explain(workload, policy=number))
    return Rows(
        rows=[score for page in pages for score in page.scores],
        document=[message_data(page) for page in pages],
        above=pages[0].summary if pages else "no nodes",
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


_EVENT_COLUMNS: Final = (
    Column("revision", lambda e: e.revision, priority=3),
    Column("time", lambda e: e.time.ToDatetime().isoformat(timespec="seconds")),
    Column("kind", lambda e: e.kind),
    Column("workload", lambda e: e.workload, shrinks=True),
    Column("replica", lambda e: e.replica, shrinks=True, priority=1),
    Column("node", lambda e: e.node, shrinks=True),
    Column("reason", lambda e: f"{e.reason} {e.message}".strip(), folds=True),
)


@command.command("events")
@fleet_options
@click.option("--workload", default="", help="Only events of this workload.")
@click.option("--node", default="", help="Only events of this node.")
@click.option(
    "--watch", is_flag=True, help="Print events as they happen; with --json, one object per line."
)
@listing(*_EVENT_COLUMNS)
def events(
    *, server: ChannelOptions, workload: str, node: str, watch: bool
) -> Iterable[pb.FleetEvent]:
    """What happened, oldest first.

    \b
    Examples:
      bpfleet fleet events --workload falco
      bpfleet fleet events --watch --json
    """
    with fleet(server) as client:
        if watch:
            context = click.get_current_context()
            _follow(client, workload, node, as_json=_wants_json(context))
            context.exit(0)
        return list(client.list_events(workload=workload, node=node))


def _wants_json(context: click.Context) -> bool:
    return bool(context.params["as_json"]) or context.params["form"] == "json"


def _follow(client: FleetClient, workload: str, node: str, *, as_json: bool) -> None:
    """Prints events as they come: one line each."""
    for answer in client.watch(workload=workload, node=node):
        for event in answer.events:
            if as_json:
                click.echo(json.dumps(message_data(event)))
                continue
            what = (
                event.kind,
                event.replica or event.workload,
                event.node,
                event.reason,
                event.message,
            )
            when = event.time.ToDatetime().isoformat(timespec="seconds")
            click.echo("  ".join(part for part in (when, *what) if part))
