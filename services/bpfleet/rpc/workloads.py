"""Workloads, their inventories and their churn: messages, and records of ``bpfleet.workload``, both ways.

Records check themselves; here only what a message can say and a record cannot is refused.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final, TypeVar

from msgspec.structs import fields

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.near import advice
from bpfleet.rpc.convert import capability_set, complexity_numbers
from bpfleet.rpc.enums import (
    KEY_DISTRIBUTIONS,
    LABEL_OPERATORS,
    RESTART_POLICIES,
    TAINT_EFFECTS,
)
from bpfleet.rpc.errors import ApiError, invalid
from bpfleet.rpc.rlimits import memlock_message, memlock_record
from bpfleet.v1 import bpf_pb2, runtime_service_pb2, workload_pb2
from bpfleet.workload.catalogue import applications
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import (
    Churn,
    Complexity,
    Inventory,
    KeyDistribution,
    MapDeclaration,
    Preference,
    ProgramDeclaration,
    ReplicaOrder,
    Requirement,
    RestartPolicy,
    Scheduling,
    Spread,
    Toleration,
    WorkloadSpec,
)

__all__ = [
    "churn_message",
    "churn_record",
    "inventory_message",
    "inventory_record",
    "replica_order_message",
    "replica_order_record",
    "spec_message",
    "spec_problem",
    "spec_record",
]

DECLARATIONS_MAX: Final = 4096

Kind = TypeVar("Kind", MapType, ProgType)

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
            subprog_insns=tuple(message.subprog_insns),
            complexity=Complexity(**complexity_numbers(message.complexity, f"{path}.complexity")),
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def _member(kind: type[Kind], number: int, path: str) -> Kind:
    try:
        return kind(number)
    except ValueError:
        raise invalid(path, f"{number} is not a Linux map or program type") from None


def churn_record(message: workload_pb2.Churn, path: str = "churn") -> Churn:
    """The record of a churn; absent fields have the record's defaults. Raises ``ApiError``."""
    given = {
        field.name: value for field, value in message.ListFields() if field.name in _CHURN_NUMBERS
    }
    distribution = KEY_DISTRIBUTIONS.record(
        message.key_distribution, f"{path}.key_distribution", KeyDistribution.ZIPF
    )
    try:
        return Churn(**given, key_distribution=distribution)
    except SpecError as error:
        raise spec_problem(error, path) from None


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
        subprog_insns=record.subprog_insns,
        complexity=_complexity_message(record.complexity),
    )


def _complexity_message(record: Complexity) -> bpf_pb2.ProgramComplexity | None:
    """None for a program without any: an absent message says the same."""
    if record == Complexity():
        return None
    return bpf_pb2.ProgramComplexity(
        **{name: getattr(record, name) for name in record.__struct_fields__}
    )


def churn_message(record: Churn) -> workload_pb2.Churn:
    """The message of a churn, with every number given."""
    numbers = {name: getattr(record, name) for name in _CHURN_NUMBERS}
    return workload_pb2.Churn(
        key_distribution=KEY_DISTRIBUTIONS.message(record.key_distribution), **numbers
    )


# -- workloads -------------------------------------------------------------------------------------------------------


