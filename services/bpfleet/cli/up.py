"""``bpfleet up``: a whole cluster on a Docker Engine, or as processes."""

import os
from collections.abc import Sequence
from dataclasses import asdict

import click

from bpfleet.cli.clusters import cluster_options, engine_for, print_changes, progress_lines
from bpfleet.cli.inputs import Size, kernel_names
from bpfleet.cli.listing import data_options
from bpfleet.cli.output import print_json
from bpfleet.launcher.cluster import READY_SECONDS, up
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import COORDINATOR_PORT, WEB_PORT, ClusterSpec
from bpfleet.runtime.profiles import profile_and_text

__all__ = ["command"]


def _models(
    context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> tuple[str, ...]:
    """Names of kernels and texts of profile files: an agent in a container cannot read the file itself."""
    models = []
    for name in kernel_names(texts):
        try:
            models.append(profile_and_text(name)[1] or name)
        except ValueError as error:
            raise click.BadParameter(str(error), context, option) from None
    return tuple(models)


def _size(context: click.Context, option: click.Parameter, text: str) -> str:
    """A size, as it was written."""
    Size().convert(text, option, context)
    return text


@click.command("up")
@click.option("--agents", default=3, show_default=True, help="Node agents.")
@click.option(
    "--nodes-per-agent", default=100, show_default=True, help="Emulated nodes each agent carries."
)
@click.option(
    "--kernel",
    "models",
    multiple=True,
    default=("5.10,seed-v5,6.12",),
    show_default="5.10,seed-v5,6.12",
    callback=_models,
    metavar="KERNEL,...",
    help="Kernels by name, uname -r or profile file, assigned to agents round-robin.",
)
@click.option(
    "--coordinators",
    default=1,
    show_default=True,
    help="Coordinators; one leads, the others stand by.",
)
@click.option("--workers", default=1, show_default=True, help="Locust workers; 0: no Locust.")
@click.option(
    "--node-ram",
    default="8G",
    show_default=True,
    callback=_size,
    help="Memory of an emulated node.",
)
@click.option("--node-cpus", default=4, show_default=True, help="CPUs of an emulated node.")
@click.option("--seed", default=1, show_default=True, help="Seed of the emulated nodes.")
@click.option("--cpus", type=float, help="Real CPUs each agent's container may use.")
@click.option("--memory", type=Size(), help="Real memory limit of each agent's container.")
@click.option(
    "--image",
    default=lambda: os.environ.get("BPFLEET_IMAGE", "bpfleet:local"),
    help="Image of every role (BPFLEET_IMAGE, bpfleet:local).",
)
@click.option(
    "--redis-image",
    default=lambda: os.environ.get("REDIS_IMAGE", "redis:7"),
    help="Image of the store (REDIS_IMAGE, redis:7).",
)
@click.option("--web-port", default=WEB_PORT, show_default=True, help="Locust's page on loopback.")
@click.option(
    "--api-port", default=COORDINATOR_PORT, show_default=True, help="Port of the first coordinator."
)
@click.option(
    "--wait-seconds",
    default=READY_SECONDS,
    show_default=True,
    help="Seconds to wait until it is ready.",
)
@data_options
@cluster_options
def command(
    *,
    name: str,
    local: bool,
    agents: int,
    nodes_per_agent: int,
    models: tuple[str, ...],
    coordinators: int,
    workers: int,
    node_ram: str,
    node_cpus: int,
    seed: int,
    cpus: float | None,
    memory: int | None,
    image: str,
    redis_image: str,
    web_port: int,
    api_port: int,
    wait_seconds: float,
    as_json: bool,
) -> None:
    """Start a cluster, or change a running one to what is asked for, and wait until it is ready.

    What runs as asked is left alone. If anything fails, or on Ctrl-C, what was started is removed.

    \b
    Examples:
      docker compose build && bpfleet up
      bpfleet up --agents 6 --nodes-per-agent 2000 --kernel 5.10,seed-v5,6.12 --coordinators 2
      bpfleet up --agents 2 --memory 512M
      bpfleet up --local --workers 0
    """
    try:
        spec = ClusterSpec(
            name=name,
            agents=agents,
            nodes_per_agent=nodes_per_agent,
            models=models,
            coordinators=coordinators,
            workers=workers,
            node_ram=node_ram,
            node_cpus=node_cpus,
            seed=seed,
            cpus=cpus,
            memory_bytes=memory,
            image=image,
            redis_image=redis_image,
            web_port=web_port,
            api_port=api_port,
        )
    except LaunchError as error:
        raise click.UsageError(str(error)) from None
    with engine_for(local) as engine, progress_lines(as_json) as progress:
        changes = up(engine, spec, progress, ready_seconds=wait_seconds)
    if as_json:
        print_json(asdict(changes))
        return
    print_changes(changes)
    click.echo(f"coordinator 127.0.0.1:{api_port}")
    if workers:
        click.echo(f"load test   http://127.0.0.1:{web_port}/")
