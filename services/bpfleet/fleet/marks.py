"""Labels and taints that an operator sets on a node, over what its agent announces."""

from typing import Final

from msgspec.structs import replace

from bpfleet.fleet.commands import LabelNode, TaintNode
from bpfleet.fleet.disruption import shed
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.reasons import ControlReason, FleetEventKind
from bpfleet.fleet.records import FleetNode, Marks
from bpfleet.fleet.requests import remember, repeated
from bpfleet.fleet.transition import Transition
from bpfleet.workload.spec import TaintEffect

__all__ = ["label_node", "taint_node"]

_MARKS_MAX: Final = 64
_MESSAGE_CHARS_MAX: Final = 500


def label_node(t: Transition, command: LabelNode) -> None:
    """Sets and removes labels. What runs there stays, but for one-per-node replicas that no longer qualify.

    Raises ``FleetError`` for a label that has another value, unless it is to be overwritten.
    """
    if repeated(t, command.request_id, command.fingerprint):
        return
    node = t.node(command.name)
    present = dict(node.labels)
    for key, value in () if command.overwrite else command.labels:
        if present.get(key, value) != value:
            text = f"label {key} of {node.name} is {present[key]!r}; use overwrite to change it"
            raise FleetError(Refused.PRECONDITION, ControlReason.LABEL_EXISTS, text, node=node.name)
    marks = dict(node.marks.labels)
    changes: dict[str, str | None] = {
        **{key: value for key, value in command.labels if marks.get(key) != value},
        **{key: None for key in command.removed if key in present},
    }
    remember(t, command.request_id, command.fingerprint)
    if not changes:
        return
    marks.update(changes)
    announced = dict(node.announced_labels)
    kept = {k: v for k, v in marks.items() if v is not None or k in announced}
    _change(t, node, replace(node.marks, labels=tuple(sorted(kept.items()))))
    text = ", ".join(k + ("-" if v is None else f"={v}") for k, v in changes.items())
    t.event(FleetEventKind.NODE_LABELED, node=node.name, message=text[:_MESSAGE_CHARS_MAX])


def taint_node(t: Transition, command: TaintNode) -> None:
    """Sets and removes taints; what does not tolerate a NoExecute taint leaves.

    Raises ``FleetError`` for a taint that has another value, unless it is to be overwritten.
    """
    if repeated(t, command.request_id, command.fingerprint):
        return
    node = t.node(command.name)
    present = {(taint.key, taint.effect): taint.value for taint in node.taints}
    for taint in () if command.overwrite else command.taints:
        value = present.get((taint.key, taint.effect), taint.value)
        if value != taint.value:
            text = (
                f"taint {taint.key}:{taint.effect} of {node.name} has the value {value!r}; "
                "use overwrite to change it"
            )
            raise FleetError(Refused.PRECONDITION, ControlReason.TAINT_EXISTS, text, node=node.name)
    marks = {(key, effect): value for key, effect, value in node.marks.taints}
    changes: dict[tuple[str, TaintEffect], str | None] = {
        (taint.key, taint.effect): taint.value
        for taint in command.taints
        if marks.get((taint.key, taint.effect)) != taint.value
    }
    for key, effect in command.removed:
        changes.update({at: None for at in present if at[0] == key and effect in (None, at[1])})
    remember(t, command.request_id, command.fingerprint)
    if not changes:
        return
    marks.update(changes)
    announced = {(taint.key, taint.effect) for taint in node.announced_taints}
    kept = [(*at, v) for at, v in marks.items() if v is not None or at in announced]
    _change(t, node, replace(node.marks, taints=tuple(sorted(kept, key=lambda mark: mark[:2]))))
    text = ", ".join(_taint_text(*at, value) for at, value in changes.items())
    t.event(FleetEventKind.NODE_TAINTED, node=node.name, message=text[:_MESSAGE_CHARS_MAX])
    shed(t, t.tables.nodes[node.name])


def _change(t: Transition, node: FleetNode, marks: Marks) -> None:
    changed = replace(node, marks=marks)
    sizes = len(marks.labels), len(marks.taints), len(changed.labels), len(changed.taints)
    if max(sizes) > _MARKS_MAX:
        text = f"a node has at most {_MARKS_MAX} labels and {_MARKS_MAX} taints, announced or set"
        raise FleetError(
            Refused.EXHAUSTED, ControlReason.NODE_FULL, text, node=node.name, limit=_MARKS_MAX
        )
    t.tables.put(changed)
    t.changed_nodes[node.name] = None


def _taint_text(key: str, effect: TaintEffect, value: str | None) -> str:
    """kubectl's spelling."""
    if value is None:
        return f"{key}:{effect}-"
    return f"{key}={value}:{effect}" if value else f"{key}:{effect}"
