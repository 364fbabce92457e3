"""Each checker raises for what it is there for, and for nothing else."""

import pytest
from msgspec.structs import replace

from bpfleet.fleet.records import RecordKind, Replica, Workload, encode
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.store import Batch
from bpfleet.sim.checkers import (
    AgentsWord,
    Books,
    OneWriter,
    OrderNumbers,
    Violation,
    WatchedEvents,
)
from bpfleet.v1 import registry_service_pb2, replica_pb2, runtime_service_pb2
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Inventory, WorkloadSpec

WAITS = Replica(name="web-0", workload="web", serial=0, generation=1)
RUNS = replace(WAITS, phase=Phase.RUNNING, node="n1", restarts=1, attempt=1, failures=1)
WORKLOAD = Workload(name="web", spec=WorkloadSpec(name="web", inventory=Inventory(name="app")))


def batch(*records, epoch=1, removals=()):
    kinds = {Replica: RecordKind.REPLICA, Workload: RecordKind.WORKLOAD}
    puts = {f"{kinds[type(r)]}/{r.name}": encode(r) for r in records}
    return Batch(
        epoch=epoch,
        expected_revision=0,
        revision=1,
        puts=puts,
        removals=tuple(removals),
        events=(),
    )


def said(phase, attempt):
    status = replica_pb2.ReplicaStatus(replica="web-0", attempt=attempt, phase=phase)
    report = registry_service_pb2.NodeReport(node="n1", replicas=[status])
    return registry_service_pb2.ReportNodesRequest(reports=[report])


def test_a_batch_of_an_earlier_term_is_a_violation():
    writer = OneWriter()
    writer.elected(2)
    writer.stored(batch(epoch=2))
    with pytest.raises(Violation, match="term 1 is stored in term 2"):
        writer.stored(batch(epoch=1))


def test_an_order_number_given_twice_is_a_violation():
    orders = OrderNumbers()
    for sequence in (2, 3):
        orders.sent(
            "a1", runtime_service_pb2.StopReplicasRequest(leader_epoch=1, sequence=sequence)
        )
    orders.sent("a2", runtime_service_pb2.StopReplicasRequest(leader_epoch=1, sequence=2))
    orders.sent("a1", runtime_service_pb2.StopReplicasRequest(leader_epoch=2, sequence=1))
    with pytest.raises(Violation, match="order 3 to a1 follows order 3"):
        orders.sent("a1", runtime_service_pb2.RunReplicasRequest(leader_epoch=1, sequence=3))


def test_only_what_an_agent_said_of_this_attempt_may_be_stored():
    word = AgentsWord()
    word.said(said(replica_pb2.REPLICA_PHASE_RUNNING, attempt=1))
    word.stored(None, RUNS)
    with pytest.raises(Violation, match="attempt 2 of web-0 is stored as RUNNING"):
        word.stored(RUNS, replace(RUNS, attempt=2))
    with pytest.raises(Violation, match="stored as BACK_OFF"):
        word.stored(RUNS, replace(RUNS, phase=Phase.BACK_OFF))
    word.said(said(replica_pb2.REPLICA_PHASE_FAILED, attempt=1))
    word.stored(RUNS, replace(RUNS, phase=Phase.BACK_OFF))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (RUNS, replace(RUNS, restarts=0), "started 1 times again, 0 are counted"),
        (RUNS, replace(RUNS, attempt=0, restarts=0), "now 0"),
        (replace(RUNS, phase=Phase.STOPPING), RUNS, "is to stop, and is RUNNING again"),
        (replace(RUNS, phase=Phase.FAILED), RUNS, "has ended as FAILED"),
        (replace(RUNS, phase=Phase.BACK_OFF, due_ms=10_000), RUNS, "without another attempt"),
        (RUNS, replace(RUNS, node="n2"), "moved from n1 to n2"),
        (RUNS, replace(RUNS, failures=9), "failed 9 times, 1 restarts"),
        (
            RUNS,
            replace(RUNS, phase=Phase.BACK_OFF, failures=2, due_ms=5),
            "waits 5 ms after 2 failures",
        ),
        (RUNS, replace(RUNS, phase=Phase.BACK_OFF), "failed 1 times in a row, now 1"),
    ],
)
def test_a_life_that_no_replica_has_is_a_violation(before, after, says):
    word = AgentsWord()
    for phase in replica_pb2.ReplicaPhase.values():  # an enum wrapper
        word.said(said(phase, attempt=1))
    books = Books(FleetSettings(), word)
    books.shadow.tables.put(WORKLOAD)
    books.shadow.tables.replicas[before.name] = before
    books._check_binding(before)
    with pytest.raises(Violation, match=says):
        books.stored(batch(after))


def test_a_watcher_that_misses_an_event_is_a_violation():
    events = WatchedEvents()
    with pytest.raises(Violation, match="event 3 after event 1"):
        events.seen(3, "NODE_READY", "", "n1", after=1)
    with pytest.raises(Violation, match="stored is another"):
        events.seen(2, "NODE_READY", "", "n1", after=1)
