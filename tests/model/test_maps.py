"""Random operation sequences on every map type and profile against models the size of a dict.

After each step the kernel's named invariants are checked; at the end nothing may be left charged.
"""

from collections import deque
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bpfleet.abi.bpf import F_NO_COMMON_LRU, F_NO_PREALLOC, F_ZERO_SEED, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.command import Taken
from bpfleet.kernel.bpf.jhash import jhash
from bpfleet.kernel.errors import KernelError
from tests.kernels import ALL, boot

ENTRIES = 6
CPUS = 2
KEYS = st.integers(0, 11)
VALUES = st.integers(0, 255)
FLAGS = st.sampled_from([0, 0, 0, 1, 2, 3, 8])


def key_of(number: int) -> bytes:
    return number.to_bytes(4, "little")


class _Machine(RuleBasedStateMachine):
    """A map on a fresh kernel. Subclasses say which, and what every operation must answer."""

    profile = "6.12"
    attr = MapAttr(MapType.HASH, 4, 8, ENTRIES)

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.task = boot(self.profile, cpus=CPUS)
        self.fd = self.kernel.bpf.map_create(self.task, self.attr).fd
        self.map = self.kernel.bpf.maps()[-1]
        # From 7.0 on per-CPU maps look only for flags beyond BPF_F_ALL_CPUS.
        self.takes_both = self.map.percpu_values and self.kernel.profile.has_cpu_flags
        self.per_cpu = self.map.user_value_size // 8 if self.map.percpu_values else 1

    def unknown(self, flags: int) -> bool:
        return flags > 2 and not (flags == 3 and self.takes_both)

    def value_of(self, number: int) -> bytes:
        if self.map.percpu_values:
            return b"".join(bytes([number, cpu]) + bytes(6) for cpu in range(CPUS))
        return number.to_bytes(8, "little")

    def answer(self, call: Any, *arguments: Any) -> Any:
        """What user space sees of a call: what it returns, or its errno."""
        try:
            found = call(self.task, self.fd, *arguments)
        except KernelError as refused:
            return refused.errno
        if isinstance(found, int):
            return None  # what it charged
        return found.value if isinstance(found, Taken) else found

    @invariant()
    def named_invariants_hold(self) -> None:
        self.kernel.check()

    def teardown(self) -> None:
        self.kernel.exit(self.task.pid)
        self.kernel.run_deferred()
        self.kernel.check()
        assert self.kernel.memory.charged_bytes_total == 0
        assert not [a for a in self.kernel.memory.accounts.values() if a.owner.kind == "map"]
        assert self.kernel.user(0).locked_vm_pages == 0


