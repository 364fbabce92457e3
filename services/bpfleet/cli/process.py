"""``bpfleet process``: the processes of a node, in whose name maps are created."""

from collections.abc import Iterable

import click

from bpfleet.cli.inputs import Size
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, Column, data_options, listing
from bpfleet.cli.output import message_data, print_json
from bpfleet.cli.remote import agent
from bpfleet.cli.servers import agent_options
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.rlimits import memlock_record
from bpfleet.v1 import process_service_pb2

__all__ = ["command"]


@click.group("process")
def command() -> None:
    """Processes of a node: maps are created and charged in their name.

    \b
    Examples:
      bpfleet process create web-1 --cgroup /team --memlock 64M
      bpfleet process list web-1
      bpfleet process kill web-1 100
    """


def _memlock_bytes(process: process_service_pb2.Process) -> int:
    return memlock_record(process.memlock.soft, "memlock.soft")


@command.command("list")
@click.argument("node")
@agent_options
@listing(
    Column("pid", lambda p: p.pid),
    Column("command", lambda p: p.comm),
    Column("cgroup", lambda p: p.cgroup, shrinks=True),
    Column("uid", lambda p: p.credentials.uid, NUMBER),
    Column("memlock", _memlock_bytes, BYTES),
    Column("locked", lambda p: p.locked_bytes, BYTES, priority=1),
    Column("rss", lambda p: p.rss_bytes, BYTES),
    Column("files", lambda p: p.fd_count, COUNT, priority=2),
)
def list_processes(*, node: str, server: ChannelOptions) -> Iterable[process_service_pb2.Process]:
    """Every process that lives: its user, cgroup, limit and memory.

    \b
    Examples:
      bpfleet process list web-1
      bpfleet process list web-1 --json
    """
    with agent(server) as client:
        return list(client.node(node).list_processes())


@command.command("create")
@click.argument("node")
@agent_options
@click.option("--uid", type=click.IntRange(0, (1 << 31) - 1), default=0, show_default=True)
@click.option("--cgroup", default="/", show_default=True, help="Cgroup to start it in.")
@click.option(
    "--memlock", type=Size(), help="RLIMIT_MEMLOCK, or unlimited [default: the kernel's]."
)
@click.option("--comm", default="script", show_default=True, help="Its command name.")
@data_options
def create(
    *,
    node: str,
    server: ChannelOptions,
    uid: int,
    cgroup: str,
    memlock: int | None,
    comm: str,
    as_json: bool,
) -> None:
    """Starts a process and prints its pid.

    \b
    Examples:
      bpfleet process create web-1
      bpfleet process create web-1 --uid 1000 --cgroup /team --memlock 64M
    """
    with agent(server) as client:
        process = client.node(node).create_process(
            uid=uid, cgroup=cgroup, memlock_bytes=memlock, comm=comm
        )
        info = process.info()
    if as_json:
        print_json(message_data(info))
    else:
        click.echo(f"process {info.pid} in {info.cgroup}")


@command.command("kill")
@click.argument("node")
@click.argument("pid", type=click.IntRange(1, (1 << 31) - 1))
@agent_options
def kill(*, node: str, pid: int, server: ChannelOptions) -> None:
    """SIGKILL: its memory and descriptors go, what is pinned stays.

    \b
    Examples:
      bpfleet process kill web-1 100
    """
    with agent(server) as client:
        client.node(node).process(pid).kill()
    click.echo(f"{node}: process {pid} killed")
