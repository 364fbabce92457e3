"""The cgroup hierarchy: directories, who lives in them, which memcg they stand for [kernel/cgroup/cgroup.c]."""

from collections.abc import Iterator
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import KernelContext
from bpfleet.kernel.mm.memcontrol import Memcg, MemoryController
from bpfleet.kernel.mm.memory import AllocKind, Block, Memory, Owner
from bpfleet.kernel.timeline import Timeline

UNLIMITED: Final = (1 << 31) - 1  # INT_MAX, which cgroup.max.* print as "max"
PATH_MAX: Final = 4096 - len("/sys/fs/cgroup") - 1  # a name alone has no limit in this filesystem
CSS_FREE_DELAY_NS: Final = 20_000_000  # an RCU grace period and a work item


@final
class Cgroup:
    """One directory. ``memcg`` is its own memory cgroup, or the nearest ancestor's that has one.

    ``subtree_memory`` says whether memory is in its cgroup.subtree_control, that is, whether its children get memcgs.
    ``own_memory`` holds the memcg's own structures, charged to the parent.
    """

    __slots__ = (
        "bpf_storage",
        "children",
        "has_memory",
        "id",
        "max_depth",
        "max_descendants",
        "memcg",
        "name",
        "own_memory",
        "parent",
        "path",
        "pids",
        "removed",
        "subtree_memory",
    )

    def __init__(self, name: str, parent: "Cgroup | None", memcg: Memcg, ident: int) -> None:
        self.name: Final = name
        self.parent: Final = parent
        self.path: Final[str] = _join(parent.path, name) if parent is not None else "/"
        self.id: Final = ident
        self.memcg = memcg
        self.has_memory = parent is None
        self.own_memory: list[Block] = []
        self.children: Final[dict[str, Cgroup]] = {}
        self.pids: Final[dict[int, None]] = {}
        self.subtree_memory = parent is None
        self.max_depth = UNLIMITED
        self.max_descendants = UNLIMITED
        self.removed = False
        self.bpf_storage: object = None  # kernel/bpf hangs this cgroup's local storage here

    @property
    def populated(self) -> bool:
        """Whether a process lives here or below."""
        return any(cgroup.pids for cgroup in self.pre_order())

    def pre_order(self) -> "Iterator[Cgroup]":
        """This directory and all below, parents before children."""
        ahead = [self]  # not recursive: directories nest as deep as a path is long
        while ahead:
            cgroup = ahead.pop()
            yield cgroup
            ahead.extend(reversed(cgroup.children.values()))

    def ancestors(self) -> "Iterator[Cgroup]":
        """This directory, then its parent, up to the root."""
        found: Cgroup | None = self
        while found is not None:
            yield found
            found = found.parent


def _join(parent: str, name: str) -> str:
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


