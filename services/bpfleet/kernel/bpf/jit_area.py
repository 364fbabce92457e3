"""The area that machine code lies in [kernel/bpf/core.c, arch/x86/include/asm/pgtable_64_types.h].

No capability passes it: x86-64 has MODULES_END - MODULES_VADDR bytes for modules and machine code together, of which
the default net.core.bpf_jit_limit is half. Modules are taken to be none. From 5.18 on images share packs of 2 MiB;
before, each has pages of its own. An unmapped page lies behind each pack or image.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.units import round_up

PACK_BYTES: Final = 2 << 20  # BPF_PROG_PACK_SIZE on one NUMA node


@final
class Pack:
    """Pages of the area that images share; of an image of its own, all of them."""

    __slots__ = ("area_bytes", "free_bytes", "images")

    def __init__(self, size_bytes: int, page_bytes: int) -> None:
        self.area_bytes: Final = size_bytes + page_bytes
        self.free_bytes = size_bytes
        self.images = 0


class Image(NamedTuple):
    """The machine code of one function, and where it lies."""

    pack: Pack
    size_bytes: int


@final
class JitArea:
    """The area, as packs with room; how holes lie inside a pack is not kept.

    Invariant: ``used_bytes`` is the sum over the packs of what each takes of the area.
    """

    __slots__ = ("_packed", "_packs", "_page_bytes", "size_bytes", "used_bytes")

    def __init__(self, size_bytes: int, *, packed: bool, page_bytes: int = PAGE_SIZE) -> None:
        self._page_bytes: Final = page_bytes
        self.size_bytes: Final = size_bytes
        self._packed: Final = packed
        self._packs: Final[dict[Pack, None]] = {}  # with the newest last
        self.used_bytes = 0

    def take(self, sizes: Sequence[int]) -> tuple[Image, ...]:
        """Room for images; nothing where they do not all fit."""
        taken: list[Image] = []
        for size in sizes:
            pack = self._pack_for(size)
            if pack is None:
                self.give(taken)
                return ()
            pack.free_bytes -= size
            pack.images += 1
            taken.append(Image(pack, size))
        return tuple(taken)

    def give(self, images: Sequence[Image]) -> None:
        """Takes images out; a pack without any goes."""
        for image in images:
            pack = image.pack
            pack.free_bytes += image.size_bytes
            pack.images -= 1
            if not pack.images:
                del self._packs[pack]
                self.used_bytes -= pack.area_bytes

    def _pack_for(self, size: int) -> Pack | None:
        if self._packed and size <= PACK_BYTES:
            for pack in reversed(self._packs):
                if pack.free_bytes >= size:
                    return pack
        page = self._page_bytes
        shared = self._packed and size <= PACK_BYTES
        pack = Pack(PACK_BYTES if shared else round_up(size, page), page)
        if self.used_bytes + pack.area_bytes > self.size_bytes:
            return None
        self.used_bytes += pack.area_bytes
        self._packs[pack] = None
        return pack
