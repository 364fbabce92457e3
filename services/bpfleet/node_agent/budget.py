"""Real memory: what the requests of clients may make an agent take, of this machine, not of an emulated one.

Emulated memory costs the emulator little, so the memory of a node bounds nothing. What does cost is counted: values of
maps, objects, names. A request is admitted by an estimate of the most it can add; that is cheap, and too much in the
long run, since much of it is freed or was never taken. So a node that reaches its limit is measured, and only what is
then still too much is refused.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.kernel import Kernel
from bpfleet.rpc.errors import ApiError

if TYPE_CHECKING:
    from bpfleet.node_agent.node import HostedNode

__all__ = ["NODE_BYTES", "OBJECT_BYTES", "Budget", "machine_bytes", "measured_bytes"]

# A node without anything on it; more for each CPU.
NODE_BYTES: Final = 16 << 10
CPU_BYTES: Final = 256
# A map, program, process, cgroup or file with all that belongs to it, and one element without its key and value.
OBJECT_BYTES: Final = 2 << 10
ELEMENT_BYTES: Final = 256
# How many nodes are measured in one turn of the event loop when the agent as a whole is full.
_MEASURED_AT_ONCE: Final = 64
_SHARE_OF_MACHINE: Final = 0.75
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> int:
    """Three quarters of the memory that this process may use: of its cgroup's limit, or of the machine."""
    found = [_mem_total_bytes()]
    for path in map(Path, _CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            found.append(int(text))
    return int(min(found) * _SHARE_OF_MACHINE)


def _mem_total_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    raise ValueError("/proc/meminfo has no MemTotal")


def measured_bytes(kernel: Kernel) -> int:
    """About what the emulator holds for a node, a little too much rather than too little."""
    held = NODE_BYTES + CPU_BYTES * kernel.host.possible_cpus
    for bpf_map in kernel.bpf.maps():
        each = bpf_map.key_size + bpf_map.user_value_size + ELEMENT_BYTES
        held += OBJECT_BYTES + bpf_map.stored() * each
    for prog in kernel.bpf.progs():
        held += OBJECT_BYTES
        for op in prog.attr.ops:
            held += ELEMENT_BYTES + len(op.key or b"") + len(op.value)
    held += OBJECT_BYTES * (len(kernel.tasks()) + len(kernel.list_cgroups()))
    names = kernel.bpf.fs
    return held + ELEMENT_BYTES * names.name_count + names.directory_chars


@final
class Budget:
    """The budget of one agent. ``held_bytes`` is the sum over its nodes."""

    def __init__(self, *, agent_bytes: int, node_bytes: int) -> None:
        self.agent_bytes: Final = agent_bytes
        self.node_bytes: Final = node_bytes
        self.held_bytes = 0
        # The agent says who they are: the budget outlives none of them.
        self.nodes: Callable[[], Iterable[HostedNode]] = tuple

    def admit(self, node: "HostedNode", more_bytes: int) -> None:
        """Counts ``more_bytes`` for ``node``. Raises ``ApiError`` (RESOURCE_EXHAUSTED) where they do not fit."""
        if not self._fits(node, more_bytes):
            node.measure()
        if node.held_bytes + more_bytes > self.node_bytes:
            raise _full(f"node {node.node_id}", node.held_bytes, self.node_bytes, more_bytes)
        if self.held_bytes + more_bytes > self.agent_bytes:
            self._measure_largest()
        if self.held_bytes + more_bytes > self.agent_bytes:
            raise _full("this agent", self.held_bytes, self.agent_bytes, more_bytes)
        node.held_bytes += more_bytes
        self.held_bytes += more_bytes

    def admit_node(self, possible_cpus: int) -> None:
        """Whether one more node fits. Raises ``ApiError``."""
        more_bytes = NODE_BYTES + CPU_BYTES * possible_cpus
        if self.held_bytes + more_bytes > self.agent_bytes:
            self._measure_largest()
        if self.held_bytes + more_bytes > self.agent_bytes:
            raise _full("this agent", self.held_bytes, self.agent_bytes, more_bytes)

    def _fits(self, node: "HostedNode", more_bytes: int) -> bool:
        return (
            node.held_bytes + more_bytes <= self.node_bytes
            and self.held_bytes + more_bytes <= self.agent_bytes
        )

    def _measure_largest(self) -> None:
        largest = sorted(self.nodes(), key=_held, reverse=True)[:_MEASURED_AT_ONCE]
        for node in largest:
            node.measure()


def _held(node: "HostedNode") -> int:
    return node.held_bytes


def _full(who: str, held_bytes: int, limit_bytes: int, more_bytes: int) -> ApiError:
    return ApiError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        ControlReason.REAL_MEMORY_EXHAUSTED,
        f"{who} holds about {held_bytes} bytes of this machine's memory and may hold {limit_bytes};"
        f" the request could take {more_bytes} more",
        held_bytes=held_bytes,
        limit_bytes=limit_bytes,
        requested_bytes=more_bytes,
    )
