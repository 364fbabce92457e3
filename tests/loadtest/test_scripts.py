"""Scripts: the same seed makes the same calls, messages stay small, everything opened is closed."""

from itertools import count, islice

import pytest

from bpfleet.workload.catalogue import applications, inventory_for
from bpfleet.workload.spec import NodeShape
from loadtest.calls import RESTART, Reply, name_of
from loadtest.scripts import (
    FleetDo,
    churn,
    fill_to_the_limit,
    fleet_steps,
    open_and_close,
    rolling_restarts,
)

SHAPE = NodeShape(possible_cpus=4, ram_bytes=8 << 30)
CPUS = 4
MAKES_FD = {"map_create", "prog_load", "obj_get"}
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
        assert sum(call.ByteSize() for call in message) < 8 << 20
        self.calls += message
        if message[0] is RESTART:
            assert len(message) == 1
            self.open.clear()
            return [Reply()]
        return [self._reply(call) for call in message]

    def _reply(self, call) -> Reply:
        name, operation = name_of(call), _operation(call)
        if name not in MAKES_FD and name != "touch":
            assert operation.fd in self.open, call
        if name == "close":
            self.open.discard(operation.fd)
        if self.refuse(call):
            return Reply(errno=1, reason="RLIMIT_MEMLOCK_EXCEEDED")
        if name not in MAKES_FD:
            return Reply(elements=getattr(operation, "element_count", 1))
        fd = next(self.next_fd)
        self.open.add(fd)
        return Reply(fd=fd)


def _operation(call):
    return getattr(call, call.WhichOneof("operation"))


def _run(script, host, messages):
    message = next(script)
    for _ in range(messages):
        message = script.send(host.replies(message))
    return host.calls


def _scripts(application="katran", seed=7):
    inventory = inventory_for(application, SHAPE)
    same = {"cpus": CPUS, "elements": 256}
    return {
        "element": churn(inventory, seed, batch=64, batched=False, **same),
        "batch": churn(inventory, seed, batch=8, batched=True, **same),
        "inventory": open_and_close([inventory], **same),
        "tenant": fill_to_the_limit(seed, limit_bytes=1 << 20, **same),
        "rolling": rolling_restarts(inventory, seed, batch=64, prefix="x", **same),
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
    host = Host(refuse=lambda call: name_of(call) in MAKES_FD)
    _run(_scripts()[kind], host, 50)
    assert not host.open


def test_single_elements_and_batches_are_told_apart() -> None:
    batches = {"map_update_batch", "map_delete_batch", "map_lookup_batch"}
    elements = {
        "map_lookup_elem",
        "map_update_elem",
        "map_delete_elem",
        "map_lookup_and_delete_elem",
    }
    inventory = inventory_for("bcc-execsnoop", SHAPE)
    start = len(inventory.maps) + 50
    element = _run(_scripts("katran")["element"], Host(), start)[-64:]
    batched = _run(_scripts("katran")["batch"], Host(), start)[-64:]
    assert {name_of(call) for call in element} <= elements
    assert {name_of(call) for call in batched} & batches


@pytest.mark.parametrize("application", SMALL)
def test_opening_and_closing_leaves_nothing_open(application) -> None:
    host = Host()
    script = _scripts(application)["inventory"]
    seen, message = 0, next(script)
    for _ in range(400):
        created = any(call.HasField("create_map") for call in message)
        if created and seen and not host.open:
            return
        seen += created
        message = script.send(host.replies(message))
    pytest.fail(f"{len(host.open)} descriptors are still open")


def test_a_tenant_gives_everything_back_when_it_is_refused() -> None:
    budget = iter(range(20))
    host = Host(refuse=lambda call: call.HasField("create_map") and next(budget, None) is None)
    script = _scripts()["tenant"]
    message = next(script)
    for _ in range(400):
        if message[0] is RESTART:
            assert not host.open
            return
        message = script.send(host.replies(message))
    pytest.fail("the tenant never gave up")


def test_a_restarted_agent_opens_what_it_pinned_before_it_creates() -> None:
    inventory = inventory_for("katran", SHAPE)
    host = Host(refuse=lambda call: name_of(call) == "obj_get")
    calls = _run(
        rolling_restarts(inventory, 1, cpus=4, batch=8, elements=64, prefix="p"), host, 300
    )
    made = [call for call in calls if call is not RESTART]
    first = [name_of(call) for call in islice(made, 400)]
    assert first.index("obj_get") < first.index("map_create") < first.index("obj_pin")
    pins = {call.pin_object.path for call in made if call.HasField("pin_object")}
    assert pins == {
        call.open_pinned_object.path for call in made if call.HasField("open_pinned_object")
    }


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
