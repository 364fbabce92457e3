"""Commands of coordinators are carried out in the order of (epoch, sequence)."""

import pytest

from bpfleet.node_agent.commands import CommandOrder
from bpfleet.rpc.errors import ApiError


def admitted(order, epoch, sequence):
    try:
        order.admit(epoch, sequence)
    except ApiError:
        return False
    return True


def test_a_late_command_is_told_what_it_comes_after():
    order = CommandOrder()
    order.admit(1, 7)
    with pytest.raises(ApiError, match=r"^command 1\.5 comes after 1\.7$") as caught:
        order.admit(1, 5)
    assert caught.value.reason == "STALE_COMMAND"


def test_late_and_repeated_commands_are_refused():
    order = CommandOrder()
    assert admitted(order, 1, 0)
    assert admitted(order, 1, 2)
    assert not admitted(order, 1, 2)
    assert not admitted(order, 1, 1)


def test_a_new_term_counts_anew_and_the_old_one_is_over():
    order = CommandOrder()
    assert admitted(order, 1, 50)
    assert admitted(order, 2, 0)
    assert not admitted(order, 1, 51)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_coordinator_that_lost_its_memory_is_heard_after_the_agent_has_registered_with_it(epoch):
    order = CommandOrder()
    assert admitted(order, 2, 50)
    order.registered(epoch, 1, since=order.position)
    assert admitted(order, epoch, 2)


def test_registering_with_a_successor_keeps_the_old_term_out():
    order = CommandOrder()
    assert admitted(order, 1, 50)
    order.registered(2, 1, since=order.position)
    assert admitted(order, 2, 2)
    assert not admitted(order, 1, 51)


def test_what_was_ordered_before_the_agent_registered_again_is_void():
    order = CommandOrder()
    assert admitted(order, 1, 50)
    order.registered(1, 53, since=order.position)
    assert not admitted(order, 1, 52)
    assert admitted(order, 1, 54)


def test_what_came_while_the_agent_registered_is_newer_than_the_answer():
    order = CommandOrder()
    before = order.position
    assert admitted(order, 1, 4)
    order.registered(1, 1, since=before)
    assert not admitted(order, 1, 2)


def test_scripts_are_not_ordered():
    order = CommandOrder()
    assert admitted(order, 0, 0)
    assert admitted(order, 0, 0)
