"""Opening and closing descriptors, with the memory an open file costs [fs/file.c, fs/file_table.c]."""

from typing import Final, final

from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import AllocKind, Memory, Owner
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task


@final
class FileTable:
    """Descriptors of all tasks of a node. A file costs struct file and a dentry, charged to the task that opens it."""

    def __init__(self, memory: Memory) -> None:
        structs = memory.profile.structs
        self._memory: Final = memory
        self._file_size: Final = memory.cache_size(structs.file)
        self._dentry_size: Final = memory.cache_size(structs.dentry, AllocKind.SLAB_RECLAIMABLE)

    def open(self, task: Task, file: File, owner: Owner) -> int:
        """Charges the file to ``task`` and gives it a descriptor. Raises EMFILE or ENOMEM, then nothing is left.

        The caller still holds what the file refers to and must drop it when this raises.
        """
        memory, objcg = self._memory, task.objcg
        fd = task.install(file)
        try:
            for size in (self._dentry_size, self._file_size):
                account = memory.account(owner, size.kind, objcg)
                file.blocks += (memory.take_block(account, size, GFP.GFP_KERNEL, task),)
        except KernelError:
            task.uninstall(fd)
            file.free_blocks(memory, task.cpu)
            raise
        return fd

    def dup(self, task: Task, fd: int, into: Task) -> int:
        """Another descriptor of the same open file, in ``into`` (dup, or SCM_RIGHTS). Raises EBADF, EMFILE."""
        return into.install(task.file(fd))

    def close(self, task: Task, fd: int) -> None:
        """Closes a descriptor; the last one releases the file. Raises EBADF."""
        file = task.uninstall(fd)
        if file.refs:
            return
        file.free_blocks(self._memory, task.cpu)
        if file.release is not None:
            file.release(file)
