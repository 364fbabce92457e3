"""``bpfleet scenario``: files that describe a fleet and what runs on it."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Final

import click

from bpfleet.cli.inputs import OutputFile, tell_kernels
from bpfleet.cli.listing import COUNT, Column, data_options, listing
from bpfleet.cli.output import console, print_json, print_table, write_file
from bpfleet.report.placing import place
from bpfleet.report.scenario_file import read_scenario
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.codec import to_data
from bpfleet.workload.quantity import counted, format_bytes
from bpfleet.workload.scenario import Scenario, builtin_scenario, builtin_scenarios
from bpfleet.workload.scenario_schema import scenario_schema

__all__ = ["command"]

_TEMPLATE: Final = "scenario_template.toml"


@click.group("scenario")
def command() -> None:
    """Fleets as files: node pools with their kernels, and what runs on them (docs/scenario.md).

    \b
    Examples:
      bpfleet scenario list
      bpfleet scenario init -o fleet.toml && bpfleet scenario check fleet.toml
      bpfleet compare --scenario fleet.toml
    """


def _nodes(scenario: Scenario) -> int:
    return sum(pool.count for pool in scenario.nodes)


@command.command("list")
@listing(
    Column("name", lambda s: s.name),
    Column("nodes", _nodes, COUNT),
    Column("pools", lambda s: len(s.nodes), COUNT),
    Column("workloads", lambda s: len(s.workloads), COUNT),
    Column("title", lambda s: s.title, shrinks=True),
    data=to_data,
)
def list_scenarios() -> Iterable[Scenario]:
    """The scenarios that come with bpfleet.

    \b
    Examples:
      bpfleet scenario list
      bpfleet scenario list --json
    """
    return [builtin_scenario(name) for name in builtin_scenarios()]


@command.command("show")
@click.argument("name", metavar="NAME|FILE")
@data_options
@click.option("--toml", is_flag=True, help="Print the file of a built-in scenario, to start from.")
def show(*, name: str, as_json: bool, toml: bool) -> None:
    """Node pools and workloads of a scenario.

    \b
    Examples:
      bpfleet scenario show mixed-fleet
      bpfleet scenario show edge --toml > fleet.toml
    """
    if toml and name in builtin_scenarios():
        path = files("bpfleet.workload").joinpath("scenarios", f"{name}.toml")
        click.echo(path.read_text("utf-8"), nl=False)
        return
    scenario = read_scenario(name)
    if as_json:
        print_json(to_data(scenario))
        return
    out = console()
    seconds = scenario.steps * scenario.step_ns / 1e9
    out.print(f"{scenario.name}: {scenario.title or 'no title'}", style="bold", markup=False)
    out.print(f"{scenario.steps:,} steps, {seconds:g} s in all, seed {scenario.seed}", markup=False)
    out.print()
    _print_pools(scenario)
    out.print()
    _print_workloads(scenario)


def _print_pools(scenario: Scenario) -> None:
    print_table(
        ("pool", "kernel", "nodes", "CPUs", "memory", "swap"),
        (
            (
                pool.name,
                pool.kernel or "as compared",
                f"{pool.count:,}",
                f"{pool.possible_cpus:,}",
                format_bytes(pool.ram_bytes),
                format_bytes(pool.swap_bytes) if pool.swap_bytes else "none",
            )
            for pool in scenario.nodes
        ),
        numbers_from=2,
    )


def _print_workloads(scenario: Scenario) -> None:
    print_table(
        ("workload", "runs", "replicas", "memory.max", "request", "uid"),
        (
            (
                w.name,
                w.program_name,
                "per node" if w.per_node else f"{w.replicas:,}",
                "max" if w.memory_limit_bytes is None else format_bytes(w.memory_limit_bytes),
                format_bytes(w.memory_request_bytes) if w.memory_request_bytes else "0",
                str(w.uid),
            )
            for w in scenario.workloads
        ),
        numbers_from=2,
    )


@command.command("check")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
def check(*, file: str) -> int:
    """Reads FILE, sizes and places everything, and says what would not fit. Exit status 1 where something does not.

    \b
    Examples:
      bpfleet scenario check fleet.toml
    """
    scenario = read_scenario(file)
    kernels = dict.fromkeys(pool.kernel for pool in scenario.nodes if pool.kernel)
    tell_kernels(kernels)
    for kernel in kernels:
        profile_from(kernel)
    placement = place(scenario)
    nodes, replicas = counted(_nodes(scenario), "node"), counted(placement.replicas, "replica")
    for replica, reason in placement.unplaced:
        click.echo(f"not placed: {replica}: {reason}")
    click.echo(f"{file}: {replicas} on {nodes}")
    return 1 if placement.unplaced else 0


@command.command("init")
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    help="File to write [default: print].",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(*, output: Path | None, force: bool) -> None:
    """A scenario to start from, with comments.

    \b
    Examples:
      bpfleet scenario init -o fleet.toml
    """
    text = files("bpfleet.workload").joinpath(_TEMPLATE).read_text("utf-8")
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists() and not force:
        raise click.UsageError(f"{output} already exists; --force overwrites it")
    write_file(output, text)
    click.echo(f"wrote {output}; next: bpfleet scenario check {output}")


@command.command("schema")
def schema() -> None:
    """JSON Schema of a scenario file, for completion in editors.

    \b
    Examples:
      bpfleet scenario schema > scenario.schema.json
    """
    print_json(scenario_schema())
