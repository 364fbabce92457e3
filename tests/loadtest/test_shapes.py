"""Shapes: what they want at which second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.shapes import SHAPES, ShapeSettings, StepToFailure, users_at

SETTINGS = ShapeSettings(users=100, spawn_rate=10, seconds=60)


@pytest.mark.parametrize("shape", SHAPES)
@given(elapsed=st.floats(0, 59.9), users=st.integers(1, 1000))
def test_every_shape_stays_between_one_user_and_all(shape, elapsed, users) -> None:
    target = users_at(shape, ShapeSettings(users=users, seconds=60), elapsed)
    assert target is not None
    assert 1 <= target[0] <= users


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_ends(shape) -> None:
    assert users_at(shape, SETTINGS, 60.0) is None


@pytest.mark.parametrize(
    ("shape", "elapsed", "users"),
    [
        ("steady", 0, 100),
        ("ramp", 30, 50),
        ("ramp", 59, 99),
        ("burst", 1, 20),
        ("burst", 5, 100),
        ("burst", 7, 20),
        ("soak", 1.5, 50),
        ("soak", 3, 100),
    ],
)
def test_a_shape_wants_so_many_users(shape, elapsed, users) -> None:
    assert users_at(shape, SETTINGS, elapsed) == (users, 10)


def test_step_to_failure_names_the_users_at_which_each_model_broke() -> None:
    shape = StepToFailure(SETTINGS, steps=10, threshold=0.05)
    assert shape.target(0.0, {}) == (10, 10)
    assert shape.target(6.0, {"5.10": (10, 100), "6.12": (0, 100)}) == (20, 10)
    assert shape.broke_at == {"5.10": 10}
    # Four bad of the next hundred: below the threshold.
    assert shape.target(12.0, {"5.10": (10, 200), "6.12": (4, 200)}) == (30, 10)
    assert shape.target(18.0, {"5.10": (99, 300), "6.12": (9, 300)}) is None
    assert shape.broke_at == {"5.10": 10, "6.12": 30}


def test_step_to_failure_ends_with_all_users_where_nothing_breaks() -> None:
    shape = StepToFailure(SETTINGS, steps=10)
    assert shape.target(59.0, {"6.12": (0, 1)}) == (100, 10)
    assert shape.target(60.0, {"6.12": (0, 1)}) is None
    assert shape.broke_at == {}
