"""A test over time: rates between moments, thinned out where there are many."""

from loadtest.history import History
from loadtest.outcomes import CallOutcome, OutcomeTable


def _grown(table: OutcomeTable, errno: str, count: int) -> None:
    table.record(CallOutcome("6.12", "map_update_elem", errno, ""), count=count)


def test_rates_are_those_between_two_moments() -> None:
    history, table = History(), OutcomeTable()
    history.note(0.0, table)
    _grown(table, "OK", 30)
    _grown(table, "ENOMEM", 10)
    _grown(table, "ENOENT", 40)
    history.note(2.0, table)
    history.note(4.0, table)
    assert history.as_data() == {
        "seconds": [2.0, 4.0],
        "models": {"6.12": {"calls_per_second": [40.0, 0.0], "bad_share": [0.125, None]}},
    }
    history.clear()
    assert history.as_data() == {"seconds": [], "models": {}}


def test_a_long_test_stays_in_sight_as_a_whole_with_few_points() -> None:
    history, table = History(), OutcomeTable()
    for moment in range(5_000):
        _grown(table, "OK", 10)
        history.note(float(moment), table)
    data = history.as_data()
    assert 100 < len(data["seconds"]) <= 240
    assert data["seconds"][0] < 100
    assert data["seconds"][-1] > 4_900
    assert set(data["models"]["6.12"]["calls_per_second"]) == {10.0}
