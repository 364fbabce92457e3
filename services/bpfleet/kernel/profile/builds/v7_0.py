"""7.0 of Debian."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=288, bpf_array=304, bpf_array_aux=88, bpf_htab=896, lpm_trie=408, lpm_trie_node=24,
    bpf_stack_map=312, bpf_queue_stack=304, bpf_ringbuf_map=296, bpf_bloom_filter=304,
    bpf_dtab=336, bpf_dtab_netdev=64, bpf_cpu_map=296, bpf_cpu_map_entry=360, xsk_map=296,
    bpf_stab=368, bpf_shtab=376, reuseport_array=288, bpf_local_storage_map=312,
    bpf_local_storage=184, bpf_cgroup_storage_map=320, bpf_struct_ops_map=512, bpf_arena=472,
    bpf_prog=96, bpf_prog_aux=1344, bpf_prog_stats=32, file=192, inode=608,
    bpf_verifier_env=26984, bpf_insn_aux_data=96, bpf_verifier_state=168,
    bpf_verifier_state_list=192, bpf_verifier_stack_elem=192, bpf_func_state=1280,
    bpf_stack_state=120, bpf_jmp_history_entry=16, insn_live_regs=8, bpf_liveness=2200,
    func_instance=168, per_frame_masks=32,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="7.0",
    version="7.0.13",
    provenance=Provenance.RECORDED,
    source="BTF of Debian's cloud image",
    structs=_STRUCTS,
)
