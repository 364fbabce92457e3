"""What a verb is: a method of the kernel with the names it goes by."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Final, Generic, NamedTuple, ParamSpec, TypeVar, final

from bpfleet.kernel.kernel import Kernel

__all__ = ["Argument", "Part", "Verb"]

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


class Argument(NamedTuple):
    """One argument of a verb: its name in the kernel's method, and its type as written there."""

    name: str
    kind: Any
    required: bool


@final
class Part(Generic[S]):
    """A part of the kernel whose methods are verbs."""

    def __init__(self, name: str, of: Callable[[Kernel], S]) -> None:
        self.name: Final = name
        self.of: Final = of


@final
@dataclass(frozen=True, slots=True, eq=False)
class Verb(Generic[S, P, R]):
    """A system call. Its arguments and its answer are those of ``method``, which type checkers hold every caller to.

    ``call`` is what Linux calls it, ``rpcs`` the unary RPCs that make it (none: it is not served), ``arm`` the field of
    a ``Syscall`` in a stream. ``reads``: it changes nothing, so an RPC that failed may be repeated.
    """

    call: str
    part: Part[S]
    method: Callable[Concatenate[S, P], R]
    rpcs: tuple[str, ...] = ()
    arm: str = ""
    reads: bool = False

    def __call__(self, kernel: Kernel, *args: P.args, **kwargs: P.kwargs) -> R:
        """Makes the call. Raises ``KernelError``."""
        return self.method(self.part.of(kernel), *args, **kwargs)

    @property
    def name(self) -> str:
        """The kernel method's name."""
        return self.method.__name__

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What the method takes besides its kernel."""
        _, *rest = inspect.signature(self.method).parameters.values()
        return tuple(
            Argument(each.name, each.annotation, each.default is each.empty) for each in rest
        )

    @property
    def answers(self) -> Any:
        """The type of what the method answers, as written there; None for nothing."""
        return inspect.signature(self.method).return_annotation

    def __repr__(self) -> str:
        return f"<verb {self.name}: {self.call}>"
