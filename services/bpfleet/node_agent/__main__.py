"""``python -m bpfleet.node_agent``: thousands of emulated nodes behind one gRPC port."""

import asyncio
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from bpfleet.kernel import KernelProfile
from bpfleet.node_agent.config import AgentSettings
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.node_service import CPUS_MAX, RAM_BYTES_MAX, RAM_BYTES_MIN
from bpfleet.node_agent.server import NodeAgent
from bpfleet.rpc.environment import check_environment
from bpfleet.rpc.logs import configure_logging
from bpfleet.rpc.options import (
    channel_options,
    server_flags,
    server_options,
)
from bpfleet.rpc.server import ListenError, SettingsError
from bpfleet.rpc.tracing import start_tracing
from bpfleet.runtime.profiles import profile_from
from bpfleet.version import __version__
from bpfleet.workload.quantity import parse_bytes

__all__ = ["main"]

_EXAMPLES: Final = """\b
Examples:
  python -m bpfleet.node_agent --kernel 5.10 --nodes 1
  python -m bpfleet.node_agent --agent-id a1 --kernel 6.12 --nodes 1000 --node-ram 8G --node-cpus 4 \\
      --listen 127.0.0.1:7071 --coordinator 127.0.0.1:7070
  python -m bpfleet.node_agent --nodes 10 --metrics 127.0.0.1:9464
"""


def _profile(context: click.Context, option: click.Parameter, name: str) -> KernelProfile:
    try:
        return profile_from(name)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


def _size(context: click.Context, option: click.Parameter, text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", context, option) from None


@click.command(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--listen",
    default="127.0.0.1:7071",
    envvar="BPFLEET_LISTEN",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen.",
)
@click.option(
    "--agent-id",
    default="a1",
    envvar="BPFLEET_AGENT",
    show_default=True,
    metavar="ID",
    help="Name of this agent; its nodes are ID-00001 and so on.",
)
@click.option(
    "--kernel",
    "profile",
    default="6.12",
    envvar="BPFLEET_KERNEL",
    show_default=True,
    callback=_profile,
    metavar="KERNEL",
    help="Kernel by name (bpfleet profile list), uname -r or profile file; a variant: 6.12:nobpf.",
)
@click.option(
    "--nodes",
    default=1,
    envvar="BPFLEET_NODES",
    show_default=True,
    type=click.IntRange(0, 65_536),
    help="Nodes to boot.",
)
@click.option(
    "--node-ram",
    "ram",
    default="8G",
    envvar="BPFLEET_NODE_RAM",
    show_default=True,
    callback=_size,
    help="Memory of each node.",
)
@click.option(
    "--node-swap",
    "swap",
    default="0",
    envvar="BPFLEET_NODE_SWAP",
    show_default=True,
    callback=_size,
    help="Swap space of each node.",
)
@click.option(
    "--node-cpus",
    "cpus",
    default=4,
    envvar="BPFLEET_NODE_CPUS",
    show_default=True,
    type=click.IntRange(1, CPUS_MAX),
    help="Possible CPUs of each node.",
)
@click.option(
    "--seed",
    default=1,
    envvar="BPFLEET_SEED",
    show_default=True,
    type=click.IntRange(0, 1 << 62),
    help="Node number n has seed SEED + n.",
)
@click.option(
    "--coordinator",
    default="",
    envvar="BPFLEET_COORDINATOR",
    metavar="HOST:PORT,...",
    help="Coordinators to register with, tried in turn; omit to run stand-alone.",
)
@click.option(
    "--advertise",
    default="",
    envvar="BPFLEET_ADVERTISE",
    metavar="HOST:PORT",
    help="Where the coordinator reaches this agent, if not where it listens.",
)
@click.option(
    "--metrics",
    default="",
    envvar="BPFLEET_METRICS",
    metavar="HOST:PORT",
    help="Serve Prometheus metrics there.",
)
@click.option(
    "--call-time",
    default=1_000,
    envvar="BPFLEET_CALL_NS",
    show_default=True,
    type=click.IntRange(0, 10**9),
    help="Virtual nanoseconds one system call takes.",
)
@click.option(
    "--churn-share",
    default=0.5,
    envvar="BPFLEET_CHURN_SHARE",
    show_default=True,
    type=click.FloatRange(0.01, 0.99),
    help="Maximum share of one CPU for workload churn.",
)
@click.option(
    "--memory-budget",
    default="0",
    envvar="BPFLEET_MEMORY_BUDGET",
    show_default="three quarters of what the process may use",
    callback=_size,
    help="Memory of this machine that all nodes together may take; more is RESOURCE_EXHAUSTED.",
)
@click.option(
    "--node-memory-budget",
    default="256M",
    envvar="BPFLEET_NODE_MEMORY_BUDGET",
    show_default=True,
    callback=_size,
    help="Memory of this machine that one node may take.",
)
@server_flags
@click.version_option(__version__, prog_name="bpfleet agent")
def main(**flags: Any) -> None:  # click passes values of every type
    """Carry emulated nodes and serve them over gRPC until SIGTERM or SIGINT.

    Every option has an environment variable; docs/settings.md lists them.
    """
    configure_logging(flags["log_level"], flags["log_format"])
    try:
        check_environment(os.environ, _both())
        start_tracing("agent")
        settings = _settings(flags)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    try:
        asyncio.run(_serve(settings))
    except (ListenError, SettingsError) as error:
        print(f"bpfleet: {error}", file=sys.stderr)
        sys.exit(1)


def _both() -> Iterator[click.Command]:
    """The commands whose variables may stand in one environment: a coordinator may run in the same container.

    Most environments have none of those, and a program should not carry the code of both.
    """
    yield main
    yield importlib.import_module("bpfleet.coordinator.__main__").main


def _settings(flags: dict[str, Any]) -> AgentSettings:
    ram_bytes = flags["ram"]
    if not RAM_BYTES_MIN <= ram_bytes <= RAM_BYTES_MAX:
        raise SettingsError(f"--node-ram: {ram_bytes} bytes is out of range; use 64M to 16T")
    targets = [target.strip() for target in flags["coordinator"].split(",") if target.strip()]
    server = server_options(flags["listen"], flags, own_agent=flags["agent_id"])
    token = server.tokens.of_agent(flags["agent_id"]) if server.tokens is not None else None
    swap_bytes = flags["swap"]
    if not 0 <= swap_bytes <= RAM_BYTES_MAX:
        raise SettingsError(f"--node-swap: {swap_bytes} bytes is out of range; use 0 to 16T")
    return AgentSettings(
        agent_id=flags["agent_id"],
        server=server,
        shape=NodeBoot(
            profile=flags["profile"],
            ram_bytes=ram_bytes,
            swap_bytes=swap_bytes,
            possible_cpus=flags["cpus"],
            seed=flags["seed"],
        ),
        nodes=flags["nodes"],
        advertise=flags["advertise"],
        coordinators=tuple(channel_options(target, flags, token) for target in targets),
        metrics=flags["metrics"],
        call_ns=flags["call_time"],
        churn_share=flags["churn_share"],
        memory_budget_bytes=flags["memory_budget"],
        node_memory_budget_bytes=flags["node_memory_budget"],
    )


async def _serve(settings: AgentSettings) -> None:
    agent = NodeAgent(settings)
    await agent.start()
    await agent.run_until_signal()
    # The kernels end with the process. A last search for cycles among the objects of thousands of them would take
    # longer than the ten seconds after which Docker kills.
    gc.freeze()


if __name__ == "__main__":
    main(prog_name="python -m bpfleet.node_agent")
