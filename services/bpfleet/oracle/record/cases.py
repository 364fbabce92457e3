"""New cases for the recordings: random and boundary attributes, random sequences of operations. Seeded.

A case is what a recording holds before a kernel has answered. Sequences stay within what a recording can fix: a walk
in order only where the order does not depend on the hash seed, no more than a handful of keys, so that hits, misses,
replacement and eviction all happen.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from bpfleet.abi.bpf import (
    F_CLONE,
    F_INNER_MAP,
    F_MMAPABLE,
    F_NO_COMMON_LRU,
    F_NO_PREALLOC,
    F_NUMA_NODE,
    F_PRESERVE_ELEMS,
    F_RDONLY,
    F_RDONLY_PROG,
    F_STACK_BUILD_ID,
    F_WRONLY,
    F_WRONLY_PROG,
    F_ZERO_SEED,
)

__all__ = ["random_creations", "random_sequences"]

Case: TypeAlias = dict[str, Any]
Operation: TypeAlias = dict[str, Any]

_CLASSES: Final = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_FLAGS: Final = (
    F_NO_PREALLOC, F_NO_COMMON_LRU, F_NUMA_NODE, F_RDONLY, F_WRONLY, F_STACK_BUILD_ID, F_ZERO_SEED,
    F_RDONLY_PROG, F_WRONLY_PROG, F_CLONE, F_MMAPABLE, F_PRESERVE_ELEMS, F_INNER_MAP,
)  # fmt: skip
_ENTRY_BUDGET_BYTES: Final = 12 << 20  # of one map, so that many copies fit a small machine

# Type: (key sizes or None for any, value sizes or None for any, flags every case has, flags that may be added)
_HASH_FLAGS: Final = (F_NO_PREALLOC, F_NUMA_NODE, F_ZERO_SEED, F_RDONLY_PROG, F_RDONLY, F_WRONLY)
_LRU_FLAGS: Final = (F_NO_COMMON_LRU, F_ZERO_SEED, F_NUMA_NODE)
_ARRAY_FLAGS: Final = (F_MMAPABLE, F_INNER_MAP, F_NUMA_NODE, F_RDONLY_PROG)
_Shape: TypeAlias = tuple[tuple[int, ...] | None, tuple[int, ...] | None, int, tuple[int, ...]]
_TYPES: Final[dict[str, _Shape]] = {
    "hash": (None, None, 0, _HASH_FLAGS),
    "percpu_hash": (None, None, 0, _HASH_FLAGS),
    "lru_hash": (None, None, 0, _LRU_FLAGS),
    "lru_percpu_hash": (None, None, 0, _LRU_FLAGS),
    "hash_of_maps": (None, (4,), 0, (F_NO_PREALLOC, F_ZERO_SEED)),
    "array": ((4,), None, 0, _ARRAY_FLAGS),
    "percpu_array": ((4,), None, 0, (F_RDONLY_PROG, F_WRONLY)),
    "prog_array": ((4,), (4,), 0, (F_RDONLY,)),
    "perf_event_array": ((4,), (4,), 0, (F_PRESERVE_ELEMS,)),
    "cgroup_array": ((4,), (4,), 0, ()),
    "array_of_maps": ((4,), (4,), 0, (F_NUMA_NODE,)),
    "lpm_trie": (tuple(range(5, 37)), None, F_NO_PREALLOC, (F_NUMA_NODE, F_RDONLY)),
    "queue": ((0,), None, 0, (F_NUMA_NODE,)),
    "stack": ((0,), None, 0, (F_NUMA_NODE,)),
    "bloom_filter": ((0,), None, 0, (F_ZERO_SEED, F_NUMA_NODE)),
    "ringbuf": ((0,), (0,), 0, (F_NUMA_NODE,)),
    "user_ringbuf": ((0,), (0,), 0, ()),
    "stack_trace": ((4,), tuple(range(8, 1024, 8)), 0, (F_NUMA_NODE,)),
    "devmap": ((4,), (4, 8), 0, (F_NUMA_NODE,)),
    "devmap_hash": ((4,), (4, 8), 0, (F_NUMA_NODE,)),
    "cpumap": ((4,), (4, 8), 0, (F_NUMA_NODE,)),
    "xskmap": ((4,), (4,), 0, (F_NUMA_NODE,)),
    "sockmap": ((4,), (4, 8), 0, (F_NUMA_NODE,)),
    "sockhash": (None, (4, 8), 0, (F_NUMA_NODE,)),
    "reuseport_sockarray": ((4,), (4, 8), 0, ()),
    "cgroup_storage": ((8, 16), None, 0, (F_RDONLY_PROG,)),
    "percpu_cgroup_storage": ((8, 16), None, 0, ()),
    "sk_storage": ((4,), None, F_NO_PREALLOC, (F_CLONE,)),
    "inode_storage": ((4,), None, F_NO_PREALLOC, (F_CLONE,)),
    "task_storage": ((4,), None, F_NO_PREALLOC, (F_CLONE,)),
    "cgrp_storage": ((4,), None, F_NO_PREALLOC, (F_CLONE,)),
    "arena": ((0,), (0,), F_MMAPABLE, ()),
    "insn_array": ((4,), (16,), 0, ()),
}
_STORAGES: Final = ("sk_storage", "inode_storage", "task_storage", "cgrp_storage")
_WITHOUT_ENTRIES: Final = (*_STORAGES, "cgroup_storage", "percpu_cgroup_storage")
_PER_CPU: Final = ("percpu_hash", "percpu_array", "lru_percpu_hash", "percpu_cgroup_storage")


def random_creations(seed: int, count: int) -> Iterator[Case]:
    """``count`` cases of create-*.jsonl. One in five has an attribute that the type may not like."""
    dice = random.Random(seed)
    names = tuple(_TYPES)
    for number in range(count):
        yield _creation(dice, f"R{seed:x}-{number}", names[number % len(names)])


def _creation(dice: random.Random, name: str, kind: str) -> Case:
    keys, values, flags, optional = _TYPES[kind]
    case: Case = {"id": name, "type": kind}
    case["ks"] = dice.choice(keys) if keys else _boundary(dice, 1, 512)
    case["vs"] = dice.choice(values) if values else _boundary(dice, 1, _largest_value(dice, kind))
    case["me"] = _entries(dice, kind, case["ks"] + case["vs"] + 64)
    case["fl"] = flags | sum({dice.choice(optional) for _ in range(dice.randrange(3)) if optional})
    if kind.endswith("_of_maps"):
        case["inner"] = dice.choice(("array", "hash"))
    if dice.random() < 0.2:
        _spoil(dice, case)
    if kind in _STORAGES:
        case["btf"] = case["vs"]
    if kind == "bloom_filter" and dice.random() < 0.4:
        case["extra"] = dice.randrange(16)
    return case


def _largest_value(dice: random.Random, kind: str) -> int:
    if kind in _PER_CPU:
        return dice.choice((64, 512, 32768))
    return dice.choice((64, 1024, 8192, 65536))


def _boundary(dice: random.Random, lowest: int, highest: int) -> int:
    """A number around a size class, or any number of the range."""
    if dice.random() < 0.5:
        return dice.randint(lowest, highest)
    near = dice.choice([size for size in _CLASSES if size <= highest] or [highest])
    return min(max(near + dice.randint(-9, 9), lowest), highest)


def _entries(dice: random.Random, kind: str, element_bytes: int) -> int:
    if kind in _WITHOUT_ENTRIES:
        return 0
    if kind in ("ringbuf", "user_ringbuf"):
        return 4096 << dice.randrange(9)
    if kind == "arena":
        return dice.choice((1, 2, 100, 5000, 1 << 20))
    most = max(_ENTRY_BUDGET_BYTES // element_bytes, 1)
    if kind == "cpumap":
        most = min(most, 8192)
    if kind in _PER_CPU:
        most = min(most, 2000)
    near = 1 << dice.randrange(17)
    wanted = near + dice.randint(-2, 2) if dice.random() < 0.6 else dice.randint(1, 3000)
    return min(max(wanted, 1), most)


def _spoil(dice: random.Random, case: Case) -> None:
    change: Callable[[], None] = dice.choice(
        (
            lambda: case.update(fl=case["fl"] ^ dice.choice(_FLAGS)),
            lambda: case.update(ks=dice.choice((0, 1, 3, 4, 5, 8, 16, 260, 261, 512, 513))),
            lambda: case.update(vs=dice.choice((0, 1, 3, 4, 8, 16, 32768, 32769, 65407, 65408))),
            lambda: case.update(me=dice.choice((0, 1, 3, 4095, 4096, 8192, 8193))),
            lambda: case.update(extra=dice.choice((1, 15, 16))),
        )
    )
    change()


def random_sequences(seed: int, count: int, *, length: int = 24) -> Iterator[Case]:
    """``count`` cases of errno.jsonl, of ``length`` operations each."""
    dice = random.Random(seed)
    makers = tuple(_SEQUENCES.items())
    for number in range(count):
        kind, (shape, chooser) = makers[number % len(makers)]
        create = _shaped(dice, kind, shape)
        operations = [*_before(kind), create]
        operations += [chooser(dice, create) for _ in range(length)]
        if create["fl"] & (F_RDONLY | F_WRONLY) == 0:
            operations.append({"op": "info"})
        yield {
            "id": f"S{seed:x}-{number}",
            "group": "random",
            "type": kind,
            "name": f"seed {seed} number {number}",
            "ops": operations,
        }


def _before(kind: str) -> list[Operation]:
    """What the elements of a type refer to, by name."""
    if kind in _REFERRED:
        return [{"op": "object", "m": name, "kind": made} for name, made in _REFERRED[kind].items()]
    if not kind.endswith("_of_maps"):
        return []
    array = {"op": "create", "type": "array", "ks": 4, "vs": 8, "me": 4}
    others = [{**array, "m": "i2"}, {**array, "m": "i3", "me": 8}]
    return [{**array, "m": "i1"}, *others, {"op": "object", "m": "x", "kind": "efd"}]


def _shaped(dice: random.Random, kind: str, shape: Callable[[random.Random], Case]) -> Operation:
    attributes: Operation = {"op": "create", "type": kind, **shape(dice)}
    if dice.random() < 0.08:
        attributes["fl"] |= dice.choice((F_RDONLY, F_WRONLY))
    return attributes


def _table_shape(dice: random.Random) -> Case:
    flags = dice.choice((0, F_NO_PREALLOC)) | F_ZERO_SEED
    return {"ks": dice.choice((1, 2, 4, 7, 8, 13)), "vs": dice.choice((1, 4, 8, 13)),
            "me": dice.choice((1, 2, 3, 5, 8, 30)), "fl": flags}  # fmt: skip


def _lru_shape(dice: random.Random) -> Case:
    flags = dice.choice((0, 0, F_NO_COMMON_LRU)) | F_ZERO_SEED
    entries = dice.choice((1, 2, 3, 4, 7, 16, 60, 130, 300, 1000))
    return {"ks": 4, "vs": 8, "me": entries, "fl": flags}


def _array_shape(dice: random.Random) -> Case:
    return {"ks": 4, "vs": dice.choice((1, 4, 8, 12)), "me": dice.choice((1, 3, 5, 9)), "fl": 0}


def _lpm_shape(dice: random.Random) -> Case:
    return {"ks": dice.choice((5, 6, 8)), "vs": 4, "me": dice.choice((1, 3, 6, 20)), "fl": 1}


def _queue_shape(dice: random.Random) -> Case:
    return {"ks": 0, "vs": dice.choice((1, 4, 8)), "me": dice.choice((1, 2, 3, 6)), "fl": 0}


def _outer_array_shape(dice: random.Random) -> Case:
    return {"ks": 4, "vs": 4, "me": dice.choice((1, 3, 5)), "fl": 0, "inner": "i1"}


def _outer_hash_shape(dice: random.Random) -> Case:
    return {"ks": 4, "vs": 4, "me": dice.choice((1, 2, 4)), "fl": dice.choice((0, 1)) | F_ZERO_SEED,
            "inner": "i1"}  # fmt: skip


def _devmap_shape(dice: random.Random) -> Case:
    return {"ks": 4, "vs": dice.choice((4, 8)), "me": dice.choice((1, 3, 5)), "fl": 0}


def _key(dice: random.Random, create: Operation) -> str:
    number = dice.randrange(create["me"] + 3) if create["me"] < 16 else dice.randrange(40)
    size: int = create["ks"]
    return number.to_bytes(max(size, 8), "little")[:size].hex()


def _value(dice: random.Random, create: Operation) -> str:
    return bytes([dice.randrange(256)] * create["vs"]).hex()


def _update_flags(dice: random.Random) -> Operation:
    flag = dice.choice((0, 0, 0, 0, 1, 1, 2, 2, 3, 4))
    return {"fl": flag} if flag else {}


def _table_operation(dice: random.Random, create: Operation) -> Operation:
    roll = dice.random()
    if roll < 0.4:
        key, value = _key(dice, create), _value(dice, create)
        return {"op": "update", "k": key, "v": value, **_update_flags(dice)}
    if roll < 0.5:
        return {"op": "delete", "k": _key(dice, create)}
    if roll < 0.6:
        return {"op": "lookup", "k": _key(dice, create)}
    if roll < 0.66:
        return {"op": "lookup_delete", "k": _key(dice, create)}
    if roll < 0.72:
        return {"op": "next_key", "k": dice.choice((None, _key(dice, create)))}
    if roll < 0.8:
        return {"op": "walk", "ordered": 1}
    return _batch(dice, create)


def _batch(dice: random.Random, create: Operation) -> Operation:
    keys = [_key(dice, create) for _ in range(dice.randrange(1, 5))]
    kind = dice.randrange(5)
    if kind == 0:
        return {"op": "update_batch", "ks": keys, "vs": [_value(dice, create) for _ in keys]}
    if kind == 1:
        return {"op": "delete_batch", "ks": keys}
    if kind == 2:
        return {"op": "lookup_delete_batch", "inb": None, "count": dice.choice((1, 2, 100))}
    count = dice.choice((1, 2, 3, 8, 100))
    if kind == 3:
        return {"op": "lookup_batch", "inb": None, "count": count, "ordered": 1}
    cursor = dice.randrange(6).to_bytes(4, "little").hex()
    return {"op": "lookup_batch", "inb": cursor, "count": count, "ordered": 1}


def _lru_operation(dice: random.Random, create: Operation) -> Operation:
    roll = dice.random()
    if roll < 0.35:
        start, count = dice.randrange(50), dice.choice((1, 3, 20, 64, 130, 200))
        return {"op": "fill", "start": start * 7, "count": count, **_fill_flags(dice)}
    if roll < 0.45:
        return {"op": "count"}
    if roll < 0.55:
        return {"op": "walk"}
    return _table_operation(dice, create)


def _fill_flags(dice: random.Random) -> Operation:
    flag = dice.choice((0, 0, 0, 1, 2))
    return {"fl": flag} if flag else {}


def _array_operation(dice: random.Random, create: Operation) -> Operation:
    if dice.random() < 0.05:
        return {"op": "freeze"}
    return _table_operation(dice, create)


def _lpm_operation(dice: random.Random, create: Operation) -> Operation:
    roll = dice.random()
    key = _prefix(dice, create["ks"])
    if roll < 0.45:
        return {"op": "update", "k": key, "v": _value(dice, create), **_update_flags(dice)}
    if roll < 0.6:
        return {"op": "delete", "k": key}
    if roll < 0.75:
        return {"op": "lookup", "k": key}
    if roll < 0.85:
        return {"op": "next_key", "k": dice.choice((None, key))}
    return {"op": "walk", "ordered": 1}


def _prefix(dice: random.Random, key_size: int) -> str:
    bits = 8 * (key_size - 4)
    length = dice.choice((0, 1, 3, 7, 8, bits - 1, bits, bits, bits + 1))
    data = bytes(dice.choice((0, 1, 0x80, 0xC0, 0xFF)) for _ in range(key_size - 4))
    return (length.to_bytes(4, "little") + data).hex()


def _queue_operation(dice: random.Random, create: Operation) -> Operation:
    roll = dice.random()
    if roll < 0.5:
        return {"op": "update", "k": None, "v": _value(dice, create), **_update_flags(dice)}
    if roll < 0.75:
        return {"op": "lookup_delete", "k": None}
    if roll < 0.95:
        return {"op": "lookup", "k": None}
    return {"op": dice.choice(("delete", "next_key")), "k": None}


def _outer_operation(dice: random.Random, create: Operation) -> Operation:
    roll = dice.random()
    key = dice.randrange(create["me"] + 2).to_bytes(4, "little").hex()
    if roll < 0.45:
        inner = {"fd": dice.choice(("i1", "i2", "i1", "i2", "i3", "x")), "size": 4}
        return {"op": "update", "k": key, "v": inner, **_update_flags(dice)}
    if roll < 0.6:
        return {"op": "lookup", "k": key}
    if roll < 0.75:
        return {"op": "delete", "k": key}
    if roll < 0.85:
        return {"op": "next_key", "k": dice.choice((None, key))}
    return {"op": "walk", "ordered": 1}


def _devmap_operation(dice: random.Random, create: Operation) -> Operation:
    roll = dice.random()
    key = dice.randrange(create["me"] + 3).to_bytes(4, "little").hex()
    if roll < 0.5:
        device = dice.choice((1, 1, 1, 1, 0, 99)).to_bytes(4, "little")
        value = (device + b"\xff" * 4)[: create["vs"]].hex()
        return {"op": "update", "k": key, "v": value, **_update_flags(dice)}
    if roll < 0.65:
        return {"op": "lookup", "k": key}
    if roll < 0.8:
        return {"op": "delete", "k": key}
    return {"op": "walk", "ordered": 1}


_SOCKETS: Final = {
    "e": "tcp_est", "f": "tcp_est", "l": "tcp_listen", "u": "udp", "b": "udp_bound", "p": "unix_pair",
    "x": "efd",
}  # fmt: skip
_REFERRED: Final[dict[str, dict[str, str]]] = {
    "sockmap": _SOCKETS,
    "sockhash": _SOCKETS,
    "reuseport_sockarray": {"r": "udp_reuse", "s": "udp_reuse", "t": "udp_reuse", **_SOCKETS},
    "prog_array": {"o": "prog", "q": "prog", "x": "efd"},
    "perf_event_array": {"o": "perf", "q": "perf", "x": "efd"},
    "cgroup_array": {"o": "cgroup", "x": "efd", "p": "prog"},
    "xskmap": {"o": "xsk", "q": "xsk", "u": "udp", "x": "efd"},
    "sk_storage": {"o": "udp", "q": "tcp", "x": "efd"},
    "inode_storage": {"o": "file", "q": "file", "x": "efd"},
    "task_storage": {"o": "pidfd", "q": "pidfd", "x": "efd"},
    "cgrp_storage": {"o": "cgroup", "q": "cgroup", "x": "file"},
}


def _referring_shape(kind: str) -> Callable[[random.Random], Case]:
    values = _TYPES[kind][1] or (4,)

    def shape(dice: random.Random) -> Case:
        return {"ks": 4, "vs": dice.choice(values), "me": dice.choice((1, 3, 5)), "fl": 0}

    return shape


def _referring_operation(kind: str) -> Callable[[random.Random, Operation], Operation]:
    names = tuple(_REFERRED[kind])

    def operation(dice: random.Random, create: Operation) -> Operation:
        roll = dice.random()
        key = dice.randrange(create["me"] + 2).to_bytes(4, "little").hex()
        if roll < 0.45:
            value = {"fd": dice.choice(names), "size": create["vs"]}
            return {"op": "update", "k": key, "v": value, **_update_flags(dice)}
        return _reading(dice, key, roll)

    return operation


def _reading(dice: random.Random, key: Any, roll: float) -> Operation:
    """An operation that takes a key alone; ``roll`` is between 0.45 and 1."""
    if roll < 0.6:
        return {"op": "lookup", "k": key}
    if roll < 0.78:
        return {"op": "delete", "k": key}
    if roll < 0.85:
        return {"op": "next_key", "k": dice.choice((None, key))}
    if roll < 0.9:
        return {"op": "lookup_delete", "k": key}
    if roll < 0.97:
        return {"op": "lookup_batch", "inb": None, "count": 2}
    return {"op": "freeze"}


def _storage_shape(dice: random.Random) -> Case:
    size = dice.choice((1, 4, 8, 100))
    return {"ks": 4, "vs": size, "me": 0, "fl": dice.choice((1, 1, 0x201)), "btf": size}


def _storage_operation(kind: str) -> Callable[[random.Random, Operation], Operation]:
    names = tuple(_REFERRED[kind])

    def operation(dice: random.Random, create: Operation) -> Operation:
        roll = dice.random()
        key: Any = {"fd": dice.choice((*names, "o", "q")), "size": 4}
        if dice.random() < 0.05:
            key = dice.choice((None, "ffffffff", "0f270000"))
        if roll < 0.45:
            return {"op": "update", "k": key, "v": _value(dice, create), **_update_flags(dice)}
        if roll > 0.78:
            roll = max(roll, 0.85)  # next_key takes no descriptor
        return _reading(dice, key, roll)

    return operation


def _bloom_shape(dice: random.Random) -> Case:
    return {"ks": 0, "vs": dice.choice((1, 4, 8, 11)), "me": dice.choice((1, 4, 30)),
            "fl": F_ZERO_SEED, "extra": dice.choice((0, 1, 3, 15))}  # fmt: skip


def _bloom_operation(dice: random.Random, create: Operation) -> Operation:
    value = bytes([dice.randrange(40)] * create["vs"]).hex()
    if dice.random() < 0.3:
        return {"op": "update", "k": None, "v": value, **_update_flags(dice)}
    return {"op": "lookup", "k": None, "v": value}


_Maker: TypeAlias = tuple[
    Callable[[random.Random], Case], Callable[[random.Random, Operation], Operation]
]
_SEQUENCES: Final[dict[str, _Maker]] = {
    "hash": (_table_shape, _table_operation),
    "lru_hash": (_lru_shape, _lru_operation),
    "percpu_hash": (_table_shape, _table_operation),
    "lpm_trie": (_lpm_shape, _lpm_operation),
    "lru_percpu_hash": (_lru_shape, _lru_operation),
    "array": (_array_shape, _array_operation),
    "percpu_array": (_array_shape, _array_operation),
    "queue": (_queue_shape, _queue_operation),
    "stack": (_queue_shape, _queue_operation),
    "hash_of_maps": (_outer_hash_shape, _outer_operation),
    "array_of_maps": (_outer_array_shape, _outer_operation),
    "devmap": (_devmap_shape, _devmap_operation),
    "devmap_hash": (_devmap_shape, _devmap_operation),
    "bloom_filter": (_bloom_shape, _bloom_operation),
    **{
        kind: (_referring_shape(kind), _referring_operation(kind))
        for kind in _REFERRED
        if kind not in _STORAGES
    },
    **{kind: (_storage_shape, _storage_operation(kind)) for kind in _STORAGES},
}
