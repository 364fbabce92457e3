"""Listings of real hosts become inventories; wrong ones are named precisely."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.workload.errors import SpecError
from bpfleet.workload.inventory import inventory_from_bpftool

# Public outputs: a Cilium agent on 6.x, and a map-in-map and a frozen constant section beside it.
CT = {
    "id": 231,
    "type": "lru_hash",
    "name": "cilium_ct_any4_",
    "flags": 0,
    "bytes_key": 14,
    "bytes_value": 56,
    "max_entries": 9485966,
    "bytes_memlock": 1406756304,
    "frozen": 0,
}
RODATA = {
    "id": 7,
    "type": "array",
    "name": ".rodata",
    "flags": 0x480,
    "bytes_key": 4,
    "bytes_value": 64,
    "max_entries": 1,
    "frozen": 1,
}


def read(data: object, name: str = "host") -> object:
    return inventory_from_bpftool(json.dumps(data), "host.json", name=name)


def test_a_listing_becomes_an_inventory() -> None:
    inventory = inventory_from_bpftool(json.dumps([CT, RODATA]), "host.json", name="host")
    conntrack, rodata = inventory.maps
    assert (conntrack.map_type, conntrack.key_size, conntrack.value_size) == (
        MapType.LRU_HASH,
        14,
        56,
    )
    assert conntrack.max_entries == 9485966
    assert rodata.frozen
    assert rodata.churn_weight == 0


def test_a_single_object_is_accepted() -> None:
    assert inventory_from_bpftool(json.dumps(CT), "one.json", name="one").map_count == 1


def test_a_nameless_map_of_a_numbered_type_is_accepted() -> None:
    entry = {"id": 1, "type": 9, "bytes_key": 4, "bytes_value": 4, "max_entries": 1}
    inventory = inventory_from_bpftool(json.dumps([entry]), "f", name="x")
    assert inventory.maps[0].map_type is MapType.LRU_HASH
    assert inventory.maps[0].name == ""


def test_equal_maps_are_counted_not_repeated() -> None:
    inventory = inventory_from_bpftool(
        json.dumps([{**CT, "id": n} for n in range(500)]), "f", name="x"
    )
    assert [m.count for m in inventory.maps] == [500]


def test_maps_in_maps_get_a_stand_in_for_the_inner_map_bpftool_does_not_print() -> None:
    entry = {**CT, "type": "hash_of_maps", "bytes_key": 2, "bytes_value": 4}
    inner = inventory_from_bpftool(json.dumps([entry]), "f", name="x").maps[0].inner
    assert inner is not None
    assert inner.map_type is MapType.ARRAY


def test_a_programs_full_name_is_cut_as_the_kernel_cuts_it() -> None:
    listed = [{"id": 3, "type": "sched_cls", "name": "cil_from_container", "bytes_xlated": 64}]
    (program,) = read({"programs": listed}).programs
    assert program.name == "cil_from_contai"


def test_an_arena_may_have_any_flag_of_linux() -> None:
    arena = {"type": "arena", "flags": 0x60400, "bytes_key": 0, "bytes_value": 0, "max_entries": 9}
    (declared,) = read([arena]).maps
    assert declared.map_flags == 0x60400


def test_programs_know_their_maps() -> None:
    program = {
        "id": 9,
        "type": "sched_cls",
        "name": "to_container",
        "bytes_xlated": 4192,
        "map_ids": [231],
    }
    listing = json.dumps({"maps": [CT], "programs": [program]})
    loaded = inventory_from_bpftool(listing, "f", name="x").programs[0]
    assert (loaded.prog_type, loaded.insn_cnt) == (ProgType.SCHED_CLS, 524)
    assert loaded.map_names == ("cilium_ct_any4_",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "hsah"}, r"host\.json: \[0\]\.type = 'hsah': unknown map type; use one of hash"),
        ({"type": 99}, r"host\.json: \[0\]\.type = 99: unknown map type"),
        ({"type": True}, r"host\.json: \[0\]\.type = True: unknown map type"),
        ({"type": None}, r"host\.json: \[0\]\.type: missing"),
        ({"bytes_key": -1}, r"host\.json: \[0\]\.bytes_key = -1: out of range"),
        (
            {"max_entries": 1 << 40},
            r"max_entries = 1099511627776: out of range; use 0 to 4294967295",
        ),
        ({"max_entries": 1.5}, r"max_entries = 1\.5: not a whole number"),
        ({"bytes_value": "56"}, r"bytes_value = '56': not a whole number"),
        ({"bytes_value": None}, r"bytes_value: missing"),
        ({"flags": 1 << 30}, r"flags = 1073741824: unknown flag bits"),
        ({"entries": 1 << 31}, r"host\.json: \[0\]\.entries = 2147483648: out of range"),
        ({"name": 5}, r"name = 5: not text"),
        ({"name": "a name with spaces"}, r"name = 'a name with spaces': not a BPF object name"),
        ({"error": "Operation not permitted"}, r"error = .*bpftool failed; run it as root"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_value(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read([{**CT, **change}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("17", "not a list of objects"),
        ("[3]", r"\[0\] = 3: not an object"),
        ("[]", "lists no map"),
        ('{"maps": 3}', "maps = 3: not a list"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_listing_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        inventory_from_bpftool(text, "host.json", name="host")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CT, "map_extra", "pinned", "entries"]), JSON_VALUES))
def test_no_listing_causes_anything_but_a_spec_error(change: dict[str, object]) -> None:
    with contextlib.suppress(SpecError):
        read([{**CT, **change}])
