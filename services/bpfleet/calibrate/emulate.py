"""The containers of a host under one kernel: what happens at start, at restart with pins and when maps fill. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from bpfleet.abi.bpf import MapType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.calibrate.containers import Container, HostInput
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.plan import map_cost, memlock_line
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import KernelProfile, Payer, on_machine
from bpfleet.kernel.units import bytes_of
from bpfleet.runtime import ReplicaRun
from bpfleet.runtime.maps import create_map, map_attr
from bpfleet.runtime.programs import prog_attr
from bpfleet.workload.ops import ELEMENT_TYPES
from bpfleet.workload.spec import (
    KILLED,
    Failure,
    Inventory,
    MapDeclaration,
    ReplicaSpec,
    WorkloadSpec,
)

__all__ = ["ContainerOutcome", "emulate_host", "safe_path"]

_PROBE_RAM_BYTES: Final = 1 << 46
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._@:+-]")
_NAME_MAX: Final = 200
OK: Final = "ok"
# Ledger lines that a capture tells on its own: the process's memory, and what CPUs hold ready.
_NOT_OF_BPF: Final = frozenset({"anon", "file", "shmem", "page_table", "stock"})
_OF_PROCESSES: Final = ("process ", "task ", "thread ")
_OF_USERS: Final = frozenset({"anon", "file", "shmem"})


class ContainerOutcome(Struct, frozen=True, kw_only=True):
    """One container under one kernel. ``start`` and ``restart`` are ``ok``, an errno or ``SIGKILL``.

    ``kernel_bytes`` is what BPF and its descriptors are charged for, ``by_kind`` the same by allocator,
    ``process_bytes`` what its threads and page tables are, ``growth_bytes`` what full maps add to it,
    ``loading_bytes`` what loading takes beyond what stays (the verifier's from 6.17 on), ``locked_bytes`` the
    user's counter, ``swappable_bytes`` what of its heap could be in swap space. ``memlock`` is by a map's place in its
    container; ``refused`` are objects this kernel refuses whatever the limits. ``failure`` says which call failed,
    ``limiting_ancestor`` the place among the container's ancestors of the cgroup whose limit refused it.
    """

    start: str
    restart: str
    failure: str = ""
    limiting_ancestor: int | None = None
    kernel_bytes: int = 0
    heap_bytes: int = 0
    process_bytes: int = 0
    growth_bytes: int = 0
    loading_bytes: int = 0
    swappable_bytes: int = 0
    by_kind: Mapping[str, int] = {}
    locked_bytes: int = 0
    memlock: Mapping[int, tuple[int, int]] = {}
    refused: tuple[str, ...] = ()
    throttled: bool = False

    @property
    def steady_bytes(self) -> int:
        """What stays charged, with the maps as full as they are."""
        return self.kernel_bytes + self.heap_bytes


def emulate_host(host: HostInput, profile: KernelProfile) -> tuple[ContainerOutcome, ...]:
    """Starts every container on one kernel, in the order of their paths, as one host runs them all."""
    profile = on_machine(profile, host.machine, host.page_bytes)
    kernel = Kernel(
        profile,
        ram_bytes=host.ram_bytes,
        swap_bytes=host.swap_bytes,
        possible_cpus=host.possible_cpus,
    )
    return tuple(
        _Emulated(kernel, profile, number, container, host.possible_cpus).outcome()
        for number, container in enumerate(host.containers)
    )


class _Emulated:
    def __init__(
        self, kernel: Kernel, profile: KernelProfile, number: int, container: Container, cpus: int
    ) -> None:
        self._kernel: Final = kernel
        self._profile: Final = profile
        self._number: Final = number
        self._container: Final = container
        self._cpus: Final = cpus

    def outcome(self) -> ContainerOutcome:
        inventory, refused = self._creatable()
        path = self._cgroup()
        spec = self._spec(inventory, path)
        before = self._kernel.user(self._container.uid).locked_vm_pages
        run = ReplicaRun(self._kernel, spec, cgroup=path)
        run.start()
        started = run.failure is None
        locked = bytes_of(self._kernel.user(self._container.uid).locked_vm_pages - before)
        by_kind = self._by_kind(path) if started else {}
        kernel_bytes = sum(by_kind.values()) if started else self._creation_bytes(inventory)
        process_bytes = self._process_bytes(path) if started else 0
        growth = self._growth(inventory)
        loading = self._loading_bytes(path) if started else 0
        high = self._container.high_bytes
        steady = kernel_bytes + inventory.user_memory_bytes
        restart = self._restart(run, spec) if started else _errno(run.failure)
        return ContainerOutcome(
            start=_errno(run.failure),
            restart=restart,
            failure=_sentence(run.failure),
            limiting_ancestor=self._limiting_ancestor(run.failure),
            kernel_bytes=kernel_bytes,
            heap_bytes=inventory.user_memory_bytes,
            process_bytes=process_bytes,
            growth_bytes=growth,
            loading_bytes=loading,
            swappable_bytes=self._swappable_bytes(inventory.user_memory_bytes),
            by_kind=by_kind,
            locked_bytes=max(0, locked),
            memlock=self._memlock(inventory),
            refused=refused,
            throttled=high is not None and steady + growth > high,
        )

    def _creatable(self) -> tuple[Inventory, tuple[str, ...]]:
        """What this kernel makes when nothing limits it; the rest is left out, so that limits alone decide."""
        empty = Kernel(self._profile, ram_bytes=_PROBE_RAM_BYTES, possible_cpus=self._cpus)
        task = empty.spawn(uid=0, memlock=(RLIM_INFINITY, RLIM_INFINITY), cgroup="/", comm="probe")
        inventory, refused = self._container.inventory, []
        maps, programs = [], []
        for declared in inventory.maps:
            try:
                fd = create_map(empty, task, declared)
                empty.close(task.pid, fd)
                maps.append(declared)
            except KernelError as error:
                refused.append(f"map {declared.name} ({declared.type_name}): {error.errno.name}")
        for program in inventory.programs:
            try:
                empty.close(task.pid, empty.bpf.prog_load(task, prog_attr(program)).fd)
                kept = tuple(n for n in program.map_names if any(m.name == n for m in maps))
                programs.append(replace(program, map_names=kept))
            except KernelError as error:
                refused.append(f"program {program.name}: {error.errno.name}")
        left = replace(inventory, maps=tuple(maps), programs=tuple(programs))
        return left, tuple(refused)

    def _cgroup(self) -> str:
        """The container's cgroup with its limits and its ancestors'. The root's containers get one of their own."""
        container = self._container
        path = safe_path(container.path) if container.path != "/" else f"/root-{self._number}"
        made = ""
        limits = {safe_path(each.path): each.max_bytes for each in container.ancestors}
        if container.has_children and container.path != "/":
            # Processes belong in leaves: what an inner cgroup pays for is made in one of its own below it.
            if container.max_bytes is not None:
                limits[path] = container.max_bytes
            path = f"{path}/own-{self._number}"
        for name in path.strip("/").split("/"):
            made = f"{made}/{name}"
            if made not in self._kernel.list_cgroups():
                self._kernel.mkdir(made)
                if made in limits:
                    self._kernel.write_file(made, "memory.max", str(limits[made]))
        if container.high_bytes is not None:
            self._kernel.write_file(path, "memory.high", str(container.high_bytes))
        if container.swap_max_bytes is not None and self._kernel.swap is not None:
            self._kernel.write_file(path, "memory.swap.max", str(container.swap_max_bytes))
        return path

    def _swappable_bytes(self, heap_bytes: int) -> int:
        swap, limit = self._kernel.swap, self._container.swap_max_bytes
        space = 0 if swap is None else bytes_of(swap.total_pages)
        return min(heap_bytes, space, space if limit is None else limit)

    def _limiting_ancestor(self, failure: Failure | None) -> int | None:
        refused_by = None if failure is None else failure.numbers.get("cgroup")
        paths = [safe_path(each.path) for each in self._container.ancestors]
        return paths.index(str(refused_by)) if refused_by in paths else None

    def _spec(self, inventory: Inventory, path: str) -> ReplicaSpec:
        container = self._container
        workload = WorkloadSpec(
            name=f"{container.inventory.name}-{self._number}"[:60],
            inventory=inventory,
            uid=container.uid,
            capabilities=container.capabilities,
            memory_limit_bytes=container.max_bytes,
            memlock_bytes=container.memlock_bytes,
            oom_score_adj=container.oom_score_adj,
            threads=container.threads,
        )
        return ReplicaSpec(workload=workload, serial=0, inventory=inventory, cgroup=path)

    def _creation_bytes(self, inventory: Inventory) -> int:
        """What all maps would take, where the start does not come so far."""
        return sum(
            map_cost(map_attr(each), self._profile, self._cpus).created.total
            for each in inventory.maps
            if self._pays_for(each)
        )

    def _by_kind(self, path: str) -> dict[str, int]:
        """What stays charged to the cgroup for BPF, by allocator; processes are not the emulation's to say."""
        found: dict[str, int] = {}
        for line in self._kernel.ledger():
            of_bpf = line.kind not in _NOT_OF_BPF and not line.owner.startswith(_OF_PROCESSES)
            if line.cgroup == path and of_bpf:
                found[line.kind] = found.get(line.kind, 0) + line.bytes
        return found

    def _process_bytes(self, path: str) -> int:
        """Kernel memory of the process as far as it is emulated: its threads' structures, stacks and page tables."""
        return sum(
            line.bytes
            for line in self._kernel.ledger()
            if line.cgroup == path
            and line.kind not in _OF_USERS
            and line.owner.startswith(_OF_PROCESSES)
        )

    def _loading_bytes(self, path: str) -> int:
        """How far the start went beyond what it left: what the verifier held, where the loader pays for it."""
        if not self._profile.verifier_memory_charged:
            return 0
        counter = self._kernel.cgroup(path).memcg.memory
        return bytes_of(counter.watermark - counter.usage)

    def _growth(self, inventory: Inventory) -> int:
        growth = 0
        for each in inventory.maps:
            if each.map_type not in ELEMENT_TYPES or each.inner is not None:
                continue
            if not self._pays_for(each):
                continue
            cost = map_cost(map_attr(each), self._profile, self._cpus)
            grown = cost.full.total - cost.created.total
            growth += max(0, grown - grown * each.fill_entries // max(1, each.max_entries))
        return growth

    def _pays_for(self, declared: MapDeclaration) -> bool:
        """Whether the container's own cgroup pays for a map: two of the what-ifs take pinned ones off it."""
        elsewhere = self._profile.payer in (Payer.NOCHARGE, Payer.SELECTABLE)
        return not (declared.pinned and elsewhere)

    def _restart(self, run: ReplicaRun, spec: ReplicaSpec) -> str:
        """One more start in a fresh cgroup, as a new container gets one: pinned maps of the old one live on."""
        run.stop()
        again = ReplicaRun(self._kernel, spec, cgroup=f"{run.cgroup}-again")
        again.start()
        return _errno(again.failure)

    def _memlock(self, inventory: Inventory) -> dict[int, tuple[int, int]]:
        """Least and most that the kernel may show for each map, by how full it is."""
        places = {id(each): place for place, each in enumerate(self._container.inventory.maps)}
        return {places[id(each)]: self._line(each) for each in inventory.maps}

    def _line(self, declared: MapDeclaration) -> tuple[int, int]:
        attr = map_attr(declared)
        exact = memlock_line(attr, self._profile, self._cpus, declared.fill_entries)
        if declared.fill_entries or declared.map_type in (MapType.ARRAY, MapType.PERCPU_ARRAY):
            return exact, exact
        full = memlock_line(attr, self._profile, self._cpus, declared.max_entries)
        return (exact, full) if full > exact else (exact, exact)


def safe_path(path: str) -> str:
    """``path`` with names that every kernel admits: a capture from within a container may have relative ones."""
    parts = (_UNSAFE.sub("_", part)[:_NAME_MAX] for part in path.split("/") if part)
    return "/" + "/".join("up" if part in (".", "..") else part for part in parts)


def _errno(failure: Failure | None) -> str:
    return OK if failure is None else KILLED if failure.killed else failure.errno


def _sentence(failure: Failure | None) -> str:
    if failure is None:
        return ""
    return f"{failure.call} {failure.object}: {failure.errno} ({failure.reason}): {failure.detail}"
