"""Node agents for tests: real servers on loopback, each in a thread with an event loop of its own."""

import asyncio
import threading
import time
from contextlib import contextmanager

from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import Session
from bpfleet.kernel import profile_named
from bpfleet.node_agent.config import AgentSettings
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.server import NodeAgent
from bpfleet.rpc.server import ServerOptions

DEADLINE_SECONDS = 20.0


def settings(**changes):
    """Settings of a small agent; ``profile``, ``ram_bytes`` and ``possible_cpus`` go into the shape of its nodes."""
    shape = NodeBoot(
        profile=profile_named(changes.pop("profile", "6.12")),
        ram_bytes=changes.pop("ram_bytes", 8 << 30),
        possible_cpus=changes.pop("possible_cpus", 4),
        seed=changes.pop("seed", 0),
    )
    defaults = {"agent_id": "a1", "nodes": 2, "server": ServerOptions(stop_grace_seconds=1)}
    return AgentSettings(shape=shape, **{**defaults, **changes})


async def _started(chosen):
    """An agent belongs to the loop it is made in."""
    agent = NodeAgent(chosen)
    await agent.start()
    return agent


class RunningAgent:
    """An agent that serves. ``node_agent`` may be touched from its own loop only: use ``inside``."""

    def __init__(self, chosen):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.node_agent = self.wait(_started(chosen))
        self.target = f"127.0.0.1:{self.node_agent.server.port}"

    def wait(self, work):
        """The result of a coroutine on the agent's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_SECONDS)

    def inside(self, function):
        """The result of a function called on the agent's loop, with the agent."""

        async def call():
            return function(self.node_agent)

        return self.wait(call())

    def stop(self):
        """Stops the server and its loop."""
        self.wait(self.node_agent.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_SECONDS)
        self.loop.close()


@contextmanager
def running(**changes):
    """An agent for the time of a ``with`` block."""
    agent = RunningAgent(settings(**changes))
    try:
        yield agent
    finally:
        agent.stop()


@contextmanager
def connected(**changes):
    """An agent, and a client of it."""
    with running(**changes) as agent, Session(agent.target) as session:
        yield agent, AgentClient(session)


def until(condition, what):
    """Waits until ``condition()`` is true and returns what it returned."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < give_up_at:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"still not so after {DEADLINE_SECONDS:g} s: {what}")
