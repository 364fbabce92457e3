"""BTF objects as sizes: what BPF_BTF_LOAD makes and what a map's creation asks of it [kernel/bpf/btf.c, syscall.c].

Types are a kind and a size; nothing is parsed. A BTF object is charged to nobody, in no model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, final

from bpfleet.abi.bpf import F_RDONLY_PROG, F_WRONLY_PROG, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf, SpinLocks
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memory import Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

BTF_MAX_SIZE: Final = 16 << 20


class BtfKind(IntEnum):
    """BTF_KIND_*, those that a map's key or value may have."""

    VOID = 0
    INT = 1
    STRUCT = 4
    DATASEC = 15


@dataclass(frozen=True, slots=True)
class BtfType:
    """One type. ``members`` counts a struct's members; ``has_spin_lock``: a struct bpf_spin_lock is inside."""

    kind: BtfKind
    size_bytes: int
    members: int = 0
    has_spin_lock: bool = False


VOID: Final = BtfType(BtfKind.VOID, 0)


@final
class Btf:
    """A loaded BTF object; type ids start at 1. Lives while a descriptor or a map holds it."""

    __slots__ = ("id", "on_unreferenced", "refs", "types")

    def __init__(self, ident: int, types: tuple[BtfType, ...]) -> None:
        self.id: Final = ident
        self.types: Final = types
        self.refs = 0
        self.on_unreferenced: Callable[[Btf], None] = _ignore

    def type(self, type_id: int) -> BtfType | None:
        """The type with this id, void for 0, None for an unknown one."""
        if type_id == 0:
            return VOID
        return self.types[type_id - 1] if type_id <= len(self.types) else None

    def get(self) -> None:
        """Takes a reference."""
        self.refs += 1

    def put(self) -> None:
        """Drops one."""
        assert self.refs > 0, self.refs
        self.refs -= 1
        if not self.refs:
            self.on_unreferenced(self)


def _ignore(btf: Btf) -> None:
    """Stands in until the object has been published."""


@final
class BtfTable:
    """All BTF objects of a node, by id."""

    def __init__(self, files: FileTable) -> None:
        self._files: Final = files
        self._objects: Final[dict[int, Btf]] = {}
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._objects)

    def load(self, task: Task, types: tuple[BtfType, ...], size_bytes: int = 0) -> int:
        """BPF_BTF_LOAD of ``size_bytes`` (0: what the types need). Raises EPERM, E2BIG, EMFILE, ENOMEM."""
        if not task.bpf_capable():
            raise KernelError(Errno.EPERM, Reason.CAPABILITY_MISSING, "loading BTF needs CAP_BPF")
        if size_bytes > BTF_MAX_SIZE:
            raise refuse(Errno.E2BIG, f"{size_bytes} bytes of BTF are over {BTF_MAX_SIZE}")
        btf = Btf(self._next_id, types)
        btf.on_unreferenced = self._drop
        self._next_id += 1
        self._objects[btf.id] = btf
        btf.get()
        try:
            return self._files.open(
                task, File("btf", btf, lambda _: btf.put()), Owner("file", btf.id, "btf")
            )
        except KernelError:
            btf.put()
            raise

    def _drop(self, btf: Btf) -> None:
        del self._objects[btf.id]


# -- what map creation asks ----------------------------------------------------------------------------------------


def btf_of(task: Task, fd: int | None) -> Btf:
    """btf_get_by_fd; None is descriptor 0, which is something else. Raises EBADF, EINVAL."""
    target = task.file(fd).target if fd else None
    if not isinstance(target, Btf):
        raise KernelError(
            Errno.EINVAL, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {fd or 0} is not BTF"
        )
    return target


def check_map_btf(bpf_map: BpfMap, attr: MapAttr, task: Task, profile: KernelProfile) -> Btf | None:
    """The BTF part of map_create: sizes, spin lock, the type's own demands. Sets ``bpf_map.has_spin_lock``.

    Raises EBADF, EINVAL, EPERM, EACCES, EOPNOTSUPP, 524. Returns the object the map must hold.
    """
    if not (attr.btf_key_type_id or attr.btf_value_type_id or attr.btf_vmlinux_value_type_id):
        return None
    btf = btf_of(task, attr.btf_fd)
    if attr.btf_value_type_id:
        _check_types(bpf_map, attr, btf, task, profile)
    return btf


def _check_types(
    bpf_map: BpfMap, attr: MapAttr, btf: Btf, task: Task, profile: KernelProfile
) -> None:
    key = btf.type(attr.btf_key_type_id)
    if attr.btf_key_type_id:
        if key is None or key.size_bytes != attr.key_size:
            raise refuse(Errno.EINVAL, "the key's BTF type has another size")
    elif bpf_map.key_btf is KeyBtf.ANY:
        raise refuse(Errno.EINVAL, "this map type needs a BTF type for the key")
    value = btf.type(attr.btf_value_type_id)
    if value is None or value.size_bytes != attr.value_size:
        raise refuse(Errno.EINVAL, "the value's BTF type has another size")
    if value.has_spin_lock:
        _check_spin_lock(bpf_map, task, profile)
    assert key is not None
    _check_for_type(bpf_map, attr, key, value)
    bpf_map.has_spin_lock = value.has_spin_lock


def _check_spin_lock(bpf_map: BpfMap, task: Task, profile: KernelProfile) -> None:
    records = profile.btf_has_records
    if records and not task.bpf_capable():
        raise KernelError(Errno.EPERM, Reason.CAPABILITY_MISSING, "a spin lock needs CAP_BPF")
    read_only = F_RDONLY_PROG | F_WRONLY_PROG if records else F_RDONLY_PROG
    if bpf_map.map_flags & read_only:
        raise refuse(Errno.EACCES, "a value with a spin lock must be writable by programs")
    allowed = (SpinLocks.ALWAYS, SpinLocks.WITH_RECORDS) if records else (SpinLocks.ALWAYS,)
    if bpf_map.spin_locks not in allowed:
        raise refuse(
            Errno.EOPNOTSUPP if records else Errno.ENOTSUPP,
            "this map type has no spin locks",
            Reason.OPERATION_UNSUPPORTED,
        )


def _check_for_type(bpf_map: BpfMap, attr: MapAttr, key: BtfType, value: BtfType) -> None:
    """ops->map_check_btf."""
    demand = bpf_map.key_btf
    if demand is KeyBtf.REFUSED:
        raise refuse(Errno.ENOTSUPP, "this map type takes no BTF", Reason.OPERATION_UNSUPPORTED)
    if bpf_map.map_type is MapType.ARRAY and key.kind is BtfKind.VOID:
        fits = attr.max_entries == 1 and value.kind is BtfKind.DATASEC
    elif demand is KeyBtf.INT:
        fits = key.kind is BtfKind.INT and key.size_bytes == 4
    elif demand is KeyBtf.CGROUP:
        isolated = attr.key_size == 16
        fits = key.kind is (BtfKind.STRUCT if isolated else BtfKind.INT)
        fits = fits and key.members == (2 if isolated else 0)
    elif demand is KeyBtf.STRUCT:
        fits = key.kind is BtfKind.STRUCT
    elif demand is KeyBtf.VOID:
        fits = key.kind is BtfKind.VOID
    else:
        fits = demand is not KeyBtf.NONE_FITS
    if not fits:
        raise refuse(Errno.EINVAL, "the BTF types do not fit this map type")
