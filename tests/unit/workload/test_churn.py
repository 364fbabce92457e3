"""Churn is a function of inventory and seed; its keys and mix are what was asked for."""

from collections import Counter
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.workload.churn import ChurnStream, HeapRamp, targets_of
from bpfleet.workload.ops import Operation, OpKind, key_bytes, key_count, value_bytes
from bpfleet.workload.spec import Churn, Inventory, KeyDistribution, MapDeclaration

HASH = MapDeclaration(
    name="h", map_type=MapType.HASH, key_size=8, value_size=16, max_entries=1000, count=2
)
ARRAY = MapDeclaration(name="a", map_type=MapType.ARRAY, key_size=4, value_size=8, max_entries=64)
RING = MapDeclaration(
    name="r", map_type=MapType.RINGBUF, key_size=0, value_size=0, max_entries=4096
)
TRIE = MapDeclaration(
    name="t",
    map_type=MapType.LPM_TRIE,
    key_size=8,
    value_size=4,
    max_entries=100,
    map_flags=F_NO_PREALLOC,
)
APP = Inventory(name="app", maps=(HASH, RING, ARRAY), user_memory_bytes=1000)


def drawn(inventory: Inventory, seed: int, steps: int) -> list[Operation]:
    stream = ChurnStream(inventory, seed)
    return list(chain.from_iterable(stream.step() for _ in range(steps)))


def test_equal_seeds_give_equal_streams_and_others_do_not() -> None:
    assert drawn(APP, 7, 3) == drawn(APP, 7, 3)
    assert drawn(APP, 7, 3) != drawn(APP, 8, 3)


def test_the_stream_does_not_change_between_releases() -> None:
    """A finding is replayed from its seed, so the first operations of a seed are part of the
    interface.
    """
    assert drawn(APP, 7, 1)[:4] == [
        Operation(OpKind.LOOKUP, 3, 63, 1),
        Operation(OpKind.LOOKUP, 3, 63, 1),
        Operation(OpKind.UPDATE, 3, 0, 1),
        Operation(OpKind.UPDATE, 0, 850, 1),
    ]


def test_the_mix_follows_the_weights() -> None:
    churn = Churn(lookups=50, updates=30, deletes=20, operations_per_step=4000)
    kinds = Counter(o.kind for o in drawn(replace(APP, maps=(HASH,), churn=churn), 1, 1))
    assert abs(kinds[OpKind.LOOKUP] - 2000) < 200
    assert abs(kinds[OpKind.UPDATE] - 1200) < 200
    assert abs(kinds[OpKind.DELETE] - 800) < 200


def test_only_maps_with_elements_are_touched_and_arrays_are_never_deleted_from() -> None:
    operations = drawn(APP, 3, 10)
    ring = targets_of(APP).index(RING)
    array = targets_of(APP).index(ARRAY)
    assert all(o.target != ring for o in operations)
    assert any(o.target == array for o in operations)
    assert all(o.kind is not OpKind.DELETE for o in operations if o.target == array)


def test_a_weight_of_zero_leaves_a_map_alone() -> None:
    app = replace(APP, maps=(replace(HASH, churn_weight=0), ARRAY))
    assert {o.target for o in drawn(app, 3, 5)} == {2}


def test_an_application_without_element_maps_has_no_churn() -> None:
    assert drawn(replace(APP, maps=(RING,)), 1, 3) == []


def test_sequential_keys_go_round() -> None:
    churn = Churn(
        lookups=0,
        updates=1,
        deletes=0,
        operations_per_step=70,
        key_distribution=KeyDistribution.SEQUENTIAL,
    )
    keys = [o.key for o in drawn(replace(APP, maps=(ARRAY,), churn=churn), 1, 1)]
    assert keys == [n % 64 for n in range(70)]


def test_skewed_keys_prefer_the_first_ones() -> None:
    churn = Churn(operations_per_step=2000, key_distribution=KeyDistribution.ZIPF)
    keys = Counter(o.key < 40 for o in drawn(replace(APP, maps=(HASH,), churn=churn), 1, 1))
    assert keys[True] > keys[False]


@given(
    seed=st.integers(0, 2**64 - 1),
    distribution=st.sampled_from(KeyDistribution),
    batch=st.integers(1, 300),
    working_set=st.floats(0, 1),
)
def test_keys_stay_below_the_key_count(
    seed: int, distribution: KeyDistribution, batch: int, working_set: float
) -> None:
    churn = Churn(
        key_distribution=distribution,
        batch_size=batch,
        working_set=working_set,
        operations_per_step=50,
    )
    app = replace(APP, maps=(HASH, ARRAY, TRIE), churn=churn)
    for operation in drawn(app, seed, 2):
        declared = targets_of(app)[operation.target]
        assert 0 <= operation.key < key_count(declared, working_set)
        assert 1 <= operation.amount <= key_count(declared, working_set)


@given(peak=st.integers(0, 1 << 40), share=st.floats(0, 1), steps=st.integers(0, 40))
def test_the_heap_ends_at_its_peak_exactly(peak: int, share: float, steps: int) -> None:
    app = replace(APP, user_memory_bytes=peak, churn=Churn(start_share=share, ramp_steps=steps))
    ramp = HeapRamp(app)
    grown = [ramp.grow() for _ in range(steps + 3)]
    assert ramp.start_bytes + sum(grown) == peak
    assert all(part >= 0 for part in grown)
    assert grown[-3:] == [0, 0, 0]


def test_a_trie_key_is_a_full_length_prefix_and_neighbours_differ_in_the_last_bit() -> None:
    first, second = key_bytes(TRIE, 4), key_bytes(TRIE, 5)
    assert first == b"\x20\x00\x00\x00\x00\x00\x00\x04"
    assert second == b"\x20\x00\x00\x00\x00\x00\x00\x05"


def test_queues_have_no_keys() -> None:
    queue = replace(RING, map_type=MapType.QUEUE, value_size=8)
    assert key_bytes(queue, 3) is None


def test_per_cpu_values_hold_one_rounded_copy_per_cpu() -> None:
    declared = replace(HASH, map_type=MapType.PERCPU_HASH, value_size=12)
    assert len(value_bytes(declared, 6)) == 16 * 6
    assert len(value_bytes(HASH, 6)) == 16


def test_a_huge_heap_is_touched_in_parts():
    """One page fault of TiB would hold an agent up for seconds."""
    inventory = replace(
        APP, user_memory_bytes=200 << 30, churn=Churn(ramp_steps=1, start_share=0.0)
    )
    stream = ChurnStream(inventory, seed=1)
    touched = [op.amount for op in stream.step() if op.kind is OpKind.TOUCH]
    assert touched == [64 << 30, 64 << 30, 64 << 30, 8 << 30]
