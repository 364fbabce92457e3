"""Simulates fleets: ``python -m bpfleet.sim``."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from bpfleet.progress import progress
from bpfleet.sim.fleet import SeedOutcome, World
from bpfleet.sim.loop import VirtualLoop, run
from bpfleet.sim.seeds import run_seeds, silence

_EXAMPLES = """
\b
Examples:
  bpfleet sim --seeds 300
  bpfleet sim --seeds 10000 --first 1000 --jobs 8
  bpfleet sim --seed 157 --trace trace.txt
"""


@click.command(epilog=_EXAMPLES)
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first.")
@click.option("--seed", type=click.IntRange(0), help="Only this one.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Seeds at a time [default: the number of CPUs].",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per seed.")
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --seed: write every stored batch, start, stop and fault to this file.",
)
def main(
    *,
    seeds: int,
    first: int,
    seed: int | None,
    jobs: int | None,
    as_json: bool,
    trace: Path | None,
) -> None:
    """Runs coordinators, agents, store and network in one process, badly treated, seed by seed."""
    if trace is not None:
        if seed is None:
            raise click.UsageError("--trace needs --seed")
        _trace(seed, trace)
        return
    chosen = [seed] if seed is not None else range(first, first + seeds)
    outcomes: list[SeedOutcome] = []
    with progress("seeds", len(chosen)) as advance:

        def passed(outcome: SeedOutcome) -> None:
            outcomes.append(outcome)
            if as_json:
                print(json.dumps(asdict(outcome)), flush=True)
            advance()

        at_a_time = min(len(chosen), jobs or os.cpu_count() or 1)
        try:
            failed = run_seeds(chosen, passed, jobs=at_a_time)
        except KeyboardInterrupt:
            if outcomes:
                done = len(outcomes)
                click.echo(f"{done:,} seeds passed; --first {chosen[0] + done} goes on", err=True)
            raise
    if failed is not None:
        click.echo(str(failed), err=True)
        sys.exit(1)
    if as_json:
        return
    click.echo(
        f"{len(outcomes):,} seeds: {sum(o.batches for o in outcomes):,} batches, "
        f"{sum(o.acknowledged for o in outcomes):,} acknowledged commands, "
        f"{sum(o.crashes for o in outcomes):,} crashes, nothing broken"
    )


def _trace(seed: int, path: Path) -> None:
    loop = VirtualLoop()
    world = World(seed, loop)
    with path.open("w") as file, silence():
        world.trace = lambda text: print(text, file=file)
        outcome = run(world.run(seed), loop)
    click.echo(str(outcome))


if __name__ == "__main__":
    main(prog_name="python -m bpfleet.sim")
