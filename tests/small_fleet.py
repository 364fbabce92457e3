"""A state machine with obedient agents: tests say what is wanted and what goes wrong, agents do the rest."""

from msgspec.structs import replace

from bpfleet.fleet.commands import (
    AgentLost,
    Command,
    CreateWorkload,
    DeleteWorkload,
    NodeAnnouncement,
    NodeUsage,
    RegisterAgent,
    ReplicaNews,
    ReportNodes,
    Tick,
    UpdateWorkload,
)
from bpfleet.fleet.records import Replica
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.state import FleetState
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Inventory, Taint, WorkloadSpec

MIB = 1 << 20
GIB = 1 << 30
INVENTORY = Inventory(name="app")


class SmallFleet:
    """One agent per node unless told otherwise; ``now_ms`` moves only when told to."""

    def __init__(self, settings: FleetSettings | None = None, estimator=None) -> None:
        self.state = FleetState(settings, estimator)
        self.now_ms = 1_000_000
        self.failing: dict[str, str] = {}

    def apply(self, command: Command):
        result = self.state.apply(command, self.now_ms)
        self.state.check()
        return result

    def node(
        self,
        name: str,
        *,
        ram_bytes: int = 10 * GIB,
        profile: str = "6.12",
        cpus: int = 4,
        labels: dict[str, str] | None = None,
        taints: tuple[Taint, ...] = (),
        max_replicas: int = 0,
        replicas: tuple[ReplicaNews, ...] = (),
        agent: str = "",
        incarnation: str = "1",
    ):
        """Registers a node of which all memory can be booked but one byte."""
        announced = NodeAnnouncement(
            name=name,
            profile=profile,
            possible_cpus=cpus,
            ram_bytes=ram_bytes + 1,
            reserved_bytes=1,
            labels=tuple(sorted((labels or {}).items())),
            taints=taints,
            max_replicas=max_replicas,
            replicas=replicas,
        )
        return self.apply(
            RegisterAgent(
                agent=agent or f"agent-{name}",
                incarnation=incarnation,
                address="127.0.0.1:1",
                nodes=(announced,),
            )
        )

    def lose(self, *nodes: str) -> None:
        for name in nodes:
            self.apply(AgentLost(self.state.tables.nodes[name].agent))

    def create(self, name: str, replicas: int = 1, **spec) -> None:
        spec.setdefault("inventory", INVENTORY)
        spec.setdefault("memory_request_bytes", GIB)
        self.apply(CreateWorkload(spec=WorkloadSpec(name=name, replicas=replicas, **spec)))

    def update(self, name: str, **changes) -> None:
        spec = replace(self.state.tables.workloads[name].spec, **changes)
        self.apply(UpdateWorkload(name=name, spec=spec))

    def scale(self, name: str, replicas: int) -> None:
        self.apply(UpdateWorkload(name=name, replicas=replicas))

    def delete(self, name: str) -> None:
        self.apply(DeleteWorkload(name=name))

    def tick(self, seconds: float = 0) -> None:
        self.now_ms += round(seconds * 1000)
        self.apply(Tick())

    def settle(self) -> None:
        """Lets agents do what they are told, until nothing is left to do."""
        for _ in range(10_000):
            if not self.step():
                self.tick()
                if not self.step():
                    return
        raise AssertionError("the fleet does not come to rest")

    def step(self) -> bool:
        """Every agent carries out what it is told now; False if there was nothing."""
        moved = False
        for replica in list(self.state.tables.replicas.values()):
            if self.state.tables.replicas.get(replica.name) is not replica:
                continue
            if replica.phase is Phase.STOPPING:
                self.report(replica, Phase.STOPPED)
            elif replica.phase is Phase.ASSIGNED and not replica.waits_for:
                reason = self.failing.get(replica.workload)
                phase = Phase.FAILED if reason else Phase.RUNNING
                self.report(replica, phase, reason=reason or "")
            else:
                continue
            moved = True
        return moved

    def report(self, replica: Replica, phase: Phase, reason: str = "", attempt=None):
        agent = self.state.tables.agents[self.state.tables.nodes[replica.node].agent]
        news = ReplicaNews(
            replica=replica.name,
            attempt=replica.attempt if attempt is None else attempt,
            phase=phase,
            reason=reason,
        )
        return self.apply(
            ReportNodes(
                agent=agent.name,
                incarnation=agent.incarnation,
                reports=(NodeUsage(node=replica.node, replicas=(news,)),),
                measured=False,
            )
        )

    def usage(self, node: str, used_bytes: int, replicas: dict[str, int] | None = None) -> None:
        agent = self.state.tables.agents[self.state.tables.nodes[node].agent]
        news = tuple(
            ReplicaNews(
                replica=name,
                attempt=self.state.tables.replicas[name].attempt,
                phase=Phase.RUNNING,
                charged_bytes=size,
            )
            for name, size in (replicas or {}).items()
        )
        self.apply(
            ReportNodes(
                agent=agent.name,
                incarnation=agent.incarnation,
                reports=(NodeUsage(node=node, memory_used_bytes=used_bytes, replicas=news),),
            )
        )

    def replicas(self, workload: str, phase: Phase | None = None) -> list[Replica]:
        book = self.state.tables.books.workload(workload)
        found = sorted(book.replicas.values(), key=lambda r: r.serial)
        return [r for r in found if phase is None or r.phase is phase]

    def where(self, workload: str) -> list[str]:
        """Nodes of the running replicas, sorted."""
        return sorted(r.node for r in self.replicas(workload, Phase.RUNNING))

    def events(self, kind: str):
        return [event for event in self.state.events if event.kind == kind]
