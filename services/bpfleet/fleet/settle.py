"""From what is wanted to what is bound: after every command each workload it touched is settled."""

from itertools import chain

from msgspec.structs import replace

from bpfleet.fleet.constraints import executes, judge, named_nodes_allow
from bpfleet.fleet.invariant import require
from bpfleet.fleet.placement import Search
from bpfleet.fleet.reasons import FleetEventKind, NodeReason, ReplicaReason
from bpfleet.fleet.records import Decision, FleetNode, Replica, Retired, Workload
from bpfleet.fleet.replicas import add_pending, bind, stop, waits_because
from bpfleet.fleet.rollout import roll_out
from bpfleet.fleet.transition import Transition, Visits
from bpfleet.workload.phase import Phase

__all__ = ["place_waiting", "settle"]

# Settling a workload touches it again at most a few times; more means it does not converge.
_ROUNDS_MAX = 1_000


def settle(t: Transition) -> None:
    """Settles every workload the command touched, until none is left, or it is enough for one turn."""
    rounds: dict[str, int] = {}
    while t.changed_nodes or t.visits or t.dirty:
        if t.changed_nodes:
            t.visits.append(Visits(list(t.tables.per_node), list(t.changed_nodes)))
            t.changed_nodes = {}
        if t.full:
            t.soft.visits.extend(t.visits)
            t.soft.workloads.update(t.dirty)
            t.visits, t.dirty = [], {}
            return
        if t.visits:
            if t.visits[0].over:
                del t.visits[0]
            else:
                _visit(t, t.visits[0])
            continue
        name = next(iter(t.dirty))
        del t.dirty[name]
        rounds[name] = rounds.get(name, 0) + 1
        require(rounds[name] < _ROUNDS_MAX, f"workload {name} does not settle")
        _settle_workload(t, name)


def _settle_workload(t: Transition, name: str) -> None:
    workload = t.tables.workloads.get(name)
    if workload is None:
        return
    if workload.deleting:
        _delete(t, workload)
        return
    if not workload.spec.per_node:
        _scale(t, workload)
    roll_out(t, t.tables.workloads[name])
    place_waiting(t, t.tables.workloads[name])


def _delete(t: Transition, workload: Workload) -> None:
    for replica in list(t.book(workload.name).replicas.values()):
        if replica.phase is not Phase.STOPPING:
            if t.full:
                t.dirty[workload.name] = None
                return
            stop(t, replica, ReplicaReason.DELETED)
    if t.book(workload.name).replicas:
        return
    t.dirty.pop(workload.name, None)
    t.tables.remove(workload)
    t.tables.put(Retired(name=workload.name, next_serial=workload.next_serial, serial=t.revision))
    if len(t.tables.retired) > t.settings.retired_max:
        t.tables.remove(next(iter(t.tables.retired.values())))
    t.event(FleetEventKind.WORKLOAD_DELETED, workload=workload.name)


