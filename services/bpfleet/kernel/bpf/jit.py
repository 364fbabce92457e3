"""The JIT's own budget, net.core.bpf_jit_limit: one counter for the node, independent of memlock and memcg [core.c]."""

from typing import Final, final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.host import Host
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
    """bpf_jit_current against the limit. Privileged loaders may exceed it and are counted all the same."""

    __slots__ = ("_host", "charged_bytes")

    def __init__(self, host: Host) -> None:
        self._host: Final = host
        self.charged_bytes = 0

    def image_bytes(self, code_bytes: int) -> int:
        """What an image of ``code_bytes`` counts: whole pages up to 5.17, chunks of 64 bytes after."""
        if self._host.profile.jit_charges_bytes:
            return round_up(code_bytes + HEADER_BYTES + PACK_PADDING_BYTES, CHUNK_BYTES)
        return round_up(round_up(code_bytes, 4) + HEADER_BYTES + PAGE_PADDING_BYTES, PAGE_SIZE)

    def charge(self, task: Task, size_bytes: int) -> bool:
        """bpf_jit_charge_modmem: False when the limit refuses an unprivileged loader."""
        over = self.charged_bytes + size_bytes > self._host.jit_limit_bytes
        if over and not task.bpf_capable():
            return False
        self.charged_bytes += size_bytes
        return True

    def uncharge(self, size_bytes: int) -> None:
        """bpf_jit_uncharge_modmem."""
        assert self.charged_bytes >= size_bytes, (self.charged_bytes, size_bytes)
        self.charged_bytes -= size_bytes
