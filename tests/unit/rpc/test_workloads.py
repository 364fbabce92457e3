"""Records survive the way through their messages; what no record accepts is named by its field."""

import pytest
from hypothesis import given
from sample_specs import churns, inventories, memlocks, orders, specs

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.rpc import enums
from bpfleet.rpc.enums import EnumPair
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.rlimits import (
    memlock_message,
    memlock_record,
    resource_limit_message,
    resource_limit_record,
)
from bpfleet.rpc.workloads import (
    churn_message,
    churn_record,
    inventory_message,
    inventory_record,
    replica_order_message,
    replica_order_record,
    spec_message,
    spec_record,
)
from bpfleet.v1 import process_service_pb2, rlimit_pb2, workload_pb2
from bpfleet.workload.catalogue import applications, inventory_for
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.spec import Churn, NodeShape, ReplicaOrder, WorkloadSpec

ENUMERATIONS = {name: pair for name, pair in vars(enums).items() if isinstance(pair, EnumPair)}


@given(specs())
def test_a_workload_survives_the_way_through_its_message(record):
    assert spec_record(spec_message(record)) == record


@given(specs())
def test_a_workload_survives_the_way_through_a_file(record):
    assert from_data(WorkloadSpec, to_data(record), "file") == record


@given(orders())
def test_an_order_survives_the_way_through_its_message(record):
    assert replica_order_record(replica_order_message(record), "replica") == record


@given(inventories)
def test_an_inventory_survives_the_way_through_its_message(record):
    assert inventory_record(inventory_message(record)) == record


@given(churns)
def test_churn_survives_the_way_through_its_message(record):
    assert churn_record(churn_message(record)) == record


@given(memlocks)
def test_a_memlock_limit_means_the_same_on_the_wire(size_bytes):
    message = memlock_message(size_bytes)
    assert (None if message is None else memlock_record(message, "memlock")) == size_bytes


@given(memlocks.filter(lambda size: size is not None))
def test_a_resource_limit_survives_the_way_through_its_message(size_bytes):
    limits = (size_bytes, RLIM_INFINITY)
    assert resource_limit_record(resource_limit_message(*limits), (1, 1)) == limits


def test_what_a_resource_limit_does_not_say_stays_as_it_is():
    only_soft = process_service_pb2.ResourceLimit(soft=rlimit_pb2.RlimitValue(bytes=1))
    assert resource_limit_record(only_soft, (5, 7)) == (1, 7)
    assert resource_limit_record(process_service_pb2.ResourceLimit(), (5, 7)) == (5, 7)
    too_high = process_service_pb2.ResourceLimit(soft=rlimit_pb2.RlimitValue(unlimited=True))
    with pytest.raises(ApiError, match="over the hard limit"):
        resource_limit_record(too_high, (5, 7))


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_every_member_of_an_enumeration_survives(name):
    pair = ENUMERATIONS[name]
    members = {pair.record(number, "field", None) for number in range(1, 50) if known(pair, number)}
    assert members == set(type(next(iter(members))))
    for member in members:
        assert pair.record(pair.message(member), "field", None) is member


def known(pair, number):
    try:
        return pair.optional(number, "field") is not None
    except ApiError:
        return False


@pytest.mark.parametrize("application", applications())
def test_every_application_survives_the_way_through_its_message(application):
    record = inventory_for(application, NodeShape(possible_cpus=4, ram_bytes=8 << 30))
    assert inventory_record(inventory_message(record)) == record


def test_absent_churn_numbers_have_the_records_defaults_and_given_zeros_count():
    assert churn_record(workload_pb2.Churn()) == Churn()
    assert churn_record(workload_pb2.Churn(lookups=0)) == Churn(lookups=0)


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ({"map_type": 1, "key_size": -1}, "inventory.maps[0].key_size"),
        ({"map_type": 99}, "inventory.maps[0].map_type"),
        ({"map_type": 0}, "inventory.maps[0].map_type"),
        ({"map_type": 1, "max_entries": 1 << 40}, "inventory.maps[0].max_entries"),
        ({"map_type": 1, "name": "a b"}, "inventory.maps[0].name"),
        (
            {"map_type": 12, "inner": {"map_type": 1, "key_size": -1}},
            "inventory.maps[0].inner.key_size",
        ),
    ],
)
def test_a_map_no_record_accepts_is_named_by_its_field(declared, field):
    message = workload_pb2.Inventory(name="app", maps=[declared])
    with pytest.raises(ApiError) as caught:
        inventory_record(message)
    assert caught.value.facts["field"] == field


def test_unknown_words_and_too_many_declarations_are_refused():
    with pytest.raises(ApiError, match="key_distribution: 9 is unknown"):
        churn_record(workload_pb2.Churn(key_distribution=9))
    with pytest.raises(ApiError, match="restart_policy: 9 is unknown"):
        spec_record(workload_pb2.WorkloadSpec(name="a", application="falco", restart_policy=9))
    with pytest.raises(ApiError, match="more than 4096"):
        inventory_record(workload_pb2.Inventory(name="app", maps=[{}] * 4097))


@pytest.mark.parametrize("serial", [99_999, 100_000, 100_001, 1_000_000, 10_000_000])
def test_a_workload_never_uses_up_its_identity(serial):
    order = ReplicaOrder(
        workload=WorkloadSpec(name="web", application="falco"), serial=serial, node="n1"
    )
    arrived = replica_order_record(replica_order_message(order), "replica")
    assert (arrived.serial, arrived.name) == (serial, f"web-{serial}")


@pytest.mark.parametrize("name", ["0web", "web.1", "w" * 60, "a"])
def test_a_name_that_is_good_in_a_file_is_good_on_the_wire(name):
    record = from_data(WorkloadSpec, {"name": name, "application": "falco"}, "file")
    assert spec_record(spec_message(record)).name == name


@pytest.mark.parametrize("name", ["Web", "-web", "web-", "w" * 64, "a/b", "ü", ""])
def test_a_name_that_is_bad_in_a_file_is_bad_on_the_wire(name):
    with pytest.raises(ValueError, match="not a name"):
        from_data(WorkloadSpec, {"name": name, "application": "falco"}, "file")
    with pytest.raises(ApiError, match="not a name"):
        spec_record(workload_pb2.WorkloadSpec(name=name, application="falco"))


def test_a_label_of_200_characters_is_good_everywhere():
    labels = {"k" * 200: "v"}
    record = from_data(
        WorkloadSpec, {"name": "a", "application": "falco", "labels": labels}, "file"
    )
    assert spec_record(spec_message(record)).labels == labels
