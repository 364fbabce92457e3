"""Group commit: nothing is acknowledged, dispatched or kept that is not stored."""

from hypothesis import given
from hypothesis import strategies as st
from small_fleet import GIB, INVENTORY, SmallFleet

from bpfleet.fleet.commands import (
    AgentLost,
    CordonNode,
    CreateWorkload,
    DeleteWorkload,
    DrainNode,
    Tick,
    UncordonNode,
    UpdateWorkload,
)
from bpfleet.fleet.dispatch import Dispatch
from bpfleet.fleet.engine import GroupCommit
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.records import RecordKind, decode, encode
from bpfleet.fleet.state import FleetState
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Scheduling, Spread, WorkloadSpec

AWAY = FleetError(Refused.UNAVAILABLE, "STORE_UNAVAILABLE", "away")


class Bench:
    """An engine over two nodes, and what its callers heard."""

    def __init__(self) -> None:
        self.small = SmallFleet()
        for name in "ab":
            self.small.node(name)
        self.state = self.small.state
        self.engine = GroupCommit(self.state, epoch=3, revision=7)
        self.engine.seal()
        self.engine.committed()
        self.heard: list[str] = []

    def submit(self, name: str, command) -> bool:
        return self.engine.submit(
            command,
            self.small.now_ms,
            lambda result: self.heard.append(f"{name} done"),
            lambda error: self.heard.append(f"{name} {error.reason}"),
        )

    def create(self, name: str, replicas: int = 1) -> bool:
        spec = WorkloadSpec(
            name=name, inventory=INVENTORY, replicas=replicas, memory_request_bytes=GIB
        )
        return self.submit(name, CreateWorkload(spec=spec))


def test_a_command_is_acknowledged_only_once_its_group_is_stored():
    bench = Bench()
    assert not bench.create("one")
    assert not bench.create("two")
    batch = bench.engine.seal()
    assert (batch.epoch, batch.expected_revision, batch.revision) == (3, 8, 9)
    assert {"workload/one", "workload/two", "replica/one-0"} <= batch.puts.keys()
    assert not bench.create("three")
    assert bench.engine.seal() is None, "one batch at a time"
    assert bench.heard == []
    bench.engine.committed()
    assert bench.heard == ["one done", "two done"]
    second = bench.engine.seal()
    assert second.expected_revision == 9
    assert "workload/one" not in second.puts
    bench.engine.committed()
    assert bench.heard[-1] == "three done"
    assert bench.engine.idle


def test_a_refusal_is_immediate_and_changes_nothing():
    bench = Bench()
    assert bench.submit("cordon", CordonNode("none"))
    assert bench.heard == ["cordon NODE_UNKNOWN"]
    assert bench.engine.seal() is None


def test_a_command_that_changes_nothing_waits_for_what_it_saw():
    bench = Bench()
    bench.submit("first", CordonNode("a"))
    bench.engine.seal()
    assert not bench.submit("again", CordonNode("a"))
    assert bench.heard == []
    bench.engine.committed()
    assert bench.heard == ["first done", "again done"]
    assert bench.submit("third", CordonNode("a"))


def test_a_failed_batch_takes_everything_back_and_refuses_all_who_wait():
    bench = Bench()
    before = snapshot(bench.state)
    bench.create("one", 3)
    bench.engine.seal()
    bench.create("two", 2)
    bench.submit("cordon", CordonNode("a"))
    bench.engine.failed(AWAY)
    assert bench.heard == [f"{n} STORE_UNAVAILABLE" for n in ("one", "two", "cordon")]
    assert snapshot(bench.state) == before
    bench.state.check()
    assert not bench.create("one")
    batch = bench.engine.seal()
    assert batch.expected_revision == 8
    assert "replica/one-0" in batch.puts


def test_orders_come_from_what_is_stored_not_from_what_is_decided():
    bench = Bench()
    bench.create("stored")
    bench.engine.seal()
    bench.engine.committed()
    (stored,) = bench.small.replicas("stored")
    bench.create("decided")
    bench.submit("delete", DeleteWorkload(name="stored"))
    assert bench.small.replicas("stored")[0].phase is Phase.STOPPING
    found = bench.engine.stored_replicas(f"agent-{stored.node}")
    assert found == [stored]
    dispatch = Dispatch(bench.state.tables.nodes, repeat_ms=100)
    dispatch.reset(f"agent-{stored.node}", found)
    orders = dispatch.take(f"agent-{stored.node}", 0)
    assert [r.name for r in orders.runs] == ["stored-0"]
    assert not orders.stops


