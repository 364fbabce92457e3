"""Commands about nodes and agents: register, report, lose, cordon, drain, remove."""

from msgspec.structs import replace

from bpfleet.fleet.commands import (
    CordonNode,
    DrainNode,
    NodeAnnouncement,
    NodeUsage,
    RegisterAgent,
    RemoveNode,
    ReplicaNews,
    ReportNodes,
    UncordonNode,
    UnregisterAgent,
)
from bpfleet.fleet.disruption import evict_for_pressure, settle_drain, shed
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.reasons import ControlReason, FleetEventKind, ReplicaReason
from bpfleet.fleet.records import FleetAgent, FleetNode, Parted, Replica
from bpfleet.fleet.replicas import hear, lose, restart_now
from bpfleet.fleet.requests import remember, repeated
from bpfleet.fleet.transition import Transition
from bpfleet.workload.phase import Phase

__all__ = [
    "cordon_node",
    "drain_node",
    "lose_agent",
    "register_agent",
    "remove_node",
    "report_nodes",
    "settle_agent",
    "uncordon_node",
    "unregister_agent",
]

# (node, reason, message)
Rejection = tuple[str, str, str]


def register_agent(
    t: Transition, command: RegisterAgent
) -> tuple[list[Rejection], list[tuple[str, str]]]:
    """Takes an agent's nodes in and compares what runs on them with what should.

    Returns the nodes not taken, and the (node, replica) pairs that must be stopped there because
    nobody knows them.
    """
    known = t.tables.agents.get(command.agent)
    if known is None and len(t.tables.agents) >= t.settings.agents_max:
        text = f"the fleet takes at most {t.settings.agents_max} agents"
        raise FleetError(
            Refused.EXHAUSTED, ControlReason.FLEET_FULL, text, limit=t.settings.agents_max
        )
    same = known is not None and known.incarnation == command.incarnation
    heard = known.sequence if known is not None and same else 0
    if 0 < command.sequence <= heard:
        # It tells what ran before, and its agent believes that it has been heard since.
        text = f"call {command.sequence} of agent {command.agent!r} comes after {heard}"
        raise FleetError(Refused.CONFLICT, ControlReason.STALE_COMMAND, text, agent=command.agent)
    whole = known is not None and known.whole and same
    agent = FleetAgent(
        name=command.agent,
        incarnation=command.incarnation,
        address=command.address,
        version=command.version,
        whole=whole or not command.partial,
        sequence=max(heard, command.sequence),
    )
    if agent != known:
        t.tables.put(agent)
    if known is None or known.incarnation != agent.incarnation or not known.alive:
        t.event(FleetEventKind.AGENT_REGISTERED, reason=command.incarnation, message=command.agent)
    rejections: list[Rejection] = []
    strays: list[tuple[str, str]] = []
    for announced in command.nodes:
        rejection = _rejection(t, command.agent, announced)
        if rejection is not None:
            rejections.append(rejection)
            continue
        _take_in(t, agent, announced)
        strays.extend(_compare(t, announced))
    if not command.partial:
        settle_agent(t, agent.name)
    return rejections, strays


def _rejection(t: Transition, agent: str, announced: NodeAnnouncement) -> Rejection | None:
    node = t.tables.nodes.get(announced.name)
    if node is None:
        if len(t.tables.nodes) >= t.settings.nodes_max:
            limit = t.settings.nodes_max
            return (
                announced.name,
                ControlReason.FLEET_FULL,
                f"the fleet takes at most {limit} nodes",
            )
        return None
    if node.agent != agent and node.ready:
        text = f"agent {node.agent!r} carries a node of this name"
        return announced.name, ControlReason.NODE_EXISTS, text
    return None


def _take_in(t: Transition, agent: FleetAgent, announced: NodeAnnouncement) -> None:
    old = t.tables.nodes.get(announced.name)
    node = _node(t, agent, announced, old)
    if node != old:
        t.tables.put(node)
        t.changed_nodes[node.name] = None
    if old is None:
        t.event(FleetEventKind.NODE_REGISTERED, node=node.name, message=f"by agent {agent.name}")
    elif not old.ready:
        t.event(FleetEventKind.NODE_READY, node=node.name, message=f"back with agent {agent.name}")
    if old is not None and old != node:
        shed(t, node)


