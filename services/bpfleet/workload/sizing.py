"""How applications size their maps by CPUs and RAM: named rules, so that data files need no code.

A number in a catalogue file may be written as an option's name (``"pods"``) or as a rule with its
parameters (``{ rule = "per_cpus", cpus_each = 2 }``); a parameter may name an option too.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from bpfleet.near import advice
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import NodeShape

__all__ = ["RULES", "resolve_numbers"]

# One declared value of any type, as TOML and JSON readers return it.
Plain = Any
Rule = Callable[..., int]

# Cilium weighs one default-sized set of its dynamic maps [pkg/maps/dynamic sizing, option.go].
_CILIUM_UNIT_BYTES: Final = 148_373_504
_CILIUM_ENTRIES_MAX: Final = 16_777_216


def resolve_numbers(
    declared: Mapping[str, Plain], shape: NodeShape, options: Mapping[str, int], source: str
) -> dict[str, Plain]:
    """``declared`` with every rule and option name below a number's field replaced by the number.

    Text fields (``name``, ``map_type``, ...) stay. Raises ``SpecError`` for an unknown rule, option
    or parameter.
    """
    resolved: dict[str, Plain] = {}
    for name, value in declared.items():
        if name == "inner":
            resolved[name] = resolve_numbers(value, shape, options, source)
        elif isinstance(value, Mapping) and "rule" in value:
            resolved[name] = _apply(value, shape, options, source, name)
        elif isinstance(value, str) and name not in _TEXT_FIELDS:
            resolved[name] = _option(value, options, source, name)
        else:
            resolved[name] = value
    return resolved


def _apply(
    call: Mapping[str, Plain],
    shape: NodeShape,
    options: Mapping[str, int],
    source: str,
    field: str,
) -> int:
    rule = RULES.get(str(call["rule"]))
    if rule is None:
        remedy = advice(call["rule"], sorted(RULES))
        raise SpecError(source, field, call["rule"], "unknown sizing rule", remedy)
    arguments = {
        name: _option(value, options, source, f"{field}.{name}")
        if isinstance(value, str)
        else value
        for name, value in call.items()
        if name != "rule"
    }
    try:
        return rule(shape, **arguments)
    except TypeError:
        accepted = ", ".join(rule.__code__.co_varnames[1 : rule.__code__.co_argcount + 8])
        raise SpecError(source, field, dict(call), "wrong parameters", f"use {accepted}") from None


def _option(name: str, options: Mapping[str, int], source: str, field: str) -> int:
    if name not in options:
        raise SpecError(source, field, name, "unknown option", advice(name, sorted(options)))
    return options[name]


def _cpus(shape: NodeShape) -> int:
    return shape.possible_cpus


def _per_cpus(shape: NodeShape, *, cpus_each: int) -> int:
    """One for every ``cpus_each`` possible CPUs, rounded up (Falco's ring buffers)."""
    return -(-shape.possible_cpus // max(cpus_each, 1))


def _times_cpus(shape: NodeShape, *, each: int) -> int:
    return shape.possible_cpus * each


def _split_over_cpus(shape: NodeShape, *, total: int) -> int:
    """An equal part of ``total`` for every possible CPU (Katran's connection tables)."""
    return max(1, total // shape.possible_cpus)


def _cilium_dynamic(
    shape: NodeShape,
    *,
    default: int,
    minimum: int,
    ratio_per_million: int,
    round_to_cpus: int = 0,
    exact: int = 0,
) -> int:
    """Cilium's dynamic map size: a share of RAM split over its five largest tables; ``exact`` entries where set.

    ``round_to_cpus`` 1 rounds up to a multiple of the possible CPUs, as for per-CPU LRU lists.
    """
    if exact:
        return min(exact, _CILIUM_ENTRIES_MAX)
    budget_bytes = shape.ram_bytes * ratio_per_million // 1_000_000
    entries = default * budget_bytes // _CILIUM_UNIT_BYTES
    entries = min(max(entries, minimum), _CILIUM_ENTRIES_MAX)
    if not round_to_cpus:
        return entries
    cpus = shape.possible_cpus
    rounded = -(-entries // cpus) * cpus
    return rounded if rounded <= _CILIUM_ENTRIES_MAX else rounded - cpus


def _power_of_two(shape: NodeShape, *, bytes_per_cpu: int) -> int:
    """The next power of two of ``bytes_per_cpu`` times the CPUs, at least a page (profiler ring)."""
    needed = max(4096, bytes_per_cpu * shape.possible_cpus)
    return 1 << (needed - 1).bit_length()


def _two_to_the(shape: NodeShape, *, exponent: int, plus: int = 0) -> int:
    """``2 ** (exponent + plus)``, at most 2 ** 31 (profiler map-scale-factor)."""
    return 1 << min(exponent + plus, 31)


def _sum(shape: NodeShape, *, first: int, second: int) -> int:
    return first + second


def _product(shape: NodeShape, *, first: int, second: int) -> int:
    return first * second


RULES: Final[Mapping[str, Rule]] = {
    "cpus": _cpus,
    "per_cpus": _per_cpus,
    "times_cpus": _times_cpus,
    "split_over_cpus": _split_over_cpus,
    "cilium_dynamic": _cilium_dynamic,
    "power_of_two": _power_of_two,
    "two_to_the": _two_to_the,
    "sum": _sum,
    "product": _product,
}

_TEXT_FIELDS: Final = frozenset({"name", "map_type", "prog_type"})
