"""The table of outcomes: sums, and that it does not matter how many workers kept it."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.outcomes import CallOutcome, OutcomeTable

MODELS = ("5.10", "6.12", "6.12:nobpf")
OUTCOMES = st.builds(
    CallOutcome,
    st.sampled_from(MODELS),
    st.sampled_from(("map_create", "update_elem")),
    st.sampled_from(("OK", "EPERM", "ENOMEM", "ENOENT")),
    st.sampled_from(("", "RLIMIT_MEMLOCK_EXCEEDED", "MEMCG_LIMIT_EXCEEDED")),
)
RECORDS = st.lists(st.tuples(OUTCOMES, st.integers(1, 9), st.integers(0, 8192)), max_size=30)


def _filled(records) -> OutcomeTable:
    table = OutcomeTable()
    for outcome, count, elements in records:
        table.record(outcome, count=count, elements=elements)
    return table


@given(RECORDS, st.integers(1, 5))
def test_the_sums_do_not_depend_on_the_number_of_workers(records, workers) -> None:
    whole = _filled(records)
    master = OutcomeTable()
    for worker in range(workers):
        report = json.loads(json.dumps(_filled(records[worker::workers]).drain()))
        master.merge(report)
    assert master.as_data() == whole.as_data()
    assert master.summary() == whole.summary()


def test_what_was_drained_is_not_reported_again() -> None:
    table = _filled([(CallOutcome("6.12", "map_create", "OK", ""), 1, 0)])
    table.record_transport_failure("6.12", "UNAVAILABLE")
    assert table.drain()["calls"]
    assert table.drain() == OutcomeTable().as_data()


@pytest.mark.parametrize(
    ("errno", "bad"),
    [("OK", False), ("ENOENT", False), ("EEXIST", False), ("EPERM", True), ("ENOMEM", True)],
)
def test_only_running_out_of_something_is_bad(errno, bad) -> None:
    assert CallOutcome("5.10", "map_create", errno, "").is_bad is bad


def test_the_request_name_carries_model_call_and_errno() -> None:
    assert CallOutcome("6.12", "map_create", "ENOMEM", "X").request_name == "6.12 map_create ENOMEM"


def test_the_csv_has_a_row_for_each_outcome_kill_and_transport_failure() -> None:
    table = _filled([(CallOutcome("5.10", "map_create", "EPERM", "RLIMIT_MEMLOCK_EXCEEDED"), 3, 0)])
    table.record_oom_kills("6.12", 2)
    table.record_transport_failure("6.12", "UNAVAILABLE")
    assert list(csv.reader(io.StringIO(table.as_csv()))) == [
        ["model", "call", "errno", "reason", "count"],
        ["5.10", "map_create", "EPERM", "RLIMIT_MEMLOCK_EXCEEDED", "3"],
        ["6.12", "oom_kill", "", "", "2"],
        ["6.12", "transport", "UNAVAILABLE", "", "1"],
    ]
    assert table.transport_failures == 1
    assert table.models == ["5.10", "6.12"]


def test_the_rows_of_locusts_table_are_found_by_model() -> None:
    made, refused = (CallOutcome("6.12", "map_create", errno, "") for errno in ("OK", "ENOMEM"))
    other = CallOutcome("5.10", "map_create", "OK", "")
    table = _filled([(each, 1, 0) for each in (made, refused, other)])
    assert table.request_names("6.12") == {"6.12 map_create OK", "6.12 map_create ENOMEM"}
