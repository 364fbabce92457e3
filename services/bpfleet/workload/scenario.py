"""Named fleet scenarios: nodes, workloads and what happens to them, from TOML.

A scenario says everything a run needs except the kernel profiles: two runs of one scenario with one
seed are identical.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final

from msgspec import field
from msgspec.structs import replace

from bpfleet.near import advice
from bpfleet.plain import toml_table
from bpfleet.plugins import SCENARIOS, plugin_names, plugin_text
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.checks import check_entries, check_labels, check_name, check_range
from bpfleet.workload.codec import Record, from_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import MEMORY_BYTES_MAX, NodeShape, Taint, WorkloadSpec

__all__ = [
    "NODES_MAX",
    "NodeGroup",
    "Scenario",
    "ScenarioEvent",
    "ScenarioNode",
    "builtin_scenario",
    "builtin_scenarios",
    "scenario_from_toml",
]

# One declared value of any type, as the TOML reader returns it.
Plain = Any

NODES_MAX: Final = 100_000
STEPS_MAX: Final = 1_000_000
_FOLDER: Final = "scenarios"


class NodeGroup(Record, frozen=True, kw_only=True):
    """``count`` equal nodes. ``reserved_bytes`` is memory no workload may request (system daemons).

    ``swap_bytes`` is swap space for anonymous memory; no workload may request it either. ``kernel`` is the one they
    have, where that is known.
    """

    name: str
    count: int = 1
    kernel: str = ""
    possible_cpus: int = 4
    ram_bytes: int = 8 << 30
    swap_bytes: int = 0
    reserved_bytes: int = 512 << 20
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_labels("labels", self.labels)
        check_entries("taints", self.taints)
        if not 0 <= self.count <= NODES_MAX:
            raise SpecError(
                "scenario", "count", self.count, "out of range", f"use 0 to {NODES_MAX}"
            )
        if not 0 <= self.reserved_bytes <= self.ram_bytes:
            raise SpecError(
                "scenario",
                "reserved_bytes",
                self.reserved_bytes,
                "out of range",
                "use 0 to ram_bytes",
            )
        check_range("swap_bytes", self.swap_bytes, 0, MEMORY_BYTES_MAX)
        _ = self.shape  # checks the CPUs and the RAM

    @property
    def shape(self) -> NodeShape:
        """CPUs and RAM of each node."""
        return NodeShape(possible_cpus=self.possible_cpus, ram_bytes=self.ram_bytes)


class ScenarioNode(Record, frozen=True, kw_only=True):
    """One node of a scenario. ``labels`` hold the group's and ``node``, ``group``, ``cpus``."""

    name: str
    group: str
    shape: NodeShape
    allocatable_bytes: int
    kernel: str = ""
    swap_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


class EventAction(StrEnum):
    """What happens to a workload at a step of the run."""

    RESTART = "restart"
    STOP = "stop"


class ScenarioEvent(Record, frozen=True, kw_only=True):
    """At ``step`` every replica of ``workload`` restarts (a rollout: pinned maps survive) or stops."""

    step: int
    workload: str
    action: EventAction = EventAction.RESTART

    def __post_init__(self) -> None:
        if not 0 <= self.step <= STEPS_MAX:
            raise SpecError("scenario", "step", self.step, "out of range", f"use 0 to {STEPS_MAX}")


