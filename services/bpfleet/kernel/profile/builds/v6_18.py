"""6.18 as built for a virtual machine."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=296, bpf_array=312, bpf_array_aux=88, bpf_htab=832, lpm_trie=400, lpm_trie_node=24,
    bpf_stack_map=320, bpf_queue_stack=312, bpf_ringbuf_map=304, bpf_bloom_filter=312,
    bpf_dtab=344, bpf_dtab_netdev=64, bpf_cpu_map=304, bpf_cpu_map_entry=360, xsk_map=304,
    bpf_stab=376, bpf_shtab=384, reuseport_array=296, bpf_local_storage_map=448,
    bpf_local_storage=176, bpf_cgroup_storage_map=328, bpf_struct_ops_map=512, bpf_arena=400,
    bpf_prog=96, bpf_prog_aux=1304, bpf_prog_stats=32, file=192, bpf_lru_locallist=32,
    bpf_verifier_env=26456, bpf_insn_aux_data=88, bpf_verifier_state=168,
    bpf_verifier_state_list=192, bpf_verifier_stack_elem=192, bpf_func_state=1280,
    bpf_stack_state=120, bpf_jmp_history_entry=16, insn_live_regs=8, bpf_liveness=2200,
    func_instance=168, per_frame_masks=32,
    task_struct=5888, mm_struct=1600,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="6.18",
    version="6.18.44",
    provenance=Provenance.RECORDED,
    source="BTF of a running host",
    structs=_STRUCTS,
    build={"nr_cpus": 256},
    uses=frozenset({Use.INCIDENT, Use.REPLAY}),
)
