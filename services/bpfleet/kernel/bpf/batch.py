"""The batch commands and their partial counts [kernel/bpf/syscall.c generic_map_*_batch, hashtab.c].

The count that user space gives is zeroed once the arguments are accepted and set to what was done at the end, except
after EFAULT. A refusal before that raises; a later error is part of the result.
"""

from dataclasses import dataclass

from bpfleet.abi.bpf import BPF_F_CPU, BPF_F_LOCK
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import Address, UserBytes
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.maps.base import (
    CPU_FLAGS,
    BpfMap,
    check_op_flags,
    given_value_size,
    of_cpu,
)
from bpfleet.kernel.bpf.maps.hash import HashTable
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.errors import KernelError, Reason


@dataclass(slots=True)
class BatchResult:
    """What a batch command answers. ``error`` None is success; ``count`` elements were done in either case.

    ``keys`` and ``values`` hold what a lookup returned, one after the other; ``out_batch`` is where to go on;
    ``charged_bytes`` is below 0 where the batch gave memory back at once.
    """

    count: int
    error: KernelError | None = None
    keys: bytes = b""
    values: bytes = b""
    out_batch: bytes | None = None
    charged_bytes: int = 0

    @property
    def errno(self) -> int:
        """The errno user space sees, 0 for success."""
        return 0 if self.error is None else int(self.error.errno)


def update_batch(
    bpf_map: BpfMap,
    keys: UserBytes,
    values: UserBytes,
    count: int,
    elem_flags: int,
    context: OpContext,
) -> BatchResult:
    """generic_map_update_batch: in order, up to the first error."""
    check_op_flags(bpf_map, elem_flags, BPF_F_LOCK | CPU_FLAGS)
    if not count:
        return BatchResult(0)
    if not isinstance(keys, bytes) or not isinstance(values, bytes):
        return BatchResult(0, _fault())
    key_list = split(keys, bpf_map.key_size, count, "keys")
    value_list = split(values, given_value_size(bpf_map, elem_flags), count, "values")
    done, error = bpf_map.update_many(key_list, value_list, elem_flags, context)
    return BatchResult(done, error)


def delete_batch(
    bpf_map: BpfMap, keys: UserBytes, count: int, elem_flags: int, context: OpContext
) -> BatchResult:
    """generic_map_delete_batch: in order, up to the first error."""
    check_op_flags(bpf_map, elem_flags, BPF_F_LOCK)
    if not count:
        return BatchResult(0)
    if not isinstance(keys, bytes):
        return BatchResult(0, _fault())
    done, error = bpf_map.delete_many(split(keys, bpf_map.key_size, count, "keys"), context)
    return BatchResult(done, error)


def lookup_batch(
    bpf_map: BpfMap,
    in_batch: UserBytes,
    count: int,
    elem_flags: int,
    flags: int,
    context: OpContext,
    *,
    delete: bool,
    out: Address,
) -> BatchResult:
    """Lookup, or lookup and delete, from ``in_batch`` on. ``out`` is the address of the keys to write."""
    if isinstance(bpf_map, HashTable):
        return _lookup_buckets(
            bpf_map, in_batch, count, elem_flags, flags, context, delete=delete, out=out
        )
    return _lookup_keys(bpf_map, in_batch, count, elem_flags, context, out=out)


def _lookup_keys(
    bpf_map: BpfMap,
    in_batch: UserBytes,
    count: int,
    elem_flags: int,
    context: OpContext,
    *,
    out: Address,
) -> BatchResult:
    """generic_map_lookup_batch: the cursor is the last key."""
    check_op_flags(bpf_map, elem_flags, BPF_F_LOCK | BPF_F_CPU)
    if not count:
        return BatchResult(0)
    if in_batch is Address.BAD:
        return BatchResult(0, _fault())
    key = cursor_of(in_batch, bpf_map.key_size)
    keys: list[bytes] = []
    values: list[bytes] = []
    error: KernelError | None = None
    while len(keys) < count:
        try:
            key = bpf_map.next_key(key)
        except KernelError as end:
            error = end
            break
        try:
            value = bpf_map.lookup(key, context)
        except KernelError as miss:
            if miss.errno is Errno.ENOENT:
                if bpf_map.host.profile.batch_skips_missing_keys:
                    continue
                error = _interrupted()
                break
            return BatchResult(0, miss)
        if out is not Address.GOOD:
            return BatchResult(0, _fault())
        keys.append(key)
        values.append(of_cpu(value, elem_flags, bpf_map.value_size))
    return BatchResult(len(keys), error, b"".join(keys), b"".join(values), key if keys else None)


