"""The comparison: what it counts, where it says models part ways, and that nothing but the inputs
decides.
"""

import pytest
from sample_fleet import small_scenario

from bpfleet.report.compare import Comparison, ModelTotals, compare
from bpfleet.report.results import Divergence, as_plain
from bpfleet.workload.phase import Phase

MODELS = ("5.10", "5.11", "6.12", "6.12:nobpf")


@pytest.fixture(scope="module")
def result() -> Comparison:
    return compare(small_scenario(), MODELS)


def totals(result: Comparison, model: str) -> ModelTotals:
    return next(t for t in result.totals if t.model == model)


def divergence_of(result: Comparison, workload: str, node: str) -> Divergence:
    found = [d for n in result.nodes for d in n.divergences]
    return next(d for d in found if d.workload == workload and d.node == node)


def test_every_model_gets_the_same_fleet(result: Comparison) -> None:
    assert {(t.nodes, t.placed) for t in result.totals} == {(3, 7)}
    assert result.unplaced == ()


def test_the_refusals_are_each_models_own(result: Comparison) -> None:
    rlimit, memcg, unaccounted = (totals(result, m) for m in ("5.10", "6.12", "6.12:nobpf"))
    assert (rlimit.eperm > 0, rlimit.enomem, rlimit.oom_kills) == (True, 0, 0)
    assert (memcg.eperm, memcg.enomem > 0, memcg.oom_kills > 0) == (0, True, True)
    assert (unaccounted.eperm, unaccounted.oom_kills) == (0, 0)


def test_running_and_crash_looping_add_up(result: Comparison) -> None:
    for t in result.totals:
        assert t.running + t.crash_looping + t.failed == t.placed


def test_the_rlimit_model_charges_what_it_estimates(result: Comparison) -> None:
    rlimit = totals(result, "5.10")
    assert rlimit.charged_bytes == rlimit.estimate_bytes > 0


def test_a_memlock_refusal_diverges_at_the_start_with_its_counter_and_limit(
    result: Comparison,
) -> None:
    divergence = divergence_of(result, "bpftrace", "large-0001")
    verdict = divergence.verdicts["5.10"]
    assert (divergence.step, divergence.call, divergence.object) == (0, "MAP_CREATE", "stack_1016")
    assert (verdict.errno, verdict.reason) == ("EPERM", "RLIMIT_MEMLOCK_EXCEEDED")
    assert verdict.counters is not None
    assert (verdict.counters.uid, verdict.counters.memlock_bytes) == (1002, 64 << 10)
    assert all(divergence.verdicts[m].errno == "ok" for m in MODELS[1:])
    assert divergence.cause.startswith("EPERM under 5.10: ")


def test_a_full_cgroup_diverges_with_usage_and_limit(result: Comparison) -> None:
    divergence = divergence_of(result, "falco", "large-0001")
    verdict = divergence.verdicts["6.12"]
    assert (verdict.errno, verdict.reason) == ("ENOMEM", "MEMCG_LIMIT_EXCEEDED")
    assert verdict.counters is not None
    assert verdict.counters.limit_bytes == 320 << 20
    # As it stood when the call was refused, not after the failed creation was undone.
    assert verdict.counters.usage_bytes + int(verdict.numbers["requested_bytes"]) > 320 << 20
    assert divergence.verdicts["5.10"].errno == "ok"


def test_a_kill_while_running_diverges_at_that_step(result: Comparison) -> None:
    divergence = divergence_of(result, "probe", "small-0001")
    assert divergence.step > 0
    killed = divergence.verdicts["6.12"]
    assert killed.errno == "SIGKILL"
    assert killed.counters is not None
    assert killed.counters.usage_bytes == killed.counters.limit_bytes
    assert divergence.verdicts["5.10"].errno == "ok"


def test_kills_are_kept_with_their_candidates(result: Comparison) -> None:
    kills = [k for n in result.nodes for k in n.models["6.12"].oom_kills]
    assert kills
    assert {kill.workload for kill in kills} == {"probe"}
    assert all(kill.fields["candidates"] for kill in kills)


def test_the_first_divergence_is_the_earliest(result: Comparison) -> None:
    positions = [d.position for n in result.nodes for d in n.divergences]
    assert result.first_divergence is not None
    assert result.first_divergence.position == min(positions)


def test_causes_count_every_divergence_once(result: Comparison) -> None:
    assert sum(c.count for c in result.causes) == sum(len(n.divergences) for n in result.nodes)


def test_starts_and_restarts_are_told_apart(result: Comparison) -> None:
    falco = [r for n in result.nodes for r in n.models["6.12"].replicas if r.workload == "falco"]
    on_small = next(r for r in falco if r.name == "falco-0")
    on_large = next(r for r in falco if r.name == "falco-2")
    assert (on_small.first_start, dict(on_small.later_starts)) == ("ok", {"ok": 1})
    assert on_large.first_start == "ENOMEM"
    assert on_large.phase is Phase.BACK_OFF


def test_charges_over_time_are_sampled_after_every_step(result: Comparison) -> None:
    for node in result.nodes:
        for model in node.models.values():
            assert [s.step for s in model.samples] == list(range(9))
            for sample in model.samples:
                assert sample.charged_bytes == sum(sample.by_class.values())
                assert sample.charged_bytes == sum(sample.by_workload.values())


def test_the_same_inputs_give_the_same_result(result: Comparison) -> None:
    assert as_plain(compare(small_scenario(), MODELS)) == as_plain(result)


@pytest.mark.slow
def test_the_number_of_worker_processes_changes_nothing(result: Comparison) -> None:
    assert as_plain(compare(small_scenario(), MODELS, jobs=2)) == as_plain(result)


def test_progress_is_reported_node_by_node() -> None:
    seen: list[str] = []
    compare(small_scenario(), ("6.12",), on_node=lambda r: seen.append(r.node))
    assert seen == ["small-0001", "small-0002", "large-0001"]


def test_models_that_answer_alike_do_not_diverge() -> None:
    same = compare(small_scenario().scaled_to(1), ("6.12", "6.18"))
    assert [d.workload for n in same.nodes for d in n.divergences] == []
    assert same.first_divergence is None


@pytest.mark.parametrize(
    ("models", "jobs", "message"),
    [
        (("9.99",), 1, "9.99"),
        ((), 1, "name each model once"),
        (("6.12", "6.12"), 1, "name each model once"),
        (("6.12",), 0, "jobs = 0: out of range"),
    ],
)
def test_bad_arguments_are_named(models: tuple[str, ...], jobs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(small_scenario(), models, jobs=jobs)
