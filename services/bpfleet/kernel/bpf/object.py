"""Kernel objects that user space reaches by id: numbering, and the freeing that comes later [kernel/bpf/syscall.c]."""

from bisect import bisect_left, bisect_right
from typing import Final, Generic, TypeVar, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.timeline import Timeline

T = TypeVar("T")


@final
class IdTable(Generic[T]):
    """Ids of one kind of object: ever increasing from 1, gone at the moment the last reference goes."""

    __slots__ = ("_ids", "_objects", "next_id", "what")

    def __init__(self, what: str) -> None:
        self.what: Final = what
        self.next_id = 1
        self._objects: Final[dict[int, T]] = {}
        self._ids: Final[list[int]] = []

    def add(self, target: T) -> int:
        """Numbers an object."""
        ident = self.next_id
        self.next_id += 1
        self._objects[ident] = target
        self._ids.append(ident)
        return ident

    def remove(self, ident: int) -> None:
        """Takes an id away."""
        del self._objects[ident]
        del self._ids[bisect_left(self._ids, ident)]

    def get(self, ident: int) -> T:
        """The object with that id. Raises ENOENT."""
        found = self._objects.get(ident)
        if found is None:
            raise KernelError(
                Errno.ENOENT, Reason.NO_SUCH_OBJECT, f"no {self.what} with id {ident}"
            )
        return found

    def after(self, ident: int) -> int:
        """The lowest id above ``ident``. Raises ENOENT."""
        at = bisect_right(self._ids, ident)
        if at == len(self._ids):
            raise KernelError(
                Errno.ENOENT, Reason.NO_SUCH_OBJECT, f"no {self.what} with an id above {ident}"
            )
        return self._ids[at]

    def all(self) -> list[T]:
        """Every object, by id."""
        return list(self._objects.values())


@final
class MapTable:
    """All maps of a node: published ones by id, and those whose memory is still to be freed.

    Invariant *no orphan*: once descriptors, pins and deferred work are gone, nothing of a map is left.
    """

    __slots__ = ("_accounting", "_on_unreferenced", "_timeline", "dying", "ids")

    def __init__(self, accounting: BpfAccounting, timeline: Timeline) -> None:
        self._accounting: Final = accounting
        self._timeline: Final = timeline
        self.ids: Final = IdTable[BpfMap]("map")
        self.dying: Final[dict[int, BpfMap]] = {}
        self._on_unreferenced: Final = self._unreferenced  # one bound method for all maps

    def publish(self, bpf_map: BpfMap) -> None:
        """Gives the map its id; from now on its last reference frees it."""
        bpf_map.id = bpf_map.site.owner.ident = self.ids.add(bpf_map)
        bpf_map.on_unreferenced = self._on_unreferenced

    def _unreferenced(self, bpf_map: BpfMap) -> None:
        self.ids.remove(bpf_map.id)
        self.dying[bpf_map.id] = bpf_map
        self._timeline.defer(bpf_map.free_delay(), lambda: self._free_deferred(bpf_map))

    def _free_deferred(self, bpf_map: BpfMap) -> None:
        """The work item: memory first, then the charge [bpf_map_free_deferred]."""
        del self.dying[bpf_map.id]
        self.destroy(bpf_map)
        self._timeline.emit(
            EventKind.MAP_FREED,
            id=bpf_map.id,
            type=bpf_map.map_type.name.lower(),
            name=bpf_map.name,
        )

    def destroy(self, bpf_map: BpfMap, cpu: int = 0) -> None:
        """Frees a map at once."""
        bpf_map.free(cpu)
        bpf_map.site.free_all(cpu)
        if bpf_map.btf is not None:
            bpf_map.btf.put()
        self._accounting.release(bpf_map.charge)


def map_file(bpf_map: BpfMap, *, readable: bool, writable: bool) -> File:
    """An open file of a map; its last descriptor drops the map's reference [bpf_map_new_fd, bpf_map_release]."""
    return File("bpf-map", bpf_map, _release_map, readable=readable, writable=writable)


def _release_map(file: File) -> None:
    bpf_map = file.target
    assert isinstance(bpf_map, BpfMap), file.kind
    bpf_map.release_file(file)
    bpf_map.put_with_uref()
