"""5.11: the first release that accounts to memory cgroups, and the series before it was merged."""

from dataclasses import replace
from typing import Final

from bpfleet.kernel.profile.builds import v5_10
from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import Payer, Provenance

_STRUCTS: Final = replace(v5_10.KERNEL.structs, bpf_array_aux=96, bpf_htab=704, bpf_prog_aux=640)

KERNEL: Final = KernelBuild(
    name="5.11",
    version="5.11.14",
    provenance=Provenance.DERIVED,
    source="debug information of a build",
    structs=_STRUCTS,
    uses=frozenset({Use.COMPARE, Use.SIZE, Use.INCIDENT}),
)
# Versions 5 to 7 of the series, never released: who updates pays.
SEED_V5: Final = replace(
    KERNEL,
    name="seed-v5",
    release="5.10-rc (series v5)",
    other={"payer": Payer.UPDATER},
    uses=frozenset({Use.COMPARE, Use.CLUSTER, Use.INCIDENT}),
)
