"""The life of a replica: wanted, bound, running, failing, stopped, gone, lost."""

from heapq import heappush

from msgspec.structs import replace

from bpfleet.fleet.commands import ReplicaNews, ReplicaTruth
from bpfleet.fleet.placement import Need, summary
from bpfleet.fleet.records import Decision, Phase, Replica, Workload
from bpfleet.fleet.transition import Transition
from bpfleet.workload.spec import RestartPolicy

__all__ = ["add_pending", "bind", "gone", "hear", "lose", "start_due", "stop", "waits_because"]

_ACTIVE = frozenset({Phase.ASSIGNED, Phase.RUNNING})


def add_pending(
    t: Transition,
    workload: Workload,
    count: int,
    *,
    target: str = "",
    replaces: str = "",
) -> list[Replica]:
    """``count`` more replicas that wait for a node. Returns their records."""
    serial = workload.next_serial
    t.tables.put(replace(workload, next_serial=serial + count))
    added = [
        Replica(
            name=f"{workload.name}-{number}",
            workload=workload.name,
            serial=number,
            generation=workload.generation,
            uid=workload.spec.uid,
            priority=workload.spec.priority,
            since_ms=t.now_ms,
            target=target,
            replaces=replaces,
        )
        for number in range(serial, serial + count)
    ]
    for replica in added:
        t.tables.put(replica)
    return added


def bind(
    t: Transition,
    replica: Replica,
    node: str,
    need: Need,
    decision: Decision,
    *,
    waits_for: tuple[str, ...] = (),
    held_bytes: int = 0,
) -> None:
    """Gives a waiting replica its node and books what it needs there."""
    bound = replace(
        replica,
        phase=Phase.ASSIGNED,
        node=node,
        booked_bytes=need.booked_bytes,
        locked_bytes=need.locked_bytes,
        due_ms=0,
        since_ms=t.now_ms,
        reason="",
        message="",
        waits_for=waits_for,
        held_bytes=held_bytes,
        decision=decision,
    )
    t.tables.put(bound)
    t.replica_event("REPLICA_PLACED", bound, message=summary(decision, node))


def waits_because(t: Transition, replica: Replica, reason: str, decision: Decision | None) -> None:
    """Keeps with a waiting replica why no node takes it; says so once per reason."""
    message = summary(decision, None) if decision is not None else reason
    if replica.reason == reason and replica.decision == decision:
        return
    waiting = replace(replica, reason=reason, message=message, decision=decision)
    t.tables.put(waiting)
    if replica.reason != reason:
        t.replica_event("REPLICA_WAITS", waiting, reason=reason, message=message)


def stop(t: Transition, replica: Replica, reason: str, message: str = "") -> None:
    """Has a replica stopped; one without a living node is gone at once."""
    _release_replacement(t, replica)
    t.dirty[replica.workload] = None
    node = t.tables.nodes.get(replica.node)
    if node is None or not node.ready:
        t.tables.remove(replica)
        t.replica_event("REPLICA_STOPPED", replica, reason=reason, message=message)
        return
    if replica.phase is Phase.STOPPING:
        return
    stopping = replace(
        replica,
        phase=Phase.STOPPING,
        since_ms=t.now_ms,
        due_ms=0,
        reason=reason,
        message=message,
        replaces="",
    )
    t.tables.put(stopping)
    t.replica_event("REPLICA_STOPPING", stopping, reason=reason, message=message)


def gone(t: Transition, replica: Replica) -> None:
    """Forgets a replica that its agent has stopped, and lets go who waited for its memory."""
    t.tables.remove(replica)
    t.dirty[replica.workload] = None
    t.replica_event("REPLICA_STOPPED", replica, reason=replica.reason)
    _release_waiting(t, replica)
    book = t.books.nodes[replica.node]
    if book.node.draining and not book.replicas:
        t.event("NODE_DRAINED", node=replica.node)


def lose(t: Transition, replica: Replica, reason: str) -> None:
    """Forgets a replica whose node is gone; if it comes back, its agent is told to stop it."""
    _release_replacement(t, replica)
    t.tables.remove(replica)
    t.dirty[replica.workload] = None
    t.replica_event("REPLICA_LOST", replica, reason=reason)
    _release_waiting(t, replica)


def hear(t: Transition, node: str, news: ReplicaNews) -> bool:
    """Takes in what an agent says about a replica on ``node``; False if it should not be there.

    News of an older attempt is stale and changes nothing.
    """
    replica = t.tables.replicas.get(news.replica)
    if replica is None or replica.node != node:
        return False
    if replica.phase is Phase.STOPPING:
        if news.truth is ReplicaTruth.STOPPED:
            gone(t, replica)
        return True
    if news.attempt != replica.attempt or replica.phase not in _ACTIVE:
        return True
    match news.truth:
        case ReplicaTruth.STARTING:
            pass
        case ReplicaTruth.RUNNING:
            _runs(t, replica)
        case ReplicaTruth.SUCCEEDED:
            _succeeded(t, replica)
        case ReplicaTruth.FAILED:
            _failed(t, replica, news.reason or "FAILED", news.errno, news.message)
        case ReplicaTruth.STOPPED:
            _failed(t, replica, "VANISHED", 0, "its agent no longer has it")
    return True


