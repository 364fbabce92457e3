"""Inventories and churn, as messages and as records of ``bpfleet.workload``."""

from dataclasses import fields
from typing import Final, TypeVar

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.rpc.errors import ApiError, invalid
from bpfleet.v1 import bpf_pb2, workload_pb2
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import (
    Churn,
    Inventory,
    KeyDistribution,
    MapDeclaration,
    ProgramDeclaration,
    RestartPolicy,
)

__all__ = [
    "churn_message",
    "churn_record",
    "inventory_message",
    "inventory_record",
    "restart_policy_message",
    "restart_policy_record",
    "spec_problem",
]

DECLARATIONS_MAX: Final = 4096

Kind = TypeVar("Kind", MapType, ProgType)

_DISTRIBUTIONS: Final = {
    workload_pb2.KEY_DISTRIBUTION_UNSPECIFIED: KeyDistribution.ZIPF,
    workload_pb2.KEY_DISTRIBUTION_UNIFORM: KeyDistribution.UNIFORM,
    workload_pb2.KEY_DISTRIBUTION_ZIPF: KeyDistribution.ZIPF,
    workload_pb2.KEY_DISTRIBUTION_SEQUENTIAL: KeyDistribution.SEQUENTIAL,
}
_POLICIES: Final = {
    workload_pb2.RESTART_POLICY_UNSPECIFIED: RestartPolicy.ALWAYS,
    workload_pb2.RESTART_POLICY_ALWAYS: RestartPolicy.ALWAYS,
    workload_pb2.RESTART_POLICY_ON_FAILURE: RestartPolicy.ON_FAILURE,
    workload_pb2.RESTART_POLICY_NEVER: RestartPolicy.NEVER,
}
_CHURN_NUMBERS: Final = tuple(
    field.name for field in fields(Churn) if field.name != "key_distribution"
)


def spec_problem(error: SpecError, path: str) -> ApiError:
    """INVALID_ARGUMENT that names the field of the message, for a record that refused its values."""
    field = f"{path}.{error.field}" if error.field else path
    return invalid(field, f"{error.problem}; {error.remedy}")


def inventory_record(message: workload_pb2.Inventory, path: str = "inventory") -> Inventory:
    """The record of an inventory. Raises ``ApiError`` that names the field below ``path``."""
    for name in ("maps", "programs"):
        if len(getattr(message, name)) > DECLARATIONS_MAX:
            raise invalid(f"{path}.{name}", f"more than {DECLARATIONS_MAX} declarations")
    maps = tuple(
        _map_record(declared, f"{path}.maps[{position}]")
        for position, declared in enumerate(message.maps)
    )
    programs = tuple(
        _program_record(declared, f"{path}.programs[{position}]")
        for position, declared in enumerate(message.programs)
    )
    try:
        return Inventory(
            name=message.name,
            title=message.title,
            source=message.source,
            maps=maps,
            programs=programs,
            user_memory_bytes=message.user_memory_bytes,
            churn=churn_record(message.churn, f"{path}.churn"),
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def _map_record(message: workload_pb2.MapDeclaration, path: str) -> MapDeclaration:
    inner = _map_record(message.inner, f"{path}.inner") if message.HasField("inner") else None
    try:
        return MapDeclaration(
            name=message.name,
            map_type=_member(MapType, message.map_type, f"{path}.map_type"),
            key_size=message.key_size,
            value_size=message.value_size,
            max_entries=message.max_entries,
            map_flags=message.map_flags,
            map_extra=message.map_extra,
            inner=inner,
            inner_count=message.inner_count,
            count=message.count or 1,
            fill_entries=message.fill_entries,
            pinned=message.pinned,
            frozen=message.frozen,
            churn_weight=message.churn_weight if message.HasField("churn_weight") else 1,
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def _program_record(message: workload_pb2.ProgramDeclaration, path: str) -> ProgramDeclaration:
    try:
        return ProgramDeclaration(
            name=message.name,
            prog_type=_member(ProgType, message.prog_type, f"{path}.prog_type"),
            insn_cnt=message.insn_cnt,
            count=message.count or 1,
            map_names=tuple(message.map_names),
            pinned=message.pinned,
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def _member(kind: type[Kind], number: int, path: str) -> Kind:
    try:
        return kind(number)
    except ValueError:
        raise invalid(path, f"{number} is no type of Linux") from None


def churn_record(message: workload_pb2.Churn, path: str = "churn") -> Churn:
    """The record of a churn; absent fields have the record's defaults. Raises ``ApiError``."""
    given = {
        field.name: value for field, value in message.ListFields() if field.name in _CHURN_NUMBERS
    }
    distribution = _DISTRIBUTIONS.get(message.key_distribution)
    if distribution is None:
        raise invalid(f"{path}.key_distribution", f"{message.key_distribution} is unknown")
    try:
        return Churn(**given, key_distribution=distribution)
    except SpecError as error:
        raise spec_problem(error, path) from None


def restart_policy_record(
    number: workload_pb2.RestartPolicy.ValueType, path: str = "restart_policy"
) -> RestartPolicy:
    """The record of a restart policy. Raises ``ApiError`` for a number without meaning."""
    policy = _POLICIES.get(number)
    if policy is None:
        raise invalid(path, f"{number} is unknown")
    return policy


def restart_policy_message(policy: RestartPolicy) -> workload_pb2.RestartPolicy.ValueType:
    """The enum value of a restart policy."""
    return next(number for number, known in _POLICIES.items() if known is policy and number)


def inventory_message(record: Inventory) -> workload_pb2.Inventory:
    """The message of an inventory."""
    return workload_pb2.Inventory(
        name=record.name,
        title=record.title,
        source=record.source,
        maps=[_map_message(declared) for declared in record.maps],
        programs=[_program_message(declared) for declared in record.programs],
        user_memory_bytes=record.user_memory_bytes,
        churn=churn_message(record.churn),
    )


def _map_message(record: MapDeclaration) -> workload_pb2.MapDeclaration:
    return workload_pb2.MapDeclaration(
        name=record.name,
        map_type=bpf_pb2.MapType.ValueType(record.map_type),
        key_size=record.key_size,
        value_size=record.value_size,
        max_entries=record.max_entries,
        map_flags=record.map_flags,
        map_extra=record.map_extra,
        inner=_map_message(record.inner) if record.inner is not None else None,
        inner_count=record.inner_count,
        count=record.count,
        fill_entries=record.fill_entries,
        pinned=record.pinned,
        frozen=record.frozen,
        churn_weight=record.churn_weight,
    )


def _program_message(record: ProgramDeclaration) -> workload_pb2.ProgramDeclaration:
    return workload_pb2.ProgramDeclaration(
        name=record.name,
        prog_type=bpf_pb2.ProgramType.ValueType(record.prog_type),
        insn_cnt=record.insn_cnt,
        count=record.count,
        map_names=record.map_names,
        pinned=record.pinned,
    )


def churn_message(record: Churn) -> workload_pb2.Churn:
    """The message of a churn, with every number given."""
    distribution = next(
        number for number, known in _DISTRIBUTIONS.items() if known is record.key_distribution
    )
    numbers = {name: getattr(record, name) for name in _CHURN_NUMBERS}
    return workload_pb2.Churn(key_distribution=distribution, **numbers)
