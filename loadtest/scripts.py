"""What each kind of user does, as generators of system calls: no network, no clock, no chance but the seed.

A script yields the calls of one message, as the agent takes them, and is sent their replies. Whoever drives it (a
Locust user over gRPC, a test against a kernel in the same process) carries them out; from the same seed and replies
every script makes the same calls, so a run can be replayed without a network.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.v1.bpf_service_pb2 import Syscall
from bpfleet.workload.churn import ChurnStream, targets_of
from bpfleet.workload.ops import (
    BATCH_TYPES,
    ELEMENT_TYPES,
    Operation,
    OpKind,
    key_bytes,
    value_bytes,
)
from bpfleet.workload.seeding import SplitMix64, seed_for
from bpfleet.workload.spec import Inventory, MapDeclaration
from loadtest import calls
from loadtest.calls import RESTART, Reply

__all__ = [
    "FleetDo",
    "FleetStep",
    "Script",
    "churn",
    "fill_to_the_limit",
    "fleet_steps",
    "open_and_close",
    "rolling_restarts",
    "selector_of",
]

_BATCH_BYTES_MAX: Final = 1 << 20
_CALLS_MAX: Final = 4096
_LISTS: Final = frozenset({MapType.QUEUE, MapType.STACK})
_FD_BYTES: Final = 4
_WORKLOADS_MAX: Final = 4


Script = Generator[Sequence[Syscall], Sequence[Reply], None]
_Part = Generator[Sequence[Syscall], Sequence[Reply], "list[int]"]


def churn(
    inventory: Inventory, seed: int, *, cpus: int, batch: int, elements: int, batched: bool
) -> Script:
    """Endless: opens what it may of an application, then looks up, updates and deletes.

    ``batch`` calls go into a message. ``batched`` uses the kernel's batch commands with up to ``elements`` each where
    the map type has them.
    """
    fds = yield from _open_maps(inventory, cpus, elements)
    stream = ChurnStream(inventory, seed)
    targets = _targets(inventory, fds, cpus)
    drawn = _operations(stream)
    while True:
        message: list[Syscall] = []
        # Bounded, in case the kernel refused every map that churn would touch.
        for operation in islice(drawn, 4 * batch):
            call = _churn_call(operation, targets, elements if batched else 1)
            if call is not None:
                message.append(call)
            if len(message) == batch:
                break
        if not message:
            yield [RESTART]
            fds = yield from _open_maps(inventory, cpus, elements)
            targets = _targets(inventory, fds, cpus)
            drawn = _operations(stream)
            continue
        yield message


def open_and_close(inventories: Sequence[Inventory], *, cpus: int, elements: int) -> Script:
    """Endless: starts one application after the other as its loader does, programs included, and closes all of it
    again. A refused map ends a start, as loaders exit on it.
    """
    while True:
        for inventory in inventories:
            fds = yield from _open_maps(inventory, cpus, elements)
            opened = [fd for fd in fds if fd >= 0]
            if len(opened) == len(fds):
                opened += yield from _load_programs(inventory, fds)
            yield from _close(opened)


def fill_to_the_limit(seed: int, *, limit_bytes: int | None, cpus: int, elements: int) -> Script:
    """Endless: a tenant that takes maps, elements and heap in turn until it is refused or killed, then gives everything
    back.
    """
    random = SplitMix64(seed_for(seed, "tenant"))
    part_bytes = max((limit_bytes or 256 << 20) // 16, 64 << 10)
    while True:
        fds: list[int] = []
        refused = False
        while not refused and len(fds) < _CALLS_MAX:
            declared = _tenant_map(random, part_bytes)
            (created,) = yield [calls.create_map(declared)]
            refused = created.errno != 0
            if not refused:
                fds.append(created.fd)
                filling = _fill_calls(declared, created.fd, cpus, elements)
                replies = yield from _in_messages(filling)
                refused = any(reply.errno for reply in replies)
            if random.below(4) == 0:
                yield [calls.touch(part_bytes // 4)]
        # Its heap grows on, whatever BPF was told: where maps are charged to the cgroup, that kills.
        yield [calls.touch(part_bytes)]
        yield from _close(fds)
        yield [RESTART]


def rolling_restarts(
    inventory: Inventory, seed: int, *, cpus: int, batch: int, elements: int, prefix: str
) -> Script:
    """Endless: an agent that pins its maps is replaced over and over; the next one finds them.

    Maps and their charge outlive the process that paid for them, which is where the models differ.
    """
    for generation in range(2**63):
        fds = yield from _open_pinned(inventory, cpus, elements, prefix)
        yield from _load_programs(inventory, fds)
        targets = _targets(inventory, fds, cpus)
        drawn = _operations(ChurnStream(inventory, seed_for(seed, generation)))
        made = (_churn_call(operation, targets, 1) for operation in islice(drawn, batch))
        if message := [call for call in made if call is not None]:
            yield message
        yield [RESTART]


class FleetDo(StrEnum):
    """What a client of the coordinator does."""

    SUBMIT = "create_workload"
    SCALE = "scale_workload"
    DELETE = "delete_workload"
    STATUS = "fleet_status"
    WATCH = "watch_fleet"


@dataclass(frozen=True, slots=True)
class FleetStep:
    """One operation on the fleet: which workload (counted from 1; 0: none), with how many replicas of what."""

    do: FleetDo
    workload: int = 0
    replicas: int = 0
    application: str = ""


# The label that every node has of its model; load tests know what users know.
_PROFILE_LABEL: Final = "bpfleet/profile"


def selector_of(step: FleetStep, pin: Sequence[str]) -> dict[str, str]:
    """Which nodes a step's workload wants. With ``pin``, one workload after the other goes to each of these models, so
    that they are compared under the same load.
    """
    return {_PROFILE_LABEL: pin[step.workload % len(pin)]} if pin else {}


def fleet_steps(seed: int, applications: Sequence[str]) -> Iterator[FleetStep]:
    """Endless: submits, scales, looks and watches; with more than four workloads the oldest goes."""
    random = SplitMix64(seed_for(seed, "fleet"))
    alive: list[int] = []
    submitted = 0
    while True:
        drawn = random.below(9)
        if drawn < 3 or (drawn < 6 and not alive):
            submitted += 1
            application = applications[random.below(len(applications))]
            yield FleetStep(FleetDo.SUBMIT, submitted, 1 + random.below(3), application)
            alive.append(submitted)
            if len(alive) > _WORKLOADS_MAX:
                yield FleetStep(FleetDo.DELETE, alive.pop(0))
        elif drawn < 6:
            chosen = alive[random.below(len(alive))]
            yield FleetStep(FleetDo.SCALE, chosen, 1 + random.below(5))
        else:
            yield FleetStep(FleetDo.STATUS if drawn < 8 else FleetDo.WATCH)


class _Target(NamedTuple):
    """An open map with a value that fits it."""

    fd: int
    declared: MapDeclaration
    value: bytes


def _targets(inventory: Inventory, fds: Sequence[int], cpus: int) -> list[_Target]:
    declared = targets_of(inventory)
    return [_Target(fd, d, value_bytes(d, cpus)) for fd, d in zip(fds, declared, strict=True)]


def _operations(stream: ChurnStream) -> Iterable[Operation]:
    """Step after step, without end; ends at once where no map takes element operations."""
    empty = False
    while not empty:
        empty = True
        for operation in stream.step():
            empty = False
            yield operation


def _churn_call(operation: Operation, targets: Sequence[_Target], elements: int) -> Syscall | None:
    """The call of an operation; None where its map was refused when it was created."""
    if operation.kind is OpKind.TOUCH:
        return calls.touch(operation.amount)
    target = targets[operation.target]
    if target.fd < 0 or operation.kind not in _ELEMENTS:
        return None
    fd, declared = target.fd, target.declared
    amount = _amount(target, elements) if declared.map_type in BATCH_TYPES else 1
    if amount > 1:
        return _batch_call(operation, target, amount)
    key = key_bytes(declared, operation.key)
    if operation.kind is OpKind.UPDATE:
        return calls.update(fd, key, target.value)
    if declared.map_type in _LISTS:
        return calls.pop(fd)
    return calls.lookup(fd, key) if operation.kind is OpKind.LOOKUP else calls.delete(fd, key)


_ELEMENTS: Final = frozenset({OpKind.LOOKUP, OpKind.UPDATE, OpKind.DELETE})


def _amount(target: _Target, elements: int) -> int:
    """Elements of one batch: no more than the map takes, no more than a megabyte of values."""
    fit = max(_BATCH_BYTES_MAX // max(len(target.value), 1), 1)
    return min(elements, target.declared.max_entries, fit)


def _batch_call(operation: Operation, target: _Target, amount: int) -> Syscall:
    fd = target.fd
    if operation.kind is OpKind.LOOKUP:
        return calls.lookup_batch(fd, amount)
    keys = _keys(target.declared, operation.key, amount)
    if operation.kind is OpKind.UPDATE:
        return calls.update_batch(fd, keys, target.value * amount, amount)
    return calls.delete_batch(fd, keys, amount)


def _keys(declared: MapDeclaration, first: int, amount: int) -> bytes:
    """``amount`` keys from ``first`` on, going round at the end of the map's entries."""
    entries = declared.max_entries
    made = (key_bytes(declared, (first + offset) % entries) for offset in range(amount))
    return b"".join(key for key in made if key is not None)