class _HashMachine(_Machine):
    """HASH, PERCPU_HASH: a dict bounded by max_entries, walked in bucket order."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, bytes] = {}

    def expect_update(self, key: bytes, flags: int) -> Errno | None:
        if self.unknown(flags):
            return Errno.EINVAL
        if flags == 1 and key in self.model:
            return Errno.EEXIST
        if flags == 2 and key not in self.model:
            return Errno.ENOENT
        if key not in self.model and len(self.model) == ENTRIES:
            return Errno.E2BIG
        return None

    def store(self, key: bytes, value: bytes) -> None:
        if not self.map.percpu_values:
            self.model.pop(key, None)  # replacing moves a key to the head of its bucket
        self.model[key] = value

    @rule(number=KEYS, value=VALUES, flags=FLAGS)
    def update(self, number: int, value: int, flags: int) -> None:
        key, stored = key_of(number), self.value_of(value)
        expected = self.expect_update(key, flags)
        found = self.answer(self.kernel.bpf.map_update_elem, key, stored, flags)
        assert found == expected
        if expected is None:
            self.store(key, stored)

    @rule(number=KEYS)
    def lookup(self, number: int) -> None:
        found = self.answer(self.kernel.bpf.map_lookup_elem, key_of(number))
        assert found == self.model.get(key_of(number), Errno.ENOENT)

    @rule(number=KEYS)
    def delete(self, number: int) -> None:
        found = self.answer(self.kernel.bpf.map_delete_elem, key_of(number))
        assert found == (None if self.model.pop(key_of(number), None) else Errno.ENOENT)

    @rule(number=KEYS)
    def lookup_and_delete(self, number: int) -> None:
        if not self.kernel.profile.hash_lookup_and_delete:
            return
        found = self.answer(self.kernel.bpf.map_lookup_and_delete_elem, key_of(number))
        assert found == self.model.pop(key_of(number), Errno.ENOENT)

    @rule()
    def walk(self) -> None:
        """Buckets ascending, within a bucket the newest first; the seed is zero."""
        newest_first = list(self.model)[::-1]
        expected = sorted(newest_first, key=lambda key: jhash(key, 0) & 7)
        keys: list[bytes] = []
        key: bytes | None = None
        while isinstance(key := self.answer(self.kernel.bpf.map_get_next_key, key), bytes):
            keys.append(key)
        assert key == Errno.ENOENT
        assert keys == expected

    @precondition(lambda self: self.kernel.profile.has_batch)
    @rule(numbers=st.lists(KEYS, max_size=8), value=VALUES)
    def update_batch(self, numbers: list[int], value: int) -> None:
        stored = self.value_of(value)
        expected, errno = 0, 0
        for number in numbers:
            if refusal := self.expect_update(key_of(number), 0):
                errno = int(refusal)
                break
            self.store(key_of(number), stored)
            expected += 1
        keys = b"".join(map(key_of, numbers))
        found = self.kernel.bpf.map_update_batch(
            self.task, self.fd, keys, stored * len(numbers), len(numbers)
        )
        assert (found.count, found.errno) == (expected, errno)

    @precondition(lambda self: self.kernel.profile.has_batch)
    @rule(numbers=st.lists(KEYS, max_size=4))
    def delete_batch(self, numbers: list[int]) -> None:
        expected, errno = 0, 0
        for number in numbers:
            if self.model.pop(key_of(number), None) is None:
                errno = int(Errno.ENOENT)
                break
            expected += 1
        keys = b"".join(map(key_of, numbers))
        found = self.kernel.bpf.map_delete_batch(self.task, self.fd, keys, len(numbers))
        assert (found.count, found.errno) == (expected, errno)

    @precondition(lambda self: self.kernel.profile.has_batch)
    @rule(room=st.integers(1, 8), delete=st.booleans())
    def read_in_batches(self, room: int, delete: bool) -> None:
        """Whole buckets in walking order; ENOSPC when the first does not fit, ENOENT at the end."""
        bpf = self.kernel.bpf
        call = bpf.map_lookup_and_delete_batch if delete else bpf.map_lookup_batch
        buckets: dict[int, list[bytes]] = {}
        for key in list(self.model)[::-1]:
            buckets.setdefault(jhash(key, 0) & 7, []).append(key)
        cursor: bytes | None = None
        seen: list[bytes] = []
        while True:
            result = call(self.task, self.fd, cursor, room)
            keys = [result.keys[i : i + 4] for i in range(0, len(result.keys), 4)]
            seen += keys
            cursor = result.out_batch
            if result.errno:
                break
        expected = [key for number in sorted(buckets) for key in buckets[number]]
        if result.errno == Errno.ENOSPC:
            assert any(len(keys) > room for keys in buckets.values())
            assert seen == expected[: len(seen)]
        else:
            assert result.errno == Errno.ENOENT
            assert seen == expected
        if delete:
            for key in seen:
                del self.model[key]

    @rule()
    def grace_periods_end(self) -> None:
        self.kernel.run_deferred()


class _LruMachine(_Machine):
    """LRU types: which keys stay is the algorithm's business, but what stays is right and bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[bytes, bytes] = {}

    def present(self) -> dict[bytes, bytes]:
        keys: dict[bytes, bytes] = {}
        key: bytes | None = None
        while isinstance(key := self.answer(self.kernel.bpf.map_get_next_key, key), bytes):
            keys[key] = self.answer(self.kernel.bpf.map_lookup_elem, key)
        return keys

    @rule(number=st.integers(0, 40), value=VALUES, flags=FLAGS, cpu=st.integers(0, CPUS - 1))
    def update(self, number: int, value: int, flags: int, cpu: int) -> None:
        self.task.cpu = cpu
        before = self.present()
        key, stored = key_of(number), self.value_of(value)
        found = self.answer(self.kernel.bpf.map_update_elem, key, stored, flags)
        after = self.present()
        if self.unknown(flags):
            assert found == Errno.EINVAL
        elif flags == 2 and key not in before:
            assert found == Errno.ENOENT
        elif found is None:
            self.written[key] = stored
            assert after[key] == stored
        elif flags == 2:
            # The new element is taken first, and making room for it may have evicted the old one.
            assert found == Errno.ENOENT
            assert key not in after
        else:
            assert (found, flags) == (Errno.EEXIST, 1)
            assert after[key] == before[key]
        assert set(after) - {key} <= set(before), "nothing appears that was not there"
        assert len(after) <= self.map.max_entries

    @rule(number=st.integers(0, 40))
    def delete(self, number: int) -> None:
        was_there = key_of(number) in self.present()
        found = self.answer(self.kernel.bpf.map_delete_elem, key_of(number))
        assert found == (None if was_there else Errno.ENOENT)

    @invariant()
    def values_are_the_last_written(self) -> None:
        for key, value in self.present().items():
            assert value == self.written[key]


