"""Open file descriptions: what a file descriptor refers to [fs/file_table.c, fs/anon_inodes.c]."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.kernel.mm.memory import Block, Memory


@final
class File:
    """An open file description; several descriptors of several tasks may share it.

    ``kind`` is what it is a handle of (``bpf-map``, ``bpf-prog``, ``btf``, ``socket`` ...), ``target`` the object.
    ``release`` runs once, with the file, when the last descriptor is gone. ``blocks`` are its struct file and dentry.
    """

    __slots__ = ("blocks", "kind", "readable", "refs", "release", "target", "writable")

    def __init__(
        self,
        kind: str,
        target: object,
        release: "Callable[[File], None] | None" = None,
        *,
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        self.kind: Final = kind
        self.target: Final = target
        self.release: Final = release
        self.readable: Final = readable
        self.writable: Final = writable
        self.refs = 0
        self.blocks: tuple[Block, ...] = ()

    def put(self, memory: Memory, cpu: int = 0) -> None:
        """Drops one holder; the last one frees the file and what it refers to [fput]."""
        assert self.refs > 0, self.refs
        self.refs -= 1
        if self.refs:
            return
        self.free_blocks(memory, cpu)
        if self.release is not None:
            self.release(self)

    def free_blocks(self, memory: Memory, cpu: int) -> None:
        """Gives struct file and dentry back."""
        blocks, self.blocks = self.blocks, ()
        memory.free_blocks(blocks, cpu)
