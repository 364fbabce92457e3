"""Seeded churn: an endless, repeatable stream of operations for one application.

The stream depends on the inventory and the seed alone; not on answers, time or how many processes
take part. A refused operation therefore never shifts the operations after it, and two models see
the same stream.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from bpfleet.workload.ops import ELEMENT_TYPES, Operation, OpKind, key_count
from bpfleet.workload.seeding import SplitMix64, seed_for
from bpfleet.workload.spec import Inventory, KeyDistribution, MapDeclaration

__all__ = ["ChurnStream", "targets_of"]

_ELEMENT_KINDS: Final = (OpKind.LOOKUP, OpKind.UPDATE, OpKind.DELETE, OpKind.CREATE)


def targets_of(inventory: Inventory) -> tuple[MapDeclaration, ...]:
    """The maps of an inventory in creation order, one entry per copy: ``Operation.target`` counts
    these.
    """
    return tuple(declared for declared in inventory.maps for _ in range(declared.count))


class ChurnStream:
    """The operations of one replica, step after step.

    ``seed`` is the replica's (``seeding.seed_for(scenario seed, node, replica)``). ``steps`` counts
    the steps drawn.
    """

    def __init__(self, inventory: Inventory, seed: int) -> None:
        self.steps = 0
        self._inventory: Final = inventory
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
        self._touched_bytes = self._heap_bytes(0)

    @property
    def start_bytes(self) -> int:
        """Anonymous memory the application holds once it has started."""
        return self._heap_bytes(0)

    def step(self) -> Iterator[Operation]:
        """The operations of the next step: heap growth first, then map operations."""
        self.steps += 1
        grown = self._heap_bytes(self.steps) - self._touched_bytes
        self._touched_bytes += grown
        if grown:
            yield Operation(OpKind.TOUCH, 0, 0, grown)
        if self._weights and self._weights[-1]:
            for _ in range(self._churn.operations_per_step):
                yield self._draw()

    def _heap_bytes(self, step: int) -> int:
        """Anonymous memory at ``step``: from the starting share in equal parts to the peak."""
        peak_bytes = self._inventory.user_memory_bytes
        first_bytes = int(peak_bytes * self._churn.start_share)
        if step >= self._churn.ramp_steps:
            return peak_bytes if self._churn.ramp_steps or step else first_bytes
        return first_bytes + (peak_bytes - first_bytes) * step // self._churn.ramp_steps

    def _draw(self) -> Operation:
        bits = self._random.next()
        kind = _ELEMENT_KINDS[bisect_right(self._mix, (bits & 0xFFFF) * self._mix[-1] >> 16)]
        target = bisect_right(self._weights, (bits >> 16 & 0xFFFF) * self._weights[-1] >> 16)
        if kind is OpKind.CREATE:
            return Operation(kind, target)
        keys = self._key_counts[target]
        key = self._key(target, keys, bits >> 32)
        if self._targets[target].map_type in _NO_DELETE and kind is OpKind.DELETE:
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


_NO_DELETE: Final = ELEMENT_TYPES - {kind for kind in ELEMENT_TYPES if "ARRAY" not in kind.name}
