"""``bpfleet node``: the emulated nodes of one agent."""

import math
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import click
from click.core import ParameterSource

from bpfleet.captures.document import read_document
from bpfleet.cli.captured_node import build_node
from bpfleet.cli.inputs import Size, kernel_option
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, Column, data_options, listing
from bpfleet.cli.output import message_data, print_json, print_table, word
from bpfleet.cli.remote import agent
from bpfleet.cli.servers import agent_options
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.runtime.profiles import profile_and_text
from bpfleet.v1 import bpf_pb2
from bpfleet.v1 import node_service_pb2 as pb
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]

_SECOND_NS = 1_000_000_000
_ADVANCE_SECONDS_MAX = 365 * 86_400


@click.group("node")
def command() -> None:
    """The emulated nodes of one agent.

    \b
    Examples:
      bpfleet node create web-1 --kernel 6.12 --ram 16G --cpus 8
      bpfleet node list
      bpfleet node show web-1
      bpfleet node ledger web-1
      bpfleet node orphans web-1
      bpfleet node tools web-1 /kubepods/agent
      bpfleet node fault web-1 late_refill
    """


@command.command("list")
@agent_options
@listing(
    Column("node", lambda n: PurePosixPath(n.name).name),
    Column("kernel", lambda n: n.spec.profile),
    Column("cpus", lambda n: n.spec.possible_cpus, COUNT, priority=2),
    Column("ram", lambda n: n.spec.ram_bytes, BYTES),
    Column("used", lambda n: n.status.usage_bytes, BYTES),
    Column("BPF charged", lambda n: n.status.bpf_charged_bytes, BYTES),
    Column("maps", lambda n: n.status.map_count, COUNT),
    Column("processes", lambda n: n.status.process_count, COUNT, priority=1),
    Column("state", lambda n: word(pb.NodePhase.Name(n.status.phase), "NODE_PHASE_")),
)
def list_nodes(*, server: ChannelOptions) -> Iterable[pb.Node]:
    """Every node: profile, size, charges, counts.

    \b
    Examples:
      bpfleet node list
      bpfleet node list --agent 127.0.0.1:7072 --json
    """
    with agent(server) as client:
        return list(client.list_nodes())


@command.command("create")
@click.argument("node")
@agent_options
@kernel_option()
@click.option("--ram", type=Size(), default="8G", show_default=True, help="Memory.")
@click.option("--swap", type=Size(), default="0", show_default=True, help="Swap space.")
@click.option(
    "--cpus", type=click.IntRange(1, 8192), default=4, show_default=True, help="Possible CPUs."
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    default=1,
    show_default=True,
    help="Seed of the node.",
)
@click.option(
    "--capture",
    "captured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Make it like the host in this file of bpfleet capture.",
)
@data_options
def create(
    *,
    node: str,
    server: ChannelOptions,
    kernel: str,
    ram: int,
    swap: int,
    cpus: int,
    seed: int,
    captured: Path | None,
    as_json: bool,
) -> None:
    """Boots a node; with --capture in the state of a captured host, under its own kernel.

    \b
    Examples:
      bpfleet node create web-1
      bpfleet node create web-1 --capture host.json
      bpfleet node create web-1 --kernel 5.10 --ram 16G --cpus 8 --seed 7
      bpfleet node create web-1 --ram 4G --swap 2G
      bpfleet node create web-1 --kernel host.toml
    """
    if captured is not None:
        _create_captured(node, captured, server, as_json=as_json)
        return
    try:
        known, text = profile_and_text(kernel)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--kernel") from None
    with agent(server) as client:
        made = client.create_node(
            node,
            profile=known.name,
            profile_file=text,
            ram_bytes=ram,
            swap_bytes=swap,
            possible_cpus=cpus,
            seed=seed,
        ).info()
    if as_json:
        print_json(message_data(made))
    else:
        click.echo(f"{node}: {known.name}, {cpus} CPUs, {format_bytes(ram)}")


def _create_captured(node: str, captured: Path, server: ChannelOptions, *, as_json: bool) -> None:
    context = click.get_current_context()
    for name in ("kernel", "ram", "swap", "cpus", "seed"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name}: the capture sets it; leave the option out")
    document = read_document(captured.read_bytes(), str(captured))
    with agent(server) as client:
        left_out = build_node(client, node, document)
        made = client.node(node).info()
    for line in left_out:
        click.echo(f"left out: {line}", err=True)
    if as_json:
        print_json(message_data(made))
    else:
        status = made.status
        click.echo(
            f"{node}: {made.kernel.profile}, {status.map_count} maps, {status.program_count} programs,"
            f" {status.process_count} processes"
        )


