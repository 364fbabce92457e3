"""A kernel and its processes and descriptors by name, and the one way from a refusal to an answer.

Recordings, incidents and transcripts speak of processes and maps by name. Each spells answers in its own words; what an
answer is stands here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, ParamSpec, TypeVar, final

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.errors import KernelError, TaskKilled
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.verbs.table import EXIT, SPAWN, UNLINK
from bpfleet.verbs.verb import Verb

__all__ = [
    "KILLED",
    "Actor",
    "Answer",
    "Run",
    "Stage",
    "UnknownNameError",
    "answer_of",
    "numbered_key",
    "run_of",
    "word_of",
]

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")

KILLED: Final = "killed"


class UnknownNameError(LookupError):
    """A process or a descriptor that nobody made; its text says which."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """What a call came to: its value, or the refusal."""

    given: R | None = None
    refusal: KernelError | None = None

    @property
    def word(self) -> str:
        """Empty for success, else ``killed`` or the errno's name."""
        return "" if self.refusal is None else word_of(self.refusal)

    @property
    def value(self) -> R:
        """What the call answered. Raises the refusal."""
        self.check()
        # R may itself admit None, so there is nothing to narrow by.
        return self.given  # type: ignore[return-value]

    def check(self) -> None:
        """Raises the refusal, if there is one."""
        if self.refusal is not None:
            raise self.refusal


class Run(NamedTuple):
    """A call made over and over: how often it was done, and the first refusal."""

    done: int
    refusal: KernelError | None

    @property
    def word(self) -> str:
        """Empty where all were done, else ``killed`` or the errno's name."""
        return "" if self.refusal is None else word_of(self.refusal)


def word_of(refusal: KernelError) -> str:
    """``killed`` where the caller is gone, else the errno's name."""
    return KILLED if isinstance(refusal, TaskKilled) else refusal.errno.name


def answer_of(call: Callable[[], R]) -> Answer[R]:
    """What a call comes to. Everything but a verdict of the kernel is raised."""
    try:
        return Answer(call())
    except KernelError as refusal:
        return Answer(refusal=refusal)


def run_of(calls: Iterable[Callable[[], object]], *, stop: bool = True) -> Run:
    """Makes one call after the other; ``stop``: up to the first refusal. A caller that is killed makes no more."""
    done, first = 0, None
    for call in calls:
        refusal = answer_of(call).refusal
        if refusal is None:
            done += 1
            continue
        first = first or refusal
        if stop or isinstance(refusal, TaskKilled):
            break
    return Run(done, first)


def numbered_key(
    map_type: int, key_size: int, number: int, order: Literal["little", "big"] = "big"
) -> bytes:
    """The key of element ``number``; a trie's covers its whole data, whose bytes are in ``order``."""
    if map_type == MapType.LPM_TRIE:
        data = key_size - 4
        return (8 * data).to_bytes(4, "little") + number.to_bytes(data, order)
    return number.to_bytes(key_size, "little") if key_size else b""


@final
class Actor:
    """A process, and its descriptors by name."""

    def __init__(self, name: str, task: Task) -> None:
        self.name: Final = name
        self.task: Final = task
        self.fds: Final[dict[str, int]] = {}

    def fd(self, name: str) -> int:
        """The descriptor called ``name``. Raises ``UnknownNameError``."""
        found = self.fds.get(name)
        if found is None:
            raise UnknownNameError(f"process {self.name!r} has not opened {name!r}")
        return found


class Stage:
    """One kernel and the processes that were started on it, by name."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel: Final = kernel
        self.actors: Final[dict[str, Actor]] = {}

    def enter(self, name: str, task: Task) -> Actor:
        """Gives a process its name; one that had it before is no longer found."""
        actor = self.actors[name] = Actor(name, task)
        return actor

    def actor(self, name: str) -> Actor:
        """The process called ``name``. Raises ``UnknownNameError``."""
        found = self.actors.get(name)
        if found is None:
            raise UnknownNameError(f"no process {name!r} was started")
        return found

    def answer(self, verb: Verb[S, P, R], *args: P.args, **kwargs: P.kwargs) -> Answer[R]:
        """What a call comes to."""
        try:
            return Answer(verb(self.kernel, *args, **kwargs))
        except KernelError as refusal:
            return Answer(refusal=refusal)

    def unlink(self, *paths: str) -> Answer[None]:
        """rm by a root shell, up to the first refusal."""
        shell = SPAWN(self.kernel, comm="rm")
        try:
            for path in paths:
                done = self.answer(UNLINK, shell, path)
                if done.refusal is not None:
                    return done
            return Answer()
        finally:
            EXIT(self.kernel, shell.pid)
