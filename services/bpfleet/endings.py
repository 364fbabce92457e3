"""What is started can be ended: SIGTERM as Ctrl-C, and no child outlives its parent."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["EXIT_TERMINATED", "Terminated", "die_with_parent", "terminable"]

EXIT_TERMINATED: Final = 128 + signal.SIGTERM
_PR_SET_PDEATHSIG: Final = 1


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything that Ctrl-C would undo is undone."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises ``Terminated`` inside, unless somebody handles it otherwise already.

    The same cleaning up as after Ctrl-C, and no ``finally`` left out.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel end this process when its parent ends, in whatever way. Ends at once where it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(EXIT_TERMINATED)
