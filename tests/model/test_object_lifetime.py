"""Random lives of maps and programs: descriptors, pins, inner maps, holders. Nothing may stay behind."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bpfleet.abi.bpf import AttachType, MapType, ProgType
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from tests.kernels import ALL, boot

ATTRS = [
    MapAttr(MapType.ARRAY, 4, 8, 4),
    MapAttr(MapType.HASH, 4, 8, 64),
    MapAttr(MapType.HASH, 4, 8, 64, map_flags=1),
    MapAttr(MapType.LPM_TRIE, 8, 8, 16, map_flags=1),
    MapAttr(MapType.RINGBUF, 0, 0, 4096),
    MapAttr(MapType.DEVMAP_HASH, 4, 4, 8),
    MapAttr(MapType.XSKMAP, 4, 4, 4),
    MapAttr(MapType.SOCKHASH, 4, 8, 8),
    MapAttr(MapType.CGROUP_STORAGE, 16, 8),
    MapAttr(MapType.PROG_ARRAY, 4, 4, 4),
]
PATHS = ["p0", "p1", "p2"]
small = st.integers(0, 3)


class Lifetimes(RuleBasedStateMachine):
    """Refusals are fine, wrong books are not. The model is only: which map ids are held by what we can see."""

    profile = "6.12"

    @initialize()
    def start(self):
        self.kernel, _ = boot(self.profile)
        self.kernel.write_file("/a", "memory.max", "max")
        self.baseline = self._charges()
        self.spawned = 0

    def _charges(self):
        owners = ("map", "prog", "pin", "file")
        return sum(line.bytes for line in self.kernel.ledger() if line.owner.startswith(owners))

    def _task(self, number):
        tasks = self.kernel.tasks()
        return tasks[number % len(tasks)]

    def _fd(self, task, number, kind=None):
        fds = [fd for fd, file in task.fds.items() if kind in (None, file.kind)]
        return fds[number % len(fds)] if fds else 0

    def _try(self, call, *arguments, **options):
        try:
            return call(*arguments, **options)
        except KernelError:
            return None

    @precondition(lambda self: len(self.kernel.tasks()) < 4)
    @rule(cgroup=st.sampled_from(["/a", "/b"]))
    def spawn(self, cgroup):
        self.kernel.spawn(cgroup=cgroup, memlock=(64 << 12,) * 2)

    @precondition(lambda self: len(self.kernel.tasks()) > 1)
    @rule(who=small)
    def exit(self, who):
        self.kernel.exit(self._task(who).pid)

    @rule(who=small, attr=st.sampled_from(ATTRS))
    def create(self, who, attr):
        self._try(self.kernel.bpf.map_create, self._task(who), attr)

    @rule(who=small, which=small)
    def create_outer(self, who, which):
        task = self._task(who)
        inner = self._fd(task, which, "bpf-map")
        attr = MapAttr(MapType.ARRAY_OF_MAPS, 4, 4, 2, inner_map_fd=inner)
        self._try(self.kernel.bpf.map_create, task, attr)

    @rule(who=small, which=small, value=small, slot=small)
    def update(self, who, which, value, slot):
        task = self._task(who)
        fd = self._fd(task, which, "bpf-map")
        if not fd:
            return
        bpf_map = task.file(fd).target
        size = bpf_map.user_value_size
        held = self._fd(task, value)
        is_device = bpf_map.map_type is MapType.DEVMAP_HASH
        content = 1 if is_device else held
        key = (8).to_bytes(4, "little") + bytes([slot]) * 4
        if bpf_map.key_size != 8:
            key = slot.to_bytes(4, "little").ljust(bpf_map.key_size, b"\0")
        data = content.to_bytes(8, "little")[:size].ljust(size, b"\0")
        self._try(self.kernel.bpf.map_update_elem, task, fd, key, data)

    @rule(who=small, which=small, slot=small)
    def delete(self, who, which, slot):
        task = self._task(who)
        fd = self._fd(task, which, "bpf-map")
        self._try(self.kernel.bpf.map_delete_elem, task, fd, slot.to_bytes(4, "little"))

    @rule(who=small, first=small, second=small)
    def load(self, who, first, second):
        task = self._task(who)
        fds = {self._fd(task, number, "bpf-map") for number in (first, second)} - {0}
        attr = ProgAttr(ProgType.CGROUP_SKB, 600, map_fds=tuple(sorted(fds)))
        self._try(self.kernel.bpf.prog_load, task, attr)

    @rule(who=small, which=small, cgroup=st.sampled_from(["/a", "/b"]))
    def attach(self, who, which, cgroup):
        task = self._task(who)
        target = self._try(self.kernel.objects.cgroup, task, self.kernel.cgroup(cgroup))
        prog = self._fd(task, which, "bpf-prog")
        arguments = (task, target, prog, AttachType.CGROUP_INET_INGRESS)
        self._try(self.kernel.bpf.prog_attach, *arguments)
        self.kernel.close(task.pid, target)

    @rule(who=small, kind=st.sampled_from(["xsk", "tcp_est", "udp_reuse"]))
    def socket(self, who, kind):
        self._try(self.kernel.objects.socket, self._task(who), kind)

    @rule(who=small, which=small)
    def mmap(self, who, which):
        task = self._task(who)
        self._try(self.kernel.bpf.mmap, task, self._fd(task, which, "bpf-map"), 4096)

    @rule(who=small, which=small)
    def close(self, who, which):
        task = self._task(who)
        self._try(self.kernel.close, task.pid, self._fd(task, which))

    @rule(who=small, which=small)
    def dup(self, who, which):
        task = self._task(who)
        self._try(self.kernel.dup, task.pid, self._fd(task, which))

    @rule(who=small, which=small, path=st.sampled_from(PATHS))
    def pin(self, who, which, path):
        task = self._task(who)
        self._try(self.kernel.bpf.obj_pin, task, path, self._fd(task, which))

    @rule(who=small, path=st.sampled_from(PATHS))
    def get(self, who, path):
        self._try(self.kernel.bpf.obj_get, self._task(who), path)

    @rule(path=st.sampled_from(PATHS))
    def unlink(self, path):
        self._try(self.kernel.bpf.unlink, self._task(0), path)

    @rule(who=small, ident=st.integers(1, 12))
    def open_by_id(self, who, ident):
        self._try(self.kernel.bpf.map_get_fd_by_id, self._task(who), ident)
        self._try(self.kernel.bpf.prog_get_fd_by_id, self._task(who), ident)

    @rule(milliseconds=st.integers(1, 40))
    def wait(self, milliseconds):
        self.kernel.advance(milliseconds * 1_000_000)

    @rule()
    def settle(self):
        self.kernel.run_deferred()

    @invariant()
    def books_are_right(self):
        self.kernel.check()

    @invariant()
    def what_is_held_is_alive(self):
        alive = {id(bpf_map) for bpf_map in self.kernel.bpf.maps()}
        alive |= {id(prog) for prog in self.kernel.bpf.progs()}
        for task in self.kernel.tasks():
            for file in task.fds.values():
                if file.kind in ("bpf-map", "bpf-prog"):
                    assert id(file.target) in alive, file.kind

    def teardown(self):
        if not hasattr(self, "kernel"):
            return
        kernel = self.kernel
        task = kernel.spawn()
        for path in kernel.bpf.fs.paths():
            kernel.bpf.unlink(task, path)
        for each in kernel.tasks():
            kernel.exit(each.pid)
        for path in ("/a", "/b"):
            kernel.rmdir(path)
        kernel.run_deferred()
        kernel.check()
        assert not kernel.bpf.maps()
        assert not kernel.bpf.progs()
        assert not kernel.bpf.map_table.dying
        assert self._charges() == self.baseline == 0
        assert all(user.locked_vm_pages == 0 for user in kernel.users.all())
        assert kernel.bpf.programs.jit.charged_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("profile", ALL)
def test_no_life_leaves_an_orphan(profile):
    machine = type("Lifetimes", (Lifetimes,), {"profile": profile})
    run_state_machine_as_test(machine, settings=settings())
