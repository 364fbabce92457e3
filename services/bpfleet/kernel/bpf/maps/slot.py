"""What index-keyed maps share: a key is a u32 slot number, every slot exists, iteration counts up."""

from typing import ClassVar, Final, Generic, TypeVar

from bpfleet.abi.bpf import BPF_EXIST
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.profile import KernelProfile

Entry = TypeVar("Entry")


class SlotMap(BpfMap, Generic[Entry]):
    """A map of slots that are empty or hold something. What a type puts there, and how it goes, is the type's."""

    delete_beyond: ClassVar[Errno] = Errno.EINVAL  # what a delete beyond the map answers
    delete_needs_entry: ClassVar[bool] = False  # whether deleting an empty slot is ENOENT

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.slots: Final[dict[int, Entry]] = {}

    def stored(self) -> int:
        """Values kept."""
        return len(self.slots)

    def let_go(self, entry: Entry, context: OpContext) -> None:
        """Frees what a delete has taken out of its slot."""
        raise NotImplementedError

    def slot_to_update(self, key: bytes, flags: int) -> int:
        """The slot that an update names. Raises EINVAL for unknown flags, E2BIG beyond the map."""
        if flags > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"update flags {flags:#x} are unknown")
        return self.slot_within(key)

    def slot_within(self, key: bytes, beyond: Errno = Errno.E2BIG) -> int:
        """The slot of a key. Raises ``beyond`` where the map has no such slot."""
        index = slot_of(key)
        if index >= self.max_entries:
            raise slot_out_of_range(index, self.max_entries, beyond)
        return index

    def delete(self, key: bytes, context: OpContext) -> None:
        """Empties a slot. Raises EINVAL or E2BIG beyond the map; some types ENOENT for an empty slot."""
        index = self.slot_within(key, self.delete_beyond)
        entry = self.slots.pop(index, None)
        if entry is not None:
            self.let_go(entry, context)
        elif self.delete_needs_entry:
            raise empty_slot(index)

    def next_key(self, key: bytes | None) -> bytes:
        """The next slot, used or not. Raises ENOENT after the last."""
        return next_slot(key, self.max_entries)


def slot_of(key: bytes) -> int:
    """The slot a key names."""
    return int.from_bytes(key, "little")


def next_slot(key: bytes | None, max_entries: int) -> bytes:
    """The slot after ``key``; slot 0 for None or a key out of range. Raises ENOENT after the last one.

    >>> next_slot(None, 4).hex(), next_slot(b"\\x00\\x00\\x00\\x00", 4).hex(), next_slot(b"\\x09\\0\\0\\0", 4).hex()
    ('00000000', '01000000', '00000000')
    """
    index = U32_MAX if key is None else slot_of(key)
    if index >= max_entries:
        return bytes(4)
    if index == max_entries - 1:
        raise KernelError(Errno.ENOENT, Reason.KEY_NOT_FOUND, "the last slot has no successor")
    return (index + 1).to_bytes(4, "little")


def empty_slot(index: int) -> KernelError:
    """ENOENT of a slot that holds nothing, or of an index out of range on lookup."""
    return KernelError(Errno.ENOENT, Reason.KEY_NOT_FOUND, f"slot {index} is empty")


def slot_out_of_range(index: int, max_entries: int, errno: Errno = Errno.E2BIG) -> KernelError:
    """The refusal of an index beyond the map: E2BIG on update, EINVAL or E2BIG on delete by type."""
    return KernelError(
        errno,
        Reason.BAD_ATTRIBUTE,
        f"slot {index} is beyond max_entries {max_entries}",
        max_entries=max_entries,
    )


def flush_lists_bytes(profile: KernelProfile, possible_cpus: int) -> int:
    """What redirect maps up to 5.5 precharge beside their slots: a list head per CPU [sizeof(struct list_head)]."""
    return 16 * possible_cpus if profile.redirect_flush_lists_charged else 0


def redirect_value_sizes(profile: KernelProfile) -> tuple[int, ...]:
    """Value sizes of devmaps and cpumaps: a number, and from 5.8 on a program's descriptor behind it."""
    return (4, 8) if profile.redirect_value_holds_prog else (4,)