def _scale(t: Transition, workload: Workload) -> None:
    book = t.book(workload.name)
    have = book.live - len(book.replacing)
    wanted = workload.spec.replicas
    if have < wanted:
        at_once = wanted - have
        if not workload.spec.scheduling.gang:
            # Each is added and placed.
            at_once = min(at_once, max(1, t.room // 2))
        add_pending(t, workload, at_once)
        if at_once < wanted - have:
            t.soft.workloads[workload.name] = None
    elif have > wanted:
        base = [r for r in book.replicas.values() if r.live and r.name not in book.replacing]
        base.sort(key=_expendable)
        for replica in base[: have - wanted]:
            if t.full:
                t.dirty[workload.name] = None
                return
            _stop_with_replacement(t, replica)


def _stop_with_replacement(t: Transition, replica: Replica) -> None:
    replacing = t.book(replica.workload).replacing
    for name in [name for name, replaced in replacing.items() if replaced == replica.name]:
        stop(t, t.tables.replicas[name], ReplicaReason.SCALED_DOWN)
    stop(t, replica, ReplicaReason.SCALED_DOWN)


def _expendable(replica: Replica) -> tuple[int, int, int]:
    """Whom scaling down takes first: who does the least, is outdated, came last."""
    return _DOES.index(replica.phase), replica.generation, -replica.serial


_DOES = (
    Phase.PENDING,
    Phase.BACK_OFF,
    Phase.ASSIGNED,
    Phase.FAILED,
    Phase.SUCCEEDED,
    Phase.RUNNING,
)


def _visit(t: Transition, visits: Visits) -> None:
    """One replica of the next one-per-node workload on each of these nodes that qualifies, as far as there is room."""
    name = visits.workloads[visits.workload_at]
    workload = t.tables.workloads.get(name)
    if workload is not None and workload.spec.per_node and not workload.deleting:
        t.dirty[name] = None
        waiting = {t.tables.replicas[each].target: each for each in t.book(name).pending}
        while visits.node_at < len(visits.nodes):
            if t.full:
                return
            node = visits.nodes[visits.node_at]
            _settle_on_node(t, name, node, waiting.get(node))
            t.looked()
            visits.node_at += 1
    t.looked()
    visits.workload_at += 1
    visits.node_at = 0


def _settle_on_node(t: Transition, workload_name: str, name: str, waiting: str | None) -> None:
    workload = t.tables.workloads[workload_name]
    node = t.tables.nodes.get(name)
    if node is None or not node.ready:
        if waiting is not None:
            stop(t, t.tables.replicas[waiting], ReplicaReason.NODE_NOT_READY)
        return
    welcome = _welcome(workload, node)
    here = t.books.nodes[name].workloads.get(workload_name, 0)
    if waiting is not None and not (welcome and node.schedulable):
        stop(t, t.tables.replicas[waiting], ReplicaReason.NODE_DOES_NOT_QUALIFY)
    elif waiting is None and not here and welcome and node.schedulable:
        add_pending(t, workload, 1, target=name)
    elif here and not _may_stay(workload, node):
        for replica in list(t.books.nodes[name].replicas.values()):
            if replica.workload == workload_name and replica.live:
                stop(t, replica, ReplicaReason.NODE_DOES_NOT_QUALIFY)


def _welcome(workload: Workload, node: FleetNode) -> bool:
    return named_nodes_allow(workload, node.name) and judge(workload, node).refusal is None


def _may_stay(workload: Workload, node: FleetNode) -> bool:
    """As a DaemonSet's pods: labels count while they run, of the taints only NoExecute does."""
    refusal = judge(workload, node).refusal
    stays = refusal is None or (
        refusal.reason is NodeReason.TAINT and executes(workload, node) is None
    )
    return stays and named_nodes_allow(workload, node.name)


def place_waiting(t: Transition, workload: Workload) -> None:
    """Places the workload's waiting replicas whose time has come, as far as there is room."""
    replicas = (t.tables.replicas[name] for name in list(t.book(workload.name).pending))
    waiting = (replica for replica in replicas if replica.due_ms <= t.now_ms)
    first = next(waiting, None)
    if first is None:
        return
    search = t.search(workload)
    if not search.known():
        t.soft.waiting_more = True
        return
    if workload.spec.scheduling.gang and _none_placed(t, workload):
        _place_gang(t, workload, search, [first, *waiting])
        return
    looks = search.shape_count * t.settings.work_at_once // t.settings.shapes_searched_at_once
    for replica in chain((first,), waiting):
        if t.full:
            # What is left over is looked at in the next tick.
            t.soft.waiting_more = True
            return
        t.looked(looks)
        if not _place(t, workload, search, replica) and not replica.target:
            # The others want the same and would be refused for the same reasons.
            return


def _none_placed(t: Transition, workload: Workload) -> bool:
    book = t.book(workload.name)
    return len(book.pending) == book.live


def _place_gang(t: Transition, workload: Workload, search: Search, waiting: list[Replica]) -> None:
    """All or none: undoes what it placed once one of them finds no node."""
    affordable = _affordable(t, search)
    if len(waiting) > affordable:
        text = (
            f"all {len(waiting)} replicas go together, and among {search.shape_count} kinds of nodes "
            f"a gang has at most {affordable}"
        )
        _gang_waits(t, waiting[0], text, None)
        return
    mark, events = len(t.tables.log), len(t.events)
    for count, replica in enumerate(waiting):
        if not _place(t, workload, search, replica):
            refused = t.tables.replicas[replica.name].decision
            t.tables.rollback(mark)
            t.forget_events(events)
            text = f"all {len(waiting)} replicas go together, {count} would fit"
            _gang_waits(t, waiting[0], text, refused)
            return


def _affordable(t: Transition, search: Search) -> int:
    """Replicas that one decision may look for: it must not take as long as a leader's lease."""
    return max(1, t.settings.shapes_searched_at_once // max(1, search.shape_count))


def _gang_waits(t: Transition, first: Replica, text: str, decision: Decision | None) -> None:
    if first.reason == ReplicaReason.GANG_DOES_NOT_FIT and first.decision == decision:
        return
    kept = replace(first, reason=ReplicaReason.GANG_DOES_NOT_FIT, message=text, decision=decision)
    t.tables.put(kept)
    if first.reason != ReplicaReason.GANG_DOES_NOT_FIT:
        t.replica_event(
            FleetEventKind.REPLICA_WAITS, kept, reason=ReplicaReason.GANG_DOES_NOT_FIT, message=text
        )


def _place(t: Transition, workload: Workload, search: Search, replica: Replica) -> bool:
    if replica.target:
        return _place_on_target(t, search, replica)
    choice = search.choose(replica.name)
    if choice.node is not None:
        bind(t, replica, choice.node, choice.need, choice.decision)
        search.placed(choice.node)
        return True
    if _preempt(t, workload, search, replica):
        return True
    waits_because(t, replica, ReplicaReason.NO_FEASIBLE_NODE, choice.decision)
    return False


def _place_on_target(t: Transition, search: Search, replica: Replica) -> bool:
    if replica.target not in t.books.nodes:
        return False
    verdict = search.admit(replica.target)
    if verdict.refusal is None:
        bind(t, replica, replica.target, verdict.need, search.decide(verdict))
        search.placed(replica.target)
        return True
    if verdict.refusal.reason != replica.reason:
        waiting = replace(replica, reason=verdict.refusal.reason, message=verdict.refusal.message)
        t.tables.put(waiting)
        t.replica_event(
            FleetEventKind.REPLICA_WAITS, waiting, reason=waiting.reason, message=waiting.message
        )
    return False


def _preempt(t: Transition, workload: Workload, search: Search, replica: Replica) -> bool:
    """Takes the place of less important replicas, which stop first: until they are gone, what they hold
    is not booked a second time.
    """
    if not any(level < workload.spec.priority for level in t.books.priorities):
        return False
    plan = search.preempt()
    if plan is None:
        return False
    for victim in plan.victims:
        text = f"{replica.name} of priority {workload.spec.priority} takes its place"
        stop(t, victim, ReplicaReason.PREEMPTED, text)
        t.tables.put(replace(t.tables.replicas[victim.name], yields=True))
    names = tuple(victim.name for victim in plan.victims)
    held_bytes = max(0, plan.need.booked_bytes - t.books.nodes[plan.node].free_bytes)
    bind(
        t,
        replica,
        plan.node,
        plan.need,
        plan.decision,
        waits_for=names,
        held_bytes=held_bytes,
    )
    search.placed(plan.node)
    return True
