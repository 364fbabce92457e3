"""``map`` over worker processes: same results, same order, whatever their number."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Final, Protocol, TypeVar

__all__ = ["AGENTS_MAX", "Mapper", "WorkerLost", "workers"]

AGENTS_MAX: Final = 64

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerLost(Exception):
    """A worker process died: killed from outside, or out of memory."""


class Mapper(Protocol):
    """Applies a picklable function to tasks and yields the results in the tasks' order."""

    def __call__(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], /
    ) -> Iterator[Result]:
        """The results, one by one."""


@contextmanager
def workers(agents: int) -> Iterator[Mapper]:
    """A mapper over ``agents`` processes; 1 stays in this one. Left early, the processes are ended
    at once.

    Raises ``ValueError`` for a bad ``agents``; while mapping, ``BrokenProcessPool`` when a worker
    was killed.
    """
    if not 1 <= agents <= AGENTS_MAX:
        raise ValueError(f"agents = {agents}: out of range; use 1 to {AGENTS_MAX}")
    if agents == 1:
        yield map
        return
    before = set(active_children())
    pool = ProcessPoolExecutor(agents, mp_context=get_context("spawn"), initializer=_ignore_sigint)
    try:
        yield pool.map
    except BrokenProcessPool:
        raise WorkerLost("a worker process ended before its work was done") from None
    except BaseException:
        for child in set(active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ignore_sigint() -> None:
    """Ctrl-C reaches the whole process group; only the parent answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
