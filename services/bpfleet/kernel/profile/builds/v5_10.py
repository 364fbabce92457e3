"""5.10 of Debian 11: the last kernels that account under RLIMIT_MEMLOCK."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=256, bpf_array=320, bpf_array_aux=104, bpf_htab=640, lpm_trie=320, lpm_trie_node=40,
    bpf_stack_map=320, bpf_queue_stack=320, bpf_ringbuf_map=320, bpf_bloom_filter=0, bpf_dtab=320,
    bpf_dtab_netdev=72, bpf_cpu_map=320, bpf_cpu_map_entry=112, xsk_map=320, bpf_stab=320,
    bpf_shtab=320, reuseport_array=256, bpf_local_storage_map=320, bpf_local_storage=168,
    bpf_cgroup_storage_map=320, bpf_struct_ops_map=384, bpf_arena=0, bpf_prog=56, bpf_prog_aux=632,
    bpf_prog_stats=16, file=256, bpf_local_storage_elem_header=128,
    inode=568,
    task_struct=8000, mm_struct=1088,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="5.10",
    version="5.10.262",
    provenance=Provenance.RECORDED,
    source="BTF of Debian's cloud image",
    structs=_STRUCTS,
    build={"bpf_lsm_enabled": False},
    uses=frozenset(Use),
)
