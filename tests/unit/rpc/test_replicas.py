"""Phases, errnos and the status of a replica on the wire and back."""

import pytest
from sample_replicas import boot, replica

from bpfleet.abi.errno import Errno
from bpfleet.rpc.replicas import (
    errno_message,
    errno_record,
    news_record,
    phase_message,
    phase_record,
    status_message,
)
from bpfleet.runtime import ReplicaRun
from bpfleet.v1 import replica_pb2 as pb
from bpfleet.workload.phase import Phase


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_comes_back_as_it_was(phase):
    assert phase_record(phase_message(phase)) is phase


def test_the_wire_knows_the_phases_of_the_model_and_no_others():
    names = {name.removeprefix("REPLICA_PHASE_") for name in pb.ReplicaPhase.keys()}  # noqa: SIM118  # an enum wrapper, no dict
    assert names == {phase.name for phase in Phase} | {"UNSPECIFIED"}


@pytest.mark.parametrize("number", [0, 99])
def test_an_unknown_phase_decides_nothing(number):
    assert phase_record(number) is Phase.ASSIGNED


@pytest.mark.parametrize("errno", Errno)
def test_an_errno_comes_back_as_it_was(errno):
    assert errno_record(errno_message(errno.name)) == errno.name


@pytest.mark.parametrize("name", ["", "KILLED", "ENOSUCHTHING"])
def test_what_is_no_errno_is_zero(name):
    assert errno_message(name) == 0


def test_an_unknown_number_is_no_errno():
    assert errno_record(0) == errno_record(9_999) == ""


def test_the_status_of_a_refused_start_says_which_call_and_why():
    run = ReplicaRun(boot("5.10"), replica(memlock_bytes=4096))
    run.start()
    message = status_message(
        run, replica="web-0", attempt=3, node="n1", phase=run.phase, charged_bytes=7
    )
    assert message.phase == pb.REPLICA_PHASE_FAILED
    assert (message.call, message.object) == ("MAP_CREATE", "table")
    assert dict(message.outcomes) == {"EPERM": 1}
    news = news_record(message)
    assert (news.replica, news.attempt, news.phase) == ("web-0", 3, Phase.FAILED)
    assert (news.reason, news.errno) == ("RLIMIT_MEMLOCK_EXCEEDED", "EPERM")
    assert news.charged_bytes == 7
    assert news.message.startswith("MAP_CREATE of table: EPERM RLIMIT_MEMLOCK_EXCEEDED: ")


def test_figures_below_zero_are_shown_as_zero_and_long_texts_are_cut():
    news = news_record(
        pb.ReplicaStatus(replica="r" * 300, reason="R" * 99, message="m" * 999, rss_bytes=-1)
    )
    assert news.rss_bytes == 0
    assert [len(text) for text in (news.replica, news.reason, news.message)] == [253, 64, 500]


def test_a_replica_on_a_node_that_stopped_says_so():
    run = ReplicaRun(boot("6.12"), replica())
    run.start()
    message = status_message(
        run,
        replica="web-0",
        attempt=0,
        node="n1",
        phase=Phase.FAILED,
        charged_bytes=0,
        crash_message="it was asked to",
    )
    assert (message.reason, message.message) == ("NODE_CRASHED", "it was asked to")
