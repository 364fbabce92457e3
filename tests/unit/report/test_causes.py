"""A cause is one true sentence: who failed how, and what the models that went through do instead."""

from bpfleet.report.causes import cause_of
from bpfleet.report.results import Counters, ModelAnswer


def _verdict(kind: str, errno: str = "ok", reason: str = "") -> ModelAnswer:
    counters = Counters(
        model=kind,
        uid=0,
        locked_bytes=0,
        memlock_bytes=None,
        cgroup="/a",
        usage_bytes=0,
        limit_bytes=None,
        node_free_bytes=0,
    )
    return ModelAnswer(errno=errno, reason=reason, counters=counters)


LIMIT = ("ENOMEM", "MEMCG_LIMIT_EXCEEDED")
KILL = ("SIGKILL", "CALLER_KILLED")


def test_a_full_memory_max_names_where_the_others_count() -> None:
    cause = cause_of(
        {
            "5.10": _verdict("rlimit"),
            "5.11": _verdict("memcg", *LIMIT),
            "6.12": _verdict("memcg", *LIMIT),
            "6.12:nobpf": _verdict("none"),
        }
    )
    assert cause == (
        "ENOMEM under 5.11 and 6.12: maps and programs count against memory.max and use it up (maps and programs "
        "count under 5.10 against RLIMIT_MEMLOCK, under 6.12:nobpf against nothing)"
    )


def test_where_another_memcg_model_goes_through_the_amount_is_the_difference() -> None:
    cause = cause_of(
        {
            "5.10": _verdict("rlimit"),
            "6.12": _verdict("memcg"),
            "6.12:recharge": _verdict("memcg", *KILL),
        }
    )
    assert cause == (
        "OOM kill under 6.12:recharge: heap, maps and programs count against one memory.max and exceed it "
        "(more is charged to the container than under 6.12)"
    )


def test_every_way_to_fail_has_its_clause_the_worst_first() -> None:
    cause = cause_of(
        {
            "5.10": _verdict("rlimit", "E2BIG", "ALLOCATION_TOO_LARGE"),
            "6.1": _verdict("memcg", *LIMIT),
            "6.12": _verdict("memcg", *KILL),
        }
    )
    assert [clause.split(":")[0] for clause in cause.split("; ")] == [
        "OOM kill under 6.12",
        "ENOMEM under 6.1",
        "E2BIG under 5.10",
    ]
