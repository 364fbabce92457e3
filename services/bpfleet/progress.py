"""How far long work has come: a bar for people at a terminal, a line every ten seconds for a log."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress", "progress_line", "ticking", "waiting"]

_FIRST_SECONDS: Final = 2.0
_EVERY_SECONDS: Final = 10.0


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows on standard error how many of ``total`` are done; each call of what it yields moves it on by one."""
    screen = Console(stderr=True, highlight=False)
    if not screen.is_terminal:
        with _lines(what, total) as advance:
            yield advance
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A sign of life on standard error while something of unknown length runs."""
    screen = Console(stderr=True, highlight=False)
    if screen.is_terminal:
        with screen.status(what):
            yield
        return
    with _lines(what, None):
        yield


def ticking(what: str) -> Callable[[], None]:
    """Says what is done each ten seconds, without a thread: for work that forks. Each call is one more."""
    done, began = 0, time.monotonic()
    due = _FIRST_SECONDS

    def tick() -> None:
        nonlocal done, due
        done += 1
        seconds = time.monotonic() - began
        if seconds >= due:
            click.echo(f"{what}: {done:,} after {seconds:.0f} s", err=True)
            due = seconds + _EVERY_SECONDS

    return tick


@contextmanager
def _lines(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A line after two seconds and every ten from then on, also while one piece of work takes longer."""
    done = 0
    ended = threading.Event()
    began = time.monotonic()

    def advance() -> None:
        nonlocal done
        done += 1

    def tell() -> None:
        pause = _FIRST_SECONDS
        while not ended.wait(pause):
            click.echo(progress_line(what, done, total, time.monotonic() - began), err=True)
            pause = _EVERY_SECONDS

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    # Signals are the main thread's: where it holds them back, another thread that takes them would not.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    teller.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, held)
    try:
        yield advance
    finally:
        ended.set()
        teller.join()


def progress_line(what: str, done: int, total: int | None, seconds: float) -> str:
    """One line of a log.

    >>> progress_line("nodes", 1200, 5000, 12.3), progress_line("limits", 0, None, 2)
    ('nodes: 1,200 of 5,000 after 12 s', 'limits: 2 s so far')
    """
    if total is None:
        return f"{what}: {seconds:.0f} s so far"
    return f"{what}: {done:,} of {total:,} after {seconds:.0f} s"
