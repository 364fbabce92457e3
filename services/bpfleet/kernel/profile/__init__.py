"""Kernel profiles: what differs between kernels, as data. The only place that knows versions.

`rows` says what changed when, a file of `builds` what a kernel's structures measure, `known` lists the kernels,
`names` finds one by what people call it.
"""

from bpfleet.kernel.profile.kernels import Use
from bpfleet.kernel.profile.known import PROFILES, compared_models, recorded_kernels, used_by
from bpfleet.kernel.profile.model import (
    KernelProfile,
    Memlock,
    Model,
    Payer,
    Provenance,
    StructSizes,
)
from bpfleet.kernel.profile.names import (
    VARIANTS,
    X86_64,
    kernel_of,
    machine_of,
    nearest_profile,
    on_machine,
    profile_named,
    says,
    sureness,
    sureness_line,
)
from bpfleet.kernel.profile.rows import series_of

__all__ = [
    "PROFILES",
    "VARIANTS",
    "X86_64",
    "KernelProfile",
    "Memlock",
    "Model",
    "Payer",
    "Provenance",
    "StructSizes",
    "Use",
    "compared_models",
    "kernel_of",
    "machine_of",
    "nearest_profile",
    "on_machine",
    "profile_named",
    "recorded_kernels",
    "says",
    "series_of",
    "sureness",
    "sureness_line",
    "used_by",
]
