"""memory.stat as late as Linux flushes it, when a node is to show it so."""

from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import profile_named

PAGE = 4096
FLUSH_NS = 2_000_000_000


def lagging() -> Kernel:
    kernel = Kernel(profile_named("6.12:lag"))
    kernel.mkdir("/a")
    return kernel


def anon(kernel: Kernel) -> int:
    text = kernel.read_file("/a", "memory.stat")
    return int(dict(line.split() for line in text.splitlines())["anon"])


def test_little_changes_show_only_when_they_have_added_up() -> None:
    kernel = lagging()
    task = kernel.spawn(cgroup="/a")
    assert anon(kernel) == 0
    kernel.touch(task.pid, 20 * PAGE)
    assert anon(kernel) == 0
    kernel.touch(task.pid, 200 * PAGE)
    assert anon(kernel) == 220 * PAGE


def test_everything_shows_after_two_seconds() -> None:
    kernel = lagging()
    task = kernel.spawn(cgroup="/a")
    assert anon(kernel) == 0
    kernel.touch(task.pid, 20 * PAGE)
    kernel.advance(FLUSH_NS)
    assert anon(kernel) == 20 * PAGE


def test_the_ledger_and_the_counter_do_not_lag() -> None:
    kernel = lagging()
    task = kernel.spawn(cgroup="/a")
    kernel.touch(task.pid, 20 * PAGE)
    assert sum(line.bytes for line in kernel.ledger() if line.kind == "anon") == 20 * PAGE
    assert int(kernel.read_file("/a", "memory.current")) >= 20 * PAGE


def test_a_node_that_was_not_asked_to_shows_everything_at_once() -> None:
    kernel = Kernel(profile_named("6.12"))
    kernel.mkdir("/a")
    kernel.touch(kernel.spawn(cgroup="/a").pid, PAGE)
    assert anon(kernel) == PAGE
