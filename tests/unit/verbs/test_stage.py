"""A stage: names, answers, and runs of calls up to a refusal."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.kernel import Kernel, KernelError, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.verbs.stage import Run, Stage, UnknownNameError, answer_of, numbered_key, run_of
from bpfleet.verbs.table import CLOSE, MAP_CREATE, MAP_LOOKUP_ELEM, SPAWN, TOUCH

ARRAY = MapAttr(MapType.ARRAY, key_size=4, value_size=8, max_entries=4)


@pytest.fixture
def stage() -> Stage:
    return Stage(Kernel(profile_named("6.12")))


def test_a_name_that_nobody_has_is_named(stage: Stage) -> None:
    with pytest.raises(UnknownNameError, match="no process 'web' was started"):
        stage.actor("web")
    actor = stage.enter("web", SPAWN(stage.kernel))
    assert stage.actor("web") is actor
    with pytest.raises(UnknownNameError, match="process 'web' has not opened 'm'"):
        actor.fd("m")


def test_an_answer_is_a_value_or_a_refusal(stage: Stage) -> None:
    task = stage.enter("web", SPAWN(stage.kernel)).task
    made = stage.answer(MAP_CREATE, task, ARRAY)
    assert (made.word, made.refusal) == ("", None)
    refused = stage.answer(MAP_LOOKUP_ELEM, task, 99, bytes(4))
    assert refused.word == "EBADF"
    with pytest.raises(KernelError):
        _ = refused.value
    assert answer_of(lambda: 7).value == 7


def test_a_killed_caller_is_no_errno(stage: Stage) -> None:
    stage.kernel.mkdir("/app")
    stage.kernel.write_file("/app", "memory.max", "64K")
    task = SPAWN(stage.kernel, cgroup="/app")
    assert stage.answer(TOUCH, task.pid, 1 << 20).word == "killed"


def test_a_run_ends_at_the_first_refusal_or_goes_on(stage: Stage) -> None:
    task = SPAWN(stage.kernel)
    fds = [MAP_CREATE(stage.kernel, task, ARRAY).fd, 99, MAP_CREATE(stage.kernel, task, ARRAY).fd]
    closing = [lambda fd=fd: CLOSE(stage.kernel, task.pid, fd) for fd in fds]
    stopped = run_of(closing)
    assert (stopped.done, stopped.word) == (1, "EBADF")
    went_on = run_of(closing, stop=False)
    assert (went_on.done, went_on.word) == (1, "EBADF")
    assert run_of([]) == Run(0, None)


def test_a_pin_is_removed_by_a_shell_that_is_gone_afterwards(stage: Stage) -> None:
    assert stage.unlink("nothing").word == "ENOENT"
    assert stage.kernel.tasks() == []


def test_keys_of_a_trie_cover_their_data() -> None:
    assert numbered_key(MapType.LPM_TRIE, 8, 1) == bytes([32, 0, 0, 0, 0, 0, 0, 1])
    assert numbered_key(MapType.LPM_TRIE, 8, 1, "little") == bytes([32, 0, 0, 0, 1, 0, 0, 0])
    assert numbered_key(MapType.HASH, 4, 1) == bytes([1, 0, 0, 0])
    assert numbered_key(MapType.QUEUE, 0, 1) == b""
