"""BPF_MAP_CREATE: its checks in the kernel's order, the execution of the type's plan, and undoing it [syscall.c]."""

from typing import Final

from bpfleet.abi.bpf import (
    BPF_OBJ_NAME_LEN,
    F_NUMA_NODE,
    F_RDONLY,
    F_TOKEN_FD,
    F_WRONLY,
    Capability,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.accounting.base import BpfAccounting, Charge
from bpfleet.kernel.bpf.attr import MAP_EXTRA_OFFSET, NUMA_NO_NODE, MapAttr
from bpfleet.kernel.bpf.cost import CostPlan
from bpfleet.kernel.bpf.host import Host
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.registry import MAP_CLASSES
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memcg import Memcg
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile, Payer

ONLINE_NODES: Final = (0,)
_NAME_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."
)


def check_unprivileged(host: Host, task: Task, *, creates: bool) -> None:
    """kernel.unprivileged_bpf_disabled at the entry of bpf(2). Raises EPERM.

    Up to 5.18 it closes every command, then only creation, from 6.5 on later in the path of a map's creation.
    """
    if not host.unprivileged_bpf_disabled or task.bpf_capable():
        return
    if host.profile.unprivileged_gate_all_commands or (
        creates and not host.profile.capability_check_central
    ):
        raise _locked_down()


def check_attr(attr: MapAttr, host: Host, task: Task, *, wants_token: bool = False) -> type[BpfMap]:
    """Everything before the allocation, in order. Returns the type's class. Raises KernelError.

    ``wants_token``: BPF_F_TOKEN_FD was set, on a kernel that knows it; no token can be found.
    """
    profile = host.profile
    _check_size(attr, profile)
    _check_btf_ids(attr)
    if profile.has_map_extra and attr.map_extra and not _takes_map_extra(attr.map_type):
        raise refuse(Errno.EINVAL, f"map_extra {attr.map_extra:#x} means nothing to this type")
    if attr.map_flags & F_RDONLY and attr.map_flags & F_WRONLY:
        raise refuse(Errno.EINVAL, "BPF_F_RDONLY and BPF_F_WRONLY exclude each other")
    _check_node(attr)
    cls = class_of(attr.map_type, profile)
    cls.check(attr, host, task)
    if wants_token:
        _refuse_token(attr, task)
    if profile.capability_check_central:
        _check_capability(cls, host, task)
    if attr.map_ifindex:
        raise _offload_refusal(attr, host, task)
    cls.check_alloc(attr, host, task)
    return cls


def selected_memcg(attr: MapAttr, task: Task) -> Memcg | None:
    """The memcg that ``memcg_fd`` names. Raises EBADF, EINVAL.

    From "bpf: Introduce selectable memcg for bpf map" (2022, not merged): the creator's cgroup or one above it, the
    root included.
    """
    if attr.memcg_fd is None:
        return None
    target = task.file(attr.memcg_fd).target
    if not isinstance(target, Cgroup):
        raise KernelError(
            Errno.EBADF, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {attr.memcg_fd} is not a cgroup"
        )
    if not task.cgroup.memcg.is_descendant_of(target.memcg):
        raise refuse(Errno.EINVAL, f"cgroup {target.path} is not above that of process {task.pid}")
    return target.memcg


def _takes_map_extra(map_type: int) -> bool:
    cls = MAP_CLASSES.get(map_type)  # type: ignore[call-overload]
    return cls is not None and cls.takes_map_extra


def class_of(map_type: int, profile: KernelProfile) -> type[BpfMap]:
    """The class of a map type. Raises EINVAL where the kernel has no such type."""
    known = map_type in MapType.__members__.values() and MapType(map_type) in profile.map_types
    cls = MAP_CLASSES.get(MapType(map_type)) if known else None
    if cls is None:
        raise KernelError(
            Errno.EINVAL,
            Reason.MAP_TYPE_UNSUPPORTED,
            f"{profile.release} has no map type {map_type}",
        )
    return cls


def _check_size(attr: MapAttr, profile: KernelProfile) -> None:
    """bpf_check_uarg_tail_zero and CHECK_ATTR. Raises E2BIG, EINVAL."""
    if attr.attr_size > PAGE_SIZE:
        raise refuse(Errno.E2BIG, f"attributes of {attr.attr_size} bytes are over a page")
    if attr.attr_tail and attr.attr_size > profile.bpf_attr_bytes:
        raise refuse(
            Errno.E2BIG, f"bytes beyond the {profile.bpf_attr_bytes} this kernel knows are not zero"
        )
    if attr.attr_tail and attr.attr_size > profile.bpf_attr_map_create_bytes:
        raise _beyond_last_field(profile)
    if attr.attr_tail and MAP_EXTRA_OFFSET < attr.attr_size <= MAP_EXTRA_OFFSET + 8:
        raise refuse(Errno.EINVAL, "map_extra means nothing to this type")
    if attr.map_extra and not profile.has_map_extra:
        raise _beyond_last_field(profile)
    if attr.memcg_fd is not None and profile.payer is not Payer.SELECTABLE:
        raise _beyond_last_field(profile)
    later = attr.value_type_btf_obj_fd or attr.map_token_fd
    if later and profile.bpf_attr_map_create_bytes <= MAP_EXTRA_OFFSET + 8:
        raise _beyond_last_field(profile)


