"""PERCPU_HASH [kernel/bpf/hashtab.c], since 4.6. All profiles.

At create: the table as HASH; preallocated maps add one element and one per-CPU value per entry (values charged up to
5.19, to nobody from 6.0), NO_PREALLOC maps from 6.1 the prefill of two caches, charged to the creator. Per element:
nothing when preallocated, else an element and a per-CPU value. Existing keys are updated in place. Freed as HASH.
Known gap: the class names it.
"""

from itertools import chain
from typing import ClassVar, Final, final

from bpfleet.abi.bpf import F_NO_PREALLOC
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import onto_cpus, splice_cpu, takes_one_value, zeroes
from bpfleet.kernel.bpf.maps.hash import (
    HashTable,
    element_bytes,
    freelist,
    hash_estimate,
    on_demand,
    table_allocations,
    table_usage,
)
from bpfleet.kernel.bpf.memalloc import PERCPU_HEADER_BYTES
from bpfleet.kernel.bpf.refusals import map_full, not_found
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up_8


@final
class Freelist:
    """Which preallocated element is next, by what its memory holds [kernel/bpf/percpu_freelist.c].

    A stack for each CPU; below what was put back lie elements that were never taken, which hold zeros.
    """

    __slots__ = ("_left", "_untouched")

    def __init__(self, elements: int, possible_cpus: int) -> None:
        share, rest = divmod(elements, possible_cpus)
        self._untouched: Final = [share + (cpu < rest) for cpu in range(possible_cpus)]
        self._left: Final[list[list[bytes]]] = [[] for _ in range(possible_cpus)]

    def pop(self, cpu: int) -> bytes:
        """What the element that ``cpu`` takes holds, empty for zeros: its own, else that of the next CPU with one."""
        possible = len(self._left)
        for number in chain(range(cpu, possible), range(cpu)):
            if self._left[number]:
                return self._left[number].pop()
            if self._untouched[number]:
                self._untouched[number] -= 1
                break
        return b""

    def push(self, cpu: int, held: bytes) -> None:
        """Puts an element back."""
        self._left[cpu].append(held)


class PercpuHashMap(HashTable):
    """A hash whose values exist once per possible CPU.

    In 7.0 and 7.1 an insert with BPF_F_CPU leaves to the other CPUs what the element held before [pcpu_init_value].
    """

    __slots__ = ("_element_size", "_freelist", "_payers", "_value_size", "_zero")

    percpu_values = True
    gap: ClassVar[str] = (
        "large values on demand: Linux may be out of populated per-CPU pages (ENOMEM with memory left),"
        " depending on what else uses them; in 7.0 and 7.1 an insert with BPF_F_CPU on"
        " demand may show on the other CPUs what the element held before, here zeros"
    )

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        memory = site.memory
        self._element_size: Final = memory.slab_size(element_bytes(attr))
        self._value_size: Final = memory.percpu_size(round_up_8(attr.value_size))
        self._payers: Final[dict[bytes, tuple[Account, Account]]] = {}
        self._zero: Final = zeroes(self.user_value_size)
        shows = self.prealloc and host.profile.cpu_insert_leaves_others
        self._freelist = Freelist(attr.max_entries, host.possible_cpus) if shows else None

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """Table, then elements with their values, or two prefills."""
        attr, profile = creation.attr, creation.profile
        size, value = element_bytes(attr), round_up_8(attr.value_size)
        table = table_allocations(attr, profile, creation.possible_cpus)
        estimate = hash_estimate(attr, profile, creation.possible_cpus)
        if attr.map_flags & F_NO_PREALLOC:
            elements, per_element = on_demand(profile, creation.possible_cpus, size, value)
            return CostPlan(estimate, table + elements, 1, per_element)
        elements = preallocated(attr, size, value) + freelist(profile)
        return CostPlan(estimate, table + elements, 1)

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """htab_map_mem_usage."""
        size, value = element_bytes(attr), round_up_8(attr.value_size) * possible_cpus
        usage = table_usage(attr, profile, possible_cpus)
        if attr.map_flags & F_NO_PREALLOC:
            return usage + (size + 8 + PERCPU_HEADER_BYTES + value) * entries
        return usage + (size + value) * attr.max_entries

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EINVAL, EEXIST, ENOENT, E2BIG at max_entries keys, ENOMEM (NO_PREALLOC)."""
        one_cpu = takes_one_value(self, flags)
        old = self._elements.get(key)
        self._check_presence(old is not None, flags)
        if old is None and len(self._elements) >= self.max_entries:
            raise map_full(Errno.E2BIG, self.max_entries)
        left = self._zero
        if old is None and self._freelist is not None:
            left = self._freelist.pop(context.cpu) or left
        if one_cpu:
            value = onto_cpus(left if old is None else old, value, flags)
        elif context.from_prog:
            value = splice_cpu(self._zero if old is None else old, value, context.cpu)
        if old is not None:
            self._elements[key] = value  # in place: its position in the bucket stays
            return
        if not self.prealloc:
            self._take_element(key, context)
        self._store_newest(key, value)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises ENOENT."""
        if key not in self._elements:
            raise not_found()
        if self._freelist is not None:
            self._freelist.push(context.cpu, self._elements[key])
        self._drop(key)
        if not self.prealloc:
            self._give_element(key, context.cpu)

    def free(self, cpu: int) -> None:
        """Gives back elements allocated on update; those of the caches go with the caches."""
        for account, value_account in self._payers.values():
            self.site.give_element(account, self._element_size, cpu)
            self.site.give_element(value_account, self._value_size, cpu)
        self._payers.clear()
        self._elements.clear()
        self._order = None

    def _take_element(self, key: bytes, context: OpContext) -> None:
        """An element, then its value; the element is freed when the value's allocation fails. Raises ENOMEM."""
        site = self.site
        if site.mem_allocs:
            elements, values = site.mem_allocs
            elements.alloc(context.task)
            try:
                values.alloc(context.task)
            except KernelError:
                elements.free(context.cpu)
                raise
            return
        gfp = site.element_gfp()
        account = site.take_element(self._element_size, context, gfp)
        try:
            value_account = site.take_element(self._value_size, context, gfp | GFP.NOWARN)
        except KernelError:
            site.give_element(account, self._element_size, context.cpu)
            raise
        self._payers[key] = (account, value_account)

    def _give_element(self, key: bytes, cpu: int) -> None:
        site = self.site
        if site.mem_allocs:
            for caches in site.mem_allocs:
                caches.free(cpu)
            return
        account, value_account = self._payers.pop(key)
        site.give_after_rcu(account, self._element_size)
        site.give_after_rcu(value_account, self._value_size)


def preallocated(attr: MapAttr, size: int, value: int) -> tuple[Allocation, ...]:
    """All elements in one area, then one per-CPU value each."""
    return (
        Allocation("elements", How.AREA, size * attr.max_entries),
        Allocation("values", How.HELPER_PERCPU, value, attr.max_entries, GFP.GFP_USER | GFP.NOWARN),
    )
