"""Messages to records of the emulated kernel and back. Numbers that bpf_attr could not hold are refused here."""

from collections.abc import Mapping, Sequence
from typing import Final

from bpfleet.abi.bpf import ALL_CAPABILITIES, Capability
from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.bpf.accounting.base import Charge
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.command import Cost
from bpfleet.kernel.bpf.complexity import Complexity
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.map_in_map import inner_maps
from bpfleet.kernel.bpf.program import BpfProg, ProgAttr, ProgOp
from bpfleet.kernel.events import Event, EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.mm.memcg import ObjCgroup
from bpfleet.kernel.mm.memory import Owner
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile, Model
from bpfleet.kernel.units import bytes_of
from bpfleet.kernel.views.receipt import charged_bytes, estimate_bytes
from bpfleet.rpc import names
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.rlimits import resource_limit_message
from bpfleet.v1 import bpf_pb2, event_pb2, node_service_pb2, process_service_pb2
from bpfleet.workload.spec import INSNS_MAX, SUBPROGS_MAX

__all__ = [
    "ReceiptSum",
    "capabilities_record",
    "capability_set",
    "charges_by_owner",
    "detail_name",
    "event_kinds",
    "event_message",
    "map_attr",
    "map_message",
    "not_negative",
    "process_message",
    "profile_message",
    "prog_attr",
    "program_message",
    "receipt_message",
    "short",
    "u32",
    "within",
]

INT64_MAX: Final = (1 << 63) - 1
NAME_CHARS_MAX: Final = 4096
PROGRAM_PARTS_MAX: Final = 1024

_MODELS: Final = {
    Model.RLIMIT: bpf_pb2.ACCOUNTING_MODEL_RLIMIT,
    Model.MEMCG: bpf_pb2.ACCOUNTING_MODEL_MEMCG,
    Model.NONE: bpf_pb2.ACCOUNTING_MODEL_NONE,
}
_PROG_OPS: Final = {
    bpf_pb2.ProgramOperation.KIND_LOOKUP: "lookup",
    bpf_pb2.ProgramOperation.KIND_UPDATE: "update",
    bpf_pb2.ProgramOperation.KIND_DELETE: "delete",
}
# Fields of Event.detail whose names are not those of the kernel's kinds.
_DETAIL_BY_KIND: Final = {
    EventKind.PROG_LOADED: "program_loaded",
    EventKind.PROG_FREED: "program_freed",
}
# Fields of the details whose names are not those of the kernel's facts.
_FACTS_BY_KIND: Final[dict[EventKind, dict[str, str]]] = {
    EventKind.MAP_CREATED: {"id": "map_id", "type": "map_type", "name": "map_name"},
    EventKind.MAP_FREED: {"id": "map_id", "type": "map_type", "name": "map_name"},
    EventKind.PROG_LOADED: {"prog_id": "program_id", "name": "program_name"},
    EventKind.PROG_FREED: {"prog_id": "program_id", "name": "program_name"},
    EventKind.FAULT_INJECTED: {"allocation": "kind"},
    EventKind.NODE_CRASHED: {"reason": "message"},
    EventKind.KERNEL_LOG: {"line": "message"},
}
_NO_RENAMES: Final[dict[str, str]] = {}


# -- numbers ---------------------------------------------------------------------------------------------------------


def u32(value: int, field: str) -> int:
    """``value`` where an unsigned 32-bit field of the kernel can hold it. Raises ``ApiError``."""
    return within(value, field, 0, U32_MAX)


def not_negative(value: int, field: str) -> int:
    """``value`` where it is not negative. Raises ``ApiError``."""
    if value < 0:
        raise invalid(field, f"{value} is negative; use 0 or more")
    return value


def within(value: int, field: str, low: int, high: int) -> int:
    """``value`` where it lies between ``low`` and ``high``. Raises ``ApiError``."""
    if not low <= value <= high:
        raise invalid(field, f"{value} is out of range; use {low} to {high}")
    return value


def short(text: str, field: str) -> str:
    """``text`` where it is no longer than any path or name the kernel takes. Raises ``ApiError``."""
    if len(text) > NAME_CHARS_MAX:
        raise invalid(field, f"longer than {NAME_CHARS_MAX} characters")
    return text


