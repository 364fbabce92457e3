"""6.14, of which no build is at hand: what it does by the releases, what it measures as 6.12 but for LPM tries.

Those have the caches and the shorter nodes of 6.16. What else measures otherwise in 6.16 came with 6.15, or, as
struct bpf_prog_aux, takes an object of the same kmalloc class.
"""

from dataclasses import replace
from typing import Final

from bpfleet.kernel.profile.builds import v6_12, v6_16
from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance

KERNEL: Final = KernelBuild(
    name="6.14",
    version="6.14.11",
    provenance=Provenance.NEAREST,
    source="sizes of 6.12, LPM tries as in 6.16",
    structs=replace(
        v6_12.KERNEL.structs,
        lpm_trie=v6_16.KERNEL.structs.lpm_trie,
        lpm_trie_node=v6_16.KERNEL.structs.lpm_trie_node,
    ),
)
