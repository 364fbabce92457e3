"""The kernels bpfleet knows, oldest first, and which of them each command takes by default."""

from typing import Final

from bpfleet.kernel.profile.builds import (
    el8_10,
    el9_6,
    v5_4,
    v5_10,
    v5_11,
    v5_15,
    v6_1,
    v6_6,
    v6_8,
    v6_11,
    v6_12,
    v6_14,
    v6_16,
    v6_17,
    v6_18,
    v6_18_15,
    v6_19,
    v7_0,
    v7_1,
    v7_2,
    v7_3,
)
from bpfleet.kernel.profile.kernels import KernelBuild, Use
from bpfleet.kernel.profile.model import KernelProfile, Provenance

KERNELS: Final[tuple[KernelBuild, ...]] = (
    el8_10.KERNEL,
    v5_4.KERNEL,
    v5_10.KERNEL,
    v5_11.SEED_V5,
    v5_11.KERNEL,
    el9_6.KERNEL,
    v5_15.KERNEL,
    v6_1.KERNEL,
    v6_6.KERNEL,
    v6_8.KERNEL,
    v6_11.KERNEL,
    v6_12.KERNEL,
    v6_14.KERNEL,
    v6_16.KERNEL,
    v6_17.KERNEL,
    v6_18.KERNEL,
    v6_18_15.KERNEL,
    v6_19.KERNEL,
    v7_0.KERNEL,
    v7_1.KERNEL,
    v7_2.KERNEL,
    v7_3.KERNEL,
)
PROFILES: Final[dict[str, KernelProfile]] = {each.name: each.profile() for each in KERNELS}


def used_by(use: Use) -> tuple[str, ...]:
    """Names of the kernels that a command takes by default, oldest first."""
    return tuple(each.name for each in KERNELS if use in each.uses)


def compared_models() -> tuple[str, ...]:
    """The models compared by default: kernels, each followed by its variants.

    >>> compared_models()
    ('5.10', 'seed-v5', '5.11', '6.12', '6.12:nobpf')
    """
    return tuple(
        model
        for each in KERNELS
        if Use.COMPARE in each.uses
        for model in (each.name, *(f"{each.name}:{variant}" for variant in each.compared_as))
    )


def recorded_kernels() -> tuple[str, ...]:
    """Names of the kernels that are compared with recordings of real ones, oldest first."""
    return tuple(each.name for each in KERNELS if each.provenance is Provenance.RECORDED)