class _ArrayMachine(_Machine):
    """ARRAY, PERCPU_ARRAY: a list of zeros that can only be written."""

    def __init__(self) -> None:
        super().__init__()
        self.model = [bytes(self.map.user_value_size)] * ENTRIES

    @rule(number=st.integers(0, ENTRIES + 1), value=VALUES, flags=FLAGS)
    def update(self, number: int, value: int, flags: int) -> None:
        found = self.answer(
            self.kernel.bpf.map_update_elem, key_of(number), self.value_of(value), flags
        )
        if self.unknown(flags):
            assert found == Errno.EINVAL
        elif number >= ENTRIES:
            assert found == Errno.E2BIG
        elif flags & 1:
            assert found == Errno.EEXIST
        else:
            assert found is None
            self.model[number] = self.value_of(value)

    @rule(number=st.integers(0, ENTRIES + 1))
    def lookup(self, number: int) -> None:
        found = self.answer(self.kernel.bpf.map_lookup_elem, key_of(number))
        assert found == (self.model[number] if number < ENTRIES else Errno.ENOENT)

    @rule(number=st.integers(0, ENTRIES + 1))
    def delete(self, number: int) -> None:
        found = self.answer(self.kernel.bpf.map_delete_elem, key_of(number))
        assert found == Errno.EINVAL

    @rule(number=st.integers(0, ENTRIES + 1))
    def next_key(self, number: int) -> None:
        found = self.answer(self.kernel.bpf.map_get_next_key, key_of(number))
        if number == ENTRIES - 1:
            assert found == Errno.ENOENT
        else:
            assert found == key_of(number + 1 if number < ENTRIES else 0)


class _QueueMachine(_Machine):
    """QUEUE, STACK: a bounded deque; BPF_EXIST drops the oldest."""

    def __init__(self) -> None:
        super().__init__()
        self.model: deque[bytes] = deque()
        self.newest_first = self.map.map_type is MapType.STACK

    @rule(value=VALUES, flags=st.sampled_from([0, 0, 1, 2, 3]))
    def push(self, value: int, flags: int) -> None:
        found = self.answer(self.kernel.bpf.map_update_elem, None, self.value_of(value), flags)
        if flags & 1 or flags > 2:
            assert found == Errno.EINVAL
            return
        if len(self.model) == ENTRIES and not flags:
            assert found == Errno.E2BIG
            return
        assert found is None
        if len(self.model) == ENTRIES:
            self.model.popleft()
        self.model.append(self.value_of(value))

    @rule(remove=st.booleans())
    def read(self, remove: bool) -> None:
        bpf = self.kernel.bpf
        call = bpf.map_lookup_and_delete_elem if remove else bpf.map_lookup_elem
        found = self.answer(call, None)
        if not self.model:
            assert found == Errno.ENOENT
            return
        assert found == self.model[-1 if self.newest_first else 0]
        if remove:
            self.model.pop() if self.newest_first else self.model.popleft()


