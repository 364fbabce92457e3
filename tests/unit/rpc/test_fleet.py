"""What agents announce and report survives the way through its messages."""

from hypothesis import given
from hypothesis import strategies as st
from sample_specs import label_keys, label_values, names

from bpfleet.abi.errno import Errno
from bpfleet.fleet.commands import NodeAnnouncement, NodeUsage, ReplicaNews
from bpfleet.rpc.fleet import (
    announcement,
    announcement_message,
    label_command,
    taint_command,
    usage_message,
    usage_record,
)
from bpfleet.rpc.replicas import news_message, news_record
from bpfleet.v1 import fleet_service_pb2, workload_pb2
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Taint, TaintEffect

sizes = st.integers(0, (1 << 63) - 1)
news = st.builds(
    ReplicaNews,
    replica=names,
    attempt=st.integers(0, (1 << 31) - 1),
    phase=st.sampled_from(Phase),
    reason=st.sampled_from(["", "OOM_KILLED"]),
    errno=st.sampled_from(["", *(errno.name for errno in Errno)]),
    message=st.text(max_size=50),
    charged_bytes=sizes,
    rss_bytes=sizes,
)
some_news = st.lists(news, max_size=3).map(tuple)


@given(news)
def test_news_of_a_replica_survives(record):
    assert news_record(news_message(record)) == record


@given(
    st.builds(
        NodeAnnouncement,
        name=names,
        profile=st.sampled_from(["5.10", "6.12", "6.12:nobpf"]),
        possible_cpus=st.integers(1, 8192),
        ram_bytes=st.integers(1 << 20, 1 << 50),
        reserved_bytes=st.integers(0, 1 << 20),
        labels=st.dictionaries(label_keys, label_values, max_size=3).map(
            lambda found: tuple(sorted(found.items()))
        ),
        taints=st.lists(
            st.builds(Taint, label_keys, label_values, st.sampled_from(TaintEffect)), max_size=2
        ).map(tuple),
        max_replicas=st.integers(0, 1_000),
        replicas=some_news,
    )
)
def test_an_announced_node_survives(record):
    assert announcement(announcement_message(record), "nodes[0]") == record


@given(
    st.builds(
        NodeUsage,
        node=names,
        memory_used_bytes=sizes,
        bpf_charged_bytes=sizes,
        locked_bytes=sizes,
        verdicts=st.dictionaries(
            st.sampled_from(["EPERM", "ENOMEM", "OOM_KILL"]), sizes, max_size=3
        ).map(lambda found: tuple(sorted(found.items()))),
        crashed=st.booleans(),
        replicas=some_news,
    )
)
def test_a_report_survives(record):
    assert usage_record(usage_message(record)) == record


def test_what_an_operator_asks_for_is_read_field_by_field():
    label = label_command(
        fleet_service_pb2.LabelNodeRequest(
            name="nodes/n1", labels={"b": "2", "a": "1"}, removed_labels=["c", "c"], overwrite=True
        )
    )
    assert (label.name, label.labels) == ("n1", (("a", "1"), ("b", "2")))
    assert (label.removed, label.overwrite) == (("c",), True)
    drain = workload_pb2.Taint(key="k", effect=workload_pb2.TAINT_EFFECT_NO_EXECUTE)
    taint = taint_command(
        fleet_service_pb2.TaintNodeRequest(
            name="n1", taints=[drain], removed_taints=[workload_pb2.Taint(key="old")]
        )
    )
    assert taint.taints == (Taint("k", "", TaintEffect.NO_EXECUTE),)
    assert taint.removed == (("old", None),)
