"""``map`` over worker processes: same results, same order, whatever their number."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import Final, Protocol, TypeVar

from bpfleet.endings import die_with_parent

__all__ = ["JOBS_MAX", "Mapper", "WorkerLost", "workers"]

JOBS_MAX: Final = 64

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
def workers(jobs: int) -> Iterator[Mapper]:
    """A mapper over ``jobs`` processes; 1 stays in this one. Left early, the processes are ended at once.

    They also end with this process, whatever happens to it.

    Raises ``ValueError`` for a bad ``jobs``; while mapping, ``WorkerLost`` when a worker process was killed.
    """
    if not 1 <= jobs <= JOBS_MAX:
        raise ValueError(f"jobs = {jobs}: out of range; use 1 to {JOBS_MAX}")
    if jobs == 1:
        yield map
        return
    before = set(active_children())
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(),),
    )
    try:
        with _interrupts_held():
            for started in [pool.submit(_started) for _ in range(jobs)]:
                started.result()
        yield pool.map
    except BrokenProcessPool:
        # The pool ends the workers it knows, which may leave out the one that was just being started.
        _end(set(active_children()) - before)
        raise WorkerLost("a worker process ended before its work was done") from None
    except BaseException:
        _end(set(active_children()) - before)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end(children: Iterable[BaseProcess]) -> None:
    for child in children:
        child.kill()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the workers are up: one that is interrupted half way through its start, or whose
    parent is, dies noisily.

    Workers inherit the blocked Ctrl-C, which reaches the whole process group, and leave it to the parent for good.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _begin(parent_pid: int) -> None:
    """The first thing that a worker does."""
    die_with_parent(parent_pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _started() -> None:
    """The first task of every worker."""
