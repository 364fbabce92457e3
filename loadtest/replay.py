"""Plays one lane of a load test again, without a network: same seed, same calls, same outcomes.

    bpfleet load --replay --kind tenant --seed 1 --lane 0 --kernel 6.12 --messages 200
    bpfleet load --replay --kind element --kernel 5.10 --memlock 16M --json

The lane is played on a node of its own, inside this process, by the executor of the node agent. The options of the load
test that say what is played have the same names, variables and defaults here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, final

from bpfleet.abi.bpf import capabilities_of
from bpfleet.kernel import KernelError
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.syscalls import Executor
from bpfleet.rpc.names import node_name
from bpfleet.runtime.profiles import profile_from
from bpfleet.v1 import bpf_pb2, bpf_service_pb2
from bpfleet.v1.bpf_service_pb2 import Syscall
from bpfleet.workload.quantity import parse_bytes
from bpfleet.workload.seeding import seed_for
from loadtest.calls import RESTART, Reply, reply_of
from loadtest.kinds import KINDS, script_for
from loadtest.options import LoadOptions, OptionError, add_arguments, size_of
from loadtest.outcomes import OutcomeTable
from loadtest.seat_process import CAPABILITIES, outcomes_of, uid_of
from loadtest.seats import Seat, SeatNode

__all__ = ["Replay", "main"]

_NODE: Final = "node-0001"
_CALL_NS: Final = 1_000  # an agent's own default


@final
class Replay:
    """A seat on a node of this process. ``table`` counts outcomes, ``digest`` covers every call made."""

    def __init__(self, seat: Seat, options: LoadOptions, *, node_seed: int) -> None:
        self.table: Final = OutcomeTable()
        self.calls = 0
        self._digest: Final = hashlib.sha256()
        self._seat: Final = seat
        self._options: Final = options
        agent = Agent("replay", call_ns=_CALL_NS)
        shape = NodeBoot(
            profile=profile_from(seat.node.model),
            ram_bytes=seat.node.ram_bytes,
            possible_cpus=seat.node.possible_cpus,
            seed=node_seed,
        )
        self._node: Final = agent.create(seat.node.name, shape)
        self._executor: Final = Executor(agent)
        self._cgroup: Final = f"/load-{seat.name}"
        with self._node.guard() as kernel:
            kernel.mkdir(self._cgroup)
        if options.limit_bytes is not None:
            with self._node.guard() as kernel:
                kernel.write_file(self._cgroup, "memory.max", str(options.limit_bytes))
        self._pid = self._spawn()

    @property
    def digest(self) -> str:
        """SHA-256 over the calls so far, in order."""
        return self._digest.hexdigest()

    async def run(self, *, messages: int, calls: int | None) -> None:
        """Plays until so many messages were sent, or so many calls were counted."""
        script = script_for(self._seat, self._options)
        replies: Sequence[Reply] | None = None
        for _ in range(messages):
            if calls is not None and self.calls >= calls:
                return
            message: Sequence[Syscall] = next(script) if replies is None else script.send(replies)
            for call in message:
                self._digest.update(call.SerializeToString(deterministic=True) + b"\n")
            if message[0] is RESTART:
                self._restart()
                replies = [Reply()]
                continue
            replies = await self._execute(message)
            counted, killed = outcomes_of(self._seat.node.model, message, replies)
            self.calls += len(counted)
            for outcome, elements in counted:
                self.table.record(outcome, elements=elements)
            if killed:
                self._restart()
                script, replies = script_for(self._seat, self._options), None

    async def _execute(self, calls: Sequence[Syscall]) -> list[Reply]:
        caller = bpf_pb2.Caller(node=node_name(self._seat.node.name), pid=self._pid)
        request = bpf_service_pb2.ExecuteSyscallsRequest(caller=caller, syscalls=calls)
        answer = await self._executor.execute(request)
        return [reply_of(result) for result in answer.results]

    def _restart(self) -> None:
        with (
            self._node.guard() as kernel,
            contextlib.suppress(KernelError),
        ):  # the OOM killer was first
            kernel.kill(self._pid)
        self._pid = self._spawn()

    def _spawn(self) -> int:
        memlock = self._options.memlock_bytes
        with self._node.guard() as kernel:
            task = kernel.spawn(
                uid=uid_of(self._seat),
                caps=capabilities_of(CAPABILITIES),
                memlock=None if memlock is None else (memlock, memlock),
                cgroup=self._cgroup,
                comm=self._seat.kind[:15],
            )
            return task.pid


class _Parser(argparse.ArgumentParser):
    """Takes the options of the load test, with their variables, as Locust's parser does."""

    def add_argument(
        self, *names: str, env_var: str = "", include_in_web_ui: bool = True, **rest: Any
    ) -> argparse.Action:
        if env_var in os.environ:
            rest["default"] = os.environ[env_var]
        return super().add_argument(*names, **rest)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="bpfleet load --replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", choices=sorted(KINDS), required=True, help="Kind of user")
    parser.add_argument("--lane", type=int, default=0, help="Lane; each user of a kind has one [0]")
    parser.add_argument(
        "--node-cpus", dest="cpus", type=int, default=4, help="CPUs of the node [4]"
    )
    parser.add_argument("--node-ram", dest="ram", default="8G", help="Memory of the node [8G]")
    parser.add_argument("--node-seed", type=int, default=1, help="Seed of the node [1: the first]")
    parser.add_argument("--messages", type=int, default=100, help="Messages to play [100]")
    parser.add_argument("--calls", type=int, help="Stop once so many calls were counted")
    parser.add_argument("--json", action="store_true", help="Print JSON")
    add_arguments(parser)
    chosen = parser.parse_args(arguments)
    if not chosen.kernel or "," in chosen.kernel:
        parser.error("--kernel: name the one kernel of the node")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Prints outcomes and digest; the exit status is 2 for a bad option."""
    chosen = _arguments(arguments)
    try:
        options = LoadOptions.parsed(chosen)
        ram_bytes = size_of("--node-ram", chosen.ram, parse_bytes, " or 8G")
        node = SeatNode(chosen.kernel, _NODE, "replay", chosen.cpus, ram_bytes)
        seed = seed_for(options.seed, chosen.kind, chosen.lane)
        seat = Seat(chosen.kind, chosen.lane, seed, node)
        replay = Replay(seat, options, node_seed=chosen.node_seed)
    except (OptionError, ValueError) as error:
        print(f"bpfleet: {error}", file=sys.stderr)
        return 2
    asyncio.run(replay.run(messages=chosen.messages, calls=chosen.calls))
    if chosen.json:
        names = ("model", "call", "errno", "reason", "count")
        rows = [dict(zip(names, row, strict=True)) for row in replay.table.rows()]
        print(
            json.dumps({"digest": replay.digest, "calls": replay.calls, "outcomes": rows}, indent=2)
        )
        return 0
    for _, call, errno, reason, count in replay.table.rows():
        print(f"{count:>10,}  {call} {errno} {reason}".rstrip())
    print(f"{replay.calls:,} calls, digest {replay.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