def test_orders_are_repeated_until_the_truth_follows():
    bench = Bench()
    dispatch = Dispatch(bench.state.tables.nodes, repeat_ms=100)
    bench.create("one")
    bench.engine.seal()
    commit = bench.engine.committed()
    (agent,) = dispatch.follow(commit.changes)
    first = dispatch.take(agent, 0)
    assert dispatch.take(agent, 99) is None
    again = dispatch.take(agent, 100)
    assert again.runs == first.runs
    assert again.sequence == first.sequence + 1
    dispatch.retry(again)
    assert dispatch.take(agent, 101) is not None
    (replica,) = bench.small.replicas("one")
    running = {(RecordKind.REPLICA, replica.name): None}
    dispatch.follow(running)
    assert dispatch.take(agent, 10_000) is None


def snapshot(state: FleetState) -> tuple[object, ...]:
    """All records, and all books."""
    tables, books = state.tables, state.tables.books
    records = [
        dict(table)
        for table in (
            tables.metas,
            tables.agents,
            tables.nodes,
            tables.workloads,
            tables.replicas,
            tables.requests,
            tables.retired,
        )
    ]
    shapes = sorted((s.order, list(s.full)) for s in books.shapes(("zone",)).values())
    booked = {
        name: (b.booked_bytes, b.slots_used, b.by_priority, b.locked_bytes, b.workloads)
        for name, b in books.nodes.items()
    }
    sets = [sorted(books.pending), sorted(books.draining), books.closed, books.priorities]
    return records, shapes, booked, sets, sorted(tables.per_node)


NAMES = st.sampled_from(["w0", "w1", "w2"])
NODES = st.sampled_from(["a", "b", "c"])


def created(name, replicas, size, priority, flags):
    gang, spread, per_node = flags
    spec = WorkloadSpec(
        name=name,
        inventory=INVENTORY,
        replicas=replicas,
        memory_request_bytes=size * GIB,
        priority=priority,
        per_node=per_node,
        spread=Spread(topology_key="node") if spread else None,
        scheduling=Scheduling(gang=gang and not per_node),
    )
    return CreateWorkload(spec=spec)


FLAGS = st.tuples(st.booleans(), st.booleans(), st.booleans())
COMMANDS = st.one_of(
    st.builds(created, NAMES, st.integers(0, 4), st.integers(0, 5), st.integers(0, 2), FLAGS),
    st.builds(lambda n, r: UpdateWorkload(name=n, replicas=r), NAMES, st.integers(0, 6)),
    st.builds(lambda n: DeleteWorkload(name=n), NAMES),
    st.builds(CordonNode, NODES),
    st.builds(UncordonNode, NODES),
    st.builds(DrainNode, NODES),
    st.builds(lambda n: AgentLost(f"agent-{n}"), NODES),
    st.just(Tick()),
    st.just("agents"),
)


def attempt(small: SmallFleet, command) -> None:
    if command == "agents":
        small.step()
        return
    try:
        small.apply(command)
    except FleetError:
        small.state.check()


@given(st.lists(COMMANDS, max_size=15), st.lists(COMMANDS, max_size=15))
def test_whatever_was_decided_can_be_taken_back_exactly(first, second):
    small = SmallFleet()
    for name in "abc":
        small.node(name)
    for command in first:
        attempt(small, command)
    small.state.tables.log.clear()
    small.state.events.clear()
    before = snapshot(small.state)
    for command in second:
        attempt(small, command)
    small.state.rollback(0, 0)
    assert snapshot(small.state) == before
    small.state.check()


@given(st.lists(COMMANDS, max_size=25))
def test_a_restart_from_the_store_gives_the_same_fleet(commands):
    small = SmallFleet()
    for name in "abc":
        small.node(name)
    for command in commands:
        attempt(small, command)
    tables = small.state.tables
    stored = [
        (kind, encode(record))
        for kind, table in (
            (RecordKind.META, tables.metas),
            (RecordKind.AGENT, tables.agents),
            (RecordKind.REPLICA, tables.replicas),
            (RecordKind.NODE, tables.nodes),
            (RecordKind.WORKLOAD, tables.workloads),
            (RecordKind.REQUEST, tables.requests),
            (RecordKind.RETIRED, tables.retired),
            (RecordKind.PARTED, tables.parted),
        )
        for record in table.values()
    ]
    again = FleetState()
    again.load(decode(kind, text) for kind, text in stored)
    assert snapshot(again) == snapshot(small.state)
    again.check()
