"""Enumerations of the wire and ours: members are called alike, so their names are the table."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar

from bpfleet.fleet.records import Policy
from bpfleet.rpc.errors import invalid
from bpfleet.v1 import fleet_service_pb2, workload_pb2
from bpfleet.workload.spec import KeyDistribution, LabelOperator, RestartPolicy, TaintEffect

__all__ = [
    "KEY_DISTRIBUTIONS",
    "LABEL_OPERATORS",
    "POLICIES",
    "RESTART_POLICIES",
    "TAINT_EFFECTS",
    "EnumPair",
]

Member = TypeVar("Member", bound=StrEnum)


class _Numbers(Protocol):
    """What is used of a generated enumeration."""

    def items(self) -> list[tuple[str, Any]]:
        """Names and numbers."""


class EnumPair(Generic[Member]):
    """One enumeration in both forms. Number 0, *unspecified*, has no member: the caller says what it means."""

    def __init__(self, members: type[Member], numbers: _Numbers, prefix: str) -> None:
        by_name = {member.name: member for member in members}
        self._members: Final[Mapping[int, Member]] = {
            number: by_name[name.removeprefix(prefix)] for name, number in numbers.items() if number
        }
        # Any: the generated enumeration types are ints at run time, which the type checker does not know.
        self._numbers: Final[Mapping[Member, Any]] = {m: n for n, m in self._members.items()}
        missing = set(members) - set(self._numbers)
        assert not missing, f"{missing} cannot travel"

    @property
    def words(self) -> tuple[str, ...]:
        """Every member's value, as files and options spell it."""
        return tuple(member.value for member in self._numbers)

    def word(self, number: int) -> str:
        """How files and options spell the member with this number; "" for 0."""
        return self._members[number].value if number else ""

    def word_message(self, word: str) -> Any:
        """The number of the member that files and options spell ``word``; 0 for ""."""
        return next((n for member, n in self._numbers.items() if member.value == word), 0)

    def message(self, member: Member | None) -> Any:
        """The number of a member, 0 for None."""
        return 0 if member is None else self._numbers[member]

    def record(self, number: int, field: str, default: Member) -> Member:
        """The member with this number, ``default`` for 0. Raises ``ApiError`` naming ``field``."""
        found = self.optional(number, field)
        return default if found is None else found

    def optional(self, number: int, field: str) -> Member | None:
        """The member with this number, None for 0. Raises ``ApiError`` naming ``field``."""
        if not number:
            return None
        member = self._members.get(number)
        if member is None:
            known = ", ".join(each.name for each in self._numbers)
            raise invalid(field, f"{number} is unknown; use one of {known}")
        return member


KEY_DISTRIBUTIONS: Final = EnumPair(
    KeyDistribution, workload_pb2.KeyDistribution, "KEY_DISTRIBUTION_"
)
RESTART_POLICIES: Final = EnumPair(RestartPolicy, workload_pb2.RestartPolicy, "RESTART_POLICY_")
LABEL_OPERATORS: Final = EnumPair(LabelOperator, workload_pb2.LabelOperator, "LABEL_OPERATOR_")
TAINT_EFFECTS: Final = EnumPair(TaintEffect, workload_pb2.TaintEffect, "TAINT_EFFECT_")
POLICIES: Final = EnumPair(Policy, fleet_service_pb2.PlacementPolicy, "PLACEMENT_POLICY_")