@final
class CgroupTree:
    """All cgroups of one node. At boot the root offers the memory controller to its children, as systemd sees to.

    With ``v1`` they are the directories of the memory controller's own hierarchy of cgroup v1: each has a memcg, and
    processes may live beside child cgroups.
    ``dying`` are removed cgroups whose memcg something still refers to: nr_dying_descendants counts them.
    """

    def __init__(self, memory: Memory, timeline: Timeline, *, v1: bool = False) -> None:
        self._memory: Final = memory
        self._timeline: Final = timeline
        self.v1: Final = v1
        self._next_id = 2
        self.controller: Final[MemoryController] = memory.controller
        self.root: Final = Cgroup("", None, memory.controller.root, 1)
        self.dying: Final[list[Cgroup]] = []
        self.controller.released = self._free_memcg

    def find(self, path: str) -> Cgroup:
        """The cgroup at ``path``. Raises ENOENT; EINVAL for a path that is not absolute."""
        _check_absolute(path)
        found = self.root
        for name in path.split("/"):
            if not name:
                continue
            child = found.children.get(name)
            if child is None:
                raise KernelError(
                    Errno.ENOENT, Reason.NO_SUCH_OBJECT, f"no cgroup {path!r}", cgroup=path
                )
            found = child
        return found

    # -- directories ---------------------------------------------------------------------------------------------

    def mkdir(self, path: str, cpu: int = 0) -> Cgroup:
        """Creates the directory on ``cpu``; its parent must exist.

        Raises ENOENT, EEXIST, EINVAL (a name with a newline, no such CPU), ENAMETOOLONG, EAGAIN (cgroup.max.*), ENOMEM
        (the memcg's own memory does not fit the parent's limit).
        """
        if not 0 <= cpu < self._memory.possible_cpus:
            raise KernelError(
                Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"the node has no CPU {cpu} to run mkdir on"
            )
        _check_absolute(path)
        parent_path, _, name = path.rstrip("/").rpartition("/")
        if not name:
            raise KernelError(Errno.EEXIST, Reason.OBJECT_EXISTS, f"cgroup {path!r} exists")
        parent = self.find(parent_path or "/")
        _check_name(name, path)
        if name in parent.children:
            raise KernelError(Errno.EEXIST, Reason.OBJECT_EXISTS, f"cgroup {path!r} exists")
        _check_hierarchy_limits(parent)
        child = Cgroup(name, parent, parent.memcg, self._next_id)
        if parent.subtree_memory:
            self._online(child, cpu)
        child.subtree_memory = self.v1
        self._next_id += 1
        parent.children[name] = child
        return child

    def rmdir(self, path: str) -> Cgroup:
        """Removes an empty directory; charges that remain go to the parent. Raises EBUSY, ENOENT."""
        cgroup = self.find(path)
        parent = cgroup.parent
        if parent is None or cgroup.children or cgroup.pids:
            raise KernelError(
                Errno.EBUSY,
                Reason.CGROUP_BUSY,
                f"cgroup {path!r} still has processes or child cgroups",
                cgroup=path,
            )
        del parent.children[cgroup.name]
        cgroup.removed = True
        if cgroup.has_memory:
            self.dying.append(cgroup)
            self.controller.offline(cgroup.memcg)
        return cgroup

    # -- processes -----------------------------------------------------------------------------------------------

    def vet_member(self, cgroup: Cgroup) -> None:
        """The no-internal-process rule: EBUSY for a cgroup that distributes memory to its children.

        The root is exempt [cgroup_migrate_vet_dst].
        """
        if cgroup.subtree_memory and cgroup.parent is not None and not self.v1:
            raise KernelError(
                Errno.EBUSY,
                Reason.CGROUP_BUSY,
                f"cgroup {cgroup.path} has memory in its cgroup.subtree_control: processes belong in its children",
                cgroup=cgroup.path,
            )

    # -- controllers ---------------------------------------------------------------------------------------------

    def enable_memory(self, cgroup: Cgroup) -> None:
        """+memory in cgroup.subtree_control: every child gets a memcg.

        Raises ENOENT when the parent does not offer memory, EBUSY when processes live here, ENOMEM.
        """
        if cgroup.subtree_memory:
            return
        if not cgroup.has_memory:
            raise KernelError(
                Errno.ENOENT,
                Reason.NO_SUCH_OBJECT,
                f"memory is not in cgroup.controllers of {cgroup.path}",
                cgroup=cgroup.path,
            )
        if cgroup.pids:
            raise KernelError(
                Errno.EBUSY,
                Reason.CGROUP_BUSY,
                f"cgroup {cgroup.path} has processes: it cannot distribute memory to its children",
                cgroup=cgroup.path,
            )
        done: list[Cgroup] = []
        try:
            for child in cgroup.children.values():
                self._online(child)
                done.append(child)
        except KernelError:
            for child in done:
                self._offline_controller(child)
            raise
        cgroup.subtree_memory = True

    def disable_memory(self, cgroup: Cgroup) -> None:
        """-memory: the children's memcgs go, their charges to this cgroup. Raises EBUSY when a child passes it on."""
        if not cgroup.subtree_memory:
            return
        if any(child.subtree_memory for child in cgroup.children.values()):
            raise KernelError(
                Errno.EBUSY,
                Reason.CGROUP_BUSY,
                f"a child of {cgroup.path} has memory in its cgroup.subtree_control",
                cgroup=cgroup.path,
            )
        cgroup.subtree_memory = False
        for child in cgroup.children.values():
            self._offline_controller(child)

    def _online(self, cgroup: Cgroup, cpu: int = 0) -> None:
        """Gives a directory its memcg, whose structures are charged to the parent [mem_cgroup_css_alloc]."""
        parent = cgroup.memcg
        blocks = self._allocate_memcg(cgroup, parent, cpu)
        cgroup.own_memory = blocks
        cgroup.has_memory = True
        _point(cgroup, Memcg(cgroup.path, parent))

    def _allocate_memcg(self, cgroup: Cgroup, parent: Memcg, cpu: int) -> list[Block]:
        memory, profile = self._memory, self._memory.profile
        objcg = parent.objcg if parent.parent is not None and profile.kmem_accounting else None
        owner = Owner("cgroup", cgroup.id, cgroup.path)
        mkdir = KernelContext(cpu, comm="mkdir", in_task=True)
        blocks: list[Block] = []
        try:
            for size in profile.memcg_slab_bytes:
                blocks.append(memory.kmalloc(size, GFP.GFP_KERNEL_ACCOUNT, objcg, mkdir, owner))
            for size in profile.memcg_cache_bytes:
                account = memory.account(owner, AllocKind.SLAB, objcg)
                cached = memory.cache_size(size)
                blocks.append(memory.take_block(account, cached, GFP.GFP_KERNEL_ACCOUNT, mkdir))
            for size in profile.memcg_percpu_bytes:
                blocks.append(
                    memory.alloc_percpu(size, 1, GFP.GFP_KERNEL_ACCOUNT, objcg, mkdir, owner)
                )
        except KernelError:
            while blocks:
                memory.free(blocks.pop())
            raise
        return blocks

    def _offline_controller(self, cgroup: Cgroup) -> None:
        parent = cgroup.memcg.parent
        assert parent is not None, cgroup.path
        old, cgroup.has_memory = cgroup.memcg, False
        _point(cgroup, parent)
        self._retire(cgroup, old)

    def _retire(self, cgroup: Cgroup, memcg: Memcg) -> None:
        blocks, cgroup.own_memory = cgroup.own_memory, []
        stand_in = Cgroup(cgroup.name, cgroup.parent, memcg, cgroup.id)
        stand_in.own_memory = blocks
        self.dying.append(stand_in)
        self.controller.offline(memcg)

    def _free_memcg(self, memcg: Memcg) -> None:
        """Nothing refers to a removed memcg any more: it leaves the counts, and its structures go after a while."""
        for cgroup in self.dying:
            if cgroup.memcg is memcg:
                break
        else:
            raise AssertionError(f"{memcg.path} was not dying")
        self.dying.remove(cgroup)
        blocks, cgroup.own_memory = cgroup.own_memory, []
        self._timeline.defer(CSS_FREE_DELAY_NS, lambda: self._free_blocks(blocks))

    def _free_blocks(self, blocks: list[Block]) -> None:
        while blocks:
            self._memory.free(blocks.pop())

    def dying_below(self, cgroup: Cgroup) -> int:
        """Removed cgroups below ``cgroup`` that are not gone yet: nr_dying_descendants."""
        return sum(
            1
            for dead in self.dying
            if dead.parent is not None and cgroup in dead.parent.ancestors()
        )