class _LpmMachine(_Machine):
    """LPM_TRIE with one byte of data: a dict of prefixes, searched by brute force."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[tuple[int, int], tuple[int, bytes]] = {}  # -> (data as written, value)

    @staticmethod
    def key(prefix: int, data: int) -> bytes:
        return prefix.to_bytes(4, "little") + bytes([data])

    @staticmethod
    def canonical(prefix: int, data: int) -> tuple[int, int]:
        return prefix, data >> (8 - prefix) if prefix else 0

    @rule(prefix=st.integers(0, 9), data=VALUES, value=VALUES, flags=FLAGS)
    def update(self, prefix: int, data: int, value: int, flags: int) -> None:
        found = self.answer(
            self.kernel.bpf.map_update_elem, self.key(prefix, data), self.value_of(value), flags
        )
        profile = self.kernel.profile
        if flags > 2 or prefix > 8:
            assert found == Errno.EINVAL
            return
        name = self.canonical(prefix, data)
        if profile.lpm_ignores_update_flags:
            flags = 0
        full = len(self.model) == ENTRIES
        if full and profile.lpm_full_checked_first:
            assert found == Errno.ENOSPC
        elif flags == 1 and name in self.model:
            assert found == Errno.EEXIST
        elif flags == 2 and name not in self.model:
            assert found == Errno.ENOENT
        elif full and name not in self.model:
            assert found == Errno.ENOSPC
        else:
            assert found is None
            self.model[name] = (data, self.value_of(value))

    @rule(prefix=st.integers(0, 9), data=VALUES)
    def lookup(self, prefix: int, data: int) -> None:
        found = self.answer(self.kernel.bpf.map_lookup_elem, self.key(prefix, data))
        expected: Any = Errno.ENOENT
        for shorter in range(min(prefix, 8) + 1 if prefix <= 8 else 0):
            stored = self.model.get(self.canonical(shorter, data))
            if stored is not None:
                expected = stored[1]
        assert found == expected

    @rule(prefix=st.integers(0, 9), data=VALUES)
    def delete(self, prefix: int, data: int) -> None:
        found = self.answer(self.kernel.bpf.map_delete_elem, self.key(prefix, data))
        if prefix > 8:
            assert found == Errno.EINVAL
        else:
            gone = self.model.pop(self.canonical(prefix, data), None)
            assert found == (Errno.ENOENT if gone is None else None)

    @rule()
    def walk(self) -> None:
        """Post-order: what lies under a prefix before it, 0-branches first."""

        def order(name: tuple[int, int]) -> tuple[int, ...]:
            prefix, bits = name
            path = [bits >> (prefix - 1 - i) & 1 for i in range(prefix)]
            return (*path, 2)  # a prefix sorts behind everything that extends it

        expected = [
            self.key(name[0], self.model[name][0]) for name in sorted(self.model, key=order)
        ]
        keys: list[bytes] = []
        key: bytes | None = None
        while isinstance(key := self.answer(self.kernel.bpf.map_get_next_key, key), bytes):
            keys.append(key)
        assert keys == expected

    @rule()
    def grace_periods_end(self) -> None:
        self.kernel.run_deferred()


def _attr(map_type: MapType, flags: int = 0) -> MapAttr:
    return MapAttr(map_type, 4, 8, ENTRIES, flags)


CASES = {
    "hash": (_HashMachine, _attr(MapType.HASH, F_ZERO_SEED)),
    "hash-no-prealloc": (_HashMachine, _attr(MapType.HASH, F_ZERO_SEED | F_NO_PREALLOC)),
    "percpu-hash": (_HashMachine, _attr(MapType.PERCPU_HASH, F_ZERO_SEED)),
    "percpu-hash-no-prealloc": (
        _HashMachine,
        _attr(MapType.PERCPU_HASH, F_ZERO_SEED | F_NO_PREALLOC),
    ),
    "lru": (_LruMachine, _attr(MapType.LRU_HASH)),
    "lru-own-lists": (_LruMachine, _attr(MapType.LRU_HASH, F_NO_COMMON_LRU)),
    "lru-percpu": (_LruMachine, _attr(MapType.LRU_PERCPU_HASH)),
    "lru-percpu-own-lists": (_LruMachine, _attr(MapType.LRU_PERCPU_HASH, F_NO_COMMON_LRU)),
    "array": (_ArrayMachine, _attr(MapType.ARRAY)),
    "percpu-array": (_ArrayMachine, _attr(MapType.PERCPU_ARRAY)),
    "queue": (_QueueMachine, MapAttr(MapType.QUEUE, 0, 8, ENTRIES)),
    "stack": (_QueueMachine, MapAttr(MapType.STACK, 0, 8, ENTRIES)),
    "lpm": (_LpmMachine, MapAttr(MapType.LPM_TRIE, 5, 8, ENTRIES, F_NO_PREALLOC)),
}


@pytest.mark.slow
@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("name", CASES)
def test_random_operations_answer_as_the_model(name: str, profile: str) -> None:
    machine, attr = CASES[name]
    run_state_machine_as_test(type(name, (machine,), {"profile": profile, "attr": attr}))
