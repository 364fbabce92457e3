"""Many seeds, one after the other, until one fails; and the command that repeats it."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bpfleet.sim.fleet import Outcome, simulate

__all__ = ["FailedSeed", "repeat_command", "run_seeds", "silence"]


@dataclass(frozen=True, slots=True)
class FailedSeed:
    """A seed under which a property did not hold, or the program broke."""

    seed: int
    error: BaseException

    def __str__(self) -> str:
        kind = type(self.error).__name__
        return f"seed {self.seed}: {kind}: {self.error}\nrepeat with: {repeat_command(self.seed)}"


def repeat_command(seed: int) -> str:
    """What to type to see a seed's run again."""
    return f"bpfleet sim --seed {seed}"


def run_seeds(
    seeds: Iterable[int], progress: Callable[[Outcome], None] = lambda outcome: None
) -> FailedSeed | None:
    """Runs seeds; returns the first that fails, or None. ``progress`` hears of those that pass."""
    with silence():
        for seed in seeds:
            try:
                progress(simulate(seed))
            except Exception as error:
                # Whatever it is, the seed repeats it: that is what the caller needs to know.
                return FailedSeed(seed, error)
    return None


@contextmanager
def silence() -> Iterator[None]:
    """Keeps the coordinators' log lines about simulated trouble out of the way."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
