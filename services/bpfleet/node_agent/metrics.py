"""Prometheus metrics of an agent. The event loop writes a snapshot; the thread that serves scrapes only reads it."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.replicas import Replicas
from bpfleet.rpc.server import ListenError, parse_address
from bpfleet.workload.phase import Phase

__all__ = ["AgentMetrics"]

REFRESH_SECONDS: Final = 2.0
_NODES_PER_TURN: Final = 500


@dataclass(frozen=True, slots=True)
class _Snapshot:
    nodes: dict[tuple[str, str], int] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], int] = field(default_factory=dict)
    charged_bytes: dict[tuple[str, str], int] = field(default_factory=dict)
    replicas: dict[Phase, int] = field(default_factory=dict)


@final
class AgentMetrics(Collector):
    """Nodes by profile and phase, verdicts by profile and errno, bytes charged for BPF by class, replicas by state."""

    def __init__(self, agent: Agent, replicas: Replicas) -> None:
        self._agent: Final = agent
        self._replicas: Final = replicas
        self._snapshot = _Snapshot()

    def serve(self, address: str) -> None:
        """Answers scrapes at ``address``. Raises ``ListenError``."""
        registry = CollectorRegistry()
        registry.register(self)
        host, port = parse_address(address)
        try:
            start_http_server(port, host, registry)
        except OSError as error:
            raise ListenError(f"cannot serve metrics on {address}: {error.strerror}") from None

    async def refresh(self) -> None:
        """Takes a new snapshot every two seconds, for ever."""
        while True:
            self._snapshot = await self._take()
            await asyncio.sleep(REFRESH_SECONDS)

    async def _take(self) -> _Snapshot:
        nodes: Counter[tuple[str, str]] = Counter()
        verdicts: Counter[tuple[str, str]] = Counter()
        charged: Counter[tuple[str, str]] = Counter()
        for position, node in enumerate(self._agent.all()):
            profile = node.shape.profile.name
            nodes[profile, "crashed" if node.crash_message else "running"] += 1
            for name, size_bytes in node.bpf_charged_by_class.items():
                charged[profile, name] += size_bytes
            for errno, count in node.all_verdicts().items():
                verdicts[profile, errno] += count
            if position % _NODES_PER_TURN == _NODES_PER_TURN - 1:
                await asyncio.sleep(0)
        phases: Counter[Phase] = Counter()
        for key in self._replicas.keys:
            attempt = self._replicas.find(key)
            if attempt is not None:
                phases[attempt.settle()] += 1
        return _Snapshot(dict(nodes), dict(verdicts), dict(charged), dict(phases))

    def collect(self) -> Iterator[Metric]:
        """The families of the last snapshot."""
        snapshot = self._snapshot
        nodes = GaugeMetricFamily("bpfleet_nodes", "Emulated nodes", labels=["profile", "phase"])
        for labels, value in snapshot.nodes.items():
            nodes.add_metric(labels, value)
        yield nodes
        verdicts = CounterMetricFamily(
            "bpfleet_verdicts", "Refusals of the emulated kernels", labels=["profile", "errno"]
        )
        for labels, value in snapshot.verdicts.items():
            verdicts.add_metric(labels, value)
        yield verdicts
        charged = GaugeMetricFamily(
            "bpfleet_bpf_charged_bytes",
            "Bytes charged for BPF objects, by allocator, or as locked_vm",
            labels=["profile", "class"],
        )
        for labels, value in snapshot.charged_bytes.items():
            charged.add_metric(labels, value)
        yield charged
        replicas = GaugeMetricFamily("bpfleet_replicas", "Replicas of workloads", labels=["phase"])
        for phase, value in snapshot.replicas.items():
            replicas.add_metric([phase.value.lower()], value)
        yield replicas
