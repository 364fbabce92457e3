"""Idle nodes sleep: their kernel is kept as a few KiB of compressed bytes until the next call wakes it.

A kernel is plain data without files, threads or clocks, so what wakes up is what fell asleep, and the caller notices
nothing but a millisecond. A new node sleeps soon, so that an agent that boots thousands never holds them all awake:
memory that Python once had for them would not go back. One that was woken has more patience.

Nodes with replicas, watchers, deferred work, many elements or no process stay awake, and so does one that holds
something bytes cannot express.
"""

import asyncio
import gc
import io
import pickle
import time
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, final

from bpfleet.abi.bpf import ALL_CAPABILITIES
from bpfleet.kernel import KernelProfile
from bpfleet.kernel.bpf.maps.base import zeroes
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.mm.memory import AllocKind, AllocSize

__all__ = ["ROUNDS_NEW", "ROUNDS_WOKEN", "freeze", "sleep_when_idle", "thaw"]

ELEMENTS_MAX: Final = 1_024
ROUND_SECONDS: Final = 1.0
# Idle rounds before a node sleeps for the first time, and later on.
ROUNDS_NEW: Final = 2
ROUNDS_WOKEN: Final = 60
SLICE_SECONDS: Final = 0.01
# As long for others as for this: at most half a CPU.
PAUSE_FACTOR: Final = 1
COLLECT_EVERY: Final = 256
_LONG_VALUE_BYTES: Final = 64


def freeze(kernel: Kernel) -> bytes:
    """The kernel as bytes; empty where it has to stay awake."""
    if kernel.crashed or len(kernel.timeline.deferred):
        return b""
    if not kernel.tasks():
        return b""  # nothing was started yet: small already
    if sum(bpf_map.entries() for bpf_map in kernel.bpf.maps()) > ELEMENTS_MAX:
        return b""
    raw = io.BytesIO()
    try:
        _Pickler(raw, kernel.profile).dump(kernel)
    # A closure somewhere, or links too deep to follow.
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
        return b""
    return zlib.compress(raw.getvalue(), 1)


def thaw(frozen: bytes, profile: KernelProfile) -> Kernel:
    """The kernel that `freeze` made bytes of; ``profile`` is the one it had."""
    kernel = _Unpickler(io.BytesIO(zlib.decompress(frozen)), profile).load()
    assert isinstance(kernel, Kernel), type(kernel)
    return kernel


# What kernels share is named, not copied: it would come back as a copy for every node.
@final
class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, profile: KernelProfile) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._profile: Final = profile

    # Any: pickle asks about objects of every type.
    def persistent_id(self, target: Any) -> Any:
        kind = type(target)
        if kind is AllocSize:
            return (int(target.kind), target.requested, target.taken, target.charge)
        if kind is bytes and len(target) > _LONG_VALUE_BYTES and not any(target):
            return len(target)
        if target is self._profile:
            return "profile"
        return "capabilities" if target is ALL_CAPABILITIES else None


@final
class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, profile: KernelProfile) -> None:
        super().__init__(file)
        self._profile: Final = profile

    def persistent_load(self, name: Any) -> Any:
        if isinstance(name, tuple):
            return _alloc_size(*name)
        if isinstance(name, int):
            return zeroes(name)
        return self._profile if name == "profile" else ALL_CAPABILITIES


@lru_cache(4096)
def _alloc_size(kind: int, requested: int, taken: int, charge: int) -> AllocSize:
    return AllocSize(AllocKind(kind), requested, taken, charge)


async def sleep_when_idle(doze: Callable[[], "list[Callable[[], bool]]"]) -> None:
    """Every second: puts those nodes to sleep that ``doze`` lists, in slices. Runs for ever."""
    while True:
        await asyncio.sleep(ROUND_SECONDS)
        slept, started = 0, time.monotonic()
        for fall_asleep in doze():
            slept += fall_asleep()
            if slept == COLLECT_EVERY:
                gc.collect()
                slept = 0
            spent = time.monotonic() - started
            if spent > SLICE_SECONDS:
                await asyncio.sleep(PAUSE_FACTOR * spent)
                started = time.monotonic()
        if slept:
            gc.collect()  # kernels are full of cycles, and large heaps are rarely collected as a whole
