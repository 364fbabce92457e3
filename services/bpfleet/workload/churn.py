"""Seeded churn: an endless, repeatable stream of operations for one application.

The stream depends on the inventory and the seed alone; not on answers, time or how many processes
take part. A refused operation therefore never shifts the operations after it, and two models see
the same stream.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from bpfleet.workload.ops import (
    ARRAY_TYPES,
    ELEMENT_TYPES,
    Operation,
    OpKind,
    key_count,
    touch_parts,
)
from bpfleet.workload.seeding import SplitMix64, seed_for
from bpfleet.workload.spec import Inventory, KeyDistribution, MapDeclaration

__all__ = ["ChurnStream", "HeapRamp", "targets_of"]

_ELEMENT_KINDS: Final = (OpKind.LOOKUP, OpKind.UPDATE, OpKind.DELETE, OpKind.CREATE)


def targets_of(inventory: Inventory) -> tuple[MapDeclaration, ...]:
    """The maps of an inventory in creation order, one entry per copy: ``Operation.target`` counts
    these.
    """
    return tuple(declared for declared in inventory.maps for _ in range(declared.count))


class HeapRamp:
    """The anonymous memory of an application: ``start_bytes`` at its start, then growth step by
    step to the peak.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._peak_bytes: Final = inventory.user_memory_bytes
        self._steps: Final = inventory.churn.ramp_steps
        share = inventory.churn.start_share if self._steps else 1.0
        self.start_bytes: Final = int(self._peak_bytes * share)
        self._step = 0

    def grow(self) -> int:
        """Bytes the next step adds; the parts add up to the peak exactly."""
        if self._step >= self._steps:
            return 0
        growth = self._peak_bytes - self.start_bytes
        before = growth * self._step // self._steps
        self._step += 1
        return growth * self._step // self._steps - before


class ChurnStream:
    """The operations of one replica, step after step.

    ``seed`` is the replica's (``seeding.seed_for(scenario seed, node, replica)``).
    """

    def __init__(self, inventory: Inventory, seed: int) -> None:
        self.heap: Final = HeapRamp(inventory)
        self._churn: Final = inventory.churn
        self._random: Final = SplitMix64(seed_for(seed, "churn"))
        self._targets: Final = targets_of(inventory)
        self._weights: Final = list(
            accumulate(d.churn_weight if d.map_type in ELEMENT_TYPES else 0 for d in self._targets)
        )
        self._key_counts: Final = [
            key_count(declared, self._churn.working_set) for declared in self._targets
        ]
        churn = self._churn
        self._mix: Final = list(
            accumulate((churn.lookups, churn.updates, churn.deletes, churn.creates))
        )
        self._next_key: Final = [0] * len(self._targets)

    def step(self) -> Iterator[Operation]:
        """The operations of the next step: heap growth first, then those on maps."""
        for part in touch_parts(self.heap.grow()):
            yield Operation(OpKind.TOUCH, 0, 0, part)
        yield from self.map_operations()

    def map_operations(self) -> Iterator[Operation]:
        """The next step without its heap growth; nothing where no map takes element operations."""
        if self._weights and self._weights[-1]:
            for _ in range(self._churn.operations_per_step):
                yield self._draw()

    def _draw(self) -> Operation:
        bits = self._random.next()
        kind = _ELEMENT_KINDS[bisect_right(self._mix, (bits & 0xFFFF) * self._mix[-1] >> 16)]
        target = bisect_right(self._weights, (bits >> 16 & 0xFFFF) * self._weights[-1] >> 16)
        if kind is OpKind.CREATE:
            return Operation(kind, target)
        keys = self._key_counts[target]
        key = self._key(target, keys, bits >> 32)
        if kind is OpKind.DELETE and self._targets[target].map_type in ARRAY_TYPES:
            kind = OpKind.UPDATE
        return Operation(kind, target, key, min(self._churn.batch_size, keys))

    def _key(self, target: int, keys: int, bits: int) -> int:
        distribution = self._churn.key_distribution
        if distribution is KeyDistribution.SEQUENTIAL:
            key = self._next_key[target]
            self._next_key[target] = (key + self._churn.batch_size) % keys
            return key
        if distribution is KeyDistribution.UNIFORM:
            return bits * keys >> 32
        # Log-uniform in whole numbers: density 1/x without floating point, so equal on every
        # platform.
        octave = (bits & 0xFF) * keys.bit_length() >> 8
        low = (1 << octave) - 1
        return min(low + ((bits >> 8) * (low + 1) >> 24), keys - 1)
