"""The table of a replica's life and the back-off: what follows what, and what changes nothing."""

import pytest

from bpfleet.runtime.lifecycle import ALIVE, ENDED, HEARD, BackOff, News, after, restarts
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import RestartPolicy

KUBELET = BackOff(first=10, longest=300, reset=600)


def phases_after(*news: News, policy: RestartPolicy = RestartPolicy.ALWAYS) -> list[Phase]:
    """The life of a replica from PENDING on."""
    phase, life = Phase.PENDING, []
    for each in news:
        phase = after(phase, each, policy) or phase
        life.append(phase)
    return life


def test_a_replica_is_placed_starts_runs_and_is_stopped() -> None:
    life = phases_after(News.PLACED, News.STARTED, News.STOP, News.GONE)
    assert life == [Phase.ASSIGNED, Phase.RUNNING, Phase.STOPPING, Phase.STOPPED]


def test_a_failed_replica_waits_and_starts_again() -> None:
    life = phases_after(News.PLACED, News.FAILED, News.DUE, News.STARTED)
    assert life == [Phase.ASSIGNED, Phase.BACK_OFF, Phase.ASSIGNED, Phase.RUNNING]


@pytest.mark.parametrize(
    ("policy", "failed", "exited"),
    [
        (RestartPolicy.ALWAYS, Phase.BACK_OFF, Phase.BACK_OFF),
        (RestartPolicy.ON_FAILURE, Phase.BACK_OFF, Phase.SUCCEEDED),
        (RestartPolicy.NEVER, Phase.FAILED, Phase.SUCCEEDED),
    ],
)
def test_the_restart_policy_says_which_ends_are_final(
    policy: RestartPolicy, failed: Phase, exited: Phase
) -> None:
    for phase in ALIVE:
        assert after(phase, News.FAILED, policy) is failed
        assert after(phase, News.EXITED, policy) is exited
    assert restarts(policy, Phase.FAILED) == (failed is Phase.BACK_OFF)
    assert restarts(policy, Phase.SUCCEEDED) == (exited is Phase.BACK_OFF)


def test_for_an_agent_an_attempt_that_ended_has_ended() -> None:
    assert after(Phase.RUNNING, News.FAILED) is Phase.FAILED


def test_a_replica_that_is_to_stop_only_stops() -> None:
    for news in News:
        assert after(Phase.STOPPING, news) is (Phase.STOPPED if news is News.GONE else None)


def test_an_end_is_left_by_a_stop_only() -> None:
    for phase in ENDED:
        for news in News:
            assert after(phase, news) is (Phase.STOPPING if news is News.STOP else None)


def test_nothing_follows_the_end() -> None:
    assert [after(Phase.STOPPED, news) for news in News] == [None] * len(News)


def test_a_replica_without_a_node_hears_nothing_of_agents() -> None:
    assert [after(Phase.PENDING, news) for news in HEARD.values()] == [None] * len(HEARD)


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [KUBELET.pause(failures) for failures in range(1, 8)]
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    assert KUBELET.pause(1_000_000) == 300


def test_failures_are_forgotten_after_a_long_run() -> None:
    assert KUBELET.failures(4, ran=599) == 5
    assert KUBELET.failures(4, ran=600) == 1