@command.command("show")
@click.argument("node")
@agent_options
@data_options
def show(*, node: str, server: ChannelOptions, as_json: bool) -> None:
    """One node: what it is and what its kernel answered so far.

    \b
    Examples:
      bpfleet node show web-1
      bpfleet node show web-1 --json
    """
    with agent(server) as client:
        info = client.node(node).info()
    if as_json:
        print_json(message_data(info))
        return
    status = info.status
    model = word(bpf_pb2.AccountingModel.Name(info.kernel.model), "ACCOUNTING_MODEL_")
    rows = [
        ("kernel", f"{info.spec.profile} (accounting: {model})"),
        ("CPUs, memory", f"{info.spec.possible_cpus}, {format_bytes(info.spec.ram_bytes)}"),
        *([("swap", format_bytes(info.spec.swap_bytes))] if info.spec.swap_bytes else []),
        ("virtual time", f"{status.clock_ns / _SECOND_NS:.3f} s, {status.revision} events"),
        ("charged", f"{format_bytes(status.usage_bytes)} in all"),
        ("BPF", f"{format_bytes(status.bpf_charged_bytes)} charged, "
                f"{format_bytes(status.bpf_estimate_bytes)} by the 5.10 estimate"),
        ("objects", f"{status.map_count} maps, {status.program_count} programs, "
                    f"{status.process_count} processes, {status.cgroup_count} cgroups"),
    ]  # fmt: skip
    rows += [(f"verdict {errno}", f"{n:,}") for errno, n in sorted(status.verdicts.items())]
    if status.crash_message:
        rows.append(("crashed", status.crash_message))
    print_table((node, ""), rows, numbers_from=2)


@command.command("ledger")
@click.argument("node")
@agent_options
@listing(
    Column("cgroup", lambda x: x.cgroup, shrinks=True),
    Column("owner", lambda x: x.owner, shrinks=True),
    Column("kind", lambda x: x.kind),
    Column("blocks", lambda x: x.block_count, COUNT),
    Column("bytes", lambda x: x.size_bytes, COUNT),
)
def ledger(*, node: str, server: ChannelOptions) -> Iterable[pb.LedgerLine]:
    """Who is charged for what: one line per cgroup, owner and kind of memory.

    \b
    Examples:
      bpfleet node ledger web-1
      bpfleet node ledger web-1 --json
    """
    with agent(server) as client:
        return list(client.node(node).ledger())


@command.command("orphans")
@click.argument("node")
@agent_options
@listing(
    Column("map", lambda x: x.map_name),
    Column("type", lambda x: x.map_type, priority=1),
    Column("why", lambda x: x.why, folds=True),
    Column("created in", lambda x: x.created_in, shrinks=True),
    Column("charged to", lambda x: x.charged_to or "nobody", shrinks=True),
    Column("id", lambda x: x.map_id, NUMBER, priority=2),
    Column("charged", lambda x: x.charged_bytes, BYTES),
    Column("memlock", lambda x: x.memlock_bytes, BYTES, priority=3),
)
def orphans(*, node: str, server: ChannelOptions) -> Iterable[pb.Orphan]:
    """Maps whose creator's cgroup is gone, and maps that only a pin keeps alive.

    \b
    Examples:
      bpfleet node orphans web-1
      bpfleet node orphans web-1 --json
    """
    with agent(server) as client:
        return list(client.node(node).orphans())


@command.command("tools")
@click.argument("node")
@click.argument("cgroup", default="/")
@agent_options
@listing(
    Column("tool", lambda x: x.tool),
    Column("field", lambda x: x.field),
    Column("what it counts", lambda x: x.counts, folds=True),
    Column("bytes", lambda x: x.size_bytes, COUNT),
    name=lambda x: f"{x.tool} {x.field}",
)
def tools(*, node: str, cgroup: str, server: ChannelOptions) -> Iterable[pb.ToolView]:
    """What bpftool, kubectl top, crictl and memory.stat each say about one CGROUP, and why they differ.

    \b
    Examples:
      bpfleet node tools web-1
      bpfleet node tools web-1 /kubepods/agent --json
    """
    with agent(server) as client:
        return client.node(node).tool_views(cgroup)


@command.command("advance")
@click.argument("node")
@click.argument("seconds", type=click.FloatRange(0, _ADVANCE_SECONDS_MAX))
@agent_options
def advance(*, node: str, seconds: float, server: ChannelOptions) -> None:
    """Lets virtual time pass; deferred work that falls due is carried out.

    \b
    Examples:
      bpfleet node advance web-1 0.5
    """
    if math.isnan(seconds):
        raise click.BadParameter("nan: not a number of seconds")
    with agent(server) as client:
        clock_ns = client.node(node).advance(int(seconds * _SECOND_NS))
    click.echo(f"{node}: {clock_ns / _SECOND_NS:.3f} s")


@command.command("fault")
@click.argument("node")
@click.argument("kind")
@click.option(
    "--nth", type=click.IntRange(1), default=1, show_default=True, help="Which allocation fails."
)
@agent_options
def fault(*, node: str, kind: str, nth: int, server: ChannelOptions) -> None:
    """Makes an allocation fail on purpose, or stops the node.

    KIND is page, slab, percpu, vmalloc, anon or charge (the nth from now on fails, once); random (one in nth fails,
    by the node's seed); late_refill (caches of elements are refilled late); crash; or none, which takes back all but a
    crash.

    \b
    Examples:
      bpfleet node fault web-1 vmalloc
      bpfleet node fault web-1 random --nth 1000
      bpfleet node fault web-1 none
    """
    with agent(server) as client:
        client.node(node).inject_fault(kind, nth)
    click.echo(f"{node}: {kind}")


@command.command("delete")
@click.argument("node")
@agent_options
def delete(*, node: str, server: ChannelOptions) -> None:
    """Switches a node off for good; a coordinator forgets it with bpfleet fleet remove --force.

    \b
    Examples:
      bpfleet node delete web-1
    """
    with agent(server) as client:
        client.node(node).delete()
    click.echo(f"{node}: deleted")
