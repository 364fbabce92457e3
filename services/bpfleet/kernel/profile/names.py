"""What people call a kernel: a name, a name with a variant, a release as uname -r prints it."""

from dataclasses import replace
from typing import Final

from bpfleet.kernel.profile.known import PROFILES
from bpfleet.kernel.profile.model import KernelProfile, Memlock, Model, Payer
from bpfleet.kernel.profile.rows import series_of


def _nobpf(profile: KernelProfile) -> KernelProfile:
    return replace(profile, model=Model.NONE, bpf_accounting=False)


def _nokmem(profile: KernelProfile) -> KernelProfile:
    return replace(profile, model=Model.NONE, kmem_accounting=False)


def _recharge(profile: KernelProfile) -> KernelProfile:
    return replace(profile, payer=Payer.RECHARGE)


def _nocharge(profile: KernelProfile) -> KernelProfile:
    return replace(profile, payer=Payer.NOCHARGE)


def _backport(profile: KernelProfile) -> KernelProfile:
    """A distribution's kernel that has the 5.11 helper but not the accounting: it deceives libbpf's probe."""
    return replace(profile, has_ktime_get_coarse_ns=True)


VARIANTS: Final = {
    "backport": _backport,
    "nobpf": _nobpf,
    "nokmem": _nokmem,
    "recharge": _recharge,
    "nocharge": _nocharge,
}


def profile_named(name: str) -> KernelProfile:
    """The profile called ``name``: a kernel (``6.12``), or a kernel and a variant (``6.12:nobpf``).

    Raises ``ValueError`` naming what exists. Variants need a memcg kernel; ``nobpf`` exists from 6.3 on.
    """
    base, _, variant = name.partition(":")
    profile = PROFILES.get(base)
    if profile is None:
        raise ValueError(
            f"unknown kernel profile {base!r}; known: {', '.join(PROFILES)}, "
            "and variants such as 6.12:nobpf"
        )
    if not variant:
        return profile
    change = VARIANTS.get(variant)
    if change is None:
        raise ValueError(f"unknown variant {variant!r} of {base}; known: {', '.join(VARIANTS)}")
    if variant == "backport" and not profile.is_rlimit:
        raise ValueError(f"{name!r}: variant 'backport' is of kernels without memcg accounting")
    if profile.is_rlimit and variant != "backport":
        raise ValueError(
            f"{name!r}: variant {variant!r} needs a kernel with memcg accounting, {base} has none"
        )
    if variant == "nobpf" and profile.memlock is not Memlock.USAGE:
        raise ValueError(f"{name!r}: cgroup.memory=nobpf exists from 6.3 on")
    return replace(change(profile), name=name)


def kernel_of(name: str) -> KernelProfile:
    """The known kernel whose behaviour the profile ``name`` has: itself, or the base of a captured one (``6.12@host``).

    Raises ``ValueError`` as `profile_named` does.
    """
    return profile_named(name.partition("@")[0])


def nearest_profile(release: str) -> KernelProfile:
    """The newest known kernel that is not newer than ``release`` (as uname -r prints it); the oldest one before that.

    >>> nearest_profile("6.8.0-45-generic").name, nearest_profile("5.4.0").name, nearest_profile("7.1.2").name
    ('6.6', '5.10', '6.18')
    """
    wanted = series_of(release)
    kernels = [profile for profile in PROFILES.values() if profile.name[0].isdigit()]
    known = sorted(((series_of(each.name), each) for each in kernels), key=lambda pair: pair[0])
    older = [profile for version, profile in known if version <= wanted]
    return older[-1] if older else known[0][1]
