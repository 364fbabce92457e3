"""6.6 of the stable series, built with the options of Debian's cloud kernel less drivers, ACPI and PCI."""

from typing import Final

from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import Provenance, StructSizes

_STRUCTS: Final = StructSizes(
    bpf_map=320, bpf_array=384, bpf_array_aux=88, bpf_htab=896, lpm_trie=384, lpm_trie_node=40,
    bpf_stack_map=384, bpf_queue_stack=384, bpf_ringbuf_map=384, bpf_bloom_filter=384,
    bpf_dtab=384, bpf_dtab_netdev=64, bpf_cpu_map=384, bpf_cpu_map_entry=136, xsk_map=384,
    bpf_stab=384, bpf_shtab=384, reuseport_array=320, bpf_local_storage_map=512,
    bpf_local_storage=176, bpf_cgroup_storage_map=384, bpf_struct_ops_map=512, bpf_arena=0,
    bpf_prog=72, bpf_prog_aux=1064, bpf_prog_stats=32, file=256,
)  # fmt: skip

KERNEL: Final = KernelBuild(
    name="6.6",
    version="6.6.150",
    provenance=Provenance.RECORDED,
    source="BTF of the build that was recorded",
    structs=_STRUCTS,
    uses=frozenset({Use.INCIDENT}),
)
