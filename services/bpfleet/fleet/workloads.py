"""Commands about workloads: create, update, delete, each safe to repeat by request id."""

from msgspec.structs import replace

from bpfleet.fleet.commands import CreateWorkload, DeleteWorkload, UpdateWorkload
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.reasons import ControlReason, FleetEventKind
from bpfleet.fleet.records import Workload
from bpfleet.fleet.requests import remember, repeated
from bpfleet.fleet.transition import Transition, Visits
from bpfleet.workload.spec import WorkloadSpec

__all__ = ["create_workload", "delete_workload", "update_workload"]


def create_workload(t: Transition, command: CreateWorkload) -> str:
    """Creates a workload; returns its name. Placing it is left to the settling."""
    name = command.spec.name
    if repeated(t, command.request_id, command.fingerprint):
        return name
    existing = t.tables.workloads.get(name)
    if existing is not None:
        state = " and is being deleted" if existing.deleting else ""
        text = f"workload {name!r} exists{state}; choose another name, or update or delete it"
        raise FleetError(Refused.EXISTS, ControlReason.WORKLOAD_EXISTS, text, workload=name)
    settings = t.settings
    _bound_gang(t, command.spec)
    _bound(len(t.tables.workloads), settings.workloads_max, "workloads")
    _bound(len(t.tables.replicas) + command.spec.replicas, settings.replicas_max, "replicas")
    retired = t.tables.retired.get(name)
    if retired is not None:
        t.tables.remove(retired)
    t.event(FleetEventKind.WORKLOAD_CREATED, workload=name)
    workload = Workload(
        name=name,
        spec=command.spec,
        revision=t.revision,
        created_ms=t.now_ms,
        next_serial=retired.next_serial if retired is not None else 0,
    )
    t.tables.put(workload)
    remember(t, command.request_id, command.fingerprint, workload=name)
    _settle_soon(t, workload)
    return name


def update_workload(t: Transition, command: UpdateWorkload) -> str:
    """Scales a workload or starts to roll out a new spec; returns its name."""
    if repeated(t, command.request_id, command.fingerprint):
        return command.name
    workload = t.workload(command.name)
    if workload.deleting:
        text = f"workload {command.name!r} is being deleted"
        raise FleetError(
            Refused.PRECONDITION, ControlReason.WORKLOAD_DELETING, text, workload=command.name
        )
    if command.expected_revision not in (0, workload.revision):
        text = (
            f"workload {command.name!r} has revision {workload.revision}, "
            f"not {command.expected_revision}; read it again"
        )
        raise FleetError(
            Refused.CONFLICT, ControlReason.REVISION_MISMATCH, text, revision=workload.revision
        )
    changed = _changed(workload, command)
    _bound_gang(t, changed.spec)
    grown = changed.spec.replicas - workload.spec.replicas
    _bound(len(t.tables.replicas) + grown, t.settings.replicas_max, "replicas")
    rolled = changed.generation != workload.generation
    kind = FleetEventKind.WORKLOAD_UPDATED if rolled else FleetEventKind.WORKLOAD_SCALED
    t.event(kind, workload=command.name, message=f"{changed.spec.replicas} replicas")
    changed = replace(changed, revision=t.revision)
    t.tables.put(changed)
    remember(t, command.request_id, command.fingerprint, workload=command.name)
    _settle_soon(t, changed)
    return command.name


def delete_workload(t: Transition, command: DeleteWorkload) -> str:
    """Has all replicas stopped; the workload is gone once they are."""
    if repeated(t, command.request_id, command.fingerprint):
        return command.name
    workload = t.workload(command.name)
    if not workload.deleting:
        t.event(FleetEventKind.WORKLOAD_DELETING, workload=command.name)
        t.tables.put(replace(workload, deleting=True, revision=t.revision))
        t.dirty[command.name] = None
    remember(t, command.request_id, command.fingerprint, workload=command.name)
    return command.name


def _changed(workload: Workload, command: UpdateWorkload) -> Workload:
    """The workload as the command wants it; a new generation if running replicas must be replaced."""
    spec = command.spec if command.spec is not None else workload.spec
    if spec.per_node != workload.spec.per_node:
        text = "a workload cannot change between one_per_node and replicas; delete and create it"
        raise FleetError(
            Refused.PRECONDITION, ControlReason.PER_NODE_FIXED, text, workload=command.name
        )
    if command.replicas is not None:
        spec = replace(spec, replicas=command.replicas)
    same = replace(spec, replicas=workload.spec.replicas) == workload.spec
    generation = workload.generation if same else workload.generation + 1
    avoid = workload.avoid if same else ()
    return replace(workload, spec=spec, generation=generation, avoid=avoid)


def _settle_soon(t: Transition, workload: Workload) -> None:
    if workload.spec.per_node:
        t.visits.append(Visits([workload.name], list(t.tables.nodes)))
    t.dirty[workload.name] = None


def _bound_gang(t: Transition, spec: WorkloadSpec) -> None:
    """A gang is placed in one decision, which must not hold up all others."""
    limit = t.settings.gang_replicas_max
    if spec.scheduling.gang and spec.replicas > limit:
        text = f"{spec.name!r} is a gang of {spec.replicas} replicas; a gang has at most {limit}"
        raise FleetError(Refused.INVALID, ControlReason.GANG_TOO_LARGE, text, limit=limit)


def _bound(count: int, limit: int, what: str) -> None:
    if count > limit:
        text = f"the fleet takes at most {limit} {what}; delete some first"
        raise FleetError(Refused.EXHAUSTED, ControlReason.FLEET_FULL, text, limit=limit)
