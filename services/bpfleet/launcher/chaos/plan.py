"""What is to go wrong, when and with whom: chaos plans and their schedules. Pure.

The schedule follows from the plan, its seed and the names of the services alone, so a run that broke something can be
repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import Role
from bpfleet.plain import toml_table
from bpfleet.workload.seeding import SplitMix64, seed_for

__all__ = ["Action", "ChaosPlan", "Fault", "FaultKind", "parse_plan", "schedule"]

SECONDS_MAX: Final = 86_400.0
FAULTS_MAX: Final = 100
ACTIONS_MAX: Final = 10_000
# Chance moves a recurring fault by up to this share of its interval.
_JITTER: Final = 0.25


class FaultKind(StrEnum):
    """What happens to a service. The last five are undone when their time is over."""

    KILL = "kill"
    RESTART = "restart"
    LOSE_LEADER = "lose-leader"
    STOP = "stop"
    PAUSE = "pause"
    DISCONNECT = "disconnect"
    SLOW_REDIS = "slow-redis"
    FILL_REDIS = "fill-redis"

    @property
    def lasts(self) -> bool:
        """Whether it goes on until it is undone."""
        return self in _LASTING

    @property
    def needs_role(self) -> bool:
        """Whether the plan says whom it strikes."""
        return self not in (self.SLOW_REDIS, self.FILL_REDIS, self.LOSE_LEADER)


_LASTING: Final = frozenset(
    {
        FaultKind.STOP,
        FaultKind.PAUSE,
        FaultKind.DISCONNECT,
        FaultKind.SLOW_REDIS,
        FaultKind.FILL_REDIS,
    }
)
_ROLE_OF: Final = {
    FaultKind.SLOW_REDIS: Role.REDIS,
    FaultKind.FILL_REDIS: Role.REDIS,
    FaultKind.LOSE_LEADER: Role.COORDINATOR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault and when it strikes: at given seconds, or every so many seconds."""

    kind: FaultKind
    role: Role
    at_seconds: tuple[float, ...] = ()
    every_seconds: float = 0.0
    for_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """Faults over ``duration_seconds``, then up to ``settle_seconds`` in which all must be well."""

    name: str
    seed: int
    duration_seconds: float
    settle_seconds: float
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One fault on one service from ``at_seconds`` until ``until_seconds`` after the start.

    ``target`` is empty where it is only known when the time has come: the leader.
    """

    at_seconds: float
    until_seconds: float
    kind: FaultKind
    target: str


def parse_plan(text: str, source: str, *, seed: int | None = None) -> ChaosPlan:
    """The plan in a TOML text, with ``seed`` in place of its own.

    Raises ``LaunchError`` naming source, field and value.
    """
    try:
        data = toml_table(text)
    except ValueError as error:
        raise LaunchError(f"{source}: {error}") from None
    known = {"name", "seed", "duration_seconds", "settle_seconds", "faults"}
    _refuse_unknown(data, known, source)
    given_seed = int(_number(data, "seed", 0, source, high=2**63))
    duration_seconds = _number(data, "duration_seconds", 60.0, source, low=0.1)
    entries = data.get("faults", [])
    if not isinstance(entries, list) or not 1 <= len(entries) <= FAULTS_MAX:
        raise LaunchError(f"{source}: faults: give 1 to {FAULTS_MAX} [[faults]] tables")
    return ChaosPlan(
        name=str(data.get("name", source)),
        seed=given_seed if seed is None else seed,
        duration_seconds=duration_seconds,
        settle_seconds=_number(data, "settle_seconds", 60.0, source),
        faults=tuple(
            _fault(entry, f"{source}: faults[{number}]") for number, entry in enumerate(entries)
        ),
    )


def schedule(plan: ChaosPlan, targets: Mapping[Role, Sequence[str]]) -> tuple[Action, ...]:
    """All actions in order. A service is struck by one fault at a time: where all candidates are busy, the fault does
    not happen.

    Raises ``LaunchError`` where the cluster has no service of a wanted role.
    """
    wishes = [
        (at, number, fault)
        for number, fault in enumerate(plan.faults)
        for at in _times(plan, number, fault)
    ]
    random = SplitMix64(seed_for(plan.seed, "targets"))
    busy_until: dict[str, float] = {}
    actions: list[Action] = []
    for at, _, fault in sorted(wishes, key=lambda wish: wish[:2])[:ACTIONS_MAX]:
        candidates = targets.get(fault.role, ())
        if not candidates:
            raise LaunchError(f"{fault.kind}: the cluster has no {fault.role}")
        free = [name for name in candidates if busy_until.get(name, -1.0) < at]
        if not free:
            continue
        target = free[random.below(len(free))]
        until = min(at + fault.for_seconds, plan.duration_seconds)
        busy_until[target] = until
        named = "" if fault.kind is FaultKind.LOSE_LEADER else target
        actions.append(Action(at, until, fault.kind, named))
    return tuple(actions)


def _times(plan: ChaosPlan, number: int, fault: Fault) -> list[float]:
    if fault.at_seconds:
        return [at for at in fault.at_seconds if at < plan.duration_seconds]
    random = SplitMix64(seed_for(plan.seed, "times", number))
    times, turn = [], 1
    while (due := turn * fault.every_seconds) < plan.duration_seconds:
        moved = (random.below(2001) / 1000 - 1) * _JITTER * fault.every_seconds
        times.append(round(min(max(due + moved, 0.0), plan.duration_seconds), 3))
        turn += 1
    return times


# The reader of TOML returns values of any type.
_Table = Mapping[str, Any]


def _fault(entry: object, source: str) -> Fault:
    if not isinstance(entry, dict):
        raise LaunchError(f"{source}: not a table")
    known = {"kind", "role", "at_seconds", "every_seconds", "for_seconds"}
    _refuse_unknown(entry, known, source)
    kind = _member(FaultKind, entry.get("kind"), f"{source}.kind")
    if kind.needs_role:
        role = _member(Role, entry.get("role"), f"{source}.role")
    elif "role" in entry:
        raise LaunchError(f"{source}.role: {kind} always strikes {_ROLE_OF[kind]}: leave it out")
    else:
        role = _ROLE_OF[kind]
    for_seconds = _number(entry, "for_seconds", 0.0, source)
    if kind.lasts and not for_seconds:
        raise LaunchError(f"{source}.for_seconds: say how long {kind} lasts")
    at_seconds = entry.get("at_seconds", [])
    at = tuple(_seconds(each, f"{source}.at_seconds") for each in _list(at_seconds, source))
    every_seconds = _number(entry, "every_seconds", 0.0, source)
    if bool(at) == bool(every_seconds):
        raise LaunchError(f"{source}: give either at_seconds or every_seconds")
    if every_seconds and every_seconds < 1.0:
        raise LaunchError(f"{source}.every_seconds: {every_seconds:g}: use 1 or more")
    return Fault(
        kind=kind, role=role, at_seconds=at, every_seconds=every_seconds, for_seconds=for_seconds
    )


def _refuse_unknown(data: _Table, known: set[str], source: str) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise LaunchError(f"{source}: unknown field {unknown[0]!r}; known: {_listed(known)}")


Kind = TypeVar("Kind", bound=StrEnum)


def _member(kinds: type[Kind], value: object, field: str) -> Kind:
    try:
        return kinds(str(value))
    except ValueError:
        raise LaunchError(f"{field}: {value!r}: use one of {_listed(kinds)}") from None


def _listed(names: Any) -> str:
    return ", ".join(sorted(str(name) for name in names))


def _list(value: object, source: str) -> list[Any]:
    if not isinstance(value, list):
        raise LaunchError(f"{source}.at_seconds: {value!r}: give a list of seconds")
    return value


def _number(
    data: _Table, name: str, default: float, source: str, *, low: float = 0.0, high: float = 0.0
) -> float:
    return _seconds(data.get(name, default), f"{source}.{name}", low=low, high=high)


def _seconds(value: object, field: str, *, low: float = 0.0, high: float = 0.0) -> float:
    most = high or SECONDS_MAX
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= most:
        raise LaunchError(f"{field}: {value!r}: use a number from {low:g} to {most:g}")
    return value
