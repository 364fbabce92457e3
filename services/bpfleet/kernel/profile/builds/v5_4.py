"""5.4 of the stable series, built with the options of Debian's cloud kernel."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=192, bpf_array=256, bpf_array_aux=0, bpf_htab=576, lpm_trie=256, lpm_trie_node=40,
    bpf_stack_map=256, bpf_queue_stack=256, bpf_ringbuf_map=0, bpf_bloom_filter=0, bpf_dtab=256,
    bpf_dtab_netdev=64, bpf_cpu_map=256, bpf_cpu_map_entry=104, xsk_map=256, bpf_stab=256,
    bpf_shtab=256, reuseport_array=192, bpf_local_storage_map=0, bpf_local_storage=0,
    bpf_cgroup_storage_map=256, bpf_struct_ops_map=0, bpf_arena=0, bpf_prog=56, bpf_prog_aux=296,
    bpf_prog_stats=16, file=256, xdp_bulk_queue=168, bpf_cgroup_storage=88, inode=600,
    bpf_local_storage_elem_header=128,
    task_struct=8000, mm_struct=1088,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="5.4",
    version="5.4.301",
    provenance=Provenance.RECORDED,
    source="BTF of the build that was recorded",
    structs=_STRUCTS,
    build={"bpf_jit_limit_bytes": 796917760},
)
