"""6.17 of Debian."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=248, bpf_array=264, bpf_array_aux=88, bpf_htab=832, lpm_trie=352, lpm_trie_node=24,
    bpf_stack_map=272, bpf_queue_stack=264, bpf_ringbuf_map=256, bpf_bloom_filter=264,
    bpf_dtab=296, bpf_dtab_netdev=64, bpf_cpu_map=256, bpf_cpu_map_entry=360, xsk_map=256,
    bpf_stab=328, bpf_shtab=336, reuseport_array=248, bpf_local_storage_map=400,
    bpf_local_storage=176, bpf_cgroup_storage_map=280, bpf_struct_ops_map=512, bpf_arena=352,
    bpf_prog=72, bpf_prog_aux=1288, bpf_prog_stats=32, file=192, inode=624,
    bpf_verifier_env=25432, bpf_insn_aux_data=88, bpf_verifier_state=168,
    bpf_verifier_state_list=192, bpf_verifier_stack_elem=192, bpf_func_state=1368,
    bpf_stack_state=128, bpf_jmp_history_entry=16, insn_live_regs=8,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="6.17",
    version="6.17.13",
    provenance=Provenance.RECORDED,
    source="BTF of Debian's cloud image",
    structs=_STRUCTS,
)
