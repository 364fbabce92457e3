"""What each kind of user plays on its seat: the script of its kind, sized by the options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.spec import Inventory, NodeShape
from loadtest.options import LoadOptions
from loadtest.scripts import Script, churn, fill_to_the_limit, open_and_close, rolling_restarts
from loadtest.seats import Seat

__all__ = ["KINDS", "script_for"]

_BATCHES_IN_A_MESSAGE_MAX: Final = 8


def script_for(seat: Seat, options: LoadOptions) -> Script:
    """The script of the seat's kind, from its beginning. KeyError: no such kind."""
    return KINDS[seat.kind](seat, options)


def _inventories(seat: Seat, options: LoadOptions) -> list[Inventory]:
    """The applications of this load test, sized for the node, beginning with the lane's own."""
    shape = NodeShape(possible_cpus=seat.node.possible_cpus, ram_bytes=seat.node.ram_bytes)
    names = options.applications
    turn = seat.lane % len(names)
    return [inventory_for(name, shape) for name in names[turn:] + names[:turn]]


def _element(seat: Seat, options: LoadOptions) -> Script:
    return churn(
        _inventories(seat, options)[0],
        seat.seed,
        cpus=seat.node.possible_cpus,
        batch=options.batch,
        elements=options.elements,
        batched=False,
    )


def _batch(seat: Seat, options: LoadOptions) -> Script:
    return churn(
        _inventories(seat, options)[0],
        seat.seed,
        cpus=seat.node.possible_cpus,
        batch=min(options.batch, _BATCHES_IN_A_MESSAGE_MAX),
        elements=options.elements,
        batched=True,
    )


def _inventory(seat: Seat, options: LoadOptions) -> Script:
    cpus, elements = seat.node.possible_cpus, options.elements
    return open_and_close(_inventories(seat, options), cpus=cpus, elements=elements)


def _tenant(seat: Seat, options: LoadOptions) -> Script:
    return fill_to_the_limit(
        seat.seed,
        limit_bytes=options.limit_bytes,
        cpus=seat.node.possible_cpus,
        elements=options.elements,
    )


def _rolling(seat: Seat, options: LoadOptions) -> Script:
    return rolling_restarts(
        _inventories(seat, options)[0],
        seat.seed,
        cpus=seat.node.possible_cpus,
        batch=options.batch,
        elements=options.elements,
        prefix=seat.name,
    )


KINDS: Final[Mapping[str, Callable[[Seat, LoadOptions], Script]]] = {
    "element": _element,
    "batch": _batch,
    "inventory": _inventory,
    "tenant": _tenant,
    "rolling": _rolling,
}
