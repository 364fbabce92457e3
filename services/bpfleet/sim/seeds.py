"""Many seeds, on as many processes as wanted, until one fails; and the command that repeats it."""

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bpfleet.sim.fleet import SeedOutcome, simulate

__all__ = ["FailedSeed", "repeat_command", "run_seeds", "silence"]


@dataclass(frozen=True, slots=True)
class FailedSeed:
    """A seed under which a property did not hold, or the program broke; ``error`` says how."""

    seed: int
    error: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.error}\nrepeat with: {repeat_command(self.seed)}"


def repeat_command(seed: int) -> str:
    """What to type to see a seed's run again."""
    return f"bpfleet sim --seed {seed}"


def run_seeds(
    seeds: Iterable[int],
    progress: Callable[[SeedOutcome], None] = lambda outcome: None,
    *,
    jobs: int = 1,
) -> FailedSeed | None:
    """Runs seeds, ``jobs`` at a time; returns the first that fails, or None. ``progress`` hears of those that
    pass, in the order of the seeds.
    """
    if jobs == 1:
        with silence():
            return _first_failure(map(_run, seeds), progress)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _quiet_worker) as workers:
        try:
            return _first_failure(workers.map(_run, seeds), progress)
        finally:
            workers.shutdown(wait=True, cancel_futures=True)


def _first_failure(
    results: Iterable[SeedOutcome | FailedSeed], progress: Callable[[SeedOutcome], None]
) -> FailedSeed | None:
    for result in results:
        if isinstance(result, FailedSeed):
            return result
        progress(result)
    return None


def _run(seed: int) -> SeedOutcome | FailedSeed:
    try:
        return simulate(seed)
    except Exception as error:
        # Whatever it is, the seed repeats it: that is what the caller needs to know.
        return FailedSeed(seed, f"{type(error).__name__}: {error}")


def _quiet_worker() -> None:
    """Ctrl-C ends the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)


@contextmanager
def silence() -> Iterator[None]:
    """Keeps the coordinators' log lines about simulated trouble out of the way."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
