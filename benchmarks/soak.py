"""Does an agent grow? Map churn, maps that come and go, processes and events, for as long as is asked for.

The agent warms up for a tenth of the time, and until its bounded logs are full; from then on its memory is compared.
"""

import struct
import time

from agent_process import AgentProcess
from figures import Figure

from bpfleet.client.bpf import Node

TARGET_PERCENT = 1.0
# Few, so that their bounded logs of events and answers are full soon.
NODES = 4
WARM_ROUNDS = 160 * NODES
ELEMENTS = 2_048


def measure(seconds: float) -> list[Figure]:
    """Churns for ``seconds``."""
    rounds = 0
    with AgentProcess(nodes=NODES) as agent:
        nodes = [agent.client.node(agent.node_id(number)) for number in range(NODES)]
        for node in nodes:
            node.create_cgroup("/work", {"memory.max": "64M"})
        started = time.monotonic()
        warm_at, ends_at = started + seconds / 10, started + seconds
        first = highest = 0
        while time.monotonic() < ends_at or rounds < 2 * WARM_ROUNDS:
            _round(nodes[rounds % NODES], rounds)
            rounds += 1
            if not first and time.monotonic() >= warm_at and rounds >= WARM_ROUNDS:
                first = agent.rss_bytes()
            if first and rounds % 16 == 0:
                highest = max(highest, agent.rss_bytes())
        passed = time.monotonic() - started
        last = agent.rss_bytes()
    growth = (last / first - 1) * 100
    return [
        Figure(
            f"growth of an agent over {passed / 60:.1f} minutes of churn",
            f"{growth:+.2f} %",
            f"<= {TARGET_PERCENT} % in 30 minutes",
            growth <= TARGET_PERCENT,
            f"{first / 2**20:.1f} MiB to {last / 2**20:.1f} MiB, at most {highest / 2**20:.1f};"
            f" {rounds:,} rounds",
        )
    ]


def _round(node: Node, number: int) -> None:
    """A process that fills and empties maps of three kinds, uses memory, and ends."""
    process = node.create_process(cgroup="/work")
    process.allocate(1 << 20)
    for kind, flags in (("hash", 0), ("hash", 1), ("lru_hash", 0)):
        churned = process.create_map(
            kind, key_size=8, value_size=8, max_entries=2 * ELEMENTS, map_flags=flags
        )
        keys = struct.pack(f"<{ELEMENTS}Q", *range(number, number + ELEMENTS))
        churned.update_batch(keys, bytes(8 * ELEMENTS), ELEMENTS)
        churned.lookup_batch(ELEMENTS // 2)
        churned.delete_batch(keys, ELEMENTS)
        if number % 2:
            churned.close()
    process.kill()
    if number % 8 == 7:
        node.advance(50_000_000)
