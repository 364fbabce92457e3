"""Listings of real hosts become inventories; wrong ones are named precisely."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.abi.bpf import F_RDONLY_PROG, MapType, ProgType
from bpfleet.calibrate.generation import best_matches
from bpfleet.captures.listings import Listing, read_listing
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import Inventory

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


def read(data: object, name: str = "host") -> Inventory:
    return read_listing(json.dumps(data), "host.json", name=name).inventory


def test_a_listing_becomes_an_inventory() -> None:
    inventory = read_listing(json.dumps([CT, RODATA]), "host.json", name="host").inventory
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
    assert read_listing(json.dumps(CT), "one.json", name="one").inventory.map_count == 1


def test_a_nameless_map_of_a_numbered_type_is_accepted() -> None:
    entry = {"id": 1, "type": 9, "bytes_key": 4, "bytes_value": 4, "max_entries": 1}
    inventory = read_listing(json.dumps([entry]), "f", name="x").inventory
    assert inventory.maps[0].map_type is MapType.LRU_HASH
    assert inventory.maps[0].name == ""


def test_equal_maps_are_counted_not_repeated() -> None:
    inventory = read_listing(
        json.dumps([{**CT, "id": n} for n in range(500)]), "f", name="x"
    ).inventory
    assert [m.count for m in inventory.maps] == [500]


def test_maps_in_maps_get_a_stand_in_for_the_inner_map_bpftool_does_not_print() -> None:
    entry = {**CT, "type": "hash_of_maps", "bytes_key": 2, "bytes_value": 4}
    inner = read_listing(json.dumps([entry]), "f", name="x").inventory.maps[0].inner
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
        "verified_insns": 1837,
    }
    listing = json.dumps({"maps": [CT], "programs": [program]})
    loaded = read_listing(listing, "f", name="x").inventory.programs[0]
    assert (loaded.prog_type, loaded.insn_cnt) == (ProgType.SCHED_CLS, 524)
    assert loaded.map_names == ("cilium_ct_any4_",)
    assert loaded.complexity.verified_insns == 1837


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "hsah"}, r"host\.json: lists no map \(left out, not known here: 1 of type hsah"),
        ({"type": 99}, r"lists no map \(left out, not known here: 1 of type 99"),
        ({"type": 0}, r"host\.json: \[0\]\.type = 0: unknown map type"),
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
        ({"entries": 1 << 31}, r"host\.json: \[0\]\.entries = 2147483648: out of range"),
        ({"name": 5}, r"name = 5: not text"),
        ({"name": "a name with spaces"}, r"name = 'a name with spaces': not a BPF object name"),
        (
            {"error": "Operation not permitted"},
            r"bpftool failed: Operation not permitted; run it as root",
        ),
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
        read_listing(text, "host.json", name="host")


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


CASES = Path(__file__).with_name("listings")


def case(name: str) -> Listing:
    return read_listing((CASES / name).read_text(), name, name="case")


def test_plain_text_is_read_with_pins_and_frozen_maps() -> None:
    listing = case("listing-plain-f.txt")
    assert [(each.declared.type_name, each.memlock_bytes) for each in listing.seen] == [
        ("prog_array", 8576),
        ("hash", 46944),
        ("percpu_array", 7824),
        ("prog_array", 392),
        ("hash", 5568),
        ("array", 8192),
        ("array", 8192),
    ]
    pinned = [each.declared.name for each in listing.seen if each.declared.pinned]
    assert pinned == ["", "ctx_map", "parsers", "flowtracker"]
    assert [each.declared.name for each in listing.seen if each.declared.frozen] == [
        "flow_tra.rodata"
    ]


def test_an_error_object_before_the_list_is_quoted() -> None:
    listing = case("listing-error-first.txt")
    assert len(listing.seen) == 1
    assert listing.warnings == (
        "listing-error-first.txt: the listing holds the error: bpftool built without PID iterator support",
    )


def test_an_unknown_type_is_left_out_with_its_memlock() -> None:
    later = {"type": "rhash", "flags": 1, "bytes_key": 4, "bytes_value": 8, "max_entries": 9,
             "bytes_memlock": 2560}  # fmt: skip
    listing = read_listing(json.dumps([later, CT]), "later.json", name="later")
    (warning,) = listing.warnings
    assert "1 of type rhash, memlock 2,560 bytes" in warning
    assert len(listing.seen) == 1


def test_instruction_arrays_are_taken_as_their_maker_declared_them() -> None:
    """The kernel shows BPF_F_RDONLY_PROG of them, which it sets itself and refuses."""
    listing = case("listing-6.19-insn-array.json")
    assert not listing.warnings
    (_, table) = listing.seen
    assert (table.declared.map_type, table.memlock_bytes) == (MapType.INSN_ARRAY, 2560)
    shown = {"type": "insn_array", "flags": F_RDONLY_PROG, "bytes_key": 4, "bytes_value": 16,
             "max_entries": 64, "bytes_memlock": 1840}  # fmt: skip
    (declared,) = read([shown]).maps
    assert declared.map_flags == 0


def test_memlock_values_of_instruction_arrays_tell_the_kernel() -> None:
    shown = {"type": "insn_array", "flags": F_RDONLY_PROG, "bytes_key": 4, "bytes_value": 16,
             "max_entries": 64, "bytes_memlock": 1840}  # fmt: skip
    seen = read_listing(json.dumps([shown]), "host.json", name="host").seen
    names = {match.profile for match in best_matches(seen) if match.is_exact}
    assert "6.19" in names
    assert "6.18" not in names


def test_a_listing_of_programs_alone_is_taken() -> None:
    (program,) = case("programs-only.json").inventory.programs
    assert (program.prog_type, program.insn_cnt) == (ProgType.LSM, 65)


def test_both_listings_in_one_text_are_combined() -> None:
    program = {"id": 9, "type": "xdp", "name": "p", "bytes_xlated": 80, "map_ids": [CT["id"]]}
    listing = read_listing(json.dumps([CT]) + "\n" + json.dumps([program]), "f", name="x")
    assert listing.inventory.programs[0].map_names == (CT["name"],)


PLAIN_PROGRAMS = """\
463: lsm  name restrict_filesystems  tag 7673068478f99ef8  gpl
\tloaded_at 2026-03-31T10:14:18+0000  uid 0
\txlated 520B  jited 408B  memlock 4096B  map_ids 156,157
\tbtf_id 306
\tpids systemd(1)
Error: can't get prog by id (464): No such file or directory
470: type 77  tag 0123456789abcdef
\txlated 64B  not jited  memlock 4096B
4: tracing  prog 15
\tprog_type tracing  attach_type trace_fentry
156: hash_of_maps  flags 0x0
\tkey 4B  value 4B  max_entries 16  memlock 4096B
"""


def test_plain_text_of_programs_links_and_vanished_objects() -> None:
    listing = read_listing(PLAIN_PROGRAMS, "f", name="x")
    (program,) = listing.inventory.programs
    assert (program.name, program.insn_cnt) == ("restrict_filesy", 65)
    assert len(listing.seen) == 1
    assert listing.warnings == (
        "f: left out, not known here: 1 of type 77 (program), memlock 4,096 bytes",
        "f: 1 objects were gone before bpftool could read them",
        "f: passed over: 1 links",
    )


FDINFO = """\
pos:\t0
flags:\t02000002
map_type:\t1
key_size:\t8
value_size:\t16
max_entries:\t1024
map_flags:\t0x1
map_extra:\t0x0
memlock:\t90112
map_id:\t7
frozen:\t1
"""


def test_fdinfo_is_read_and_a_map_open_twice_counts_once() -> None:
    other = FDINFO.replace("map_id:\t7", "map_id:\t8")
    listing = read_listing(FDINFO + FDINFO + other, "f", name="x")
    assert [each.memlock_bytes for each in listing.seen] == [90112, 90112]
    assert listing.seen[0].declared.frozen
    assert listing.seen[0].declared.map_flags == 1


def test_fdinfo_of_a_program_gives_its_size_from_its_pages() -> None:
    text = "prog_type:\t2\nprog_jited:\t1\nmemlock:\t8192\nprog_id:\t5\nverified_insns:\t10\n"
    (program,) = read_listing(text, "f", name="x").inventory.programs
    assert program.insn_cnt == 1015


def test_lines_of_a_terminal_before_the_json_are_kept_as_errors() -> None:
    listing = read_listing("libbpf: a warning\n" + json.dumps([CT]), "f", name="x")
    assert listing.warnings == ("f: the listing holds the error: libbpf: a warning",)


def test_flags_of_a_newer_kernel_are_left_out_with_a_warning() -> None:
    listing = read_listing(json.dumps([{**CT, "flags": 1 << 30}]), "f", name="x")
    assert listing.seen[0].declared.map_flags == 0
    assert "flags 0x40000000 are not known here" in listing.warnings[0]


@given(st.text(max_size=300))
def test_no_text_causes_anything_but_a_spec_error(text: str) -> None:
    with contextlib.suppress(SpecError):
        read_listing(text, "f", name="x")


@given(st.data())
def test_no_broken_paste_causes_anything_but_a_spec_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([PLAIN_PROGRAMS, FDINFO, json.dumps([CT])]))
    at = data.draw(st.integers(0, len(text)))
    with contextlib.suppress(SpecError):
        read_listing(text[:at] + data.draw(st.text(max_size=5)) + text[at + 3 :], "f", name="x")