# -- BPF -------------------------------------------------------------------------------------------------------------


def map_attr(spec: bpf_pb2.MapSpec, field: str = "spec") -> MapAttr:
    """What BPF_MAP_CREATE is given. Raises ``ApiError`` for numbers bpf_attr cannot hold."""
    return MapAttr(
        map_type=u32(spec.map_type, f"{field}.map_type"),
        key_size=u32(spec.key_size_bytes, f"{field}.key_size_bytes"),
        value_size=u32(spec.value_size_bytes, f"{field}.value_size_bytes"),
        max_entries=u32(spec.max_entries, f"{field}.max_entries"),
        map_flags=u32(spec.map_flags, f"{field}.map_flags"),
        map_name=short(spec.map_name, f"{field}.map_name"),
        inner_map_fd=spec.inner_map_fd if spec.HasField("inner_map_fd") else None,
        numa_node=u32(spec.numa_node, f"{field}.numa_node"),
        map_extra=not_negative(spec.map_extra, f"{field}.map_extra"),
        memcg_fd=spec.memcg_fd if spec.HasField("memcg_fd") else None,
    )


def map_message(node: str, found: BpfMap, charges: Mapping[Owner, int]) -> bpf_pb2.MapInfo:
    """A map as its node sees it; ``charges`` are those of ``charges_by_owner``."""
    return bpf_pb2.MapInfo(
        name=names.map_name(node, found.id),
        map_id=found.id,
        spec=_map_spec(found.attr),
        element_count=found.entries(),
        estimate_bytes=found.estimate_bytes,
        charged_bytes=charges.get(found.site.owner, 0) + found.precharged_bytes,
        memlock_bytes=found.memlock_bytes(),
        charged_to=_payer(found.charge, found.site.creator),
        pinned_paths=found.pinned_paths,
        frozen=found.frozen,
        inner_map_ids=sorted({inner.id for inner in inner_maps(found)}),
    )


def _map_spec(attr: MapAttr) -> bpf_pb2.MapSpec:
    """The attributes of a map, without descriptors: those of its creator mean nothing to others."""
    return bpf_pb2.MapSpec(
        map_type=bpf_pb2.MapType.ValueType(attr.map_type),
        key_size_bytes=attr.key_size,
        value_size_bytes=attr.value_size,
        max_entries=attr.max_entries,
        map_flags=attr.map_flags,
        map_name=attr.map_name,
        map_extra=attr.map_extra,
    )


def _payer(charge: Charge, creator: ObjCgroup | None) -> str:
    if charge.user is not None:
        return f"uid {charge.user.uid}"
    return creator.memcg.path if creator is not None else ""


def charges_by_owner(kernel: Kernel) -> dict[Owner, int]:
    """Bytes charged to memory cgroups for each owner, in one pass over the books."""
    charges: dict[Owner, int] = {}
    for account in kernel.memory.accounts.values():
        if account.charged_bytes:
            charges[account.owner] = charges.get(account.owner, 0) + account.charged_bytes
    return charges


def prog_attr(spec: bpf_pb2.ProgramSpec, field: str = "spec") -> ProgAttr:
    """What BPF_PROG_LOAD is given. Raises ``ApiError`` for numbers bpf_attr cannot hold."""
    for name in ("map_fds", "operations"):
        if len(getattr(spec, name)) > PROGRAM_PARTS_MAX:
            raise invalid(f"{field}.{name}", f"more than {PROGRAM_PARTS_MAX}")
    return ProgAttr(
        prog_type=u32(spec.program_type, f"{field}.program_type"),
        insn_cnt=u32(spec.instruction_count, f"{field}.instruction_count"),
        prog_name=short(spec.program_name, f"{field}.program_name"),
        map_fds=tuple(spec.map_fds),
        ops=tuple(
            _prog_op(operation, len(spec.map_fds), f"{field}.operations[{position}]")
            for position, operation in enumerate(spec.operations)
        ),
        subprog_insns=_subprog_insns(spec, field),
        complexity=Complexity(**complexity_numbers(spec.complexity, f"{field}.complexity")),
    )


