"""Names of resources are built and parsed in one place."""

import pytest

from bpfleet.rpc import names
from bpfleet.rpc.errors import ApiError


def test_names_and_bare_ids_mean_the_same():
    assert names.node_id(names.node_name("node-1.a")) == names.node_id("node-1.a") == "node-1.a"
    assert names.workload_id(names.workload_name("falco")) == "falco"


def test_processes_are_named_below_their_node():
    assert names.process_id(names.process_name("n1", 100)) == ("n1", 100)


@pytest.mark.parametrize(
    "text", ["", "nodes/", "a/b", "-a", "a" * 64, "nödes", "nodes/nodes/a", " a"]
)
def test_what_is_not_a_node_is_refused_with_the_field(text):
    with pytest.raises(ApiError, match=r"^caller\.node: "):
        names.node_id(text, "caller.node")


@pytest.mark.parametrize(
    "text",
    ["", "nodes/a", "nodes/a/processes/0", "nodes/a/processes/x", "nodes/a/processes/4294967296"],
)
def test_what_is_not_a_process_is_refused(text):
    with pytest.raises(ApiError, match="is not a process"):
        names.process_id(text)


def test_an_absurdly_long_name_is_not_repeated_in_full():
    with pytest.raises(ApiError) as caught:
        names.node_id("x" * 100_000)
    assert len(caught.value.message) < 300
