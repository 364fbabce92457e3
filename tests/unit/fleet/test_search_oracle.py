"""What the search chooses is what a look at every node would choose, whatever labels, taints and bookings are."""

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st
from small_fleet import GIB, INVENTORY

from bpfleet.fleet.books import FleetBooks, share
from bpfleet.fleet.placement import RequestEstimator, Search, _score, _tie
from bpfleet.fleet.records import FleetNode, Policy, Replica, Workload
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import (
    LabelOperator,
    Preference,
    Requirement,
    Scheduling,
    Spread,
    Taint,
    Toleration,
    WorkloadSpec,
)

POLICIES = (Policy.LEAST_ALLOCATED, Policy.MOST_ALLOCATED)
ZONES = st.sampled_from(["a", "b", "c"])


def node(number: int, zone: str, *, own: bool, tainted: bool, large: bool) -> FleetNode:
    name = f"n{number}" if number % 3 else f"node-{number:04d}"
    labels = [("zone", zone), *([("serial", name), ("node", name)] if own else [])]
    return FleetNode(
        name=name,
        agent="agent",
        profile="6.12",
        possible_cpus=4,
        ram_bytes=8 * GIB,
        allocatable_bytes=(8 if large else 4) * GIB,
        announced_labels=tuple(sorted(labels)),
        announced_taints=(Taint("dedicated", "yes"),) if tainted else (),
        max_replicas=5,
    )


NODES = st.builds(
    lambda zones, own, tainted, large: [
        node(n, zone, own=own, tainted=n in tainted, large=n in large)
        for n, zone in enumerate(zones)
    ],
    st.lists(ZONES, min_size=1, max_size=40).flatmap(
        # Many that are alike, too: they are shared out without looking at each.
        lambda zones: st.sampled_from([zones, zones * 4])
    ),
    st.booleans(),
    st.sets(st.integers(0, 30)),
    st.sets(st.integers(0, 30)),
)
SPECS = st.builds(
    lambda selector, preferred, spread, tolerates, names: WorkloadSpec(
        name="w",
        inventory=INVENTORY,
        memory_request_bytes=GIB,
        node_selector={"zone": selector} if selector else {},
        tolerations=(Toleration(),) if tolerates else (),
        spread=spread,
        scheduling=Scheduling(
            required=(Requirement("node", LabelOperator.IN, names),) if names else (),
            preferred=tuple(
                Preference(Requirement(key, LabelOperator.IN, (value,)), weight)
                for key, value, weight in preferred
            ),
        ),
    ),
    st.sampled_from(["", "a"]),
    st.lists(
        st.tuples(
            st.sampled_from(["zone", "node", "serial"]),
            st.sampled_from(["a", "n1", "n2"]),
            st.integers(1, 100),
        ),
        max_size=2,
    ),
    st.sampled_from([None, Spread(), Spread(topology_key="zone", max_skew=2)]),
    st.booleans(),
    st.sampled_from([(), ("n1", "n2", "node-0003")]),
)


def by_every_node(search: Search, books: FleetBooks, policy: Policy, replica: str) -> str | None:
    """The best of all nodes that nothing rules out."""
    seed = crc32(replica.encode())
    ranked = []
    for name, book in books.nodes.items():
        if search.admit(name).refusal is None:
            need = search._need(book.node)
            score = _score(policy, book, need) + search._judge_of.verdict(book.node).bonus
            ranked.append((-score, _tie(policy, book), share(name, seed), name))
    return min(ranked)[-1] if ranked else None


@given(NODES, SPECS, st.sampled_from(POLICIES), st.lists(st.integers(0, 200), max_size=60))
def test_the_search_finds_the_best_of_all_nodes(
    nodes: list[FleetNode], spec: WorkloadSpec, policy: Policy, bound: list[int]
) -> None:
    books = FleetBooks()
    for each in nodes:
        books.set_node(None, each)
    for serial, number in enumerate(bound):
        target = nodes[number % len(nodes)].name
        if books.nodes[target].slots_free > 0:
            other = Replica(
                name=f"o-{serial}", workload="o", serial=serial, generation=1,
                phase=Phase.RUNNING, node=target, booked_bytes=GIB // (1 + number % 3),
            )  # fmt: skip
            books.set_replica(None, other)
    workload = Workload(name="w", spec=spec, avoid=(("n5", 10),))
    search = Search(
        books, workload, policy=policy, estimator=RequestEstimator(), verdicts={}, now_ms=1
    )
    for serial in range(8):
        name = f"w-{serial}"
        expected = by_every_node(search, books, policy, name)
        chosen = search.choose(name)
        if expected is None:
            break  # only what is avoided is left, or nothing
        assert chosen.node == expected
        replica = Replica(
            name=name, workload="w", serial=serial, generation=1, phase=Phase.ASSIGNED,
            node=expected, booked_bytes=chosen.need.booked_bytes,
        )  # fmt: skip
        books.set_replica(None, replica)
        search.placed(expected)
        books.check()
