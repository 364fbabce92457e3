"""BLOOM_FILTER [kernel/bpf/bloom_filter.c], since 5.16.

At create: one area with the struct and the bit set. Per element: nothing. Freed with the map.
Known gap: none.
"""

from typing import Final

from bpfleet.abi.bpf import BPF_ANY, F_NUMA_NODE, F_ZERO_SEED, Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE, U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.jhash import jhash
from bpfleet.kernel.bpf.maps.array import ACCESS_MASK, check_flags, too_big
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf
from bpfleet.kernel.bpf.refusals import not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import roundup_pow_of_two

HASH_FUNCTIONS_DEFAULT: Final = 5
HASH_FUNCTIONS_MASK: Final = 0xF
BITS_MIN: Final = 64
BITS_MAX: Final = 1 << 31


class BloomFilterMap(BpfMap):
    """Values without keys: answers that a value was never pushed, or that it may have been."""

    capability = Capability.BPF
    takes_map_extra = True
    key_btf = KeyBtf.VOID

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._bits: Final[set[int]] = set()
        self._mask: Final = filter_bits(attr) - 1
        self._functions: Final = hash_functions(attr)

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """bloom_map_alloc_check. Raises E2BIG."""
        if host.profile.bloom_value_size_checked and attr.value_size > KMALLOC_MAX_SIZE:
            raise too_big(attr.value_size, KMALLOC_MAX_SIZE)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """bloom_map_alloc. Raises EPERM, EINVAL."""
        require_bpf(host, task)
        if attr.key_size != 0 or attr.value_size == 0 or attr.max_entries == 0:
            raise refuse(Errno.EINVAL, "a bloom filter needs entries, a value and key size 0")
        check_flags(attr.map_flags, F_NUMA_NODE | F_ZERO_SEED | ACCESS_MASK)
        if attr.map_extra & ~HASH_FUNCTIONS_MASK:
            raise refuse(Errno.EINVAL, f"map_extra {attr.map_extra:#x}: 0..15 hash functions")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area."""
        attr, profile = creation.attr, creation.profile
        size = cls.mem_usage(attr, profile, creation.possible_cpus, 0)
        return CostPlan(size, (Allocation("bloom", How.AREA, size),))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """bloom_map_mem_usage: the area."""
        return profile.structs.bpf_bloom_filter + filter_bits(attr) // 8

    def peek(self, value: bytes) -> None:
        """Raises ENOENT when ``value`` was certainly never pushed."""
        for function in range(self._functions):
            if jhash(value, self.hash_seed + function) & self._mask not in self._bits:
                raise not_found("the value was never pushed")

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Pushes. Raises EINVAL for any flag."""
        if flags != BPF_ANY:
            raise refuse(Errno.EINVAL, f"a bloom filter takes BPF_ANY, not {flags:#x}")
        for function in range(self._functions):
            self._bits.add(jhash(value, self.hash_seed + function) & self._mask)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Always EOPNOTSUPP."""
        raise _no_keys()

    def next_key(self, key: bytes | None) -> bytes:
        """Always EOPNOTSUPP."""
        raise _no_keys()


def _no_keys() -> KernelError:
    return KernelError(Errno.EOPNOTSUPP, Reason.OPERATION_UNSUPPORTED, "a bloom filter has no keys")


def hash_functions(attr: MapAttr) -> int:
    """How many hash functions: the low four bits of map_extra, 5 for 0."""
    return attr.map_extra & HASH_FUNCTIONS_MASK or HASH_FUNCTIONS_DEFAULT


def filter_bits(attr: MapAttr) -> int:
    """Size of the bit set: entries * functions / ln 2, rounded up to a power of two, 2^32 where 32 bits overflow.

    >>> filter_bits(MapAttr(30, 0, 8, 100)), filter_bits(MapAttr(30, 0, 8, 100000))
    (1024, 1048576)
    """
    wanted = attr.max_entries * hash_functions(attr)
    if wanted > U32_MAX:
        return 1 << 32
    bits = wanted // 5 * 7
    if bits > BITS_MAX:
        return 1 << 32
    return max(roundup_pow_of_two(bits), BITS_MIN)
