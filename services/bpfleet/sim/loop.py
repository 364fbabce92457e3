"""An event loop whose clock jumps: nothing waits, and the same program runs the same way every time."""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

__all__ = ["VirtualLoop", "run"]

T = TypeVar("T")


class _NoFiles(selectors.BaseSelector):
    """Waits by moving the clock. Files never become ready: there are none but the loop's own pipe."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[int, selectors.SelectorKey] = {}

    # Any: the signatures are those of the standard library.
    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, number, events, data)
        self._keys[number] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return self._keys.pop(number)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: every task is waiting and no timer is due")
        self.now_s += max(0.0, timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds of ``time`` pass only when every task waits."""

    def __init__(self) -> None:
        self._files: Final = _NoFiles()
        super().__init__(self._files)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._files.now_s

    def now_ms(self) -> int:
        """The same in whole milliseconds, from a time that is not 0."""
        return 1_000_000 + round(self._files.now_s * 1000)


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Runs ``main`` to its end on ``loop`` and closes it, ending whatever else still runs."""
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        rest = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
        for task in rest:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
