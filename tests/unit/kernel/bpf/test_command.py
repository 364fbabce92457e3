"""The frame around system calls: what it does, and that signatures stay what they were."""

import inspect

import pytest

from bpfleet.kernel.bpf.command import Boundary, command, system_call


class _Host:
    unprivileged_bpf_disabled = False


class _Task:
    notify_resume = False


class _Calls(Boundary):
    def __init__(self):
        self.host, self.seen = _Host(), []
        self.leave = lambda task: self.seen.append("leave")

    def enter(self, task):
        self.seen.append("enter")

    @command
    def add(self, task, first, second=2, *, third=3):
        """Adds."""
        self.seen.append("body")
        return first + second + third

    @system_call
    def fail(self, task):
        raise KeyError(task)


def test_a_command_keeps_its_defaults_its_name_and_its_words():
    calls = _Calls()
    assert calls.add(_Task(), 1) == 6
    assert calls.add(_Task(), 1, second=5, third=0) == 6
    assert (_Calls.add.__name__, _Calls.add.__doc__) == ("add", "Adds.")
    assert list(inspect.signature(_Calls.add).parameters) == [
        "self",
        "task",
        "first",
        "second",
        "third",
    ]
    assert calls.seen == ["body", "body"]


def test_a_command_passes_the_gate_first_and_settles_last():
    calls, task = _Calls(), _Task()
    calls.host.unprivileged_bpf_disabled = task.notify_resume = True
    calls.add(task, 1)
    assert calls.seen == ["enter", "body", "leave"]


def test_what_waits_is_settled_after_a_refusal_too():
    calls, task = _Calls(), _Task()
    task.notify_resume = True
    with pytest.raises(KeyError):
        calls.fail(task)
    assert calls.seen == ["leave"]
