"""Settings of a node agent: one frozen record, read from flags and the environment in ``__main__`` only."""

import socket
from dataclasses import dataclass

from bpfleet.node_agent.node import NodeBoot
from bpfleet.rpc import names
from bpfleet.rpc.addresses import ChannelOptions, parse_address
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.server import ServerOptions, SettingsError

__all__ = ["AgentSettings"]

WILDCARDS = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent is started with.

    ``shape`` is that of the ``nodes`` it boots at its start; node number n has seed ``shape.seed + n``. ``call_ns`` is
    the virtual time one system call takes. ``coordinators`` are tried in turn; none: the agent stands alone.
    ``churn_share`` is the most of one CPU that the churn of replicas may take. The memory budgets are bytes of this
    machine: for the agent (0: three quarters of what the process may use) and for each of its nodes.
    """

    agent_id: str
    server: ServerOptions
    shape: NodeBoot
    nodes: int
    advertise: str = ""
    coordinators: tuple[ChannelOptions, ...] = ()
    metrics: str = ""
    call_ns: int = 1_000
    churn_share: float = 0.5
    memory_budget_bytes: int = 0
    node_memory_budget_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        try:
            names.node_id(f"{self.agent_id}-00000", "--agent-id")
        except ApiError as error:
            raise SettingsError(error.message.replace("nodes/", "")) from None
        if self.metrics:
            parse_address(self.metrics)
        if self.advertise:
            parse_address(self.advertise)

    @property
    def own_token(self) -> str:
        """What this agent shows to coordinators, and they to it; empty where no tokens are used."""
        tokens = self.server.tokens
        return "" if tokens is None else tokens.of_agent(self.agent_id)

    def address(self, port: int) -> str:
        """Where others reach this agent, which listens on ``port``."""
        if self.advertise:
            return self.advertise
        host, _ = parse_address(self.server.listen)
        if host in WILDCARDS:
            host = socket.gethostname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def node_ids(self) -> list[str]:
        """The ids of the nodes booted at the start."""
        return [f"{self.agent_id}-{number:05d}" for number in range(1, self.nodes + 1)]
