"""An open map of a replica: its declaration, its descriptor, and element operations by key number."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.abi.bpf import BPF_ANY, MapType
from bpfleet.kernel import KernelError, Reason
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.workload.ops import BATCH_TYPES, key_bytes, value_bytes
from bpfleet.workload.spec import MapDeclaration

__all__ = ["OpenMap", "create_map", "legal_name", "map_attr", "pin_path"]

BPFFS: Final = "/sys/fs/bpf"
_LISTS: Final = frozenset({MapType.QUEUE, MapType.STACK})


def legal_name(text: str) -> str:
    """``text`` as one name that bpffs takes, which refuses dots: what it refuses is spelled as in URLs.

    Different texts have different names.

    >>> legal_name("app-1.2"), legal_name("tc/globals/x")
    ('app-1%2e2', 'tc%2fglobals%2fx')
    """
    return text.replace("%", "%25").replace(".", "%2e").replace("/", "%2f")


def pin_path(replica: str, name: str, ordinal: int, *, kind: str = "") -> str:
    """Where a replica pins copy ``ordinal`` of the object ``name``; ``kind`` tells programs from maps.

    No two objects share a path: names of objects have neither ``-`` nor ``:`` nor ``%``.
    """
    copy = f"%{ordinal}" if ordinal else ""
    return f"{BPFFS}/{legal_name(replica)}-{kind}{legal_name(name)}{copy}"


def map_attr(
    declared: MapDeclaration, inner_map_fd: int | None = None, *, memcg_fd: int | None = None
) -> MapAttr:
    """The BPF_MAP_CREATE attributes of a declaration."""
    return MapAttr(
        declared.map_type,
        declared.key_size,
        declared.value_size,
        declared.max_entries,
        map_flags=declared.map_flags,
        map_name=declared.name,
        map_extra=declared.map_extra,
        inner_map_fd=inner_map_fd,
        memcg_fd=memcg_fd,
    )


def create_map(
    kernel: Kernel, task: Task, declared: MapDeclaration, *, memcg_fd: int | None = None
) -> int:
    """BPF_MAP_CREATE as a loader does it: a map-in-map gets a template of its inner map, closed at
    once.

    Returns the descriptor. Raises what map creation raises; then nothing is left open.
    """
    if declared.inner is None:
        return kernel.bpf.map_create(task, map_attr(declared, memcg_fd=memcg_fd)).fd
    template = kernel.bpf.map_create(task, map_attr(declared.inner, memcg_fd=memcg_fd)).fd
    try:
        return kernel.bpf.map_create(task, map_attr(declared, template, memcg_fd=memcg_fd)).fd
    finally:
        if task.alive:
            kernel.close(task.pid, template)


@final
class OpenMap:
    """A map the replica holds a descriptor of. All methods raise ``KernelError`` as bpf(2) answers."""

    __slots__ = ("_kernel", "_task", "_value", "declared", "fd")

    def __init__(self, kernel: Kernel, task: Task, declared: MapDeclaration, fd: int) -> None:
        self._kernel: Final = kernel
        self._task: Final = task
        self._value = b""
        self.declared: Final = declared
        self.fd: Final = fd

    def lookup(self, key: int, amount: int = 1) -> None:
        """Looks up the element of key number ``key``; of ``amount`` keys, absent ones are skipped."""
        bpf, task, declared = self._kernel.bpf, self._task, self.declared
        if amount == 1:
            bpf.map_lookup_elem(task, self.fd, key_bytes(declared, key))
            return
        for number in range(key, key + amount):
            _unless_absent(bpf.map_lookup_elem, task, self.fd, key_bytes(declared, number))

    def update(self, key: int, amount: int = 1) -> None:
        """Writes one element, or ``amount`` of them in one batch command."""
        bpf, task, declared = self._kernel.bpf, self._task, self.declared
        if amount == 1 or declared.map_type not in BATCH_TYPES:
            bpf.map_update_elem(task, self.fd, key_bytes(declared, key), self._zeros(), BPF_ANY)
            return
        result = bpf.map_update_batch(
            task, self.fd, self._keys(key, amount), self._zeros() * amount, amount
        )
        if result.error is not None:
            raise result.error

    def put_map(self, slot: int, value: bytes) -> None:
        """Writes the descriptor of an inner map, as four bytes, into slot or key number ``slot``."""
        key = slot.to_bytes(self.declared.key_size, "little")
        self._kernel.bpf.map_update_elem(self._task, self.fd, key, value, BPF_ANY)

    def delete(self, key: int, amount: int = 1) -> None:
        """Deletes one element; of ``amount`` keys, absent ones are skipped. Lists are popped."""
        bpf, task, declared = self._kernel.bpf, self._task, self.declared
        if declared.map_type in _LISTS:
            bpf.map_lookup_and_delete_elem(task, self.fd, None)
        elif amount == 1:
            bpf.map_delete_elem(task, self.fd, key_bytes(declared, key))
        else:
            for number in range(key, key + amount):
                _unless_absent(bpf.map_delete_elem, task, self.fd, key_bytes(declared, number))

    def _zeros(self) -> bytes:
        """The value that is written; made on first use, since many maps are never written and
        values can be MiB.
        """
        if not self._value:
            self._value = value_bytes(self.declared, self._kernel.host.possible_cpus)
        return self._value

    def _keys(self, key: int, amount: int) -> bytes:
        keys = (key_bytes(self.declared, key + offset) for offset in range(amount))
        return b"".join(data for data in keys if data is not None)


def _unless_absent(
    command: Callable[[Task, int, bytes | None], object], task: Task, fd: int, key: bytes | None
) -> None:
    try:
        command(task, fd, key)
    except KernelError as error:
        if error.reason is not Reason.KEY_NOT_FOUND:
            raise