def spec_record(message: workload_pb2.WorkloadSpec, path: str = "spec") -> WorkloadSpec:
    """The workload a user describes. Raises ``ApiError`` that names the field below ``path``."""
    if message.application and message.application not in _applications():
        near = advice(message.application[:80], _applications())
        problem = f"{message.application[:80]!r} is unknown; {near}"
        raise invalid(f"{path}.application", problem)
    policy = RESTART_POLICIES.record(
        message.restart_policy, f"{path}.restart_policy", RestartPolicy.ALWAYS
    )
    inventory = (
        inventory_record(message.inventory, f"{path}.inventory")
        if message.HasField("inventory")
        else None
    )
    tolerations = tuple(
        _toleration_record(entry, f"{path}.tolerations[{position}]")
        for position, entry in enumerate(_few(message.tolerations, f"{path}.tolerations"))
    )
    try:
        return WorkloadSpec(
            name=message.name,
            application=message.application or None,
            inventory=inventory,
            options=dict(message.options),
            labels=dict(message.labels),
            replicas=message.replicas,
            per_node=message.per_node,
            priority=message.priority,
            uid=message.uid,
            capabilities=capability_set(message.capabilities.names, f"{path}.capabilities.names")
            if message.HasField("capabilities")
            else None,
            memory_request_bytes=message.memory_request_bytes,
            memory_limit_bytes=message.memory_limit_bytes
            if message.HasField("memory_limit_bytes")
            else None,
            memlock_bytes=memlock_record(message.memlock, f"{path}.memlock")
            if message.HasField("memlock")
            else None,
            oom_score_adj=message.oom_score_adj,
            user_memory_bytes=message.user_memory_bytes
            if message.HasField("user_memory_bytes")
            else None,
            threads=message.threads or 1,
            fill=dict(message.fill),
            churn=churn_record(message.churn, f"{path}.churn")
            if message.HasField("churn")
            else None,
            restart_policy=policy,
            node_selector=dict(message.node_selector),
            tolerations=tolerations,
            spread=_spread_record(message.spread, f"{path}.spread")
            if message.HasField("spread")
            else None,
            scheduling=_scheduling_record(message.scheduling, f"{path}.scheduling"),
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


@cache
def _applications() -> tuple[str, ...]:
    """The catalogue's names; it does not change while the program runs."""
    return applications()


Entry = TypeVar("Entry")


def _few(entries: Sequence[Entry], path: str) -> Sequence[Entry]:
    """``entries``, where there are not so many that reading them takes long."""
    if len(entries) > DECLARATIONS_MAX:
        raise invalid(path, f"{len(entries)} entries; send at most {DECLARATIONS_MAX}")
    return entries


def _scheduling_record(message: workload_pb2.Scheduling, path: str) -> Scheduling:
    required = tuple(
        _requirement_record(entry, f"{path}.required[{position}]")
        for position, entry in enumerate(_few(message.required, f"{path}.required"))
    )
    preferred = tuple(
        _preference_record(entry, f"{path}.preferred[{position}]")
        for position, entry in enumerate(_few(message.preferred, f"{path}.preferred"))
    )
    try:
        return Scheduling(
            required=required,
            preferred=preferred,
            gang=message.gang,
            max_unavailable=message.max_unavailable or 1,
            disruption_budget=message.disruption_budget or 1,
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def _requirement_record(message: workload_pb2.Requirement, path: str) -> Requirement:
    operator = LABEL_OPERATORS.optional(message.operator, f"{path}.operator")
    if operator is None:
        raise invalid(f"{path}.operator", "missing; add it")
    values = tuple(_few(message.values, f"{path}.values"))
    try:
        return Requirement(key=message.key, operator=operator, values=values)
    except SpecError as error:
        raise spec_problem(error, path) from None


def _preference_record(message: workload_pb2.Preference, path: str) -> Preference:
    requirement = _requirement_record(message.requirement, f"{path}.requirement")
    try:
        return Preference(requirement=requirement, weight=message.weight)
    except SpecError as error:
        raise spec_problem(error, path) from None


def _toleration_record(message: workload_pb2.Toleration, path: str) -> Toleration:
    effect = TAINT_EFFECTS.optional(message.effect, f"{path}.effect")
    try:
        return Toleration(key=message.key, value=message.value, effect=effect)
    except SpecError as error:
        raise spec_problem(error, path) from None


def _spread_record(message: workload_pb2.Spread, path: str) -> Spread:
    try:
        return Spread(
            topology_key=message.topology_key,
            max_skew=message.max_skew or 1,
            best_effort=message.best_effort,
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def spec_message(record: WorkloadSpec) -> workload_pb2.WorkloadSpec:
    """A workload as its owner submits it."""
    spread, scheduling = record.spread, record.scheduling
    return workload_pb2.WorkloadSpec(
        name=record.name,
        application=record.application or "",
        inventory=None if record.inventory is None else inventory_message(record.inventory),
        options=record.options,
        labels=record.labels,
        replicas=record.replicas,
        per_node=record.per_node,
        priority=record.priority,
        uid=record.uid,
        capabilities=None
        if record.capabilities is None
        else workload_pb2.CapabilitySet(
            names=[f"CAP_{capability.name}" for capability in sorted(record.capabilities)]
        ),
        memory_request_bytes=record.memory_request_bytes,
        memory_limit_bytes=record.memory_limit_bytes,
        memlock=memlock_message(record.memlock_bytes),
        oom_score_adj=record.oom_score_adj,
        user_memory_bytes=record.user_memory_bytes,
        threads=record.threads,
        fill=record.fill,
        churn=None if record.churn is None else churn_message(record.churn),
        restart_policy=RESTART_POLICIES.message(record.restart_policy),
        node_selector=record.node_selector,
        tolerations=[
            workload_pb2.Toleration(
                key=each.key,
                value=each.value,
                effect=TAINT_EFFECTS.message(each.effect),
            )
            for each in record.tolerations
        ],
        spread=None
        if spread is None
        else workload_pb2.Spread(
            topology_key=spread.topology_key,
            max_skew=spread.max_skew,
            best_effort=spread.best_effort,
        ),
        scheduling=workload_pb2.Scheduling(
            required=[_requirement_message(each) for each in scheduling.required],
            preferred=[
                workload_pb2.Preference(
                    requirement=_requirement_message(each.requirement), weight=each.weight
                )
                for each in scheduling.preferred
            ],
            gang=scheduling.gang,
            max_unavailable=scheduling.max_unavailable,
            disruption_budget=scheduling.disruption_budget,
        ),
    )


def _requirement_message(record: Requirement) -> workload_pb2.Requirement:
    return workload_pb2.Requirement(
        key=record.key, operator=LABEL_OPERATORS.message(record.operator), values=record.values
    )


# -- replicas --------------------------------------------------------------------------------------------------------


def replica_order_message(record: ReplicaOrder) -> runtime_service_pb2.ReplicaSpec:
    """The order to start a replica, for its agent."""
    return runtime_service_pb2.ReplicaSpec(
        workload=spec_message(record.workload),
        serial=record.serial,
        attempt=record.attempt,
        node=record.node,
        cgroup=record.cgroup,
        seed=record.seed,
    )


def replica_order_record(message: runtime_service_pb2.ReplicaSpec, path: str) -> ReplicaOrder:
    """The order an agent was given. Raises ``ApiError`` that names the field below ``path``."""
    workload = spec_record(message.workload, f"{path}.workload")
    try:
        return ReplicaOrder(
            workload=workload,
            serial=message.serial,
            attempt=message.attempt,
            node=message.node,
            cgroup=message.cgroup,
            seed=message.seed,
        )
    except SpecError as error:
        raise spec_problem(error, path) from None
