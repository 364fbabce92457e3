"""A batch leaves a map, its order and every charge exactly as its single calls would."""

from random import Random

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, F_ZERO_SEED, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import Kernel, KernelError, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.jhash import jhash, jhash_many
from bpfleet.kernel.proc.task import Task

ENTRIES = 220
KINDS = {
    "hash": (MapType.HASH, F_ZERO_SEED),
    "hash without preallocation": (MapType.HASH, F_ZERO_SEED | F_NO_PREALLOC),
    "per-CPU hash": (MapType.PERCPU_HASH, F_ZERO_SEED | F_NO_PREALLOC),
    "LRU hash": (MapType.LRU_HASH, F_ZERO_SEED),
}


class Side:
    """One kernel with one map; ``batches`` says how it is asked."""

    def __init__(self, profile: str, kind: str, *, batches: bool) -> None:
        self.kernel = Kernel(profile_named(profile), possible_cpus=2)
        self.kernel.mkdir("/group")
        self.task: Task = self.kernel.spawn(cgroup="/group", memlock=(RLIM_INFINITY,) * 2)
        map_type, flags = KINDS[kind]
        self.fd = self.kernel.bpf.map_create(self.task, MapAttr(map_type, 8, 8, ENTRIES, flags)).fd
        self.value_bytes = 16 if map_type is MapType.PERCPU_HASH else 8
        self.batches = batches

    def update(self, keys: list[bytes], fill: int) -> tuple[int, int]:
        values = [
            (fill + n).to_bytes(4, "little") * (self.value_bytes // 4) for n in range(len(keys))
        ]
        bpf, fd = self.kernel.bpf, self.fd
        if self.batches:
            done = bpf.map_update_batch(self.task, fd, b"".join(keys), b"".join(values), len(keys))
            return done.count, done.errno
        for number, (key, value) in enumerate(zip(keys, values, strict=True)):
            try:
                bpf.map_update_elem(self.task, fd, key, value)
            except KernelError as error:
                return number, int(error.errno)
        return len(keys), 0

    def delete(self, keys: list[bytes]) -> tuple[int, int]:
        if self.batches:
            done = self.kernel.bpf.map_delete_batch(self.task, self.fd, b"".join(keys), len(keys))
            return done.count, done.errno
        for number, key in enumerate(keys):
            try:
                self.kernel.bpf.map_delete_elem(self.task, self.fd, key)
            except KernelError as error:
                return number, int(error.errno)
        return len(keys), 0

    def walk(self) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        key: bytes | None = None
        while True:
            try:
                key = self.kernel.bpf.map_get_next_key(self.task, self.fd, key)
            except KernelError:
                return found
            found.append((key, self.kernel.bpf.map_lookup_elem(self.task, self.fd, key)))

    def walk_in_batches(self, count: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        cursor: bytes | None = None
        while True:
            part = self.kernel.bpf.map_lookup_batch(self.task, self.fd, cursor, count)
            assert part.errno in (0, Errno.ENOENT)
            width = self.value_bytes
            for number in range(part.count):
                value = part.values[number * width : (number + 1) * width]
                found.append((part.keys[number * 8 : number * 8 + 8], value))
            if part.errno:
                return found
            cursor = part.out_batch

    def state(self) -> list[object]:
        kernel = self.kernel
        return [kernel.ledger(), kernel.cgroup("/group").memcg.usage_bytes, kernel.ram.used_bytes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", ["max", "2M"])
@pytest.mark.parametrize("profile", ["5.11", "6.1", "6.12"])
def test_random_churn_in_batches_and_one_by_one_ends_the_same(profile, limit, kind):
    random = Random(f"{profile} {limit} {kind}")
    sides = [Side(profile, kind, batches=True), Side(profile, kind, batches=False)]
    for side in sides:
        if limit != "max":
            usage = side.kernel.cgroup("/group").memcg.usage_bytes
            side.kernel.write_file("/group", "memory.max", str(usage + 8 * 4096))
    names = [random.randbytes(8) for _ in range(300)]
    for step in range(60):
        start = random.randrange(250)
        count = random.choice((1, 7, 50))
        keys = names[start : start + count]
        choice = random.random()
        if choice < 0.2:
            keys = [random.choice(names) for _ in keys]  # some of them twice
        deletes = random.random() < 0.4
        answers = {side.delete(keys) if deletes else side.update(keys, step) for side in sides}
        if random.random() < 0.3:
            for side in sides:
                side.kernel.run_deferred()
        if random.random() < 0.5:
            walked = sides[1].walk()
            assert sides[0].walk() == walked
            assert sides[0].walk_in_batches(random.choice((16, 40, 400))) == walked
        assert len(answers) == 1
        assert sides[0].state() == sides[1].state()
    for side in sides:
        side.kernel.check()


@pytest.mark.parametrize("length", [1, 3, 4, 8, 12, 13, 24, 25, 40])
def test_hashing_many_keys_at_once_gives_what_each_alone_gives(length):
    random = Random(length)
    keys = [random.randbytes(length) for _ in range(40)] + [bytes(length), b"\xff" * length]
    for seed in (0, 1, 0xFFFFFFFF, random.getrandbits(32)):
        assert list(jhash_many(keys, seed)) == [jhash(key, seed) for key in keys]
