"""6.11, of which no build is at hand: what it does by the releases, what it measures as 6.12."""

from typing import Final

from bpfleet.kernel.profile.builds import v6_12
from bpfleet.kernel.profile.kernels import KernelBuild
from bpfleet.kernel.profile.model import Provenance

KERNEL: Final = KernelBuild(
    name="6.11",
    version="6.11.11",
    provenance=Provenance.NEAREST,
    source="sizes of 6.12; those of 6.8 are up to 64 bytes a map larger",
    structs=v6_12.KERNEL.structs,
)
