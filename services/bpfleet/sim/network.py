"""Calls between simulated processes: delayed, lost, repeated, cut off, and ended by crashes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

__all__ = ["LATE_SECONDS", "Network", "NetworkFaults", "SimProcess", "Unreachable"]

T = TypeVar("T")

CALL_SECONDS: Final = 4.0
# When a call that is carried out twice arrives the second time, at the latest.
LATE_SECONDS: Final = 2 * CALL_SECONDS


class Unreachable(Exception):
    """The caller got no answer; whether the call was carried out is unknown to it."""


@dataclass(slots=True)
class NetworkFaults:
    """How bad the network is: shares of calls, and seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_max_s: float = 0.02
    slow_share: float = 0.0
    slow_max_s: float = 2.0


class SimProcess:
    """Something that can crash: all its tasks end at once, and calls to it fail until it is up again.

    It can also be held up, whole (stopped, or in one long turn of its event loop) or at every step for want of CPU:
    then whatever reaches it, and its own timers, wait. ``slow_s`` is how long a step waits at most.
    """

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.life = 0
        self.up = False
        self.slow_s = 0.0
        self._held_until_s = 0.0
        self._random: Final = random
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def start(self) -> None:
        """Comes up, as a new life."""
        self.life += 1
        self.up = True
        self._held_until_s = 0.0

    def crash(self) -> None:
        """Ends everything that runs in it."""
        self.up = False
        for task in list(self._tasks):
            task.cancel()
        self._tasks.clear()

    def hold(self, seconds: float) -> None:
        """Nothing happens in it for so long."""
        self._held_until_s = asyncio.get_running_loop().time() + seconds

    async def its_turn(self) -> None:
        """Waits until the process gets to what is due now."""
        if self.slow_s:
            await asyncio.sleep(self._random.random() * self.slow_s)
        while (left_s := self._held_until_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left_s)

    async def sleep(self, seconds: float) -> None:
        """A timer of its event loop."""
        await asyncio.sleep(seconds)
        await self.its_turn()

    # The coroutine's result is its caller's business.
    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Runs a coroutine as part of the process."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task


class Network:
    """All links between processes. Links are named by the two processes, in either order."""

    def __init__(self, random: Random) -> None:
        self.faults = NetworkFaults()
        self._random = random
        self._cut: dict[tuple[str, str], None] = {}
        self.calls = 0

    def cut(self, one: str, other: str) -> None:
        """No call passes between the two until the link is healed."""
        self._cut[min(one, other), max(one, other)] = None

    def heal_link(self, one: str, other: str) -> None:
        """Calls pass between the two again."""
        self._cut.pop((min(one, other), max(one, other)), None)

    def heal(self) -> None:
        """Every link works, and the network is fast and faithful."""
        self._cut.clear()
        self.faults = NetworkFaults()

    async def call(
        self,
        source: SimProcess,
        target: SimProcess,
        work: Callable[[], Awaitable[T]],
        *,
        once: bool = False,
    ) -> T:
        """Carries out ``work`` at ``target`` and returns its answer, if the network lets it.

        ``once``: never twice, and not after the caller gave up, as gRPC cancels a call whose deadline has passed.
        Errors of ``work`` come back as they are. Raises ``Unreachable``.
        """
        self.calls += 1
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        life = target.life
        if self._random.random() < self.faults.duplication and not once:
            target.spawn(self._arrive_late(source, target, life, work))
        try:
            async with asyncio.timeout_at(deadline):
                await self._travel(source, target, life)
                answer = await self._carry_out(target, work, outlives_caller=not once)
                await self._travel(target, source, source.life)
                await source.its_turn()
                return answer
        except TimeoutError:
            raise Unreachable(f"{target.name} did not answer in time") from None

    async def _carry_out(
        self, target: SimProcess, work: Callable[[], Awaitable[T]], *, outlives_caller: bool
    ) -> T:
        """Runs at the target and ends with it; or with the caller, unless it ``outlives_caller``."""

        async def at_target() -> T:
            await target.its_turn()
            return await work()

        task = target.spawn(at_target())
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(_ignore)
            if not outlives_caller:
                task.cancel()
            raise
        if task.cancelled():
            raise Unreachable(f"{target.name} crashed")
        answer: T = task.result()
        return answer

    async def _travel(self, source: SimProcess, target: SimProcess, life: int) -> None:
        faults = self.faults
        delay_s = self._random.random() * faults.delay_max_s
        if self._random.random() < faults.slow_share:
            delay_s = self._random.random() * faults.slow_max_s
        lost = self._random.random() < faults.loss
        await asyncio.sleep(delay_s)
        if lost:
            await asyncio.sleep(CALL_SECONDS)
        if not self._passes(source, target, life):
            raise Unreachable(f"no way from {source.name} to {target.name}")

    def _passes(self, source: SimProcess, target: SimProcess, life: int) -> bool:
        link = min(source.name, target.name), max(source.name, target.name)
        return target.up and target.life == life and link not in self._cut

    async def _arrive_late(
        self, source: SimProcess, target: SimProcess, life: int, work: Callable[[], Awaitable[Any]]
    ) -> None:
        await asyncio.sleep(self._random.random() * LATE_SECONDS)
        if self._passes(source, target, life):
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # The answer to a repeated call has no reader; a broken invariant must be heard of.
                if isinstance(error, AssertionError):
                    raise


def _ignore(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
