"""The life of a replica on the fleet: what each step of ``runtime.lifecycle`` changes in the books.

Which phase follows which is the table's business; here stand the bookings, the timers and the events of each step.
"""

from heapq import heappush

from msgspec.structs import replace

from bpfleet.fleet.commands import ReplicaNews
from bpfleet.fleet.invariant import BrokenInvariantError
from bpfleet.fleet.placement import Need, summary
from bpfleet.fleet.reasons import FleetEventKind, ReplicaReason
from bpfleet.fleet.records import Decision, Replica, Workload
from bpfleet.fleet.transition import Transition
from bpfleet.runtime.lifecycle import ENDED, HEARD, News, after
from bpfleet.workload.phase import Phase

__all__ = ["add_pending", "bind", "gone", "hear", "lose", "start_due", "stop", "waits_because"]


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
        phase=_next(replica, News.PLACED),
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
    t.replica_event(FleetEventKind.REPLICA_PLACED, bound, message=summary(decision, node))


def waits_because(t: Transition, replica: Replica, reason: str, decision: Decision | None) -> None:
    """Keeps with a waiting replica why no node takes it; says so once per reason."""
    message = summary(decision, None) if decision is not None else reason
    if replica.reason == reason and replica.decision == decision:
        return
    waiting = replace(replica, reason=reason, message=message, decision=decision)
    t.tables.put(waiting)
    if replica.reason != reason:
        t.replica_event(FleetEventKind.REPLICA_WAITS, waiting, reason=reason, message=message)


def stop(t: Transition, replica: Replica, reason: ReplicaReason, message: str = "") -> None:
    """Has a replica stopped; one without a living node is gone at once."""
    _release_replacement(t, replica)
    t.dirty[replica.workload] = None
    node = t.tables.nodes.get(replica.node)
    if node is None or not node.ready:
        t.tables.remove(replica)
        t.replica_event(FleetEventKind.REPLICA_STOPPED, replica, reason=reason, message=message)
        return
    following = after(replica.phase, News.STOP)
    if following is None:
        return
    stopping = replace(
        replica,
        phase=following,
        since_ms=t.now_ms,
        due_ms=0,
        reason=reason,
        message=message,
        replaces="",
    )
    t.tables.put(stopping)
    t.replica_event(FleetEventKind.REPLICA_STOPPING, stopping, reason=reason, message=message)


def gone(t: Transition, replica: Replica) -> None:
    """Forgets a replica that its agent has stopped, and lets go who waited for its memory."""
    t.tables.remove(replica)
    t.dirty[replica.workload] = None
    t.replica_event(FleetEventKind.REPLICA_STOPPED, replica, reason=replica.reason)
    _release_waiting(t, replica)
    book = t.books.nodes[replica.node]
    if book.node.draining and not book.replicas:
        t.event(FleetEventKind.NODE_DRAINED, node=replica.node)


def lose(t: Transition, replica: Replica, reason: ReplicaReason) -> None:
    """Forgets a replica whose node is gone; if it comes back, its agent is told to stop it."""
    _release_replacement(t, replica)
    t.tables.remove(replica)
    t.dirty[replica.workload] = None
    t.replica_event(FleetEventKind.REPLICA_LOST, replica, reason=reason)
    _release_waiting(t, replica)


def hear(t: Transition, node: str, news: ReplicaNews) -> bool:
    """Takes in what an agent says about a replica on ``node``; False if it should not be there.

    News of an older attempt is stale and changes nothing.
    """
    replica = t.tables.replicas.get(news.replica)
    if replica is None or replica.node != node:
        return False
    if news.phase not in HEARD:
        return True
    heard = HEARD[news.phase]
    if replica.phase is not Phase.STOPPING and news.attempt != replica.attempt:
        return True
    policy = t.tables.workloads[replica.workload].spec.restart_policy
    following = after(replica.phase, heard, policy)
    match following:
        case None:
            pass
        case Phase.STOPPED:
            gone(t, replica)
        case Phase.RUNNING:
            _runs(t, replica)
        case _:
            _failed(t, replica, following, _told(heard, news))
    return True


def _told(heard: News, news: ReplicaNews) -> ReplicaNews:
    """The news with a reason of our own where the agent has none to give."""
    match heard:
        case News.GONE:
            return replace(
                news, reason=ReplicaReason.VANISHED, message="its agent no longer has it"
            )
        case News.EXITED:
            return replace(news, reason=ReplicaReason.EXITED, message="it ended with status 0")
        case _:
            return replace(news, reason=news.reason or ReplicaReason.FAILED)


