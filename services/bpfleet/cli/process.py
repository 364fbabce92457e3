"""``bpfleet process``: the processes of a node, in whose name maps are created."""

import click

from bpfleet.cli.inputs import Size
from bpfleet.cli.output import message_data, print_json, print_table
from bpfleet.cli.remote import agent, agent_options
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.rpc.rlimits import memlock_record
from bpfleet.v1 import process_service_pb2
from bpfleet.workload.quantity import format_bytes

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


@command.command("list")
@click.argument("node")
@agent_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_processes(*, node: str, server: ChannelOptions, as_json: bool) -> None:
    """Every process that lives: its user, cgroup, limit and memory.

    \b
    Examples:
      bpfleet process list web-1
      bpfleet process list web-1 --json
    """
    with agent(server) as client:
        found = list(client.node(node).list_processes())
    if as_json:
        print_json([message_data(process) for process in found])
        return
    print_table(
        ("pid", "command", "cgroup", "uid", "memlock", "locked", "rss", "files"),
        (_row(process) for process in found),
        numbers_from=3,
    )


def _row(process: process_service_pb2.Process) -> tuple[str, ...]:
    return (
        str(process.pid),
        process.comm,
        process.cgroup,
        str(process.credentials.uid),
        format_bytes(memlock_record(process.memlock.soft, "memlock.soft")),
        format_bytes(process.locked_bytes),
        format_bytes(process.rss_bytes),
        f"{process.fd_count:,}",
    )


@command.command("create")
@click.argument("node")
@agent_options
@click.option("--uid", type=click.IntRange(0, (1 << 31) - 1), default=0, show_default=True)
@click.option("--cgroup", default="/", show_default=True, help="Where it lives.")
@click.option("--memlock", type=Size(), help="RLIMIT_MEMLOCK; the kernel's default unless given.")
@click.option("--comm", default="script", show_default=True, help="Its name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