class Scenario(Record, frozen=True, kw_only=True):
    """A fleet and what runs on it for ``steps`` steps of ``step_ns`` virtual time."""

    name: str
    title: str = ""
    seed: int = 1
    steps: int = 20
    step_ns: int = 1_000_000_000
    nodes: tuple[NodeGroup, ...] = ()
    workloads: tuple[WorkloadSpec, ...] = ()
    events: tuple[ScenarioEvent, ...] = ()

    def __post_init__(self) -> None:
        _check("seed", self.seed, 0, (1 << 64) - 1)
        _check("steps", self.steps, 0, STEPS_MAX)
        _check("step_ns", self.step_ns, 1, 1 << 62)
        _check("nodes", sum(group.count for group in self.nodes), 1, NODES_MAX)
        _unique("nodes", [group.name for group in self.nodes])
        _unique("workloads", [workload.name for workload in self.workloads])
        for index, event in enumerate(self.events):
            if all(event.workload != workload.name for workload in self.workloads):
                raise SpecError(
                    "scenario",
                    f"events[{index}].workload",
                    event.workload,
                    "no such workload",
                    "name one of [[workloads]]",
                )
        for workload in self.workloads:
            self._check_sizes(workload)

    def _check_sizes(self, workload: WorkloadSpec) -> None:
        """Sizes every application for every node shape now, so that a run cannot stop half way."""
        if workload.application is None:
            return
        for shape in {group.shape for group in self.nodes}:
            inventory_for(workload.application, shape, workload.options)

    def fleet(self) -> tuple[ScenarioNode, ...]:
        """Every node by name: ``GROUP-0001`` onwards, in the order of the groups."""
        return tuple(
            ScenarioNode(
                name=f"{group.name}-{ordinal:04d}",
                group=group.name,
                shape=group.shape,
                allocatable_bytes=group.ram_bytes - group.reserved_bytes,
                kernel=group.kernel,
                swap_bytes=group.swap_bytes,
                labels={
                    **group.labels,
                    "node": f"{group.name}-{ordinal:04d}",
                    "group": group.name,
                    "cpus": str(group.possible_cpus),
                },
                taints=group.taints,
            )
            for group in self.nodes
            for ordinal in range(1, group.count + 1)
        )

    def scaled_to(self, nodes: int) -> "Scenario":
        """The same scenario on ``nodes`` nodes, shared out by the groups' own proportions.

        Replica counts of workloads that are not per node scale alike. Raises ``SpecError`` outside
        1 to ``NODES_MAX``.
        """
        _check("nodes", nodes, 1, NODES_MAX)
        before = sum(group.count for group in self.nodes)
        groups, taken, seen = [], 0, 0
        for group in self.nodes:
            seen += group.count
            upto = seen * nodes // before
            groups.append(replace(group, count=upto - taken))
            taken = upto
        workloads = tuple(
            w if w.per_node else replace(w, replicas=max(1, -(-w.replicas * nodes // before)))
            for w in self.workloads
        )
        return replace(self, nodes=tuple(groups), workloads=workloads)


def scenario_from_toml(text: str, source: str) -> Scenario:
    """The scenario in ``text``; ``source`` is the file's name for messages. Raises ``SpecError``."""
    try:
        data: Mapping[str, Plain] = toml_table(text)
    except ValueError as error:
        raise SpecError(source, "", None, str(error), "correct the line") from None
    return from_data(Scenario, data, source)


def builtin_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with the package, and of those of installed ones, sorted."""
    entries = (entry.name for entry in files("bpfleet.workload").joinpath(_FOLDER).iterdir())
    own = {name.removesuffix(".toml") for name in entries if name.endswith(".toml")}
    return tuple(sorted(own.union(plugin_names(SCENARIOS))))


@cache
def builtin_scenario(name: str) -> Scenario:
    """The built-in scenario ``name``. Raises ``SpecError`` naming the known ones."""
    known = builtin_scenarios()
    if name not in known:
        raise SpecError("scenarios", "scenario", name, "unknown", advice(name, known))
    own = files("bpfleet.workload").joinpath(_FOLDER, f"{name}.toml")
    text = own.read_text("utf-8") if own.is_file() else plugin_text(SCENARIOS, name) or ""
    return scenario_from_toml(text, f"scenario {name}")


def _check(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpecError("scenario", name, value, "out of range", f"use {low} to {high}")


def _unique(name: str, values: list[str]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise SpecError(
                "scenario", f"{name}[{index}].name", value, "used twice", "name it differently"
            )
