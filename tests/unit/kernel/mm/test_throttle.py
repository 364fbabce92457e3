import pytest

from bpfleet.kernel.mm.throttle import HZ, delay_jiffies, overage


@pytest.mark.parametrize(
    ("usage", "high", "expected"),
    [(100, 100, 0), (99, 100, 0), (150, 100, 1 << 19), (3, 0, 3 << 20)],
)
def test_overage_is_a_fraction_of_high(usage: int, high: int, expected: int) -> None:
    assert overage(usage, high) == expected


def test_the_delay_grows_with_the_square_of_the_overage() -> None:
    small = delay_jiffies(overage(105, 100), 64, 64)
    assert delay_jiffies(overage(110, 100), 64, 64) == pytest.approx(4 * small, abs=4)


def test_the_delay_is_the_share_of_what_the_task_charged() -> None:
    whole = delay_jiffies(overage(110, 100), 64, 64)
    assert delay_jiffies(overage(110, 100), 16, 64) == whole // 4


def test_nobody_sleeps_more_than_two_seconds() -> None:
    assert delay_jiffies(overage(1000, 1), 64, 64) == 2 * HZ
