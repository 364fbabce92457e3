"""A bpffs mount: names that keep maps and programs alive [kernel/bpf/inode.c].

Paths are relative to the mount, components separated by ``/``. A pin costs its maker a dentry and an inode.
"""

from typing import Final, Protocol, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import AllocKind, AllocSize, Block, Memory, Owner
from bpfleet.kernel.mm.sizes import OBJCG_POINTER_BYTES
from bpfleet.kernel.proc.task import Task

NAME_MAX: Final = 255


class Pinnable(Protocol):
    """What can be pinned: a map or a program."""

    @property
    def pinned_paths(self) -> tuple[str, ...]: ...

    @pinned_paths.setter
    def pinned_paths(self, paths: tuple[str, ...]) -> None: ...


@final
class _Pin:
    __slots__ = ("blocks", "target")

    def __init__(self, target: Pinnable, blocks: tuple[Block, ...]) -> None:
        self.target: Final = target
        self.blocks: Final = blocks


@final
class BpfFs:
    """The tree. Directories are made with `mkdir`; references on pinned objects are the caller's to take and drop."""

    def __init__(self, memory: Memory) -> None:
        self._memory: Final = memory
        self._pins: Final[dict[str, _Pin]] = {}
        self._directories: Final[dict[str, None]] = {"": None}
        self.directory_chars = 0  # characters of all paths of directories
        self._sizes: Final = tuple(
            AllocSize(AllocKind.SLAB_RECLAIMABLE, size, size, size + OBJCG_POINTER_BYTES)
            for size in (memory.profile.structs.dentry, memory.profile.structs.inode)
        )

    def paths(self) -> list[str]:
        """Every pinned path, in the order of pinning."""
        return list(self._pins)

    @property
    def name_count(self) -> int:
        """Pins and directories."""
        return len(self._pins) + len(self._directories)

    def mkdir(self, path: str) -> None:
        """Makes a directory. Raises EEXIST, ENOENT, EPERM, ENAMETOOLONG."""
        name = self._new_name(path)
        self.directory_chars += len(name)
        self._directories[name] = None

    def pin(self, task: Task, path: str, target: Pinnable) -> None:
        """Names ``target``. Raises EEXIST, ENOENT, EPERM (a dot in the name), ENAMETOOLONG, ENOMEM."""
        name = self._new_name(path)
        blocks = self._memory.take_objects(
            self._sizes, GFP.GFP_KERNEL, task.objcg, task, Owner("pin", 0, name)
        )
        self._pins[name] = _Pin(target, blocks)
        target.pinned_paths += (name,)

    def find(self, path: str) -> Pinnable:
        """What is pinned at ``path``. Raises ENOENT; EACCES for a directory."""
        name = _normal(path)
        pin = self._pins.get(name)
        if pin is not None:
            return pin.target
        if name in self._directories:
            raise KernelError(
                Errno.EACCES, Reason.NO_SUCH_OBJECT, f"{path!r} is a directory, not a pin"
            )
        raise _no_entry(path)

    def unlink(self, path: str, cpu: int = 0) -> Pinnable:
        """Takes the name away; the caller drops the reference. Raises ENOENT, EISDIR."""
        name = _normal(path)
        pin = self._pins.pop(name, None)
        if pin is None:
            if name in self._directories:
                raise KernelError(Errno.EISDIR, Reason.BAD_ATTRIBUTE, f"{path!r} is a directory")
            raise _no_entry(path)
        pin.target.pinned_paths = tuple(each for each in pin.target.pinned_paths if each != name)
        self._memory.free_blocks(pin.blocks, cpu)
        return pin.target

    def _new_name(self, path: str) -> str:
        """The normal form of a path that is free and whose directory exists [bpf_lookup refuses dots]."""
        name = _normal(path)
        directory, _, last = name.rpartition("/")
        if directory not in self._directories:
            raise _no_entry(path)
        if len(last.encode()) > NAME_MAX:
            raise KernelError(
                Errno.ENAMETOOLONG, Reason.BAD_ATTRIBUTE, f"a name is at most {NAME_MAX} bytes"
            )
        if "." in last:
            raise KernelError(
                Errno.EPERM, Reason.BAD_ATTRIBUTE, f"bpffs takes no name with a dot: {last!r}"
            )
        if name in self._pins or name in self._directories:
            raise KernelError(Errno.EEXIST, Reason.OBJECT_EXISTS, f"{path!r} exists", path=name)
        return name


def _normal(path: str) -> str:
    """A path without empty components and without the usual mount point in front."""
    return "/".join(part for part in path.removeprefix("/sys/fs/bpf").split("/") if part)


def _no_entry(path: str) -> KernelError:
    return KernelError(
        Errno.ENOENT, Reason.NO_SUCH_OBJECT, f"nothing at {path!r} in bpffs", path=path
    )
