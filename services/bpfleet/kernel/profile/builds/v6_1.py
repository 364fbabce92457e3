"""6.1 of Debian 12."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=256, bpf_array=320, bpf_array_aux=88, bpf_htab=832, lpm_trie=320, lpm_trie_node=40,
    bpf_stack_map=320, bpf_queue_stack=320, bpf_ringbuf_map=320, bpf_bloom_filter=320,
    bpf_dtab=320, bpf_dtab_netdev=72, bpf_cpu_map=320, bpf_cpu_map_entry=144, xsk_map=320,
    bpf_stab=320, bpf_shtab=320, reuseport_array=256, bpf_local_storage_map=320,
    bpf_local_storage=168, bpf_cgroup_storage_map=320, bpf_struct_ops_map=448, bpf_arena=0,
    bpf_prog=72, bpf_prog_aux=1080, bpf_prog_stats=32, file=256, inode=656,
    task_struct=8384, mm_struct=1152,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="6.1",
    version="6.1.192",
    provenance=Provenance.RECORDED,
    source="BTF of Debian's cloud image",
    structs=_STRUCTS,
    uses=frozenset({Use.SIZE, Use.INCIDENT, Use.SIMULATION, Use.REPLAY}),
)
