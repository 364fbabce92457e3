"""``bpfleet compare``: the same fleet, the same operations, several accounting models."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bpfleet.cli.inputs import (
    Size,
    default_agents,
    read_inventories,
    read_scenario,
    with_inventories,
)
from bpfleet.cli.output import console, print_json, print_table, write_file
from bpfleet.report.compare import DEFAULT_MODELS, Comparison, compare
from bpfleet.report.results import NodeResult, as_plain
from bpfleet.report.summary import ROWS, divergence_lines, to_csv, to_markdown
from bpfleet.workload.scenario import Scenario

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.command("compare")
@click.option(
    "--scenario", "scenario_name", default="mixed-fleet", help="Built-in name or TOML file."
)
@click.option(
    "--models",
    default=",".join(DEFAULT_MODELS),
    show_default=True,
    help="Kernel profiles, comma-separated.",
)
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Instead of the scenario's.")
@click.option(
    "--nodes", type=click.IntRange(1, 100_000), help="Scale the fleet to this many nodes."
)
@click.option(
    "--steps", type=click.IntRange(0, 1_000_000), help="Churn steps, instead of the scenario's."
)
@click.option(
    "--agents", type=click.IntRange(1, 64), help="Worker processes; the result is the same."
)
@click.option(
    "--inventory",
    "inventories",
    type=_FILE,
    multiple=True,
    help="Output of `bpftool -j map show`, or a JSON list of such files; repeatable.",
)
@click.option("--memory-limit", type=Size(), help="memory.max of each --inventory workload.")
@click.option("--memlock", type=Size(), help="RLIMIT_MEMLOCK of each --inventory workload.")
@click.option(
    "--user-memory",
    type=Size(),
    default="64M",
    show_default=True,
    help="Heap of each --inventory workload.",
)
@click.option(
    "--uid",
    type=click.IntRange(0, (1 << 32) - 2),
    default=0,
    help="User of each --inventory workload.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as JSON instead of the table."
)
@click.option("--csv", "csv_file", type=_OUT, help="Write one line per replica and model.")
@click.option("--markdown", "markdown_file", type=_OUT, help="Write a summary for a pull request.")
@click.option("--report", "report_file", type=_OUT, help="Write one self-contained HTML page.")
def command(
    *,
    scenario_name: str,
    models: str,
    seed: int | None,
    nodes: int | None,
    steps: int | None,
    agents: int | None,
    inventories: tuple[Path, ...],
    memory_limit: int | None,
    memlock: int | None,
    user_memory: int,
    uid: int,
    as_json: bool,
    csv_file: Path | None,
    markdown_file: Path | None,
    report_file: Path | None,
) -> None:
    """Runs one scenario under several models and prints them side by side.

    \b
    Examples:
      bpfleet compare
      bpfleet compare --models 5.10,6.1,6.12 --nodes 100 --seed 7
      bpfleet compare --inventory host.json --memory-limit 512M
      bpfleet compare --report report.html --markdown summary.md
    """
    scenario = read_scenario(scenario_name)
    if inventories:
        scenario = with_inventories(
            scenario,
            read_inventories(inventories),
            memory_limit_bytes=memory_limit,
            memlock_bytes=memlock,
            user_memory_bytes=user_memory,
            uid=uid,
        )
    scenario = _changed(scenario, seed=seed, nodes=nodes, steps=steps)
    names = [name.strip() for name in models.split(",") if name.strip()]
    result = _run(scenario, names, agents or default_agents())
    if csv_file is not None:
        write_file(csv_file, to_csv(result))
    if markdown_file is not None:
        write_file(markdown_file, to_markdown(result))
    if report_file is not None:
        from bpfleet.report.page import to_html

        write_file(report_file, to_html(result))
    if as_json:
        print_json(as_plain(result))
    else:
        _print(result)


def _changed(
    scenario: Scenario, *, seed: int | None, nodes: int | None, steps: int | None
) -> Scenario:
    if nodes is not None:
        scenario = scenario.scaled_to(nodes)
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    return scenario if steps is None else replace(scenario, steps=steps)


def _run(scenario: Scenario, models: list[str], agents: int) -> Comparison:
    with _progress(sum(group.count for group in scenario.nodes)) as advance:
        return compare(scenario, models, agents=agents, on_node=advance)


@contextmanager
def _progress(nodes: int) -> Iterator["_Advance"]:
    """A bar on standard error, only where that is a terminal."""
    bar = Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=not console(stderr=True).is_terminal,
        transient=True,
    )
    with bar:
        yield _Advance(bar, bar.add_task("nodes", total=nodes))


class _Advance:
    def __init__(self, bar: Progress, task: object) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, result: NodeResult) -> None:
        self._bar.advance(self._task)  # type: ignore[arg-type]  # rich's TaskID is an int NewType


def _print(result: Comparison) -> None:
    out = console()
    out.print(f"[bold]{result.title or result.scenario}[/bold]")
    rows = [(row.label, *(row.shown(totals) for totals in result.totals)) for row in ROWS]
    print_table(("", *result.models), rows)
    out.print()
    if result.first_divergence is None:
        out.print("The models answered every call alike.")
    else:
        out.print("[bold]First divergence[/bold]")
        for line in divergence_lines(result.first_divergence):
            out.print(line, markup=False)
    if result.causes:
        out.print()
        out.print("[bold]Divergences by cause[/bold]")
        for cause in result.causes:
            where = f"{cause.count} replicas on {cause.nodes} nodes ({', '.join(cause.workloads)})"
            out.print(f"  {where}: {cause.cause}", markup=False)
    for replica, reason in result.unplaced:
        out.print(f"not placed: {replica}: {reason}", markup=False)
    out.print()
    out.print(
        f"seed {result.seed}, {result.steps} steps of {result.step_ns / 1e9:g} s, "
        f"profiles {', '.join(result.models)}, bpfleet {result.version}",
        markup=False,
    )
