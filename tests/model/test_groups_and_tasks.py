"""Random trees of cgroups with limits, users, processes, page cache and maps.

A model the size of a dict predicts every answer about the tree; the kernel's named invariants are checked after each
step; a second kernel that does the same must have the same history; at the end nothing may be left.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bpfleet.abi.bpf import F_NO_PREALLOC, Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError, TaskKilled, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from tests.kernels import ALL, read_pages, write_tmpfs

MB = 1 << 20
KILLED = "killed"
NAMES = ["x", "y"]
DEPTH = 3
MAPS = [
    MapAttr(MapType.ARRAY, 4, 64, 4000),
    MapAttr(MapType.HASH, 4, 8, 2000),
    MapAttr(MapType.HASH, 4, 64, 4000, map_flags=F_NO_PREALLOC),
    MapAttr(MapType.PERCPU_ARRAY, 4, 64, 500),
    MapAttr(MapType.RINGBUF, 0, 0, 1 << 18),
]
LIMIT_FILES = ["memory.max", "memory.high", "memory.low", "memory.min", "memory.swap.max"]
where = st.integers(0, 15)
sizes = st.integers(1, 3 * MB)
who = st.integers(0, 7)


@dataclass
class Group:
    """What the model knows of a cgroup."""

    subtree: bool = False
    pids: set[int] = field(default_factory=set)


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


class Groups(RuleBasedStateMachine):
    """Two kernels in step, and a model of the directory tree."""

    profile = "6.12"
    swap_bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self.kernels = [
            Kernel(
                profile_named(self.profile),
                possible_cpus=2,
                ram_bytes=64 * MB,
                swap_bytes=self.swap_bytes,
            )
            for _ in range(2)
        ]
        self.groups = {"/": Group(subtree=True)}
        for path in ("/a", "/b", "/a/x", "/a/y"):
            for kernel in self.kernels:
                kernel.mkdir(path)
            self.groups[path] = Group()
        self.groups["/a"].subtree = True
        for path, size in (("/a", "4M"), ("/a/y", "2M"), ("/b", "1M")):
            for kernel in self.kernels:
                kernel.write_file(path, "memory.max", size)
        for path in ("/a/x", "/a/y", "/b"):
            pids = {kernel.spawn(cgroup=path, comm=path).pid for kernel in self.kernels}
            self.groups[path].pids |= pids

    @property
    def kernel(self) -> Kernel:
        return self.kernels[0]

    def answer(self, call: Callable[[Kernel], Any]) -> Any:
        """What both kernels answer: the result, an errno, or that the caller was killed."""
        answers = []
        for kernel in self.kernels:
            try:
                answers.append(call(kernel))
            except TaskKilled:
                answers.append(KILLED)
            except KernelError as refused:
                answers.append(refused.errno)
        assert answers[0] == answers[1]
        return answers[0]

    def pid(self, number: int) -> int:
        tasks = self.kernel.tasks()
        return tasks[number % len(tasks)].pid if tasks else 1

    def map_fd(self, number: int, which: int) -> tuple[int, int]:
        """A process and one of its descriptors, if it has any."""
        pid = self.pid(number)
        tasks = self.kernel.tasks()
        fds = list(self.kernel.task(pid).fds) if tasks else []
        return pid, fds[which % len(fds)] if fds else 3

    def path(self, number: int) -> str:
        """One of the directories there are, the root excepted; sometimes one that is gone."""
        known = [path for path in self.groups if path != "/"]
        return known[number % len(known)] if known and number else "/gone"

    def children(self, path: str) -> list[str]:
        return [other for other in self.groups if other != "/" and parent_of(other) == path]

    def has_memory(self, path: str) -> bool:
        return path == "/" or self.groups[parent_of(path)].subtree

    def forget_the_dead(self) -> None:
        alive = {task.pid for task in self.kernel.tasks()}
        for group in self.groups.values():
            group.pids &= alive

    # -- the tree ----------------------------------------------------------------------------------------------------

    @rule(number=where, name=st.sampled_from(NAMES))
    def mkdir(self, number: int, name: str) -> None:
        above = self.path(number)
        if above.count("/") >= DEPTH:
            above = ""
        path = f"{above}/{name}"
        found = self.answer(lambda kernel: kernel.mkdir(path, delegate=False).path)
        if parent_of(path) not in self.groups:
            assert found is Errno.ENOENT
        elif path in self.groups:
            assert found is Errno.EEXIST
        elif found is not Errno.ENOMEM:  # its own structures may not fit the parent's limit
            assert found == path
            self.groups[path] = Group()

    @rule(number=where)
    def rmdir(self, number: int) -> None:
        path = self.path(number)
        self.forget_the_dead()
        found = self.answer(lambda kernel: kernel.rmdir(path))
        if path not in self.groups:
            assert found is Errno.ENOENT
        elif self.groups[path].pids or self.children(path):
            assert found is Errno.EBUSY
        else:
            assert found is None
            del self.groups[path]

    @rule(number=where, enable=st.booleans())
    def subtree_control(self, number: int, enable: bool) -> None:
        path = self.path(number)
        self.forget_the_dead()
        text = "+memory" if enable else "-memory"
        found = self.answer(lambda kernel: kernel.write_file(path, "cgroup.subtree_control", text))
        group = self.groups.get(path)
        if group is None:
            assert found is Errno.ENOENT
        elif group.subtree is enable:
            assert found == len(text)
        elif enable and not self.has_memory(path):
            assert found is Errno.ENOENT
        elif group.pids if enable else any(self.groups[c].subtree for c in self.children(path)):
            assert found is Errno.EBUSY
        elif found is not Errno.ENOMEM:
            assert found == len(text)
            group.subtree = enable

    @rule(number=where, name=st.sampled_from(LIMIT_FILES), value=st.integers(0, 4 * MB))
    def limit(self, number: int, name: str, value: int) -> None:
        path = self.path(number)
        found = self.answer(lambda kernel: kernel.write_file(path, name, str(value)))
        if path not in self.groups or not self.has_memory(path):
            assert found is Errno.ENOENT
        else:
            assert found == len(str(value))
            assert self.kernel.read_file(path, name) == f"{value >> 12 << 12}\n"

    @rule(number=where)
    def unlimit(self, number: int) -> None:
        path = self.path(number)
        self.answer(lambda kernel: kernel.write_file(path, "memory.max", "max"))
        self.answer(lambda kernel: kernel.write_file(path, "memory.high", "max"))

    @rule(number=where, on=st.booleans())
    def oom_group(self, number: int, on: bool) -> None:
        path = self.path(number)
        self.answer(lambda kernel: kernel.write_file(path, "memory.oom.group", str(int(on))))

    @rule(number=where, size=sizes)
    def reclaim(self, number: int, size: int) -> None:
        path = self.path(number)
        self.answer(lambda kernel: kernel.write_file(path, "memory.reclaim", str(size)))

    # -- processes ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.kernel.tasks()) < 8)
    @rule(number=where, uid=st.integers(0, 2), adj=st.sampled_from([0, 0, 500, -999, -1000]))
    def spawn(self, number: int, uid: int, adj: int) -> None:
        path = self.path(number)
        found = self.answer(
            lambda kernel: (
                kernel.spawn(
                    cgroup=path,
                    uid=uid,
                    caps=frozenset({Capability.SYS_ADMIN, Capability.BPF}),
                    memlock=(2 * MB, 4 * MB),
                    oom_score_adj=adj,
                    cpu=uid % 2,
                ).pid
            )
        )
        if path not in self.groups:
            assert found is Errno.ENOENT
        elif self.groups[path].subtree:
            assert found is Errno.EBUSY
        else:
            self.groups[path].pids.add(found)

    @rule(number=who, to=where)
    def move(self, number: int, to: int) -> None:
        pid, path = self.pid(number), self.path(to)
        found = self.answer(lambda kernel: kernel.write_file(path, "cgroup.procs", str(pid)))
        if path not in self.groups:
            assert found is Errno.ENOENT
        elif not self.kernel.tasks():
            assert found is Errno.ESRCH
        elif self.groups[path].subtree:
            assert found is Errno.EBUSY
        else:
            assert found == len(str(pid))
            for group in self.groups.values():
                group.pids.discard(pid)
            self.groups[path].pids.add(pid)

    @precondition(lambda self: len(self.kernel.tasks()) > 2)
    @rule(number=who)
    def exit(self, number: int) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: kernel.exit(pid))

    @precondition(lambda self: len(self.kernel.tasks()) > 5)
    @rule(number=where)
    def kill_all(self, number: int) -> None:
        path = self.path(number)
        self.answer(lambda kernel: kernel.write_file(path, "cgroup.kill", "1"))

    @rule(number=who, soft=st.integers(0, 6 * MB))
    def prlimit(self, number: int, soft: int) -> None:
        pid = self.pid(number)
        found = self.answer(lambda kernel: kernel.prlimit(pid, "memlock", soft, max(soft, 4 * MB)))
        assert found in (None, Errno.ESRCH, Errno.EPERM)

    @rule(number=who, uid=st.integers(0, 2))
    def setresuid(self, number: int, uid: int) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: kernel.setresuid(pid, ruid=uid))

    # -- memory ------------------------------------------------------------------------------------------------------

    @rule(number=who, size=sizes, shared=st.booleans())
    def touch(self, number: int, size: int, shared: bool) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: kernel.touch(pid, size, shared=shared))

    @rule(number=who, size=sizes)
    def release(self, number: int, size: int) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: kernel.release(pid, size))

    @rule(number=who, size=sizes, file=st.sampled_from(["/f", "/g"]))
    def read_pages(self, number: int, size: int, file: str) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: read_pages(kernel, pid, file, size))

    @rule(number=who, size=sizes, file=st.sampled_from(["/t", "/u"]))
    def write_tmpfs(self, number: int, size: int, file: str) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: write_tmpfs(kernel, pid, file, size))

    @rule(file=st.sampled_from(["/t", "/u"]))
    def unlink_tmpfs(self, file: str) -> None:
        self.answer(lambda kernel: kernel.page_cache.unlink_tmpfs(file))

    @rule(number=who, attr=st.sampled_from(MAPS))
    def create_map(self, number: int, attr: MapAttr) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: kernel.bpf.map_create(kernel.task(pid), attr).fd)

    @rule(number=who, which=who, pin=st.sampled_from(["p0", "p1"]))
    def pin_map(self, number: int, which: int, pin: str) -> None:
        pid, fd = self.map_fd(number, which)
        self.answer(lambda kernel: kernel.bpf.obj_pin(kernel.task(pid), pin, fd))

    @rule(number=who, pin=st.sampled_from(["p0", "p1"]))
    def get_pin(self, number: int, pin: str) -> None:
        pid = self.pid(number)
        self.answer(lambda kernel: kernel.bpf.obj_get(kernel.task(pid), pin))

    @rule(number=who, which=who, first=st.integers(0, 4000), count=st.integers(1, 60))
    def fill_map(self, number: int, which: int, first: int, count: int) -> None:
        pid, fd = self.map_fd(number, which)

        def fill(kernel: Kernel) -> int:
            task = kernel.task(pid)
            target: Any = task.file(fd).target
            value = bytes(target.user_value_size)
            for key in range(first, first + count):
                kernel.bpf.map_update_elem(task, fd, key.to_bytes(4, "little"), value)
            return count

        self.answer(fill)

    @rule(milliseconds=st.integers(1, 200))
    def wait(self, milliseconds: int) -> None:
        self.answer(lambda kernel: kernel.advance(milliseconds * 1_000_000))

    # -- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def books_are_right(self) -> None:
        self.kernel.check()

    @invariant()
    def the_tree_is_as_modelled(self) -> None:
        assert not self.kernel.crashed
        self.forget_the_dead()
        assert set(self.kernel.list_cgroups()) == set(self.groups)
        for path, group in self.groups.items():
            text = "".join(f"{pid}\n" for pid in sorted(group.pids))
            assert self.kernel.read_file(path, "cgroup.procs") == text
            assert self.kernel.cgroup(path).has_memory is self.has_memory(path)

    @invariant()
    def the_ledger_sums_to_usage(self) -> None:
        lines = self.kernel.ledger()
        for path in self.groups:
            if path != "/" and self.has_memory(path):
                below = [
                    line.bytes
                    for line in lines
                    if line.cgroup == path or line.cgroup.startswith(path + "/")
                ]
                assert sum(below) == int(self.kernel.read_file(path, "memory.current"))

    @invariant()
    def processes_hold_what_they_touched(self) -> None:
        for task in self.kernel.tasks():
            held = [
                account.count
                for account in self.kernel.memory.accounts.values()
                if account.owner.kind == "process"
                and account.owner.ident == task.pid
                and account.kind.name in ("ANON", "SHMEM")
            ]
            assert sum(held) == task.mm.rss_pages

    def teardown(self) -> None:
        for kernel in self.kernels:
            task = kernel.spawn()
            for path in kernel.bpf.fs.paths():
                kernel.bpf.unlink(task, path)
            for file in ("/t", "/u"):
                kernel.page_cache.unlink_tmpfs(file)
            for each in kernel.tasks():
                kernel.exit(each.pid)
            for path in kernel.list_cgroups()[1:]:
                kernel.cgroup(path).memcg.memory.min = 0
            for _ in range(2):  # the last round of a pass may only have made a page inactive
                while kernel.reclaimer.reclaim_node(1 << 32):
                    pass
            for path in reversed(kernel.list_cgroups()[1:]):
                kernel.rmdir(path)
            kernel.run_deferred()
            kernel.check()
            assert not kernel.controller.dying
            assert not kernel.cgroups.dying
            assert kernel.memory.charged_bytes_total == 0
            assert kernel.ram.used_bytes == 0
            assert kernel.swap is None or kernel.swap.used_pages == 0
            assert all(user.locked_vm_pages == 0 for user in kernel.users.all())
        first, second = self.kernels
        assert first.now_ns == second.now_ns
        assert first.events.since(first.events.oldest_revision - 1) == second.events.since(
            second.events.oldest_revision - 1
        )


@pytest.mark.slow
@pytest.mark.parametrize("profile", ALL)
def test_groups_users_and_processes_keep_every_invariant(profile: str) -> None:
    machine = type("Groups", (Groups,), {"profile": profile})
    half = settings(max_examples=settings().max_examples // 2)  # each step is done twice
    run_state_machine_as_test(machine, settings=half)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["5.10", "6.1", "6.18"])
def test_they_keep_them_where_the_node_swaps(profile: str) -> None:
    attributes = {"profile": profile, "swap_bytes": 8 * MB}
    machine = type("Groups", (Groups,), attributes)
    half = settings(max_examples=settings().max_examples // 2)
    run_state_machine_as_test(machine, settings=half)