def _node(
    t: Transition, agent: FleetAgent, announced: NodeAnnouncement, old: FleetNode | None
) -> FleetNode:
    reserved = announced.reserved_bytes
    if not reserved:
        reserved = announced.ram_bytes * t.settings.reserved_percent // 100
    fresh = FleetNode(
        name=announced.name,
        agent=agent.name,
        incarnation=agent.incarnation,
        profile=announced.profile,
        possible_cpus=announced.possible_cpus,
        ram_bytes=announced.ram_bytes,
        allocatable_bytes=max(0, announced.ram_bytes - reserved),
        announced_labels=announced.labels,
        announced_taints=announced.taints,
        max_replicas=announced.max_replicas or t.settings.max_replicas_per_node,
    )
    if old is None:
        return _as_it_parted(t, fresh)
    return replace(
        fresh,
        marks=old.marks,
        cordoned=old.cordoned,
        draining=old.draining,
        pressure=old.pressure,
    )


def _as_it_parted(t: Transition, node: FleetNode) -> FleetNode:
    """A node that comes back is as operators left it."""
    parted = t.tables.parted.get(node.name)
    if parted is None:
        return node
    t.tables.remove(parted)
    return replace(node, marks=parted.marks, cordoned=parted.cordoned, draining=parted.draining)


def _keep_for_its_return(t: Transition, node: FleetNode) -> None:
    if not (node.marks.labels or node.marks.taints or node.cordoned or node.draining):
        return
    t.tables.put(
        Parted(
            name=node.name,
            marks=node.marks,
            cordoned=node.cordoned,
            draining=node.draining,
            serial=t.revision,
        )
    )
    if len(t.tables.parted) > t.settings.parted_max:
        t.tables.remove(next(iter(t.tables.parted.values())))


def _compare(t: Transition, announced: NodeAnnouncement) -> list[tuple[str, str]]:
    """The truth of what runs on a node against the books. Returns what nobody knows."""
    reported = {news.replica: news for news in announced.replicas}
    for replica in list(t.books.nodes[announced.name].replicas.values()):
        if replica.name not in reported:
            _is_missing(t, replica)
    return [
        (announced.name, news.replica)
        for news in announced.replicas
        if not hear(t, announced.name, news)
    ]


def _is_missing(t: Transition, replica: Replica) -> None:
    """A replica the node does not list. An order may have overtaken the list, so one that stops is
    not gone until its agent confirms the stop, and one that starts is simply ordered again.
    """
    if replica.phase is Phase.RUNNING:
        restart_now(t, replica, ReplicaReason.NODE_RESTARTED)


def report_nodes(t: Transition, command: ReportNodes) -> list[tuple[str, str]]:
    """Takes in reports; returns the (node, replica) pairs nobody knows.

    Raises ``FleetError`` if the agent has to register first.
    """
    agent = t.tables.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.alive:
        text = f"agent {command.agent!r} has no lease under this incarnation; register again"
        raise FleetError(Refused.NOT_FOUND, ControlReason.LEASE_EXPIRED, text, agent=command.agent)
    strays: list[tuple[str, str]] = []
    for report in command.reports:
        node = t.tables.nodes.get(report.node)
        if node is None or node.agent != command.agent:
            strays.extend((report.node, news.replica) for news in report.replicas)
            continue
        strays.extend(_take_report(t, node, report, measured=command.measured))
    for name in command.removed:
        node = t.tables.nodes.get(name)
        if node is not None and node.agent == command.agent:
            _forget_node(t, node, ReplicaReason.REMOVED)
    return strays


def _take_report(
    t: Transition, node: FleetNode, report: NodeUsage, *, measured: bool
) -> list[tuple[str, str]]:
    strays = [
        (report.node, news.replica)
        for news in report.replicas
        if not hear(t, report.node, news) and news.phase is not Phase.STOPPED
    ]
    for news in report.replicas:
        _note_usage(t, news)
    if report.crashed and node.ready:
        _not_ready(t, node, ReplicaReason.NODE_CRASHED)
    elif measured:
        t.soft.usage[report.node] = replace(report, replicas=())
        evict_for_pressure(t, node, report)
    return strays


def _note_usage(t: Transition, news: ReplicaNews) -> None:
    if news.replica in t.tables.replicas:
        t.soft.charged_bytes[news.replica] = news.charged_bytes
        t.soft.rss_bytes[news.replica] = news.rss_bytes
    else:
        t.soft.charged_bytes.pop(news.replica, None)
        t.soft.rss_bytes.pop(news.replica, None)


