"""PERCPU_ARRAY [kernel/bpf/arraymap.c], since 4.6. All profiles.

At create: an area with the struct and one pointer per slot, then one per-CPU value per entry. These values are charged
to the creator up to 5.19 and to nobody from 6.0 on. Per element: nothing. Freed with the map. Known gap: none.
"""

from collections.abc import Sequence

from bpfleet.abi.bpf import BPF_NOEXIST, Cmd
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.maps.array import ArrayMap, slots
from bpfleet.kernel.bpf.maps.base import (
    BATCH_LOOKUP_UPDATE,
    BATCH_NONE,
    SpinLocks,
    onto_cpus,
    splice_cpu,
    takes_one_value,
)
from bpfleet.kernel.bpf.maps.slot import slot_of, slot_out_of_range
from bpfleet.kernel.bpf.refusals import key_exists
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up_8

POINTER_BYTES = 8


class PercpuArrayMap(ArrayMap):
    """An array whose values exist once per possible CPU."""

    mappable = False
    spin_locks = SpinLocks.NEVER
    __slots__ = ()

    percpu_values = True

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The pointer array, then ``max_entries`` per-CPU values; only the pointers are rounded up."""
        attr, profile = creation.attr, creation.profile
        pointers = POINTER_BYTES * slots(attr.max_entries, perfmon=creation.perfmon)
        value = round_up_8(attr.value_size)
        area = profile.structs.bpf_array + pointers
        gfp = GFP.GFP_USER | GFP.NOWARN
        return CostPlan(
            area + attr.max_entries * value * creation.possible_cpus,
            (
                Allocation("array", How.AREA, area),
                Allocation("values", How.HELPER_PERCPU, value, attr.max_entries, gfp),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """array_map_mem_usage: struct, pointers and all values."""
        values = attr.max_entries * round_up_8(attr.value_size) * possible_cpus
        return profile.structs.bpf_array + POINTER_BYTES * attr.max_entries + values

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EINVAL for flags, E2BIG beyond the end, EEXIST for BPF_NOEXIST."""
        index = slot_of(key)
        one_cpu = takes_one_value(self, flags)
        if index >= self.max_entries:
            raise slot_out_of_range(index, self.max_entries)
        if flags & BPF_NOEXIST:
            raise key_exists()
        if one_cpu:
            value = onto_cpus(self._values.get(index, self._zero), value, flags)
        elif context.from_prog:
            value = splice_cpu(self._values.get(index, self._zero), value, context.cpu)
        self._values[index] = value

    def update_many(
        self, keys: Sequence[bytes], values: Sequence[bytes], flags: int, context: OpContext
    ) -> tuple[int, KernelError | None]:
        """As single updates, without their overhead when no flags are given."""
        if context.from_prog:
            return super(ArrayMap, self).update_many(keys, values, flags, context)
        return super().update_many(keys, values, flags, context)

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """Since "bpf: Add batched ops support for percpu array" (5.13)."""
        return BATCH_LOOKUP_UPDATE if profile.lpm_has_batch else BATCH_NONE
