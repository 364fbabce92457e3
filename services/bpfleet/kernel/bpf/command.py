"""The way into a system call and out of it, written once for all of them.

A decorator that passes ``*args`` on takes a tenth of the time of an element call. So the function around a body is made
from the body's signature, as ``dataclasses`` makes ``__init__``. It is free where all arguments are positional.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Final, NamedTuple, TypeVar

from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import BpfProg
from bpfleet.kernel.proc.task import Task

# Any: what a command takes and returns is its own affair; the decorators return the type they were given.
Body = TypeVar("Body", bound=Callable[..., Any])

_COMMAND = """\
def call({declared}):
    try:
        if self.host.unprivileged_bpf_disabled:
            self.enter(task)
        return body({passed})
    finally:
        if task.notify_resume:
            self.leave(task)
"""
_SYSTEM_CALL = """\
def call({declared}):
    try:
        return body({passed})
    finally:
        if task.notify_resume:
            self.leave(task)
"""


class Cost(NamedTuple):
    """What a call of ``task`` changed, and what memory cgroups were charged for it: below 0 where it gave back.

    ``created``: the call made ``target``.
    """

    task: Task
    target: BpfMap | BpfProg
    charged_bytes: int
    created: bool = False


class Created(int):
    """What a map creation or a program load answers: the descriptor, which knows what it cost."""

    cost: Cost

    def __new__(cls, fd: int, cost: Cost) -> "Created":
        made = super().__new__(cls, fd)
        made.cost = cost
        return made

    @property
    def fd(self) -> int:
        """The descriptor."""
        return int(self)

    @property
    def id(self) -> int:
        """The id by which others find the object."""
        return self.cost.target.id


class Taken(NamedTuple):
    """What a lookup that deletes answers; ``charged_bytes`` is below 0 where it gave memory back at once."""

    value: bytes
    charged_bytes: int


# A tuple: a union would be made anew for each call.
_TARGETS: Final = (BpfMap, BpfProg)


def cost_on(task: Task, fd: int, charged_bytes: int) -> Cost | None:
    """The cost of a call on the map or program behind a descriptor; None where it is neither."""
    file = task.fds.get(fd)
    target = file.target if file is not None else None
    return Cost(task, target, charged_bytes) if isinstance(target, _TARGETS) else None


class Boundary:
    """What stands between user space and a system call.

    ``leave`` settles what waits for the return to user space: a pending SIGKILL, the debts of memory.high.
    """

    leave: Callable[[Task], None]

    def enter(self, task: Task) -> None:
        """Refuses a command of bpf(2) to an unprivileged task where the host says so. Raises EPERM."""
        raise NotImplementedError


def command(body: Body) -> Body:
    """A command of bpf(2), a method of a `Boundary` with a parameter ``task``: `enter`, the body, `leave`."""
    return _around(body, _COMMAND)


def system_call(body: Body) -> Body:
    """Another system call that may charge memory: the body, `leave`."""
    return _around(body, _SYSTEM_CALL)


def _around(body: Body, template: str) -> Body:
    code = body.__code__
    positional = code.co_varnames[: code.co_argcount]
    named = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    declared = (*positional, "*", *named) if named else positional
    passed = (*positional, *(f"{name}={name}" for name in named))
    namespace: dict[str, Any] = {"body": body}
    exec(template.format(declared=", ".join(declared), passed=", ".join(passed)), namespace)
    made = namespace["call"]
    made.__defaults__ = body.__defaults__
    made.__kwdefaults__ = body.__kwdefaults__
    return update_wrapper(made, body)  # type: ignore[return-value]
