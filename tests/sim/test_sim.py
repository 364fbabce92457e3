"""A few hundred simulated fleets; and proof that the checkers would notice what they are there for."""

import pytest
from msgspec.structs import replace

from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet import nodes
from bpfleet.fleet.dispatch import Dispatch
from bpfleet.fleet.engine import GroupCommit
from bpfleet.sim.fleet import World, simulate
from bpfleet.sim.loop import VirtualLoop, run
from bpfleet.sim.seeds import repeat_command, run_seeds, silence
from bpfleet.workload.phase import Phase

SEEDS = 200
SEEDS_UNTIL_FOUND = 30


@pytest.mark.slow
def test_nothing_breaks_under_a_few_hundred_seeds():
    outcomes = []
    failed = run_seeds(range(SEEDS), outcomes.append)
    assert failed is None, str(failed)
    assert sum(outcome.crashes for outcome in outcomes) > 3 * SEEDS
    assert sum(outcome.acknowledged for outcome in outcomes) > 20 * SEEDS


@pytest.mark.slow
def test_the_same_seed_runs_the_same_way():
    first = [simulate(seed) for seed in range(5)]
    again = [simulate(seed) for seed in range(5)]
    assert first == again
    assert len({outcome.digest for outcome in first}) == 5


def traced(seed):
    loop, lines = VirtualLoop(), []
    world = World(seed, loop)
    world.trace = lines.append
    with silence():
        outcome = run(world.run(seed), loop)
    return outcome, lines


@pytest.mark.slow
def test_the_same_seed_leaves_the_same_trace_to_the_letter():
    assert traced(3) == traced(3)


@pytest.mark.slow
def test_seeds_run_the_same_way_in_processes_of_their_own():
    outcomes = []
    assert run_seeds(range(5), outcomes.append, jobs=2) is None
    assert outcomes == [simulate(seed) for seed in range(5)]


def test_a_failing_seed_says_how_to_repeat_it(monkeypatch):
    monkeypatch.setattr(GroupCommit, "stored_replicas", broken)
    failed = run_seeds(range(3))
    assert failed is not None
    assert repeat_command(failed.seed) in str(failed)


def broken(self, agent):
    raise ZeroDivisionError


# -- planted bugs


def lets_a_deposed_leader_write(monkeypatch):
    write = MemoryStore.write

    def unfenced(self, batch):
        write(self, replace(batch, epoch=self._epoch, expected_revision=self._revision))

    monkeypatch.setattr(MemoryStore, "write", unfenced)


def forgets_a_third_of_what_it_stores(monkeypatch):
    write = MemoryStore.write

    def forgetful(self, batch):
        if batch.revision % 3 == 0:
            batch = replace(batch, puts={k: v for k, v in batch.puts.items() if "replica" in k})
        write(self, batch)

    monkeypatch.setattr(MemoryStore, "write", forgetful)


def answers_before_it_is_stored(monkeypatch):
    submit = GroupCommit.submit

    def hasty(self, command, now_ms, done, refused):
        result = submit(self, command, now_ms, lambda answer: None, refused)
        for ticket in self._open.tickets:
            done(ticket.result)
        self._open.tickets.clear()
        return result

    monkeypatch.setattr(GroupCommit, "submit", hasty)


def books_more_than_fits(monkeypatch):
    monkeypatch.setattr("bpfleet.fleet.books.Shape.fitting_from", lambda self, size: 0)


def never_tells_agents_to_stop(monkeypatch):
    follow = Dispatch._follow

    def lenient(self, name, replica):
        stops = replica is not None and replica.phase is Phase.STOPPING
        return follow(self, name, None if stops else replica)

    monkeypatch.setattr(Dispatch, "_follow", lenient)


def forgets_what_an_operator_set(monkeypatch):
    def announced_alone(t, agent, announced, old):
        return replace(_node(t, agent, announced, None), cordoned=bool(old and old.cordoned))

    _node = nodes._node
    monkeypatch.setattr(nodes, "_node", announced_alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        forgets_what_an_operator_set,
        lets_a_deposed_leader_write,
        forgets_a_third_of_what_it_stores,
        answers_before_it_is_stored,
        books_more_than_fits,
        never_tells_agents_to_stop,
    ],
)
def test_a_planted_bug_is_found(plant, monkeypatch):
    plant(monkeypatch)
    assert run_seeds(range(SEEDS_UNTIL_FOUND)) is not None
