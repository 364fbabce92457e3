"""Seats: every model gets the same lanes with the same seeds, whoever asks."""

import pytest

from loadtest.seats import Seat, Seating, SeatNode


def _nodes(models=("5.10", "6.12"), nodes=3):
    return [
        SeatNode(model, f"{model}-{n}", f"agent-{model}:7071", 4, 8 << 30)
        for model in models
        for n in range(nodes)
    ]


def test_a_lane_is_a_seat_under_every_model_and_lanes_go_round_the_nodes() -> None:
    seating = Seating(_nodes(), seed=1)
    lanes = [seating.take("churn") for _ in range(4)]
    assert [[seat.node.name for seat in lane] for lane in lanes] == [
        ["5.10-0", "6.12-0"],
        ["5.10-1", "6.12-1"],
        ["5.10-2", "6.12-2"],
        ["5.10-0", "6.12-0"],
    ]
    assert len({(seat.node, seat.name) for lane in lanes for seat in lane}) == 8


def test_all_models_see_the_same_seed_in_a_lane_and_kinds_do_not() -> None:
    seating = Seating(_nodes(), seed=1)
    (one, other), (third, _) = seating.take("churn"), seating.take("churn")
    assert one.seed == other.seed
    assert third.seed != one.seed
    assert seating.take("tenant")[0].seed != one.seed
    assert Seating(_nodes(), seed=2).take("churn")[0].seed != one.seed


def test_the_order_of_the_nodes_does_not_matter() -> None:
    one, other = Seating(_nodes(), seed=1), Seating(reversed(_nodes()), seed=1)
    assert [one.take("churn") for _ in range(9)] == [other.take("churn") for _ in range(9)]


def test_a_lane_that_was_left_is_taken_first() -> None:
    seating = Seating(_nodes(), seed=1)
    lanes = [seating.take("churn") for _ in range(4)]
    seating.leave("churn", 2)
    seating.leave("churn", 1)
    assert [seating.take("churn") for _ in range(3)][:2] == [lanes[1], lanes[2]]


def test_a_seat_survives_the_way_to_a_worker() -> None:
    seat, _ = Seating(_nodes(), seed=1).take("churn")
    assert Seat.from_data(seat.as_data()) == seat


def test_without_nodes_there_is_no_seat() -> None:
    with pytest.raises(LookupError, match="no nodes"):
        Seating([], seed=1).take("churn")
