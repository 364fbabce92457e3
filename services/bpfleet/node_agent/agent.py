"""All nodes of one agent, and how a call finds the one it is about."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final, final

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.proc.task import Task
from bpfleet.node_agent.node import HostedNode, NodeBoot
from bpfleet.rpc import names
from bpfleet.rpc.errors import ApiError
from bpfleet.v1 import bpf_pb2

__all__ = ["Agent"]

NODES_MAX: Final = 65_536


@final
class Agent:
    """Owns the kernels. ``dirty`` holds the ids of nodes that were called since the last report.

    ``call_ns`` is the virtual time that one system call takes; nothing but calls, AdvanceClock and the churn of
    replicas moves a node's clock, so the same calls always give the same results.
    """

    def __init__(self, agent_id: str, *, call_ns: int) -> None:
        self.agent_id: Final = agent_id
        self.dirty: Final[set[str]] = set()
        self._call_ns: Final = call_ns
        self._nodes: Final[dict[str, HostedNode]] = {}
        self._ids: Final[list[str]] = []

    @property
    def node_ids(self) -> Sequence[str]:
        """The ids of all nodes, sorted."""
        return self._ids

    def create(self, node_id: str, shape: NodeBoot) -> HostedNode:
        """Boots a node. Raises ``ApiError`` where the id is taken or the agent is full."""
        if node_id in self._nodes:
            raise ApiError(
                grpc.StatusCode.ALREADY_EXISTS,
                ControlReason.NODE_EXISTS,
                f"node: {node_id} exists already; choose another id or delete it first",
                node=node_id,
            )
        if len(self._ids) >= NODES_MAX:
            raise ApiError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                ControlReason.TOO_MANY_NODES,
                f"agent {self.agent_id} carries {NODES_MAX} nodes, the most it takes",
            )
        node = HostedNode(node_id, shape, call_ns=self._call_ns, dirty=self.dirty)
        self._nodes[node_id] = node
        insort(self._ids, node_id)
        self.dirty.add(node_id)
        return node

    def delete(self, node_id: str) -> None:
        """Switches a node off for good. Raises ``ApiError`` for an unknown one."""
        node = self.find(node_id)
        del self._nodes[node_id]
        del self._ids[bisect_left(self._ids, node_id)]
        self.dirty.discard(node_id)
        node.switch_off()
        node.notify()

    def find(self, node_id: str) -> HostedNode:
        """The node called ``node_id``. Raises ``ApiError`` (NOT_FOUND, NODE_UNKNOWN)."""
        node = self._nodes.get(node_id)
        if node is None:
            raise ApiError(
                grpc.StatusCode.NOT_FOUND,
                ControlReason.NODE_UNKNOWN,
                f"node: agent {self.agent_id} has no node {node_id}; ListNodes lists those it has",
                node=node_id,
            )
        return node

    def has(self, node_id: str) -> bool:
        """Whether there is a node with this id."""
        return node_id in self._nodes

    def carries(self, node: HostedNode) -> bool:
        """Whether ``node`` was not deleted since it was found."""
        return self._nodes.get(node.node_id) is node

    def named(self, name: str, field: str = "name") -> HostedNode:
        """The node ``nodes/{node}``, or with this bare id. Raises ``ApiError`` that names ``field``."""
        node = self._nodes.get(name)
        return node if node is not None else self.find(names.node_id(name, field))

    def all(self) -> list[HostedNode]:
        """Every node in the order of the ids."""
        return [self._nodes[node_id] for node_id in self._ids]


def calling(node: HostedNode, caller: bpf_pb2.Caller) -> Task:
    """The process that calls. Raises ``KernelError`` (ESRCH) where there is no such process."""
    return node.wake().task(caller.pid)
