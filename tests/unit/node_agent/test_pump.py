"""The background work of an agent ends when it is told to, also when work arrives in the same instant."""

import asyncio
import time
from typing import cast

import pytest

from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.replicas import Attempt, Replicas


async def _cancelled_while_woken(rounds: int) -> bool:
    replicas = Replicas(Agent("a1", call_ns=0), churn_share=0.5)
    # A step that is due in a minute makes the pump wait with a timeout.
    replicas._due.append((time.monotonic() + 60, 0, cast(Attempt, None)))
    pump = asyncio.create_task(replicas.pump())
    for _ in range(rounds):
        await asyncio.sleep(0)
    replicas._wanted.set()  # what a new replica does
    pump.cancel()
    done, _ = await asyncio.wait({pump}, timeout=5)
    return pump in done and pump.cancelled()


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 8])
def test_a_cancelled_pump_ends_although_it_was_just_woken(rounds):
    assert asyncio.run(_cancelled_while_woken(rounds))
