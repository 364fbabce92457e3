import pytest

from bpfleet.kernel.mm.page_counter import PageCounter


def chain(*limits: int) -> list[PageCounter]:
    """Counters from the top down, each with its max."""
    counters: list[PageCounter] = []
    for limit in limits:
        counter = PageCounter(counters[-1] if counters else None)
        counter.max = limit
        counters.append(counter)
    return counters


def test_a_charge_counts_at_every_level() -> None:
    top, leaf = chain(100, 100)
    assert leaf.try_charge(10) is None
    assert (top.usage, leaf.usage) == (10, 10)


def test_exactly_the_limit_is_allowed() -> None:
    (counter,) = chain(10)
    assert counter.try_charge(10) is None
    assert counter.margin() == 0


@pytest.mark.parametrize(("limits", "blocker"), [((5, 100), 0), ((100, 5), 1), ((5, 5), 1)])
def test_the_lowest_level_that_does_not_fit_is_reported_and_nothing_is_charged(
    limits: tuple[int, int], blocker: int
) -> None:
    counters = chain(*limits)
    assert counters[-1].try_charge(6) is counters[blocker]
    assert [counter.usage for counter in counters] == [0, 0]


def test_a_forced_charge_ignores_limits_and_is_remembered_as_such() -> None:
    top, leaf = chain(5, 100)
    leaf.charge(6)
    assert (top.usage, top.exceeded_by_rule, leaf.exceeded_by_rule) == (6, True, False)


def test_the_watermark_keeps_the_highest_usage() -> None:
    (counter,) = chain(100)
    counter.try_charge(40)
    counter.uncharge(30)
    counter.try_charge(5)
    assert (counter.usage, counter.watermark) == (15, 40)


def test_headroom_is_the_smallest_margin_on_the_way_up() -> None:
    top, leaf = chain(50, 100)
    leaf.try_charge(20)
    assert (leaf.headroom(), top.headroom()) == (30, 30)


def test_the_watermark_follows_a_forced_charge() -> None:
    top, leaf = chain(5, 100)
    leaf.charge(6)
    assert (top.watermark, leaf.watermark) == (6, 6)
