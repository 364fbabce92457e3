"""5.14 of RHEL 9.6, with Red Hat's own options: the BPF of 6.8 to 6.12."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=248, bpf_array=264, bpf_array_aux=88, bpf_htab=896, lpm_trie=288, lpm_trie_node=40,
    bpf_stack_map=288, bpf_queue_stack=264, bpf_ringbuf_map=256, bpf_bloom_filter=264,
    bpf_dtab=296, bpf_dtab_netdev=64, bpf_cpu_map=256, bpf_cpu_map_entry=136, xsk_map=256,
    bpf_stab=296, bpf_shtab=304, reuseport_array=248, bpf_local_storage_map=400,
    bpf_local_storage=176, bpf_cgroup_storage_map=280, bpf_struct_ops_map=512, bpf_arena=344,
    bpf_prog=72, bpf_prog_aux=1088, bpf_prog_stats=32, file=256, inode=648,
    task_struct=8384, mm_struct=1152,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="el9.6",
    version="5.14.0",
    distribution="el9.6",
    provenance=Provenance.RECORDED,
    source="BTF of the build that was recorded",
    structs=_STRUCTS,
    build={"bpf_jit_always_on": True},
)
