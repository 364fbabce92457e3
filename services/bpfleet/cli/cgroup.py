"""``bpfleet cgroup``: the cgroup v2 tree of a node."""

from collections.abc import Iterable

import click

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.cli.listing import BYTES, COUNT, Column, listing
from bpfleet.cli.remote import agent
from bpfleet.cli.servers import agent_options
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.v1 import cgroup_service_pb2
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]


@click.group("cgroup")
def command() -> None:
    """The cgroup v2 tree of a node.

    \b
    Examples:
      bpfleet cgroup list web-1
      bpfleet cgroup create web-1 /team --file memory.max=512M
      bpfleet cgroup read web-1 /team memory.stat
      bpfleet cgroup write web-1 /team memory.max max
    """


def _limit_bytes(cgroup: cgroup_service_pb2.Cgroup) -> int:
    return cgroup.limits.max_bytes if cgroup.limits.HasField("max_bytes") else RLIM_INFINITY


def _limit(size_bytes: int) -> str:
    return "max" if size_bytes >= RLIM_INFINITY else format_bytes(size_bytes)


@command.command("list")
@click.argument("node")
@agent_options
@listing(
    Column("cgroup", lambda c: c.path, shrinks=True),
    Column("current", lambda c: c.usage.current_bytes, BYTES),
    Column("peak", lambda c: c.usage.peak_bytes, BYTES, priority=1),
    Column("max", _limit_bytes, BYTES, _limit),
    Column("processes", lambda c: len(c.pids), COUNT, priority=2),
    Column("max events", lambda c: c.events.max_count, COUNT),
    Column("oom kills", lambda c: c.events.oom_kill_count, COUNT),
)
def list_cgroups(*, node: str, server: ChannelOptions) -> Iterable[cgroup_service_pb2.Cgroup]:
    """Every cgroup: usage, limit, events.

    \b
    Examples:
      bpfleet cgroup list web-1
      bpfleet cgroup list web-1 --json
    """
    with agent(server) as client:
        return list(client.node(node).list_cgroups())


@command.command("create")
@click.argument("node")
@click.argument("path")
@agent_options
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="FILE=TEXT",
    help="Write TEXT to a control file afterwards; repeatable.",
)
def create(*, node: str, path: str, server: ChannelOptions, files: tuple[str, ...]) -> None:
    """mkdir, then writes control files.

    \b
    Examples:
      bpfleet cgroup create web-1 /team
      bpfleet cgroup create web-1 /team/app --file memory.max=512M --file memory.oom.group=1
    """
    texts = dict(_pair(text) for text in files)
    with agent(server) as client:
        client.node(node).create_cgroup(path, texts)
    click.echo(f"{node}: {path} created")


def _pair(text: str) -> tuple[str, str]:
    file, equals, value = text.partition("=")
    if not equals or not file:
        raise click.BadParameter(f"{text!r}: write FILE=TEXT, such as memory.max=512M")
    return file, value


@command.command("read")
@click.argument("node")
@click.argument("path")
@click.argument("file")
@agent_options
def read(*, node: str, path: str, file: str, server: ChannelOptions) -> None:
    """Prints a control file as the kernel would.

    \b
    Examples:
      bpfleet cgroup read web-1 /team memory.stat
    """
    with agent(server) as client:
        click.echo(client.node(node).cgroup(path).read(file), nl=False)


@command.command("write")
@click.argument("node")
@click.argument("path")
@click.argument("file")
@click.argument("text")
@agent_options
def write(*, node: str, path: str, file: str, text: str, server: ChannelOptions) -> None:
    """Writes a control file.

    \b
    Examples:
      bpfleet cgroup write web-1 /team memory.max 1G
    """
    with agent(server) as client:
        client.node(node).cgroup(path).write(file, text)


@command.command("delete")
@click.argument("node")
@click.argument("path")
@agent_options
def delete(*, node: str, path: str, server: ChannelOptions) -> None:
    """rmdir; charges that remain go to the parent.

    \b
    Examples:
      bpfleet cgroup delete web-1 /team
    """
    with agent(server) as client:
        client.node(node).cgroup(path).delete()
    click.echo(f"{node}: {path} removed")
