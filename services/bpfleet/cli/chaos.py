"""``bpfleet chaos``: faults by schedule on a running cluster, and the proof that it survived."""

from dataclasses import asdict
from pathlib import Path

import click

from bpfleet.cli.clusters import cluster_options, engine_for, progress_lines
from bpfleet.cli.inputs import read_text
from bpfleet.cli.listing import data_options
from bpfleet.cli.output import print_json, print_table
from bpfleet.launcher.chaos.plan import parse_plan
from bpfleet.launcher.chaos.run import ChaosReport, run_chaos
from bpfleet.launcher.errors import LaunchError
from bpfleet.near import advice
from bpfleet.shipped import CHAOS_PLANS, shipped

__all__ = ["command"]

EXIT_BROKEN = 1


@click.command("chaos")
@click.argument("plan", metavar="PLAN|FILE")
@click.option("--seed", type=click.IntRange(0, 2**63), help="Seed, instead of the plan's.")
@click.option(
    "--load-users",
    type=click.IntRange(0, 100_000),
    default=0,
    help="Locust users to run meanwhile.",
)
@data_options
@cluster_options
def command(
    *, plan: str, seed: int | None, load_users: int, name: str, local: bool, as_json: bool
) -> int:
    """Carry out the faults of a plan that comes with bpfleet, or of a TOML file, on a running cluster, then check it.

    While the faults strike, a client creates, scales and deletes workloads and remembers what it was
    told. Afterwards the books of the coordinator are compared with that and with what every agent
    runs, and every emulated node proves its own. Exit status 1 where a property is broken.

    \b
    Examples:
      bpfleet chaos every-fault
      bpfleet chaos every-fault --load-users 50
      bpfleet chaos agents --local --seed 7 --json
    """
    try:
        planned = parse_plan(read_text(_file(plan)), plan, seed=seed)
    except LaunchError as error:
        raise ValueError(str(error)) from None
    with engine_for(local) as engine, progress_lines(as_json) as progress:
        report = run_chaos(engine, name, planned, progress, load_users=load_users)
    if as_json:
        print_json(_plain(report))
    else:
        _print(report)
    return 0 if report.clean else EXIT_BROKEN


def _file(plan: str) -> Path:
    """The file called so, or that of a plan that comes with bpfleet."""
    path = Path(plan)
    if path.is_file():
        return path
    known = {each.stem: each for each in sorted(shipped(CHAOS_PLANS).glob("*.toml"))}
    if plan not in known:
        raise click.BadParameter(
            f"{plan!r}: neither a file nor a built-in plan; {advice(plan, known)}",
            param_hint="PLAN",
        )
    return known[plan]


def _plain(report: ChaosReport) -> dict[str, object]:
    told = report.told
    return {
        "plan": report.plan,
        "seed": report.seed,
        "faults": dict(report.faults),
        "skipped": report.skipped,
        "real_oom_kills": report.real_oom_kills,
        "acknowledged_writes": told.writes,
        "unanswered": sorted(told.unsure),
        "load": report.load,
        "settled_seconds": round(report.settled_seconds, 1),
        "clean": report.clean,
        "checks": [asdict(check) for check in report.checks],
    }


def _print(report: ChaosReport) -> None:
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(report.faults.items()))
    click.echo(f"{report.plan}, seed {report.seed}: {faults or 'nothing struck'}")
    for line in report.skipped:
        click.echo(f"skipped: {line}")
    for name in report.real_oom_kills:
        click.echo(f"{name} was killed by the real OOM killer of this machine")
    for row in report.load:
        click.echo(
            f"load {row['model']}: {row['calls']} calls, {row['transport_failures']} transport failures"
        )
    rows = [("ok" if c.holds else "BROKEN", c.name, c.detail) for c in report.checks]
    print_table(("", "property", "detail"), rows, numbers_from=3)
    click.echo(f"settled after {report.settled_seconds:.1f} s")