def _subprog_insns(spec: bpf_pb2.ProgramSpec, field: str) -> tuple[int, ...]:
    name = f"{field}.subprogram_instruction_counts"
    if len(spec.subprogram_instruction_counts) > SUBPROGS_MAX:
        raise invalid(name, f"more than {SUBPROGS_MAX}")
    lengths = tuple(not_negative(each, name) for each in spec.subprogram_instruction_counts)
    if sum(lengths) >= max(spec.instruction_count, 1):
        raise invalid(
            name, f"{sum(lengths)} is not less than {spec.instruction_count}, the program's length"
        )
    return lengths


def complexity_numbers(message: bpf_pb2.ProgramComplexity, field: str) -> dict[str, int]:
    """Its fields by name. Raises ``ApiError`` for one out of range."""
    found = {}
    for name in (each.name for each in message.DESCRIPTOR.fields):
        found[name] = not_negative(getattr(message, name), f"{field}.{name}")
        if found[name] > INSNS_MAX:
            raise invalid(f"{field}.{name}", f"{found[name]} is over {INSNS_MAX}")
    return found


def _prog_op(message: bpf_pb2.ProgramOperation, maps: int, field: str) -> ProgOp:
    word = _PROG_OPS.get(message.kind)
    if word is None:
        raise invalid(f"{field}.kind", f"{message.kind} is unknown; use lookup, update or delete")
    if not 0 <= message.map_index < maps:
        raise invalid(f"{field}.map_index", f"{message.map_index} is not one of {maps} map_fds")
    return ProgOp(
        op=word,
        map=message.map_index,
        key=message.key if message.HasField("key") else None,
        value=message.value,
        flags=not_negative(message.mode, f"{field}.mode"),
    )


def program_message(node: str, prog: BpfProg, charges: Mapping[Owner, int]) -> bpf_pb2.ProgramInfo:
    """A program as its node sees it; ``charges`` are those of ``charges_by_owner``."""
    precharged = bytes_of(prog.charge.pages)
    return bpf_pb2.ProgramInfo(
        name=names.program_name(node, prog.id),
        program_id=prog.id,
        program_type=bpf_pb2.ProgramType.ValueType(prog.prog_type),
        program_name=prog.name,
        instruction_count=prog.attr.insn_cnt,
        map_ids=[held.id for held in prog.maps],
        charged_bytes=charges.get(prog.owner, 0) + precharged,
        memlock_bytes=bytes_of(prog.image_pages),
        charged_to=_payer(prog.charge, None) or _image_payer(prog),
        pinned_paths=prog.pinned_paths,
    )


def _image_payer(prog: BpfProg) -> str:
    objcg = prog.image.account.objcg if prog.image is not None else None
    return objcg.memcg.path if objcg is not None else ""


# -- receipts --------------------------------------------------------------------------------------------------------


def receipt_message(kernel: Kernel, cost: Cost | None) -> bpf_pb2.ChargeReceipt | None:
    """What the call that has just returned cost; None where it was about neither a map nor a program."""
    if cost is None:
        return None
    receipt = kernel.receipt(cost)
    return bpf_pb2.ChargeReceipt(
        model=_MODELS[Model(receipt.model)],
        estimate_bytes=receipt.estimate_bytes,
        charged_bytes=receipt.charged_bytes,
        charged_to=receipt.charged_to,
        usage_bytes_after=receipt.usage_bytes,
        limit_bytes=receipt.limit_bytes,
    )


class ReceiptSum:
    """What several calls of one node cost together."""

    __slots__ = ("_charged_bytes", "_estimate_bytes", "_last")

    def __init__(self) -> None:
        self._last: Cost | None = None
        self._estimate_bytes = 0
        self._charged_bytes = 0

    def add(self, cost: Cost) -> None:
        """Adds what a call cost."""
        self._last = cost
        if cost.charged_bytes or cost.created:
            self._charged_bytes += charged_bytes(cost)
            self._estimate_bytes += estimate_bytes(cost)

    def message(self, kernel: Kernel) -> bpf_pb2.ChargeReceipt | None:
        """The sums, and where usage and limit of the last payer stand; None where nothing changed."""
        message = receipt_message(kernel, self._last)
        if message is None:
            return None
        message.estimate_bytes = self._estimate_bytes
        message.charged_bytes = self._charged_bytes
        return message


# -- processes -------------------------------------------------------------------------------------------------------