def _tenant_map(random: SplitMix64, part_bytes: int) -> MapDeclaration:
    """A hash or an array of about ``part_bytes``; hashes pay for elements as they come."""
    value_size = 8 << random.below(8)
    entries = max(part_bytes // (value_size + 64), 8)
    if random.below(2):
        return MapDeclaration(
            name="tenant_array",
            map_type=MapType.ARRAY,
            key_size=4,
            value_size=value_size,
            max_entries=entries,
        )
    return MapDeclaration(
        name="tenant_hash",
        map_type=MapType.HASH,
        key_size=8,
        value_size=value_size,
        max_entries=entries,
        map_flags=F_NO_PREALLOC,
        fill_entries=entries,
    )


def _open_maps(inventory: Inventory, cpus: int, elements: int) -> _Part:
    """Creates the maps of an application, each copy; a refused one is -1 in the answer."""
    declared = targets_of(inventory)
    fds = yield from _create(declared)
    yield from _furnish(declared, fds, cpus, elements)
    return fds


def _create(declared: Sequence[MapDeclaration]) -> _Part:
    """A map of maps needs a template first; it is closed once the map exists."""
    templates = yield from _create_templates(declared)
    creations = [
        calls.create_map(d, templates.get(n))
        for n, d in enumerate(declared)
        if d.inner is None or n in templates
    ]
    replies = iter((yield from _in_messages(creations)))
    fds = [
        _fd(next(replies)) if d.inner is None or n in templates else -1
        for n, d in enumerate(declared)
    ]
    yield from _close(list(templates.values()))
    return fds


def _create_templates(
    declared: Sequence[MapDeclaration],
) -> Generator[Sequence[Syscall], Sequence[Reply], dict[int, int]]:
    needed = [(n, d.inner) for n, d in enumerate(declared) if d.inner is not None]
    replies = yield from _in_messages([calls.create_map(inner) for _, inner in needed])
    made = zip(needed, replies, strict=True)
    return {n: reply.fd for (n, _), reply in made if reply.errno == 0}


def _furnish(
    declared: Sequence[MapDeclaration], fds: Sequence[int], cpus: int, elements: int
) -> Generator[Sequence[Syscall], Sequence[Reply], None]:
    """Puts in what an application starts with: elements, inner maps, the freeze."""
    for each, fd in zip(declared, fds, strict=True):
        if fd < 0:
            continue
        if each.inner is not None:
            yield from _put_inner_maps(each, each.inner, fd)
        filling = _fill_calls(each, fd, cpus, elements)
        if each.frozen:
            filling.append(calls.freeze(fd))
        yield from _in_messages(filling)


def _put_inner_maps(
    outer: MapDeclaration, inner: MapDeclaration, fd: int
) -> Generator[Sequence[Syscall], Sequence[Reply], None]:
    creations = [calls.create_map(inner)] * outer.inner_count
    replies = yield from _in_messages(creations)
    made = [reply.fd for reply in replies if reply.errno == 0]
    updates = [
        calls.update(
            fd, slot.to_bytes(outer.key_size, "little"), each.to_bytes(_FD_BYTES, "little")
        )
        for slot, each in enumerate(made)
    ]
    yield from _in_messages(updates)
    yield from _close(made)


def _fill_calls(declared: MapDeclaration, fd: int, cpus: int, elements: int) -> list[Syscall]:
    if not declared.fill_entries or declared.map_type not in ELEMENT_TYPES:
        return []
    target = _Target(fd, declared, value_bytes(declared, cpus))
    if declared.map_type not in BATCH_TYPES:
        return [calls.update(fd, None, target.value)] * declared.fill_entries
    amount = _amount(target, elements)
    return [
        _batch_call(Operation(OpKind.UPDATE, 0, first), target, min(amount, total - first))
        for total in (declared.fill_entries,)
        for first in range(0, total, amount)
    ]


def _load_programs(inventory: Inventory, fds: Sequence[int]) -> _Part:
    """Loads every program with those of its maps that are open."""
    named = list(zip(targets_of(inventory), fds, strict=True))
    loads = []
    for program in inventory.programs:
        used = [fd for d, fd in named if fd >= 0 and d.name in program.map_names]
        loads += [calls.load_program(program, used)] * program.count
    replies = yield from _in_messages(loads)
    return [reply.fd for reply in replies if reply.errno == 0]


def _open_pinned(inventory: Inventory, cpus: int, elements: int, prefix: str) -> _Part:
    """Opens the maps an earlier process pinned; creates and pins those that are not there."""
    declared = targets_of(inventory)
    paths = [f"/sys/fs/bpf/{prefix}-{n}" for n in range(len(declared))]
    replies = yield from _in_messages([calls.open_pinned(path) for path in paths])
    fds = [_fd(reply) for reply in replies]
    missing = [n for n, fd in enumerate(fds) if fd < 0]
    created = yield from _create([declared[n] for n in missing])
    yield from _furnish([declared[n] for n in missing], created, cpus, elements)
    made = [(n, fd) for n, fd in zip(missing, created, strict=True) if fd >= 0]
    yield from _in_messages([calls.pin(fd, paths[n]) for n, fd in made])
    for n, fd in made:
        fds[n] = fd
    return fds


def _close(fds: Sequence[int]) -> Generator[Sequence[Syscall], Sequence[Reply], None]:
    yield from _in_messages([calls.close(fd) for fd in fds])


def _in_messages(
    wanted: Sequence[Syscall],
) -> Generator[Sequence[Syscall], Sequence[Reply], list[Reply]]:
    """Sends any number of calls in messages that are neither too long nor too big."""
    replies: list[Reply] = []
    message: list[Syscall] = []
    size_bytes = 0
    for call in wanted:
        if message and (len(message) == _CALLS_MAX or size_bytes > _BATCH_BYTES_MAX):
            replies += yield message
            message, size_bytes = [], 0
        message.append(call)
        size_bytes += call.ByteSize()
    if message:
        replies += yield message
    return replies


def _fd(reply: Reply) -> int:
    return reply.fd if reply.errno == 0 else -1
