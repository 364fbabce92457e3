"""Rolling updates: new replicas come up while the old ones, with their pinned maps, are still there.

An update costs its peak: old and new at once (field experience: upgrades fail where the steady state
fits). A replacement therefore books its own memory beside the old replica, on the same node if it
fits there. Only where it fits nowhere is the old replica stopped first.
"""

from msgspec.structs import replace

from bpfleet.fleet.placement import Search
from bpfleet.fleet.reasons import ReplicaReason
from bpfleet.fleet.records import Replica, Workload
from bpfleet.fleet.replicas import add_pending, bind, stop
from bpfleet.fleet.transition import Transition
from bpfleet.workload.phase import Phase

__all__ = ["roll_out"]

_COMING = frozenset({Phase.PENDING, Phase.ASSIGNED, Phase.BACK_OFF})


def roll_out(t: Transition, workload: Workload) -> None:
    """Takes the next steps of an update, if one is under way.

    Outdated replicas that do not run are stopped at once: they hold nothing up. Of those that run, as
    many are replaced at a time as ``max_unavailable`` allows, and the next only once the one before
    runs: a broken update stops by itself.
    """
    book = t.book(workload.name)
    ages = [age for age in book.generations if age < workload.generation]
    if not ages:
        return
    outdated = [t.tables.replicas[name] for age in sorted(ages) for name in book.generations[age]]
    for replica in outdated:
        if replica.phase is not Phase.RUNNING:
            if t.full:
                t.dirty[workload.name] = None
                return
            stop(t, replica, ReplicaReason.OUTDATED)
            if workload.spec.per_node:
                t.changed_nodes[replica.node or replica.target] = None
    coming = _coming(t, workload)
    search = t.search(workload)
    if not search.known():
        t.soft.workloads[workload.name] = None
        return
    for replica in sorted(outdated, key=lambda r: r.serial):
        if coming >= workload.spec.scheduling.max_unavailable:
            return
        if t.full:
            t.dirty[workload.name] = None
            return
        if replica.phase is Phase.RUNNING and replica.name not in book.replacing.values():
            _replace(t, t.tables.workloads[workload.name], search, replica)
            coming += 1


def _coming(t: Transition, workload: Workload) -> int:
    book = t.book(workload.name)
    current = book.generations.get(workload.generation, {})
    return sum(1 for name in current if book.replicas[name].phase in _COMING)


def _replace(t: Transition, workload: Workload, search: Search, old: Replica) -> None:
    target = old.node if workload.spec.per_node else ""
    (new,) = add_pending(t, workload, 1, target=target, replaces=old.name)
    beside = search.admit(old.node)
    if beside.refusal is None:
        bind(t, new, old.node, beside.need, search.decide(beside))
        search.placed(old.node)
        return
    if not workload.spec.per_node:
        choice = search.choose(new.name)
        if choice.node is not None:
            bind(t, new, choice.node, choice.need, choice.decision)
            search.placed(choice.node)
            return
    t.tables.put(replace(new, replaces=""))
    stop(
        t,
        old,
        ReplicaReason.REPLACED,
        f"{new.name} fits nowhere beside it: {beside.refusal.message}",
    )
