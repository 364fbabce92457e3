"""The cgroup v2 hierarchy: directories, who lives in them, which memcg they stand for [kernel/cgroup/cgroup.c]."""

from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memcontrol import Memcg, MemoryController


@final
class Cgroup:
    """One directory. ``memcg`` is its own memory cgroup, or the nearest ancestor's that has one."""

    __slots__ = ("children", "memcg", "name", "parent", "path", "pids", "subtree_control")

    def __init__(self, name: str, parent: "Cgroup | None", memcg: Memcg) -> None:
        self.name: Final = name
        self.parent: Final = parent
        self.path: Final[str] = _join(parent.path, name) if parent is not None else "/"
        self.memcg = memcg
        self.children: Final[dict[str, Cgroup]] = {}
        self.pids: Final[dict[int, None]] = {}
        self.subtree_control: Final[dict[str, None]] = {"memory": None}


def _join(parent: str, name: str) -> str:
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


@final
class CgroupTree:
    """All cgroups of one node."""

    def __init__(self, controller: MemoryController) -> None:
        self.controller: Final = controller
        self.root: Final = Cgroup("", None, controller.root)

    def find(self, path: str) -> Cgroup:
        """The cgroup at ``path``. Raises ENOENT; EINVAL for a path that is not absolute."""
        if not path.startswith("/"):
            raise KernelError(
                Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"cgroup path {path!r} must start with /"
            )
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

    def mkdir(self, path: str) -> Cgroup:
        """Creates the directory; its parent must exist. Raises ENOENT, EEXIST, EINVAL."""
        parent_path, _, name = path.rstrip("/").rpartition("/")
        if not name:
            raise KernelError(Errno.EEXIST, Reason.OBJECT_EXISTS, f"cgroup {path!r} exists")
        parent = self.find(parent_path or "/")
        if name in parent.children:
            raise KernelError(Errno.EEXIST, Reason.OBJECT_EXISTS, f"cgroup {path!r} exists")
        memcg = Memcg(_join(parent.path, name), parent.memcg)
        child = Cgroup(name, parent, memcg)
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
        self._offline(cgroup.memcg)
        return cgroup

    def _offline(self, memcg: Memcg) -> None:
        """css offline: stocks are drained and the objcg is re-pointed to the parent [memcg_reparent_objcgs]."""
        assert memcg.parent is not None
        self.controller.drain_stocks()
        memcg.online = False
        memcg.objcg.memcg = memcg.parent
        memcg.parent.children.remove(memcg)