def unregister_agent(t: Transition, command: UnregisterAgent) -> int:
    """Takes an agent and its nodes out; returns how many nodes went."""
    agent = t.tables.agents.get(command.agent)
    if agent is None or command.incarnation not in ("", agent.incarnation):
        text = f"agent {command.agent!r} is not registered"
        raise FleetError(Refused.NOT_FOUND, ControlReason.AGENT_UNKNOWN, text, agent=command.agent)
    count = len(t.books.agents.get(command.agent, ()))
    t.tables.put(replace(agent, alive=False, leaving=True))
    settle_agent(t, command.agent)
    return count


def settle_agent(t: Transition, name: str) -> None:
    """The nodes of an agent that is lost, leaves, or came back with fewer. Of many the next tick does the rest."""
    agent = t.tables.agents.get(name)
    if agent is None:
        return
    for node_name in list(t.books.agents.get(name, ())):
        if t.full:
            t.soft.agents[name] = None
            return
        node = t.tables.nodes[node_name]
        if agent.leaving:
            _keep_for_its_return(t, node)
            _forget_node(t, node, ReplicaReason.UNREGISTERED)
        elif not agent.alive:
            if node.ready:
                _not_ready(t, node, ReplicaReason.NODE_LOST)
        elif agent.whole and node.incarnation != agent.incarnation:
            _forget_node(t, node, ReplicaReason.REMOVED)
    if agent.leaving:
        t.tables.remove(agent)
        t.event(FleetEventKind.AGENT_UNREGISTERED, message=name)


def lose_agent(t: Transition, name: str) -> int:
    """An agent's lease ran out: its nodes are NotReady and what ran there is placed elsewhere."""
    agent = t.tables.agents.get(name)
    if agent is None or not agent.alive:
        return 0
    t.tables.put(replace(agent, alive=False))
    t.event(FleetEventKind.AGENT_LOST, message=name)
    settle_agent(t, name)
    return len(t.books.agents.get(name, ()))


def _not_ready(t: Transition, node: FleetNode, reason: ReplicaReason) -> None:
    t.tables.put(replace(node, ready=False, pressure=False))
    t.changed_nodes[node.name] = None
    t.event(FleetEventKind.NODE_NOT_READY, node=node.name, reason=reason)
    for replica in list(t.books.nodes[node.name].replicas.values()):
        lose(t, replica, ReplicaReason.NODE_LOST)
    t.soft.forget_node(node.name)


def remove_node(t: Transition, command: RemoveNode) -> None:
    """Forgets a node. Raises ``FleetError`` if it is Ready and ``force`` is not given."""
    node = t.node(command.name)
    if node.ready and not command.force:
        text = f"node {command.name!r} is Ready; drain it and stop its agent, or use force"
        raise FleetError(Refused.PRECONDITION, ControlReason.NODE_READY, text, node=command.name)
    _forget_node(t, node, ReplicaReason.REMOVED)


def _forget_node(t: Transition, node: FleetNode, reason: ReplicaReason) -> None:
    for replica in list(t.books.nodes[node.name].replicas.values()):
        lose(t, replica, ReplicaReason.REMOVED)
    t.tables.remove(node)
    t.changed_nodes[node.name] = None
    t.soft.forget_node(node.name)
    t.event(FleetEventKind.NODE_REMOVED, node=node.name, reason=reason)


def cordon_node(t: Transition, command: CordonNode) -> None:
    """Places nothing new on a node."""
    node, name = t.node(command.name), command.name
    if _is_new(t, command) and not node.cordoned:
        t.tables.put(replace(node, cordoned=True))
        t.changed_nodes[name] = None
        t.event(FleetEventKind.NODE_CORDONED, node=name)


def uncordon_node(t: Transition, command: UncordonNode) -> None:
    """Places on a node again and ends a drain."""
    node, name = t.node(command.name), command.name
    if _is_new(t, command) and (node.cordoned or node.draining):
        t.tables.put(replace(node, cordoned=False, draining=False))
        t.changed_nodes[name] = None
        t.event(FleetEventKind.NODE_UNCORDONED, node=name)


def drain_node(t: Transition, command: DrainNode) -> None:
    """Moves a node's replicas away; goes on with every tick until it is empty."""
    node, name = t.node(command.name), command.name
    if not _is_new(t, command):
        return
    if not node.draining:
        t.tables.put(replace(node, cordoned=True, draining=True))
        t.changed_nodes[name] = None
        t.event(FleetEventKind.NODE_DRAINING, node=name)
    settle_drain(t, name)


def _is_new(t: Transition, command: CordonNode | UncordonNode | DrainNode) -> bool:
    """Whether it was not carried out before: one that arrives late again must not undo what came after it."""
    if repeated(t, command.request_id, command.fingerprint):
        return False
    remember(t, command.request_id, command.fingerprint)
    return True
