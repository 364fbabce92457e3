"""Leases of agents: how long they last, and that one that is over stays over until the agent registers."""

import pytest

from bpfleet.fleet.leases import Leases


@pytest.fixture
def leases():
    made = Leases(3_000)
    made.grant("a1", "one", 10_000)
    return made


def test_a_lease_lasts_as_long_as_was_said(leases):
    assert leases.expired(13_000) == []
    assert leases.expired(13_001) == ["a1"]


def test_a_renewed_lease_lasts_from_the_renewal(leases):
    assert leases.renew("a1", "one", 12_000)
    assert leases.expired(15_000) == []
    assert leases.expired(15_001) == ["a1"]


def test_a_lease_that_is_over_is_not_renewed_although_nobody_has_noticed_yet(leases):
    assert not leases.renew("a1", "one", 13_001)
    assert leases.expired(13_001) == ["a1"]


def test_another_incarnation_has_no_lease(leases):
    assert not leases.renew("a1", "two", 11_000)
    assert not leases.renew("a2", "one", 11_000)


def test_a_dropped_lease_is_gone(leases):
    leases.drop("a1")
    assert list(leases.holders()) == []
    assert not leases.renew("a1", "one", 11_000)