def start_due(t: Transition, replica: Replica) -> None:
    """The end of a back-off: start again on the same node, or look for a node."""
    if replica.phase is Phase.BACK_OFF:
        again = replace(
            replica,
            phase=Phase.ASSIGNED,
            attempt=replica.attempt + 1,
            restarts=replica.restarts + 1,
            due_ms=0,
            since_ms=t.now_ms,
        )
        t.tables.put(again)
        t.replica_event("REPLICA_RESTARTS", again, reason=replica.reason)
    elif replica.phase is Phase.PENDING:
        t.tables.put(replace(replica, due_ms=0))
        t.dirty[replica.workload] = None


def restart_now(t: Transition, replica: Replica, reason: str) -> None:
    """Starts a replica again that vanished through no fault of its own."""
    again = replace(
        replica,
        phase=Phase.ASSIGNED,
        attempt=replica.attempt + 1,
        restarts=replica.restarts + 1,
        due_ms=0,
        since_ms=t.now_ms,
        reason=reason,
    )
    t.tables.put(again)
    t.replica_event("REPLICA_RESTARTS", again, reason=reason)


def _runs(t: Transition, replica: Replica) -> None:
    if replica.phase is Phase.RUNNING:
        return
    replaces = replica.replaces
    running = replace(
        replica, phase=Phase.RUNNING, since_ms=t.now_ms, replaces="", waits_for=(), message=""
    )
    t.tables.put(running)
    t.replica_event("REPLICA_RUNNING", running)
    old = t.tables.replicas.get(replaces)
    if old is not None:
        stop(t, old, "REPLACED", f"{replica.name} runs in its place")
    workload = t.tables.workloads[replica.workload]
    if replaces or workload.generation > 1:
        t.dirty[replica.workload] = None


def _succeeded(t: Transition, replica: Replica) -> None:
    policy = t.tables.workloads[replica.workload].spec.restart_policy
    if policy is RestartPolicy.ALWAYS:
        _failed(t, replica, "EXITED", 0, "it ended with status 0 and is to run always")
        return
    _ended(t, replica, Phase.SUCCEEDED, "", 0, "")


def _failed(t: Transition, replica: Replica, reason: str, errno: int, message: str) -> None:
    t.replica_event("REPLICA_FAILED", replica, reason=reason, message=message)
    workload = t.tables.workloads[replica.workload]
    if workload.spec.restart_policy is RestartPolicy.NEVER:
        _ended(t, replica, Phase.FAILED, reason, errno, message)
        return
    settings = t.settings
    recovered = (
        replica.phase is Phase.RUNNING and t.now_ms - replica.since_ms >= settings.back_off_reset_ms
    )
    failures = 1 if recovered else replica.failures + 1
    doublings = min(failures - 1, 30)
    due_ms = t.now_ms + min(settings.back_off_base_ms << doublings, settings.back_off_max_ms)
    if failures % settings.failures_before_move == 0 and not workload.spec.per_node:
        _move(t, replica, workload, failures=failures, due_ms=due_ms, reason=reason)
        return
    waiting = replace(
        replica,
        phase=Phase.BACK_OFF,
        failures=failures,
        due_ms=due_ms,
        since_ms=t.now_ms,
        reason=reason,
        errno=errno,
        message=message,
    )
    t.tables.put(waiting)
    heappush(t.soft.timers, (due_ms, replica.name))


def _ended(
    t: Transition, replica: Replica, phase: Phase, reason: str, errno: int, message: str
) -> None:
    """It stays ended and holds nothing any more."""
    ended = replace(
        replica,
        phase=phase,
        since_ms=t.now_ms,
        booked_bytes=0,
        locked_bytes=0,
        reason=reason,
        errno=errno,
        message=message,
    )
    t.tables.put(ended)
    t.replica_event("REPLICA_ENDED", ended, reason=reason or phase.value)
    t.dirty[replica.workload] = None


def _move(
    t: Transition, replica: Replica, workload: Workload, *, failures: int, due_ms: int, reason: str
) -> None:
    """Tries another node after repeated failures, and says so. The back-off goes on there."""
    text = f"failed {failures} times in a row on {replica.node} ({reason}): trying another node"
    t.replica_event("REPLICA_MOVES", replica, reason=reason, message=text)
    kept = [entry for entry in workload.avoid if entry[1] > t.now_ms and entry[0] != replica.node]
    avoid = [*kept, (replica.node, t.now_ms + t.settings.avoid_ms)]
    workload = replace(workload, avoid=tuple(avoid[-t.settings.avoided_nodes_max :]))
    t.tables.put(workload)
    replaces = replica.replaces
    stop(t, replica, "REPEATED_FAILURE", text)
    (moved,) = add_pending(t, workload, 1, replaces=replaces)
    t.tables.put(
        replace(
            moved,
            due_ms=due_ms,
            failures=failures,
            restarts=replica.restarts + 1,
            reason=reason,
            message=text,
        )
    )
    heappush(t.soft.timers, (due_ms, moved.name))


def _release_replacement(t: Transition, old: Replica) -> None:
    """The replica that was to take the place of ``old`` stands on its own from now on."""
    replacing = t.book(old.workload).replacing
    for name in [name for name, replaced in replacing.items() if replaced == old.name]:
        t.tables.put(replace(t.tables.replicas[name], replaces=""))


def _release_waiting(t: Transition, victim: Replica) -> None:
    for waiting in list(t.books.nodes[victim.node].replicas.values()):
        if victim.name in waiting.waits_for:
            left = tuple(name for name in waiting.waits_for if name != victim.name)
            held_bytes = max(0, waiting.held_bytes - victim.booked_bytes) if left else 0
            t.tables.put(replace(waiting, waits_for=left, held_bytes=held_bytes))