def start_due(t: Transition, replica: Replica) -> None:
    """The end of a back-off: start again on the same node, or look for a node."""
    if replica.phase is Phase.PENDING:
        t.tables.put(replace(replica, due_ms=0))
        t.dirty[replica.workload] = None
    elif after(replica.phase, News.DUE) is not None:
        _start_again(t, replica, News.DUE, replica.reason)


def restart_now(t: Transition, replica: Replica, reason: ReplicaReason) -> None:
    """Starts a replica again that vanished through no fault of its own."""
    _start_again(t, replica, News.VANISHED, reason)


def _start_again(t: Transition, replica: Replica, news: News, reason: str) -> None:
    again = replace(
        replica,
        phase=_next(replica, news),
        attempt=replica.attempt + 1,
        restarts=replica.restarts + 1,
        due_ms=0,
        since_ms=t.now_ms,
        reason=reason,
    )
    t.tables.put(again)
    t.replica_event(FleetEventKind.REPLICA_RESTARTS, again, reason=reason)


def _next(replica: Replica, news: News) -> Phase:
    following = after(replica.phase, news)
    if following is None:
        raise BrokenInvariantError(f"{replica.name} is {replica.phase}: {news.name} means nothing")
    return following


def _runs(t: Transition, replica: Replica) -> None:
    replaces = replica.replaces
    running = replace(
        replica,
        phase=_next(replica, News.STARTED),
        since_ms=t.now_ms,
        replaces="",
        waits_for=(),
        message="",
    )
    t.tables.put(running)
    t.replica_event(FleetEventKind.REPLICA_RUNNING, running)
    old = t.tables.replicas.get(replaces)
    if old is not None:
        stop(t, old, ReplicaReason.REPLACED, f"{replica.name} runs in its place")
    workload = t.tables.workloads[replica.workload]
    if replaces or workload.generation > 1:
        t.dirty[replica.workload] = None


def _failed(t: Transition, replica: Replica, following: Phase, news: ReplicaNews) -> None:
    """An attempt is over: the replica is ended for good, waits for its next start, or moves."""
    if following is Phase.SUCCEEDED:
        _ended(t, replica, following, replace(news, reason="", message=""))
        return
    t.replica_event(
        FleetEventKind.REPLICA_FAILED, replica, reason=news.reason, message=news.message
    )
    if following in ENDED:
        _ended(t, replica, following, news)
        return
    policy = t.settings.back_off_ms
    ran_ms = t.now_ms - replica.since_ms if replica.phase is Phase.RUNNING else 0
    failures = policy.failures(replica.failures, ran_ms)
    due_ms = t.now_ms + policy.pause(failures)
    workload = t.tables.workloads[replica.workload]
    if failures % t.settings.failures_before_move == 0 and not workload.spec.per_node:
        _move(t, replica, workload, failures=failures, due_ms=due_ms, reason=news.reason)
        return
    waiting = replace(
        replica,
        phase=following,
        failures=failures,
        due_ms=due_ms,
        since_ms=t.now_ms,
        reason=news.reason,
        errno=news.errno,
        message=news.message,
    )
    t.tables.put(waiting)
    heappush(t.soft.timers, (due_ms, replica.name))


def _ended(t: Transition, replica: Replica, phase: Phase, news: ReplicaNews) -> None:
    """It stays ended and holds nothing any more."""
    ended = replace(
        replica,
        phase=phase,
        since_ms=t.now_ms,
        booked_bytes=0,
        locked_bytes=0,
        reason=news.reason,
        errno=news.errno,
        message=news.message,
    )
    t.tables.put(ended)
    t.replica_event(FleetEventKind.REPLICA_ENDED, ended, reason=news.reason or phase.value)
    t.dirty[replica.workload] = None


def _move(
    t: Transition, replica: Replica, workload: Workload, *, failures: int, due_ms: int, reason: str
) -> None:
    """Tries another node after repeated failures, and says so. The back-off goes on there."""
    text = f"failed {failures} times in a row on {replica.node} ({reason}): trying another node"
    t.replica_event(FleetEventKind.REPLICA_MOVES, replica, reason=reason, message=text)
    kept = [entry for entry in workload.avoid if entry[1] > t.now_ms and entry[0] != replica.node]
    avoid = [*kept, (replica.node, t.now_ms + t.settings.avoid_ms)]
    workload = replace(workload, avoid=tuple(avoid[-t.settings.avoided_nodes_max :]))
    t.tables.put(workload)
    replaces = replica.replaces
    stop(t, replica, ReplicaReason.REPEATED_FAILURE, text)
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
