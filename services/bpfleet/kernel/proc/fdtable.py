"""Opening and closing descriptors, with the memory an open file costs [fs/file.c, fs/file_table.c]."""

from typing import Final, final

from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import AllocKind, Block, Memory, Owner
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import roundup_pow_of_two

FDTABLE_BYTES: Final = 56  # struct fdtable
FDTABLE_MIN: Final = 128  # the smallest beyond the table of 64 that a process starts with
LINE_BYTES: Final = 64  # L1_CACHE_BYTES


@final
class FileTable:
    """Descriptors of all tasks of a node.

    A file costs struct file and a dentry, charged to the task that opens it; so is a table of more than 64 descriptors.
    """

    def __init__(self, memory: Memory, timeline: Timeline) -> None:
        structs = memory.profile.structs
        self._memory: Final = memory
        self._timeline: Final = timeline
        self._sizes: Final = (
            memory.cache_size(structs.dentry, AllocKind.SLAB_RECLAIMABLE),
            memory.cache_size(structs.file),
        )

    def open(self, task: Task, file: File, owner: Owner) -> int:
        """Charges the file to ``task`` and gives it a descriptor. Raises EMFILE or ENOMEM, then nothing is left.

        The caller still holds what the file refers to and must drop it when this raises.
        """
        fd = self._install(task, file)
        try:
            file.blocks = self._memory.take_objects(
                self._sizes, GFP.GFP_KERNEL, task.objcg, task, owner
            )
        except KernelError:
            task.uninstall(fd)
            raise
        return fd

    def dup(self, task: Task, fd: int, into: Task) -> int:
        """Another descriptor of the same open file, in ``into`` (dup, or SCM_RIGHTS). Raises EBADF, EMFILE, ENOMEM."""
        return self._install(into, task.file(fd))

    def release(self, task: Task) -> None:
        """Frees the table of a task that has closed everything."""
        blocks, task.fdtable = task.fdtable, ()
        self._memory.free_blocks(blocks, task.cpu)

    def _install(self, task: Task, file: File) -> int:
        fd = task.install(file)
        if fd >= task.max_fds:
            try:
                self._expand(task, fd)
            except KernelError:
                task.uninstall(fd)
                raise
        return fd

    def _expand(self, task: Task, fd: int) -> None:
        """A table with room for ``fd`` takes the place of the old one, freed after a grace period [expand_fdtable]."""
        memory, objcg = self._memory, task.objcg
        owner = task.mm.owner
        slots = max(FDTABLE_MIN, roundup_pow_of_two(fd + 1))
        longs = slots // 64
        blocks: tuple[Block, ...] = ()
        try:
            blocks += (memory.kmalloc(FDTABLE_BYTES, GFP.GFP_KERNEL_ACCOUNT, objcg, task, owner),)
            for size in (slots * 8, max(2 * longs * 8 + -(-longs // 64) * 8, LINE_BYTES)):
                blocks += (memory.kvmalloc(size, GFP.GFP_KERNEL_ACCOUNT, objcg, task, owner),)
        except KernelError:
            self._memory.free_blocks(blocks, task.cpu)
            raise
        old, task.fdtable, task.max_fds = task.fdtable, blocks, slots
        if old:
            cpu = task.cpu
            self._timeline.defer(RCU_GRACE_NS, lambda: self._memory.free_blocks(old, cpu))

    def close(self, task: Task, fd: int) -> None:
        """Closes a descriptor; the last one releases the file. Raises EBADF."""
        file = task.uninstall(fd)
        if file.refs:
            return
        file.free_blocks(self._memory, task.cpu)
        if file.release is not None:
            file.release(file)
