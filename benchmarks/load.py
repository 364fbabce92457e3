"""The figures of load and scale, as one table.

    python benchmarks/load.py                       all of them, at full size (about 15 minutes)
    python benchmarks/load.py --quick               all of them, smaller
    python benchmarks/load.py --only batches,trace
    python benchmarks/load.py --only soak --soak-seconds 1800

Rates come with the CPU time they took, so that a busy machine does not hide them.
"""

import json
import subprocess
import sys
from pathlib import Path

import batches
import click
import fleet_memory
import simulated_day
import soak
from figures import Figure, as_json, print_table

TRACE_SECONDS = 60
FIGURES = ("batches", "trace", "day", "memory", "soak")


def trace(operations: int) -> list[Figure]:
    """Operations under four models, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("trace.py")), "--json"]
    command += ["--operations", str(operations)]
    answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found = json.loads(answer)
    full = found["seconds"] * 1_000_000 / found["operations"]
    return [
        Figure(
            f"trace: {found['operations']:,} operations under {found['models']} models",
            f"{found['seconds']} s",
            f"<= {TRACE_SECONDS} s for 1,000,000",
            full <= TRACE_SECONDS,
            f"{found['cpu_seconds']} s of CPU, {found['microseconds_per_operation_and_model']} us"
            " per operation and model",
        )
    ]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Smaller sizes, about two minutes.")
@click.option("--only", default=",".join(FIGURES), show_default=True, help="Which figures.")
@click.option(
    "--soak-seconds", type=float, help="How long the soak runs.  [default: 1800, quick: 20]"
)
@click.option("--json", "wants_json", is_flag=True, help="Print JSON.")
def main(quick: bool, only: str, soak_seconds: float | None, wants_json: bool) -> None:
    chosen = only.split(",")
    if unknown := set(chosen) - set(FIGURES):
        raise click.UsageError(
            f"--only: no figure {unknown.pop()!r}; there are {', '.join(FIGURES)}"
        )
    measures = {
        "batches": lambda: batches.measure(2.0 if quick else 10.0),
        "trace": lambda: trace(100_000 if quick else 1_000_000),
        "day": lambda: simulated_day.measure(1 if quick else 24),
        "memory": lambda: fleet_memory.measure(1_000 if quick else 10_000),
        "soak": lambda: soak.measure(soak_seconds or (20.0 if quick else 1800.0)),
    }
    figures = [figure for name in chosen for figure in measures[name]()]
    if wants_json:
        click.echo(json.dumps(as_json(figures), indent=2))
    else:
        print_table(figures)


if __name__ == "__main__":
    main()