def _lookup_buckets(
    table: HashTable,
    in_batch: UserBytes,
    count: int,
    elem_flags: int,
    flags: int,
    context: OpContext,
    *,
    delete: bool,
    out: Address,
) -> BatchResult:
    """__htab_map_lookup_and_delete_batch: whole buckets; the cursor is the next bucket's number."""
    check_op_flags(table, elem_flags, BPF_F_LOCK | BPF_F_CPU)
    if flags:
        raise refuse(Errno.EINVAL, f"batch flags {flags:#x} are not valid for hash lookups")
    if not count:
        return BatchResult(0)
    if in_batch is Address.BAD:
        return BatchResult(0, _fault())
    cursor = cursor_of(in_batch, 4)
    bucket = 0 if cursor is None else int.from_bytes(cursor, "little")
    if bucket >= table.buckets:
        return BatchResult(0, _end())
    order = table.walk()
    first = order.used_from(bucket)
    if first is None:
        return BatchResult(0, _end(), out_batch=table.buckets.to_bytes(4, "little"))
    in_first = order.count_in(first)
    if in_first > count:
        return BatchResult(0, _no_room(in_first), out_batch=first.to_bytes(4, "little"))
    if out is not Address.GOOD:
        if delete:
            table.delete_many(order.keys_from(first, in_first)[0], context)
        return BatchResult(0, _fault())
    keys, left_out = order.keys_from(first, count)
    values = table.values_of(keys)
    if elem_flags & BPF_F_CPU:
        values = [of_cpu(value, elem_flags, table.value_size) for value in values]
    if delete:
        table.delete_many(keys, context)
    following = table.buckets if left_out is None else left_out
    return BatchResult(
        len(keys),
        _end() if left_out is None else None,
        b"".join(keys),
        b"".join(values),
        following.to_bytes(4, "little"),
    )


def split(blob: bytes, width: int, count: int, what: str) -> list[bytes]:
    """``count`` pieces of ``width`` bytes. Raises EINVAL when ``blob`` is of another length."""
    if len(blob) != width * count:
        raise refuse(
            Errno.EINVAL, f"{what}: {len(blob)} bytes given, {count} of {width} bytes are needed"
        )
    if not width:
        return [b""] * count
    return [blob[start : start + width] for start in range(0, len(blob), width)]


def cursor_of(in_batch: UserBytes, width: int) -> bytes | None:
    """The cursor of a batch; None starts at the beginning. Raises EINVAL for a wrong length."""
    if not isinstance(in_batch, bytes):
        return None
    if len(in_batch) != width:
        raise refuse(Errno.EINVAL, f"in_batch: {len(in_batch)} bytes given, {width} are the cursor")
    return in_batch


def _fault() -> KernelError:
    return KernelError(Errno.EFAULT, Reason.BAD_ADDRESS, "a pointer is not mapped")


def _interrupted() -> KernelError:
    return KernelError(
        Errno.EINTR, Reason.KEY_NOT_FOUND, "a key has no value, also after MAP_LOOKUP_RETRIES tries"
    )


def _end() -> KernelError:
    return KernelError(Errno.ENOENT, Reason.KEY_NOT_FOUND, "the end of the map was reached")


def _no_room(needed: int) -> KernelError:
    return KernelError(
        Errno.ENOSPC,
        Reason.BAD_ATTRIBUTE,
        f"the next bucket holds {needed} elements, more than there is room for",
        needed=needed,
    )