def _beyond_last_field(profile: KernelProfile) -> KernelError:
    return refuse(
        Errno.EINVAL, f"bytes beyond {profile.bpf_attr_map_create_bytes} must be zero on map_create"
    )


def _check_btf_ids(attr: MapAttr) -> None:
    if attr.btf_vmlinux_value_type_id:
        if attr.map_type != MapType.STRUCT_OPS or attr.btf_key_type_id or attr.btf_value_type_id:
            raise refuse(Errno.EINVAL, "btf_vmlinux_value_type_id is for struct_ops alone")
    elif attr.btf_key_type_id and not attr.btf_value_type_id:
        raise refuse(Errno.EINVAL, "a BTF key type needs a BTF value type")


def _check_node(attr: MapAttr) -> None:
    if not attr.map_flags & F_NUMA_NODE or attr.numa_node == NUMA_NO_NODE:
        return
    if attr.numa_node not in ONLINE_NODES:
        raise refuse(Errno.EINVAL, f"NUMA node {attr.numa_node} is not online")


def _check_capability(cls: type[BpfMap], host: Host, task: Task) -> None:
    """The central tests of 6.5 and later. Raises EPERM."""
    if host.unprivileged_bpf_disabled and not task.bpf_capable():
        raise _locked_down()
    if cls.capability is Capability.BPF and not task.bpf_capable():
        raise KernelError(Errno.EPERM, Reason.CAPABILITY_MISSING, "this map type needs CAP_BPF")
    if cls.capability is Capability.NET_ADMIN and not (
        task.has(Capability.NET_ADMIN)
        or (host.profile.sys_admin_is_net_admin and task.has(Capability.SYS_ADMIN))
    ):
        raise KernelError(
            Errno.EPERM, Reason.CAPABILITY_MISSING, "this map type needs CAP_NET_ADMIN"
        )


def _locked_down() -> KernelError:
    return KernelError(
        Errno.EPERM,
        Reason.UNPRIVILEGED_BPF_DISABLED,
        "kernel.unprivileged_bpf_disabled is set and the caller has neither CAP_BPF nor CAP_SYS_ADMIN",
    )


def _offload_refusal(attr: MapAttr, host: Host, task: Task) -> KernelError:
    """bpf_map_offload_map_alloc on devices that cannot offload."""
    if not task.has(Capability.SYS_ADMIN):
        return KernelError(
            Errno.EPERM, Reason.CAPABILITY_MISSING, "an offloaded map needs CAP_SYS_ADMIN"
        )
    if attr.map_type not in (MapType.ARRAY, MapType.HASH):
        return refuse(Errno.EINVAL, "only arrays and hashes can be offloaded")
    if attr.map_ifindex not in host.ifindexes:
        return refuse(Errno.EINVAL, f"no network device {attr.map_ifindex}")
    return refuse(
        Errno.EOPNOTSUPP,
        f"network device {attr.map_ifindex} cannot offload BPF",
        Reason.OPERATION_UNSUPPORTED,
    )


def allocate(
    plan: CostPlan,
    cls: type[BpfMap],
    site: AllocSite,
    accounting: BpfAccounting,
    task: Task,
    holder: str,
) -> Charge:
    """Executes a plan with its precharge; on failure frees and uncharges everything. Raises EPERM, E2BIG, ENOMEM."""
    charge: Charge | None = None
    try:
        for number, allocation in enumerate(plan.allocations):
            if number == plan.precharge_at:
                charge = _admit(plan, cls, accounting, task, holder)
            site.execute(allocation, task)
        if charge is None:
            charge = _admit(plan, cls, accounting, task, holder)
    except KernelError:
        site.free_all(task.cpu)
        if charge is not None:
            accounting.release(charge)
        raise
    return charge


def _admit(
    plan: CostPlan, cls: type[BpfMap], accounting: BpfAccounting, task: Task, holder: str
) -> Charge:
    try:
        return accounting.admit(task, plan.estimate_bytes, holder)
    except KernelError as refused:
        if cls.charge_errno is None:
            raise
        raise KernelError(
            cls.charge_errno, refused.reason, refused.detail, **refused.numbers
        ) from None


def check_name(name: str) -> None:
    """bpf_obj_name_cpy. Raises EINVAL for other characters or no room for the final NUL."""
    if len(name) >= BPF_OBJ_NAME_LEN or not _NAME_CHARACTERS.issuperset(name):
        raise refuse(
            Errno.EINVAL,
            f"map name {name!r}: at most {BPF_OBJ_NAME_LEN - 1} of letters, digits, '_' and '.'",
        )


def _refuse_token(attr: MapAttr, task: Task) -> None:
    """bpf_token_get_from_fd; descriptor 0 is open and something else. Raises EBADF, EINVAL."""
    if attr.map_token_fd:
        task.file(attr.map_token_fd)
    raise refuse(Errno.EINVAL, f"descriptor {attr.map_token_fd} is not a BPF token")


def without_token(attr_flags: int, profile: KernelProfile) -> int:
    """map_flags as the type's checks see them: kernels with tokens take their flag out first."""
    return attr_flags & ~F_TOKEN_FD if profile.capability_check_central else attr_flags
