"""What a live cluster says about itself: the coordinator's books beside what every agent runs.

It is taken inside the cluster's network, where agents can be reached:

    python -m bpfleet.launcher.survey coordinator-0:7070,coordinator-1:7070

prints one JSON document.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bpfleet.client.bpf import AgentClient
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session, channel_from_environment
from bpfleet.rpc.replicas import phase_record
from bpfleet.v1 import fleet_service_pb2, node_service_pb2, runtime_service_pb2_grpc
from bpfleet.v1 import runtime_service_pb2 as runtime_pb2

__all__ = ["Booked", "Running", "Survey", "leading", "main", "take"]


@dataclass(frozen=True, slots=True)
class Booked:
    """A replica in the coordinator's books."""

    replica: str
    workload: str
    node: str
    phase: str


@dataclass(frozen=True, slots=True)
class Running:
    """A replica that an agent has."""

    replica: str
    node: str
    agent: str
    phase: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything the checks look at. ``workloads`` maps each to the replicas wanted."""

    leaders: int = 0
    workloads: dict[str, int] = field(default_factory=dict)
    booked: list[Booked] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    nodes: int = 0
    nodes_not_ready: list[str] = field(default_factory=list)
    nodes_checked: int = 0
    broken: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """One JSON document, for ``from_text``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Survey":
        """What ``as_text`` wrote."""
        data: dict[str, Any] = json.loads(text)
        data["booked"] = [Booked(**each) for each in data["booked"]]
        data["running"] = [Running(**each) for each in data["running"]]
        return cls(**data)


def leading(coordinators: Sequence[str]) -> list[str]:
    """Those that answer as the leader; more than one would be a fault."""
    return [each for each in coordinators if _leads(each)]


def take(coordinators: Sequence[str], *, invariants: bool = True) -> Survey:
    """Asks the leader, then every agent it knows; with ``invariants`` every node proves its books.

    Raises ``CallError`` where no coordinator leads.
    """
    leaders = leading(coordinators)
    with Session(channel_from_environment((leaders or list(coordinators))[0])) as session:
        fleet = FleetClient(session)
        nodes = list(fleet.list_nodes())
        workloads = [fleet.workload(each.name) for each in fleet.list_workloads()]
    agents = sorted({(node.agent, node.agent_address) for node in nodes if node.agent_address})
    seen = [_ask_agent(name, address, invariants=invariants) for name, address in agents]
    return Survey(
        leaders=len(leaders),
        workloads={_bare(each.name): each.status.wanted_count for each in workloads},
        booked=[replica for each in workloads for replica in _booked(each)],
        running=[replica for agent in seen for replica in agent.running],
        nodes=len(nodes),
        nodes_not_ready=[_bare(node.name) for node in nodes if not node.ready],
        nodes_checked=sum(agent.checked for agent in seen),
        broken=[line for agent in seen for line in agent.broken],
        unreachable=[line for agent in seen for line in agent.unreachable],
    )


@dataclass(slots=True)
class _Agent:
    running: list[Running] = field(default_factory=list)
    checked: int = 0
    broken: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)


def _ask_agent(name: str, address: str, *, invariants: bool) -> _Agent:
    seen = _Agent()
    with Session(channel_from_environment(address)) as session:
        client = AgentClient(session)
        try:
            seen.running += _running(session, name)
            for node in client.list_nodes() if invariants else ():
                _prove(client, node.name, seen)
        except CallError as error:
            seen.unreachable.append(f"{name} at {address}: {error}")
    return seen


def _prove(client: AgentClient, node: str, seen: _Agent) -> None:
    """A broken invariant is INTERNAL, a node that stopped before FAILED_PRECONDITION."""
    request = node_service_pb2.CheckInvariantsRequest(name=node)
    try:
        client.session.call(client.nodes.CheckInvariants, request, repeatable=True)
    except CallError as error:
        if error.code.name not in ("INTERNAL", "FAILED_PRECONDITION"):
            raise
        seen.broken.append(f"{_bare(node)}: {error.message}")
    seen.checked += 1


def _running(session: Session, agent: str) -> Iterator[Running]:
    stub = runtime_service_pb2_grpc.RuntimeServiceStub(session.channel)
    request = runtime_pb2.ListReplicasRequest(page_size=1000)
    for page in session.pages(stub.ListReplicas, request):
        for status in page.statuses:
            yield Running(status.replica, status.node, agent, phase_record(status.phase))


def _booked(workload: fleet_service_pb2.Workload) -> Iterator[Booked]:
    for each in workload.replicas:
        phase = phase_record(each.phase)
        yield Booked(each.replica, _bare(workload.name), _bare(each.node), phase)


def _leads(coordinator: str) -> bool:
    with Session(channel_from_environment(coordinator), deadline_seconds=2.0) as session:
        try:
            FleetClient(session).status()
        except CallError:
            return False
    return True


def _bare(name: str) -> str:
    return name.rpartition("/")[2]


def main(arguments: list[str] | None = None) -> int:
    """Print the survey; 1 where no coordinator answers."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        print(take(given[0].split(","), invariants="--no-invariants" not in given).as_text())
    except CallError as error:
        print(f"no coordinator answers as the leader: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
