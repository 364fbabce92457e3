"""7.3 of Debian."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=280, bpf_array=296, bpf_array_aux=80, bpf_htab=896, lpm_trie=400, lpm_trie_node=24,
    bpf_stack_map=320, bpf_queue_stack=296, bpf_ringbuf_map=288, bpf_bloom_filter=296,
    bpf_dtab=328, bpf_dtab_netdev=64, bpf_cpu_map=288, bpf_cpu_map_entry=360, xsk_map=288,
    bpf_stab=360, bpf_shtab=368, reuseport_array=280, bpf_local_storage_map=296,
    bpf_local_storage=184, bpf_cgroup_storage_map=312, bpf_struct_ops_map=512, bpf_arena=504,
    bpf_prog=96, bpf_prog_aux=1320, bpf_prog_stats=32, file=192, bpf_lru_locallist=32, inode=560,
    bpf_verifier_env=53720, bpf_insn_aux_data=136, bpf_verifier_state=232,
    bpf_verifier_state_list=256, bpf_verifier_stack_elem=264, bpf_func_state=952,
    bpf_stack_state=88, bpf_jmp_history_entry=16, insn_live_regs=16, bpf_liveness=2256,
    func_instance=176, per_frame_masks=48, arg_track=10, const_arg_info=16,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="7.3",
    version="7.3.4",
    provenance=Provenance.RECORDED,
    source="BTF of Debian's cloud image",
    structs=_STRUCTS,
)
