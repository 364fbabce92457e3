"""Inventories survive the way through their messages; what no record accepts is named by its field."""

import pytest

from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.workloads import (
    churn_message,
    churn_record,
    inventory_message,
    inventory_record,
    restart_policy_message,
    restart_policy_record,
)
from bpfleet.v1 import workload_pb2
from bpfleet.workload.catalogue import applications, inventory_for
from bpfleet.workload.spec import Churn, KeyDistribution, NodeShape, RestartPolicy


@pytest.mark.parametrize("application", applications())
def test_every_application_survives_the_way_through_its_message(application):
    record = inventory_for(application, NodeShape(possible_cpus=4, ram_bytes=8 << 30))
    assert inventory_record(inventory_message(record)) == record


def test_absent_churn_numbers_have_the_records_defaults_and_given_zeros_count():
    assert churn_record(workload_pb2.Churn()) == Churn()
    assert churn_record(workload_pb2.Churn(lookups=0)) == Churn(lookups=0)


@pytest.mark.parametrize("distribution", list(KeyDistribution))
def test_every_key_distribution_survives(distribution):
    record = Churn(key_distribution=distribution, working_set=0.5, ramp_steps=3)
    assert churn_record(churn_message(record)) == record


@pytest.mark.parametrize("policy", list(RestartPolicy))
def test_every_restart_policy_survives(policy):
    assert restart_policy_record(restart_policy_message(policy)) is policy


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
        restart_policy_record(9)
    with pytest.raises(ApiError, match="more than 4096"):
        inventory_record(workload_pb2.Inventory(name="app", maps=[{}] * 4097))
