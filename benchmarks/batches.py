"""Map churn over gRPC into one agent: batches of packed keys and values against one element a call."""

import struct
import time
from collections.abc import Callable

from agent_process import AgentProcess
from figures import Figure
from host_bpf import churn_rates

from bpfleet.client.bpf import Map

SIZES = (1024, 4096, 8192)
TARGET_PER_S = 500_000
TARGET_RATIO = 100


def measure(seconds: float) -> list[Figure]:
    """``seconds`` is the time for each way of calling."""
    figures: list[Figure] = []
    with AgentProcess() as agent:
        process = agent.client.node(agent.node_id(0)).create_process()
        target = process.create_map("hash", key_size=8, value_size=8, max_entries=20_000)
        single = Rate(agent, seconds, lambda: _single(target, 64), 128)
        figures.append(_line("one element a call", single, None))
        best = 0.0
        for size in SIZES:
            keys = struct.pack(f"<{size}Q", *range(size))
            rate = Rate(agent, seconds, _batch(target, keys, size), 2 * size)
            figures.append(_line(f"{size} elements a call", rate, TARGET_PER_S))
            best = max(best, rate.per_s)
    ratio = best / single.per_s
    figures.append(
        Figure(
            "churn: batches against single calls",
            f"{ratio:,.0f} times",
            f">= {TARGET_RATIO}",
            ratio >= TARGET_RATIO,
        )
    )
    return [*figures, *_host(seconds)]


class Rate:
    """Elements per second of time passed, and per second of CPU that the agent used."""

    def __init__(
        self, agent: AgentProcess, seconds: float, work: Callable[[], None], elements: int
    ) -> None:
        work()
        before, started, done = agent.cpu_seconds(), time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds:
            work()
            done += elements
        self.per_s = done / passed
        self.per_cpu_s = done / max(agent.cpu_seconds() - before, 0.01)


def _single(target: Map, count: int) -> None:
    keys = [struct.pack("<Q", number) for number in range(count)]
    for key in keys:
        target.update(key, bytes(8))
    for key in keys:
        target.delete(key)


def _batch(target: Map, keys: bytes, count: int) -> Callable[[], None]:
    values = bytes(8 * count)

    def work() -> None:
        target.update_batch(keys, values, count)
        target.delete_batch(keys, count)

    return work


def _line(what: str, rate: Rate, target: int | None) -> Figure:
    return Figure(
        f"churn over gRPC: {what}",
        f"{rate.per_s:,.0f} elements/s",
        "" if target is None else f">= {target:,}",
        None if target is None else rate.per_s >= target,
        f"{rate.per_cpu_s:,.0f} per CPU second of the agent",
    )


def _host(seconds: float) -> list[Figure]:
    rates = churn_rates(SIZES[-1], seconds)
    if isinstance(rates, str):
        return [Figure("churn on this machine's kernel", "skipped", note=rates)]
    batched, single = rates
    return [
        Figure(
            f"bpf(2) on this machine: {SIZES[-1]} elements a call", f"{batched:,.0f} elements/s"
        ),
        Figure("bpf(2) on this machine: one element a call", f"{single:,.0f} elements/s"),
    ]
