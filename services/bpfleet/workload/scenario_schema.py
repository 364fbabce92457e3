"""What may stand in a scenario file: every field with its meaning, as JSON Schema for editors and as rows for the docs.

The types are those of the records; spellings that the codec takes beyond them (sizes with units, names of
enumerations) are here as there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from msgspec import NODEFAULT, Struct, inspect

from bpfleet.workload.codec import to_data
from bpfleet.workload.scenario import NodeGroup, Scenario, ScenarioEvent
from bpfleet.workload.spec import (
    Churn,
    Complexity,
    Inventory,
    MapDeclaration,
    Preference,
    ProgramDeclaration,
    Requirement,
    Scheduling,
    Spread,
    Taint,
    Toleration,
    WorkloadSpec,
)

__all__ = ["FieldRow", "scenario_fields", "scenario_schema"]

# JSON values of any type.
Plain = Any

_SIZE: Final = "size"
_ID: Final = "https://bpfleet.invalid/scenario.schema.json"

# Fields of a workload that a file has instead of `inventory`: they name another file, relative to this one.
FILE_FIELDS: Final[Mapping[str, str]] = {
    "listing": "A file of `bpftool -j map show`: its maps, in place of `application` or `inventory`.",
    "capture": "A file of `bpfleet capture`: the container named by `container`, with the limits, user, heap and "
    "threads it has there; fields set in the workload override them.",
    "container": "With `capture`: which container, as `bpfleet charges FILE` names it.",
}

_MEANINGS: Final[Mapping[type[Struct], Mapping[str, str]]] = {
    Scenario: {
        "name": "Name of the scenario, in reports and results.",
        "title": "One line for people.",
        "seed": "Seed of everything random; the same seed gives the same result.",
        "steps": "Steps of churn after the start.",
        "step_ns": "Virtual time of a step, in nanoseconds.",
        "nodes": "Pools of equal nodes, 1 to 100,000 nodes in all.",
        "workloads": "What runs, placed in this order.",
        "events": "What happens to workloads while it runs.",
    },
    NodeGroup: {
        "name": "Name of the pool; its nodes are NAME-0001, NAME-0002 and so on.",
        "count": "Number of nodes.",
        "kernel": "The kernel these nodes have, such as `5.10` or `rhel9`: the model `own` of `compare` runs each pool "
        "under it.",
        "possible_cpus": "Possible CPUs of each node; they decide what per-CPU maps cost.",
        "ram_bytes": "Memory of each node.",
        "swap_bytes": "Swap space of each node.",
        "reserved_bytes": "Memory no workload may request (system daemons).",
        "labels": "Labels, in addition to `node`, `group` and `cpus`, which every node has.",
        "taints": "Marks that keep away workloads that do not tolerate them.",
    },
    WorkloadSpec: {
        "name": "Name of the workload; its replicas are NAME-0, NAME-1 and so on.",
        "application": "An application of the catalogue (`bpfleet application list`), sized for the node it lands on.",
        "inventory": "Maps and programs of its own, in place of `application`.",
        "options": "Options of the application (`bpfleet application show NAME`).",
        "labels": "Labels of the workload.",
        "replicas": "Number of replicas, unless `per_node`.",
        "per_node": "One replica on every eligible node, like a DaemonSet.",
        "priority": "Higher ones are placed first and may preempt lower ones.",
        "uid": "User of its processes; RLIMIT_MEMLOCK counts per user.",
        "capabilities": "Capabilities of its processes, such as `bpf`; all of them if the field is absent.",
        "memory_request_bytes": "Memory that placement reserves.",
        "memory_limit_bytes": "memory.max of each replica's cgroup; absent: max.",
        "memlock_bytes": "RLIMIT_MEMLOCK; absent: the node's default of 64 KiB (8 MiB from 5.16 on).",
        "oom_score_adj": "-1000 to 1000; -1000 is never killed.",
        "user_memory_bytes": "Peak of its heap; absent: that of the application or inventory.",
        "threads": "Threads of its process.",
        "fill": "Share of a map's entries that exists at the start, by the map's name, `*` for all others; "
        "counts for maps without preallocation.",
        "churn": "What it does while it runs, instead of the application's or inventory's own.",
        "restart_policy": "Whether a process that ended is started again.",
        "node_selector": "Labels that a node must have.",
        "tolerations": "Taints it accepts.",
        "spread": "Balances the replicas over the values of a label.",
        "scheduling": "Affinity, gangs and disruption budgets.",
    },
    Inventory: {
        "name": "Name of what runs.",
        "title": "One line for people.",
        "source": "Where the figures come from.",
        "maps": "Maps its process creates, in this order.",
        "programs": "Programs it loads afterwards.",
        "user_memory_bytes": "Peak of its anonymous memory (heap).",
        "churn": "What it does while it runs.",
    },
    MapDeclaration: {
        "name": "Name of the map, up to 15 characters.",
        "map_type": "Type by bpftool's name.",
        "key_size": "Bytes of a key.",
        "value_size": "Bytes of a value.",
        "max_entries": "Maximum number of elements; bytes of a ring buffer.",
        "map_flags": "Flags as a number: 1 is BPF_F_NO_PREALLOC.",
        "map_extra": "map_extra of BPF_MAP_CREATE.",
        "inner": "The inner map of a map of maps.",
        "inner_count": "How many slots of a map of maps hold one.",
        "count": "Number of equal maps.",
        "fill_entries": "Elements inserted at the start.",
        "pinned": "Whether it is pinned, and outlives the process.",
        "frozen": "Whether user space freezes it once it is filled.",
        "churn_weight": "Its share of the churn; 0 leaves it alone.",
    },
    ProgramDeclaration: {
        "name": "Name of the program, up to 15 characters.",
        "prog_type": "Type by bpftool's name.",
        "insn_cnt": "Instructions as loaded.",
        "count": "Number of equal programs.",
        "map_names": "Maps it uses, by name.",
        "pinned": "Whether it is pinned, and outlives the process.",
        "subprog_insns": "Lengths of its functions, which `insn_cnt` counts too.",
        "complexity": "What the verifier meets in it: decides what loading costs from 6.17 on.",
    },
    Complexity: {
        "branches": "Jumps on unknown values, each on a different one.",
        "compared": "Jumps that test the same value repeatedly.",
        "spills": "Stack slots that are written and then tested by a jump.",
        "lookups": "Lookups of array elements.",
        "loop_turns": "Iterations of bounded loops.",
        "states": "Peak number of states (veristat).",
        "verified_insns": "Instructions the verifier walked (bpftool's verified_insns).",
    },
    Churn: {
        "lookups": "Weight of lookups among the operations.",
        "updates": "Weight of updates.",
        "deletes": "Weight of deletions.",
        "creates": "Weight of creating one more map like a declared one.",
        "operations_per_step": "Operations of a replica in each step.",
        "step_ns": "Virtual time of a step where no scenario sets it.",
        "batch_size": "Elements of one operation.",
        "key_distribution": "How keys are chosen.",
        "working_set": "Share of a map's entries that keys are drawn from, 0 to 1.",
        "extra_maps_max": "Maps made by `creates` that stay open.",
        "start_share": "Share of the heap allocated at the start, 0 to 1.",
        "ramp_steps": "Steps in which the heap grows to its peak.",
    },
    ScenarioEvent: {
        "step": "Step at which it happens; 0 is the start.",
        "workload": "Workload it happens to.",
        "action": "`restart` is a rollout in which pinned maps survive; `stop` ends all replicas.",
    },
    Taint: {
        "key": "Key of the taint.",
        "value": "Its value.",
        "effect": "What it does to workloads that do not tolerate it.",
    },
    Toleration: {
        "key": "Key of the taint; empty matches every one.",
        "value": "Its value; empty matches every one.",
        "effect": "Its effect; absent matches every one.",
    },
    Requirement: {
        "key": "Label of the node.",
        "operator": "How it is compared.",
        "values": "What it is compared with; one whole number for Gt and Lt.",
    },
    Preference: {
        "requirement": "The preferred condition.",
        "weight": "Points, 1 to 100, for a node that meets it.",
    },
    Spread: {
        "topology_key": "The label whose values are balanced.",
        "max_skew": "How far the numbers may differ.",
        "best_effort": "Whether a replica that cannot comply is placed anyway.",
    },
    Scheduling: {
        "required": "Conditions a node must meet.",
        "preferred": "Conditions that earn a node points.",
        "gang": "Placed as a whole or not at all.",
        "max_unavailable": "Replicas that may be missing during an update.",
        "disruption_budget": "Replicas that drains and preemption may remove at one time.",
    },
}


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field: the table it stands in, its name, what may be written, its default (empty: needed), its meaning."""

    table: str
    name: str
    kind: str
    default: str
    meaning: str