def capabilities_record(
    credentials: process_service_pb2.Credentials, field: str = "credentials"
) -> frozenset[Capability] | None:
    """The capabilities of a process to be; None where its user decides. Raises ``ApiError`` for unknown ones."""
    if not credentials.capability_mode:
        return None
    return capability_set(credentials.capabilities, f"{field}.capabilities")


def capability_set(words: Sequence[str], field: str) -> frozenset[Capability]:
    """The capabilities called ``CAP_BPF`` or ``BPF``. Raises ``ApiError`` for unknown ones."""
    known = {capability.name: capability for capability in Capability}
    found = set()
    for word in words:
        capability = known.get(word.upper().removeprefix("CAP_"))
        if capability is None:
            listed = ", ".join(f"CAP_{name}" for name in known)
            raise invalid(field, f"{word[:32]!r} is unknown; use {listed}")
        found.add(capability)
    return frozenset(found)


def _held(task: Task, kind: type[BpfMap | BpfProg]) -> list[int]:
    """Ids of the objects of one kind that a process has descriptors of."""
    targets = (file.target for file in task.fds.values())
    return sorted({target.id for target in targets if isinstance(target, kind)})


def process_message(node: str, task: Task) -> process_service_pb2.Process:
    """A process as its node sees it."""
    by_user = task.caps == (ALL_CAPABILITIES if task.uid == 0 else frozenset())
    return process_service_pb2.Process(
        name=names.process_name(node, task.pid),
        pid=task.pid,
        credentials=process_service_pb2.Credentials(
            uid=task.uid,
            capability_mode=(
                process_service_pb2.Credentials.CAPABILITY_MODE_UNSPECIFIED
                if by_user
                else process_service_pb2.Credentials.CAPABILITY_MODE_EXPLICIT
            ),
            capabilities=sorted(f"CAP_{capability.name}" for capability in task.caps),
        ),
        cgroup=task.cgroup.path,
        memlock=resource_limit_message(task.memlock_soft_bytes, task.memlock_hard_bytes),
        oom_score_adj=task.oom_score_adj,
        comm=task.comm,
        alive=task.alive,
        exit_reason=task.exit_reason,
        rss_bytes=task.rss_bytes,
        fd_count=len(task.fds),
        map_ids=_held(task, BpfMap),
        program_ids=_held(task, BpfProg),
        locked_bytes=min(bytes_of(task.user.locked_vm_pages), INT64_MAX),
        mlocked_bytes=min(bytes_of(task.mlocked_pages), INT64_MAX),
    )


# -- nodes -----------------------------------------------------------------------------------------------------------


def profile_message(profile: KernelProfile) -> node_service_pb2.KernelProfileInfo:
    """What a kernel is called and how it keeps its books."""
    return node_service_pb2.KernelProfileInfo(
        profile=profile.name, model=_MODELS[profile.model], release=profile.release
    )


def event_kinds(words: Sequence[str], field: str = "kinds") -> frozenset[EventKind]:
    """The kinds called like the fields of ``Event.detail``. Raises ``ApiError`` for unknown ones."""
    known = {detail_name(kind): kind for kind in EventKind}
    for word in words:
        if word not in known:
            raise invalid(field, f"{word[:32]!r} is unknown; use {', '.join(sorted(known))}")
    return frozenset(known[word] for word in words)


def detail_name(kind: EventKind) -> str:
    """The field of ``Event.detail`` for a kind."""
    return _DETAIL_BY_KIND.get(kind, kind.value)


def event_message(event: Event) -> event_pb2.Event:
    """An entry of a node's log. Facts that have no field of their own go into ``facts``, so that none is lost."""
    message = event_pb2.Event(revision=event.revision, clock_ns=event.time_ns)
    name = detail_name(event.kind)
    detail = getattr(message, name)
    detail.SetInParent()
    known = detail.DESCRIPTOR.fields_by_name
    renames = _FACTS_BY_KIND.get(event.kind, _NO_RENAMES)
    for fact, value in event.fields.items():
        field = known.get(renames.get(fact, fact))
        if field is None or (field.type == field.TYPE_STRING) != isinstance(value, str):
            message.facts[fact] = str(value)
        else:
            setattr(detail, field.name, value)
    return message
