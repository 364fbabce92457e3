"""Records to plain data and back, and what is said about data that is wrong."""

import pytest

from bpfleet.abi.bpf import Capability, MapType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import Churn, Inventory, MapDeclaration, Toleration, WorkloadSpec

OUTER = {
    "name": "outer",
    "map_type": "array_of_maps",
    "key_size": 4,
    "value_size": 4,
    "max_entries": 8,
    "inner_count": 2,
    "inner": {
        "name": "inner",
        "map_type": "hash",
        "key_size": 4,
        "value_size": 8,
        "max_entries": 16,
    },
}


def test_a_record_survives_the_round_trip() -> None:
    spec = WorkloadSpec(
        name="agent",
        inventory=Inventory(name="app", maps=(from_data(MapDeclaration, OUTER, "f"),)),
        labels={"team": "net"},
        capabilities=frozenset({Capability.BPF}),
        memlock_bytes=RLIM_INFINITY,
        tolerations=(Toleration(key="gpu"),),
        churn=Churn(updates=1, lookups=0, deletes=0),
    )
    assert from_data(WorkloadSpec, to_data(spec), "again") == spec


def test_sizes_may_be_written_with_units() -> None:
    data = {
        "name": "a",
        "application": "falco",
        "memory_limit_bytes": "512Mi",
        "memlock_bytes": "unlimited",
    }
    spec = from_data(WorkloadSpec, data, "f.toml")
    assert spec.memory_limit_bytes == 512 << 20
    assert spec.memlock_bytes == RLIM_INFINITY


def test_map_types_are_named_as_bpftool_names_them() -> None:
    assert from_data(MapDeclaration, OUTER, "f").map_type is MapType.ARRAY_OF_MAPS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_entrys": 1}, r"f\.toml: max_entrys: unknown field; did you mean 'max_entries'"),
        ({"key_size": -4}, r"f\.toml: key_size = -4: out of range; use 0 to 4294967295"),
        ({"key_size": True}, r"f\.toml: key_size = True: not a whole number"),
        ({"key_size": "4"}, r"f\.toml: key_size = '4': not a whole number"),
        ({"map_type": "hsah"}, r"f\.toml: map_type = 'hsah': unknown; did you mean 'hash'"),
        ({"inner": {"name": "x"}}, r"f\.toml: inner\.map_type: missing"),
        ({"inner": 5}, r"f\.toml: inner = 5: not a table"),
        (
            {"inner": {**OUTER["inner"], "value_size": -1}},  # type: ignore[dict-item]
            r"f\.toml: inner\.value_size = -1: out of range",
        ),
        ({"map_type": "hash"}, r"hash holds no maps; remove it"),
        ({"name": "a name with spaces"}, r"f\.toml: name = 'a name with spaces': not a BPF object"),
        ({"pinned": 1}, r"f\.toml: pinned = 1: neither true nor false"),
    ],
)
def test_bad_data_is_one_line_with_file_field_and_value(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        from_data(MapDeclaration, {**OUTER, **change}, "f.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", 7])
def test_something_else_than_a_table_is_refused(data: object) -> None:
    with pytest.raises(SpecError, match="not a table"):
        from_data(MapDeclaration, data, "f.toml")


def test_a_size_that_is_none_says_what_is_accepted() -> None:
    with pytest.raises(
        SpecError, match=r"memory_limit_bytes = '5 apples': not a size; write bytes"
    ):
        from_data(
            WorkloadSpec,
            {"name": "a", "application": "b", "memory_limit_bytes": "5 apples"},
            "f.toml",
        )


def test_a_workload_needs_exactly_one_program() -> None:
    with pytest.raises(SpecError, match="either an application or an inventory"):
        WorkloadSpec(name="a")
    with pytest.raises(SpecError, match="either an application or an inventory"):
        WorkloadSpec(name="a", application="x", inventory=Inventory(name="y"))
