"""Workloads of every kind, for property tests."""

from hypothesis import strategies as st

from bpfleet.abi.bpf import Capability, MapType, ProgType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.workload.catalogue import applications
from bpfleet.workload.spec import (
    SERIAL_MAX,
    Churn,
    Inventory,
    KeyDistribution,
    LabelOperator,
    MapDeclaration,
    Preference,
    ProgramDeclaration,
    ReplicaOrder,
    Requirement,
    RestartPolicy,
    Scheduling,
    Spread,
    TaintEffect,
    Toleration,
    WorkloadSpec,
)

__all__ = ["churns", "inventories", "memlocks", "names", "orders", "specs"]

names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", fullmatch=True)
label_keys = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,30}[A-Za-z0-9])?", fullmatch=True)
label_values = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=12)
labels = st.dictionaries(label_keys, label_values, max_size=3)
sizes = st.integers(0, 1 << 50)
memlocks = st.one_of(st.none(), st.just(RLIM_INFINITY), st.integers(0, (1 << 63) - 1))
_OBJECT_NAMES = st.from_regex(r"[A-Za-z0-9_.]{0,15}", fullmatch=True)
_PLAIN_TYPES = st.sampled_from(
    [t for t in MapType if t not in (MapType.UNSPEC, MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)]
)
_plain_maps = st.builds(
    MapDeclaration,
    name=_OBJECT_NAMES,
    map_type=_PLAIN_TYPES,
    key_size=st.integers(0, 64),
    value_size=st.integers(0, 1 << 20),
    max_entries=st.integers(10, 1 << 20),
    map_flags=st.integers(0, (1 << 32) - 1),
    count=st.integers(1, 5),
    fill_entries=st.integers(0, 10),
    pinned=st.booleans(),
    frozen=st.booleans(),
    churn_weight=st.integers(0, 1000),
)
_maps = st.one_of(
    _plain_maps,
    st.builds(
        MapDeclaration,
        name=_OBJECT_NAMES,
        map_type=st.sampled_from([MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS]),
        key_size=st.just(4),
        value_size=st.just(4),
        max_entries=st.integers(4, 100),
        inner=_plain_maps,
        inner_count=st.integers(0, 4),
    ),
)
churns = st.builds(
    Churn,
    lookups=st.integers(1, 100),
    updates=st.integers(0, 100),
    creates=st.integers(0, 100),
    operations_per_step=st.integers(0, 1000),
    step_ns=st.integers(1, 1 << 40),
    batch_size=st.integers(1, 4096),
    key_distribution=st.sampled_from(KeyDistribution),
    working_set=st.floats(0, 1),
    start_share=st.floats(0, 1),
)
inventories = st.builds(
    Inventory,
    name=names,
    title=st.text(max_size=10),
    source=st.text(max_size=10),
    maps=st.lists(_maps, max_size=3).map(tuple),
    programs=st.lists(
        st.builds(
            ProgramDeclaration,
            name=_OBJECT_NAMES,
            prog_type=st.sampled_from(ProgType).filter(bool),
            insn_cnt=st.integers(1, 1_000_000),
            count=st.integers(1, 9),
            pinned=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    user_memory_bytes=sizes,
    churn=churns,
)
_requirements = st.one_of(
    st.builds(
        Requirement,
        label_keys,
        st.sampled_from([LabelOperator.IN, LabelOperator.NOT_IN]),
        st.lists(label_values, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        Requirement,
        label_keys,
        st.sampled_from([LabelOperator.EXISTS, LabelOperator.DOES_NOT_EXIST]),
    ),
    st.builds(
        Requirement,
        label_keys,
        st.sampled_from([LabelOperator.GREATER_THAN, LabelOperator.LESS_THAN]),
        st.integers(-99, 99).map(lambda number: (str(number),)),
    ),
)
_few_requirements = st.lists(_requirements, max_size=2).map(tuple)


@st.composite
def specs(draw: st.DrawFn) -> WorkloadSpec:
    """A workload that could be submitted."""
    by_application = draw(st.booleans())
    per_node = draw(st.booleans())
    return draw(
        st.builds(
            WorkloadSpec,
            name=names,
            application=st.sampled_from(applications()) if by_application else st.none(),
            inventory=st.none() if by_application else inventories,
            options=st.dictionaries(label_keys, st.integers(0, 1 << 40), max_size=2),
            labels=labels,
            replicas=st.integers(0, 100_000),
            per_node=st.just(per_node),
            priority=st.integers(-(1 << 31), (1 << 31) - 1),
            uid=st.integers(0, (1 << 32) - 2),
            capabilities=st.one_of(st.none(), st.frozensets(st.sampled_from(Capability))),
            memory_request_bytes=sizes,
            memory_limit_bytes=st.one_of(st.none(), sizes),
            memlock_bytes=memlocks,
            oom_score_adj=st.integers(-1000, 1000),
            user_memory_bytes=st.one_of(st.none(), sizes),
            churn=st.one_of(st.none(), churns),
            restart_policy=st.sampled_from(RestartPolicy),
            node_selector=labels,
            tolerations=st.lists(
                st.builds(
                    Toleration,
                    st.one_of(st.just(""), label_keys),
                    label_values,
                    st.one_of(st.none(), st.sampled_from(TaintEffect)),
                ),
                max_size=2,
            ).map(tuple),
            spread=st.one_of(
                st.none(),
                st.builds(
                    Spread,
                    topology_key=label_keys,
                    max_skew=st.integers(1, 9),
                    best_effort=st.booleans(),
                ),
            ),
            scheduling=st.builds(
                Scheduling,
                required=_few_requirements,
                preferred=st.lists(
                    st.builds(Preference, _requirements, st.integers(1, 100)), max_size=2
                ).map(tuple),
                gang=st.just(False) if per_node else st.booleans(),
                max_unavailable=st.integers(1, 100),
                disruption_budget=st.integers(1, 100),
            ),
        )
    )


@st.composite
def orders(draw: st.DrawFn) -> ReplicaOrder:
    """An order to start a replica."""
    return draw(
        st.builds(
            ReplicaOrder,
            workload=specs(),
            serial=st.integers(0, SERIAL_MAX),
            node=names,
            attempt=st.integers(0, (1 << 31) - 1),
            cgroup=st.sampled_from(["", "/a/b"]),
            seed=st.integers(0, (1 << 63) - 1),
        )
    )
