"""The start of an application, as a list of system calls in the order a real loader issues them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import Payer
from bpfleet.runtime.maps import OpenMap, create_map, pin_path
from bpfleet.runtime.programs import prog_attr
from bpfleet.workload.ops import ELEMENT_TYPES, touch_parts
from bpfleet.workload.spec import MapDeclaration, ProgramDeclaration, ReplicaSpec

__all__ = ["Loader", "Step"]

# containerd and Docker raise RLIMIT_NOFILE for what they start; 1024 is for logins.
_NOFILE: Final = 1_048_576
_FD_BYTES: Final = 4


class Step(NamedTuple):
    """One call of the start: its name, the object it is about, and how to issue it."""

    call: str
    object: str
    run: Callable[[], None]


@final
class Loader:
    """Starts one replica on a kernel. ``steps`` yields each call when the one before has been
    issued.

    ``maps`` and ``task`` fill up as the steps run. A caller stops consuming after the first step
    that raised.
    """

    def __init__(self, kernel: Kernel, spec: ReplicaSpec, *, cgroup: str, heap_bytes: int) -> None:
        self.task: Task | None = None
        self.maps: Final[list[OpenMap]] = []
        self.maps_created = 0
        self.programs_loaded = 0
        self._kernel: Final = kernel
        self._spec: Final = spec
        self._cgroup: Final = cgroup
        self._heap_bytes: Final = heap_bytes

    def steps(self) -> Iterator[Step]:
        """The calls of the start, in order."""
        spec = self._spec
        yield Step("mkdir", self._cgroup, self._make_cgroup)
        if spec.workload.memory_limit_bytes is not None:
            yield Step("write memory.max", self._cgroup, self._set_limit)
        yield Step("clone", spec.name, self._spawn)
        yield Step("execve", spec.name, lambda: self._kernel.execve(self._running.pid))
        if spec.workload.threads > 1:
            yield Step("clone", "threads", self._clone_threads)
        for part in touch_parts(self._heap_bytes):
            yield Step("page fault", "heap", partial(self._touch_heap, part))
        for declared in spec.inventory.maps:
            for ordinal in range(declared.count):
                yield from self._map_steps(declared, ordinal)
        for program in spec.inventory.programs:
            for ordinal in range(program.count):
                yield from self._program_steps(program, ordinal)

    # -- process

    def _make_cgroup(self) -> None:
        """mkdir -p: an attempt finds the cgroup of the one before, with what pinned maps cost in
        it.
        """
        path = ""
        for name in self._cgroup.strip("/").split("/"):
            path = f"{path}/{name}"
            try:
                self._kernel.mkdir(path)
            except KernelError as error:
                if error.errno is not Errno.EEXIST:
                    raise

    def _set_limit(self) -> None:
        limit = str(self._spec.workload.memory_limit_bytes)
        v1 = self._kernel.profile.cgroup_v1
        file = "memory.limit_in_bytes" if v1 else "memory.max"
        self._kernel.write_file(self._cgroup, file, limit)

    def _spawn(self) -> None:
        spec = self._spec
        limit = spec.workload.memlock_bytes
        self.task = self._kernel.spawn(
            uid=spec.workload.uid,
            caps=spec.workload.capabilities,
            memlock=None if limit is None else (limit, limit),
            cgroup=self._cgroup,
            oom_score_adj=spec.workload.oom_score_adj,
            comm=spec.workload.name[:15],
        )
        self.task.nofile = _NOFILE

    def _clone_threads(self) -> None:
        self._kernel.clone_threads(self._running.pid, self._spec.workload.threads - 1)

    def _touch_heap(self, size_bytes: int) -> None:
        self._kernel.touch(self._running.pid, size_bytes)

    @property
    def _running(self) -> Task:
        assert self.task is not None, "the process starts before anything else needs it"
        return self.task

    # -- maps

    def _map_steps(self, declared: MapDeclaration, ordinal: int) -> Iterator[Step]:
        path = pin_path(self._spec.name, declared.name, ordinal)
        if declared.pinned and self._reopen(declared, path):
            return
        yield Step("MAP_CREATE", declared.name, lambda: self._create(declared))
        opened = self.maps[-1]
        for slot in range(declared.inner_count):
            yield from self._inner_steps(opened, slot)
        if declared.map_type in ELEMENT_TYPES and declared.inner is None:
            for key in range(declared.fill_entries):
                yield Step("MAP_UPDATE_ELEM", declared.name, partial(opened.update, key))
        if declared.frozen:
            yield Step("MAP_FREEZE", declared.name, lambda: self._freeze(opened))
        if declared.pinned:
            yield Step("OBJ_PIN", declared.name, lambda: self._pin(path, opened.fd))

    def _reopen(self, declared: MapDeclaration, path: str) -> bool:
        """Opens what an earlier attempt pinned. An agent that finds its map keeps it, and the
        charge stays.
        """
        try:
            fd = self._kernel.bpf.obj_get(self._running, path)
        except KernelError:
            return False
        self.maps.append(OpenMap(self._kernel, self._running, declared, fd))
        return True

    def _create(self, declared: MapDeclaration) -> None:
        fd = self._made(declared, pinned=declared.pinned)
        self.maps.append(OpenMap(self._kernel, self._running, declared, fd))
        self.maps_created += 1

    def _made(self, declared: MapDeclaration, *, pinned: bool) -> int:
        """Where the creator may name who pays, a pinned map is its pod's: that of the cgroup above the container."""
        kernel, task = self._kernel, self._running
        if not pinned or kernel.profile.payer is not Payer.SELECTABLE:
            return create_map(kernel, task, declared)
        above = kernel.cgroup(self._cgroup.rpartition("/")[0] or "/")
        directory = kernel.objects.cgroup(task, above)
        try:
            return create_map(kernel, task, declared, memcg_fd=directory)
        finally:
            if task.alive:
                kernel.close(task.pid, directory)

    def _inner_steps(self, outer: OpenMap, slot: int) -> Iterator[Step]:
        inner = outer.declared.inner
        assert inner is not None, "checked when the declaration was built"
        created: list[int] = []
        pinned = outer.declared.pinned
        yield Step(
            "MAP_CREATE", inner.name, lambda: self._create_inner(inner, created, pinned=pinned)
        )
        yield Step(
            "MAP_UPDATE_ELEM", outer.declared.name, lambda: self._hand_over(outer, slot, created[0])
        )

    def _create_inner(self, inner: MapDeclaration, created: list[int], *, pinned: bool) -> None:
        created.append(self._made(inner, pinned=pinned))
        self.maps_created += 1

    def _hand_over(self, outer: OpenMap, slot: int, fd: int) -> None:
        """Puts an inner map into its slot; the outer map holds it from then on."""
        outer.put_map(slot, fd.to_bytes(_FD_BYTES, "little"))
        self._kernel.close(self._running.pid, fd)

    def _freeze(self, opened: OpenMap) -> None:
        self._kernel.bpf.map_freeze(self._running, opened.fd)

    def _pin(self, path: str, fd: int) -> None:
        self._kernel.bpf.obj_pin(self._running, path, fd)

    # -- programs

    def _program_steps(self, program: ProgramDeclaration, ordinal: int) -> Iterator[Step]:
        loaded: list[int] = []
        yield Step("PROG_LOAD", program.name, lambda: self._load(program, ordinal, loaded))
        if program.pinned:
            path = pin_path(self._spec.name, program.name, ordinal, kind="prog:")
            yield Step("OBJ_PIN", program.name, lambda: self._replace_pin(path, loaded[0]))

    def _load(self, program: ProgramDeclaration, ordinal: int, loaded: list[int]) -> None:
        fds = tuple(self._copy_of(name, ordinal).fd for name in program.map_names)
        attr = prog_attr(program, fds)
        loaded.append(self._kernel.bpf.prog_load(self._running, attr).fd)
        self.programs_loaded += 1

    def _copy_of(self, name: str, ordinal: int) -> OpenMap:
        """The map a copy of a program uses where the application has several of that name: its own, in turn."""
        copies = [opened for opened in self.maps if opened.declared.name == name]
        return copies[ordinal % len(copies)]

    def _replace_pin(self, path: str, fd: int) -> None:
        """Programs are loaded anew on every start: the new pin takes the place of the old one."""
        try:
            self._kernel.bpf.unlink(self._running, path)
        except KernelError as error:
            if error.errno is not Errno.ENOENT:
                raise
        self._pin(path, fd)
