"""The JIT's own budget, net.core.bpf_jit_limit: one counter for the node, independent of memlock and memcg [core.c]."""

from collections.abc import Sequence
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.host import Host
from bpfleet.kernel.bpf.jit_area import Image, JitArea
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.units import round_up

CHUNK_BYTES: Final = 64  # BPF_PROG_CHUNK_SIZE
HEADER_BYTES: Final = 8  # struct bpf_binary_header
PACK_PADDING_BYTES: Final = 16
PAGE_PADDING_BYTES: Final = 128
PROLOGUE_BYTES: Final = 14
BYTES_PER_INSN: Final = 5


def jited_estimate_bytes(insn_cnt: int) -> int:
    """x86-64 code for ``insn_cnt`` instructions, roughly: listings show 4.5 to 6 bytes for one.

    >>> jited_estimate_bytes(8), jited_estimate_bytes(524)
    (54, 2634)
    """
    return PROLOGUE_BYTES + BYTES_PER_INSN * insn_cnt


@final
class JitBudget:
    """bpf_jit_current against the limit, and the area. Privileged loaders may exceed the limit and are counted all
    the same.
    """

    __slots__ = ("_area", "_host", "charged_bytes")

    def __init__(self, host: Host) -> None:
        self._host: Final = host
        self._area: Final = JitArea(
            2 * host.profile.bpf_jit_limit_bytes,
            packed=host.profile.jit_charges_bytes,
            page_bytes=host.profile.page_bytes,
        )
        self.charged_bytes = 0

    def image_bytes(self, code_bytes: int) -> int:
        """What an image of ``code_bytes`` counts: whole pages up to 5.17, chunks of 64 bytes after."""
        if self._host.profile.jit_charges_bytes:
            return round_up(code_bytes + HEADER_BYTES + PACK_PADDING_BYTES, CHUNK_BYTES)
        page = self._host.profile.page_bytes
        return round_up(round_up(code_bytes, 4) + HEADER_BYTES + PAGE_PADDING_BYTES, page)

    def charge(self, task: Task, sizes: Sequence[int]) -> tuple[Image, ...]:
        """Room for images, all of them or none. Raises ENOTSUPP, for the caller to run the program interpreted."""
        total = sum(sizes)
        limit = self._host.jit_limit_bytes
        if self.charged_bytes + total > limit and not task.bpf_capable():  # bpf_jit_charge_modmem
            raise KernelError(
                Errno.ENOTSUPP,
                Reason.JIT_LIMIT_EXCEEDED,
                f"net.core.bpf_jit_limit is {limit} bytes and {self.charged_bytes} are used",
                limit_bytes=limit,
                usage_bytes=self.charged_bytes,
                requested_bytes=total,
            )
        images = self._area.take(sizes)
        if not images:
            raise KernelError(
                Errno.ENOTSUPP,
                Reason.JIT_AREA_FULL,
                f"the area for modules and machine code has {self._area.size_bytes} bytes, which no capability passes,"
                f" and {self.charged_bytes} of machine code lie in it",
                limit_bytes=self._area.size_bytes,
                usage_bytes=self.charged_bytes,
                requested_bytes=total,
            )
        self.charged_bytes += total
        return images

    def uncharge(self, images: Sequence[Image]) -> None:
        """bpf_jit_uncharge_modmem and the room."""
        total = sum(image.size_bytes for image in images)
        assert self.charged_bytes >= total, (self.charged_bytes, total)
        self.charged_bytes -= total
        self._area.give(images)
