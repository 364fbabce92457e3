"""6.12 of Debian 13."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=248, bpf_array=264, bpf_array_aux=88, bpf_htab=896, lpm_trie=288, lpm_trie_node=40,
    bpf_stack_map=288, bpf_queue_stack=264, bpf_ringbuf_map=256, bpf_bloom_filter=264,
    bpf_dtab=296, bpf_dtab_netdev=64, bpf_cpu_map=256, bpf_cpu_map_entry=136, xsk_map=256,
    bpf_stab=328, bpf_shtab=336, reuseport_array=248, bpf_local_storage_map=400,
    bpf_local_storage=176, bpf_cgroup_storage_map=280, bpf_struct_ops_map=512, bpf_arena=336,
    bpf_prog=72, bpf_prog_aux=1128, bpf_prog_stats=32, file=192,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="6.12",
    version="6.12.107",
    provenance=Provenance.RECORDED,
    source="BTF of Debian's cloud image",
    structs=_STRUCTS,
    uses=frozenset(Use),
    compared_as=("nobpf",),
)