def _point(cgroup: Cgroup, memcg: Memcg) -> None:
    """Makes ``memcg`` answer for a directory and for what is below it without a memcg of its own."""
    pointed = [cgroup]
    for each in pointed:
        each.memcg = memcg
        pointed.extend(child for child in each.children.values() if not child.has_memory)


def _check_absolute(path: str) -> None:
    if not path.startswith("/"):
        raise KernelError(
            Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"cgroup path {path!r} must start with /"
        )


def _check_name(name: str, path: str) -> None:
    if name in (".", ".."):
        raise KernelError(Errno.EEXIST, Reason.OBJECT_EXISTS, f"cgroup {name!r} exists")
    if "\n" in name:
        raise KernelError(Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"cgroup name {name!r} is not usable")
    if len(path.encode()) > PATH_MAX:
        raise KernelError(
            Errno.ENAMETOOLONG,
            Reason.BAD_ATTRIBUTE,
            f"cgroup paths have at most {PATH_MAX} bytes, this one {len(path.encode())}",
        )


def _check_hierarchy_limits(parent: Cgroup) -> None:
    """cgroup.max.descendants and cgroup.max.depth of every ancestor. Raises EAGAIN [cgroup_check_hierarchy_limits]."""
    for level, cgroup in enumerate(parent.ancestors()):
        limited = cgroup.max_descendants < UNLIMITED or cgroup.max_depth < UNLIMITED
        if limited and (
            sum(1 for _ in cgroup.pre_order()) - 1 >= cgroup.max_descendants
            or level >= cgroup.max_depth
        ):
            raise KernelError(
                Errno.EAGAIN,
                Reason.CGROUP_BUSY,
                f"cgroup.max.descendants or cgroup.max.depth of {cgroup.path} forbids another cgroup",
                cgroup=cgroup.path,
            )