def scenario_fields() -> Iterator[FieldRow]:
    """Every field of a scenario file, table by table."""
    for record, meanings in _MEANINGS.items():
        for field in _fields(record):
            yield FieldRow(
                record.__name__,
                field.encode_name,
                _kind_in_words(_choices(field.type)[0], field.encode_name),
                _default_in_words(field),
                meanings[field.encode_name],
            )
        if record is WorkloadSpec:
            for name, meaning in FILE_FIELDS.items():
                yield FieldRow(record.__name__, name, "text", "absent", meaning)


def scenario_schema() -> dict[str, Plain]:
    """JSON Schema (2020-12) of a scenario file, for completion and checks in editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID,
        "title": "bpfleet scenario",
        **_record_schema(Scenario),
        "$defs": {
            record.__name__: _record_schema(record)
            for record in _MEANINGS
            if record is not Scenario
        },
    }


def _fields(record: type[Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(record)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _record_schema(record: type[Struct]) -> dict[str, Plain]:
    properties = {
        field.encode_name: {
            **_schema(field.type, field.encode_name),
            "description": _MEANINGS[record][field.encode_name],
            **_default(field),
        }
        for field in _fields(record)
    }
    if record is WorkloadSpec:
        properties |= {
            name: {"type": "string", "description": text} for name, text in FILE_FIELDS.items()
        }
    needed = [field.encode_name for field in _fields(record) if field.required]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def _default(field: inspect.Field) -> dict[str, Plain]:
    if field.required or field.default is NODEFAULT or field.default is None:
        return {}
    return {"default": to_data(field.default)}


def _choices(info: inspect.Type) -> tuple[list[inspect.Type], bool]:
    """The types a value may have, and whether it may be absent."""
    if not isinstance(info, inspect.UnionType):
        return [info], False
    found = [each for each in info.types if not isinstance(each, inspect.NoneType)]
    return found, len(found) < len(info.types)


def _schema(info: inspect.Type, name: str) -> dict[str, Plain]:
    choices, _ = _choices(info)
    if len(choices) > 1:
        return {"anyOf": [_schema(each, name) for each in choices]}
    match choices[0]:
        case inspect.StructType(cls=record):
            return {"$ref": f"#/$defs/{record.__name__}"}
        case inspect.VarTupleType(item_type=item) | inspect.FrozenSetType(item_type=item):
            return {"type": "array", "items": _schema(item, name)}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _schema(value, "")}
        case inspect.EnumType(cls=kind):
            by_name = issubclass(kind, IntEnum)
            names = [each.name.lower() if by_name else each.value for each in kind]
            return (
                {"enum": names}
                if not by_name
                else {"anyOf": [{"enum": names}, {"type": "integer"}]}
            )
        case inspect.IntType() if name.endswith("_bytes"):
            return {"type": ["integer", "string"]}
        case inspect.IntType():
            return {"type": "integer"}
        case inspect.FloatType():
            return {"type": "number"}
        case inspect.BoolType():
            return {"type": "boolean"}
    return {"type": "string"}


def _kind_in_words(choices: list[inspect.Type], name: str) -> str:
    match choices[0]:
        case inspect.StructType(cls=record):
            return f"table {record.__name__}"
        case inspect.VarTupleType(item_type=item) | inspect.FrozenSetType(item_type=item):
            return f"list of {_kind_in_words([item], name)}"
        case inspect.DictType(value_type=value):
            return f"table of {_kind_in_words([value], '')}"
        case inspect.EnumType(cls=kind) if issubclass(kind, IntEnum):
            return f"name of a {kind.__name__}"
        case inspect.EnumType(cls=kind):
            return " / ".join(f"`{each.value}`" for each in kind)
        case inspect.IntType() if name.endswith("_bytes"):
            return _SIZE
        case inspect.IntType():
            return "number"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "true / false"
    return "text"


def _default_in_words(field: inspect.Field) -> str:
    if field.required:
        return ""
    if field.default is NODEFAULT:
        return "none"
    if field.default is None:
        return "absent"
    value = to_data(field.default)
    if isinstance(value, bool):
        return str(value).lower()
    return (
        "none"
        if value in ("", [], (), {})
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
