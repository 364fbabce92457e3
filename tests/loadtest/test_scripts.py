"""Scripts: the same seed makes the same calls, messages stay small, everything opened is closed."""

from itertools import count, islice

import pytest

from bpfleet.workload.catalogue import applications, inventory_for
from bpfleet.workload.spec import NodeShape
from loadtest.scripts import (
    RESTART,
    Do,
    FleetDo,
    Reply,
    churn,
    fill_to_the_limit,
    fleet_steps,
    open_and_close,
    rolling_restarts,
)

SHAPE = NodeShape(possible_cpus=4, ram_bytes=8 << 30)
CPUS = 4
MAKES_FD = {Do.MAP_CREATE, Do.PROG_LOAD, Do.OPEN_PINNED}
SMALL = ("katran", "bcc-execsnoop", "falco")


class Host:
    """Answers scripts as a kernel without limits would: numbers descriptors, knows what is open."""

    def __init__(self, refuse=lambda call: False) -> None:
        self.refuse = refuse
        self.next_fd = count(3)
        self.open: set[int] = set()
        self.calls = []

    def replies(self, message):
        assert 1 <= len(message) <= 4096
        assert sum(len(call.value) + len(call.key or b"") for call in message) < 8 << 20
        self.calls += message
        if message == [RESTART]:
            self.open.clear()
        return [self._reply(call) for call in message]

    def _reply(self, call) -> Reply:
        if call.fd >= 0:
            assert call.fd in self.open, call
        if call.do is Do.CLOSE:
            self.open.discard(call.fd)
        if self.refuse(call):
            return Reply(errno=1, reason="RLIMIT_MEMLOCK_EXCEEDED")
        if call.do not in MAKES_FD:
            return Reply(elements=call.count)
        fd = next(self.next_fd)
        self.open.add(fd)
        return Reply(fd=fd)


def _run(script, host, messages):
    message = next(script)
    for _ in range(messages):
        message = script.send(host.replies(message))
    return host.calls


def _scripts(application="katran", seed=7):
    inventory = inventory_for(application, SHAPE)
    same = {"cpus": CPUS, "elements": 256}
    return {
        "element": churn(inventory, seed, calls=64, batched=False, **same),
        "batch": churn(inventory, seed, calls=8, batched=True, **same),
        "inventory": open_and_close([inventory], **same),
        "tenant": fill_to_the_limit(seed, limit_bytes=1 << 20, **same),
        "rolling": rolling_restarts(inventory, seed, calls=64, prefix="x", **same),
    }


KINDS = tuple(_scripts())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_replies_make_the_same_calls(kind) -> None:
    first, again = (_run(_scripts()[kind], Host(), 30) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("kind", ["element", "batch", "tenant"])
def test_another_seed_makes_other_calls(kind) -> None:
    first, other = (_run(_scripts(seed=seed)[kind], Host(), 40) for seed in (7, 8))
    assert first != other


@pytest.mark.slow
@pytest.mark.parametrize("application", applications())
@pytest.mark.parametrize("kind", ["element", "batch", "inventory", "rolling"])
def test_every_application_of_the_catalogue_can_be_played(kind, application) -> None:
    _run(_scripts(application)[kind], Host(), 40)


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_goes_on_where_everything_is_refused(kind) -> None:
    host = Host(refuse=lambda call: call.do in MAKES_FD)
    _run(_scripts()[kind], host, 50)
    assert not host.open


def test_single_elements_and_batches_are_told_apart() -> None:
    batches = {Do.UPDATE_BATCH, Do.DELETE_BATCH, Do.LOOKUP_BATCH}
    inventory = inventory_for("bcc-execsnoop", SHAPE)
    start = len(inventory.maps) + 50
    element = _run(_scripts("katran")["element"], Host(), start)[-64:]
    batched = _run(_scripts("katran")["batch"], Host(), start)[-64:]
    assert {call.do for call in element} <= {Do.LOOKUP, Do.UPDATE, Do.DELETE, Do.POP}
    assert {call.do for call in batched} & batches


@pytest.mark.parametrize("application", SMALL)
def test_opening_and_closing_leaves_nothing_open(application) -> None:
    host = Host()
    script = _scripts(application)["inventory"]
    seen, message = 0, next(script)
    for _ in range(400):
        created = any(call.do is Do.MAP_CREATE for call in message)
        if created and seen and not host.open:
            return
        seen += created
        message = script.send(host.replies(message))
    pytest.fail(f"{len(host.open)} descriptors are still open")


def test_a_tenant_gives_everything_back_when_it_is_refused() -> None:
    budget = iter(range(20))
    host = Host(refuse=lambda call: call.do is Do.MAP_CREATE and next(budget, None) is None)
    script = _scripts()["tenant"]
    message = next(script)
    for _ in range(400):
        if message == [RESTART]:
            assert not host.open
            return
        message = script.send(host.replies(message))
    pytest.fail("the tenant never gave up")


def test_a_restarted_agent_opens_what_it_pinned_before_it_creates() -> None:
    inventory = inventory_for("katran", SHAPE)
    host = Host(refuse=lambda call: call.do is Do.OPEN_PINNED)
    calls = _run(
        rolling_restarts(inventory, 1, cpus=4, calls=8, elements=64, prefix="p"), host, 300
    )
    first = [call.do for call in islice(calls, 400)]
    assert first.index(Do.OPEN_PINNED) < first.index(Do.MAP_CREATE) < first.index(Do.PIN)
    pins = {call.path for call in calls if call.do is Do.PIN}
    assert pins == {call.path for call in calls if call.do is Do.OPEN_PINNED}


def test_a_fleet_client_keeps_to_workloads_that_it_submitted_and_to_few() -> None:
    steps = list(islice(fleet_steps(7, ("katran", "falco")), 500))
    assert steps == list(islice(fleet_steps(7, ("katran", "falco")), 500))
    assert steps != list(islice(fleet_steps(8, ("katran", "falco")), 500))
    assert {step.do for step in steps} == set(FleetDo)
    alive = set()
    for step in steps:
        if step.do is FleetDo.SUBMIT:
            alive.add(step.workload)
        elif step.workload:
            assert step.workload in alive
        if step.do is FleetDo.DELETE:
            alive.remove(step.workload)
        assert len(alive) <= 5
