"""What index-keyed maps share: a key is a u32 slot number, every slot exists, iteration counts up."""

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.errors import KernelError, Reason


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
