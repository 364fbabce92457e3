"""What people call a kernel: a name, a name with a variant, a release as uname -r prints it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from bpfleet.kernel.profile.known import PROFILES
from bpfleet.kernel.profile.model import KernelProfile, Memlock, Model, Payer, Provenance
from bpfleet.kernel.profile.rows import patch_of, series_of
from bpfleet.near import unknown


def _nobpf(profile: KernelProfile) -> KernelProfile:
    return replace(profile, model=Model.NONE, bpf_accounting=False)


def _nokmem(profile: KernelProfile) -> KernelProfile:
    return replace(profile, model=Model.NONE, kmem_accounting=False)


def _recharge(profile: KernelProfile) -> KernelProfile:
    return replace(profile, payer=Payer.RECHARGE)


def _dry(profile: KernelProfile) -> KernelProfile:
    """As seen on Debian's standard build of 6.12: after 255 areas of 40 bytes there were 47 of 512 bytes, no more."""
    return replace(profile, percpu_populated_bytes=255 * 40 + 47 * 512)


def _nocharge(profile: KernelProfile) -> KernelProfile:
    return replace(profile, payer=Payer.NOCHARGE)


def _selectable(profile: KernelProfile) -> KernelProfile:
    return replace(profile, payer=Payer.SELECTABLE)


def _backport(profile: KernelProfile) -> KernelProfile:
    """A distribution's kernel that has the 5.11 helper but not the accounting: it deceives libbpf's probe."""
    return replace(profile, has_ktime_get_coarse_ns=True)


def _v1(profile: KernelProfile) -> KernelProfile:
    """The memory controller in a hierarchy of its own, as nodes without systemd.unified_cgroup_hierarchy have it."""
    return replace(profile, cgroup_v1=True)


def _lag(profile: KernelProfile) -> KernelProfile:
    """memory.stat as late as Linux flushes it."""
    return replace(profile, stats_lag=True)


def _arm64(profile: KernelProfile) -> KernelProfile:
    """arm64 with pages of 4 KiB. Its machine code lies in vmalloc's area, which is as good as endless."""
    return replace(
        profile,
        arch="arm64",
        provenance=Provenance.DERIVED,
        kmalloc_min_bytes=profile.arm64_kmalloc_min_bytes,
        jit_charges_bytes=profile.arm64_jit_charges_bytes,
        bpf_jit_limit_bytes=_ARM64_JIT_LIMIT_BYTES,
    )


def _paged(profile: KernelProfile, page_bytes: int) -> KernelProfile:
    stack = max(profile.thread_bytes, page_bytes)  # CONFIG_VMAP_STACK: whole pages
    return replace(_arm64(profile), page_bytes=page_bytes, thread_bytes=stack)


def _16k(profile: KernelProfile) -> KernelProfile:
    """arm64 with pages of 16 KiB."""
    return _paged(profile, 16 << 10)


def _64k(profile: KernelProfile) -> KernelProfile:
    """arm64 with pages of 64 KiB, as RHEL 8 has it and others offer."""
    return _paged(profile, 64 << 10)


# Machines as uname -m calls them.
X86_64: Final = "x86_64"
AARCH64: Final = "aarch64"
_OF_PAGES: Final = {16 << 10: "16k", 64 << 10: "64k"}


def on_machine(profile: KernelProfile, machine: str, page_bytes: int) -> KernelProfile:
    """The same kernel on the machine ``uname -m`` names, with its pages.

    Only arm64 is known beside x86-64: another machine gets its pages, and is *nearest*.

    >>> [on_machine(PROFILES["6.12"], *host).name for host in (("x86_64", 4096), ("aarch64", 65536))]
    ['6.12', '6.12:64k']
    """
    is_arm64 = machine == AARCH64
    if profile.page_bytes == page_bytes and (not is_arm64 or profile.arch == "arm64"):
        return profile
    if is_arm64:
        variant = _OF_PAGES.get(page_bytes, "arm64")
        return replace(VARIANTS[variant](profile), name=f"{profile.name}:{variant}")
    stack = max(profile.thread_bytes, page_bytes)
    return replace(
        profile,
        name=f"{profile.name}:{page_bytes >> 10}k",
        arch=machine,
        page_bytes=page_bytes,
        thread_bytes=stack,
        provenance=Provenance.NEAREST,
    )


def machine_of(profile: KernelProfile) -> str:
    """What uname -m says where the profile's kernel runs."""
    return {"x86-64": X86_64, "arm64": AARCH64}.get(profile.arch, profile.arch)


_ARM64_JIT_LIMIT_BYTES: Final = 1 << 46  # half of vmalloc's area with addresses of 48 bits
_OF_ANY_MODEL: Final = frozenset({"lag", "v1", "arm64", "16k", "64k"})
VARIANTS: Final = {
    "arm64": _arm64,
    "16k": _16k,
    "64k": _64k,
    "backport": _backport,
    "nobpf": _nobpf,
    "nokmem": _nokmem,
    "recharge": _recharge,
    "nocharge": _nocharge,
    "v1": _v1,
    "lag": _lag,
    "selectable": _selectable,
    "dry": _dry,
}


# What distributions call their releases, and the kernel that each has. Those of RHEL go to their rebuilds too.
DISTRIBUTIONS: Final[dict[str, str]] = {
    "el8": "el8.10", "rhel8": "el8.10", "rhel-8": "el8.10",
    "el9": "el9.6", "rhel9": "el9.6", "rhel-9": "el9.6",
    "ubuntu-20.04": "5.4", "ubuntu-22.04": "5.15", "ubuntu-24.04": "6.8",
    "ubuntu-24.10": "6.11", "ubuntu-25.04": "6.14",
    "debian-11": "5.10", "debian-12": "6.1", "debian-13": "6.12",
    "al2023": "6.1",
}  # fmt: skip
_RED_HAT: Final = re.compile(r"\d+\.\d+(?:\.\d+-(\d+))?.*[-.](el\d+)(?:[_.].*)?")
_RELEASE: Final = re.compile(r"v?(\d+\.\d+)(\.\d+)?(?:[-+.].*)?")
# 4.18.0-348 is that of el8.5. Those before account by rlimit and are not known.
_EL8_MEMCG_BUILD: Final = 348


def known_name(name: str) -> str:
    """The known kernel that people mean by ``name``; a captured or unknown name is given back as it is.

    >>> [known_name(n) for n in ("v6.8", "5.15.0-91-generic", "5.14.0-427.el9", "rhel9", "debian-12", "6.18.20")]
    ['6.8', '5.15', 'el9.6', 'el9.6', '6.1', '6.18.15']
    """
    if name in PROFILES:
        return name
    if name.lower() in DISTRIBUTIONS:
        return DISTRIBUTIONS[name.lower()]
    red_hat = _RED_HAT.fullmatch(name)
    if red_hat is not None:
        build, brand = red_hat.groups()
        if brand == "el8" and build and int(build) < _EL8_MEMCG_BUILD:
            return name
        return DISTRIBUTIONS.get(brand, name)
    release = _RELEASE.fullmatch(name)
    return name if release is None else _in_series(release[1], release[2] or "") or name


def _in_series(series: str, patch: str) -> str:
    """The build of a series that is newest without being newer, else its oldest; empty for an unknown series.

    Without a number it is the one that has the series' name.
    """
    if series not in PROFILES:
        return ""
    if not patch.strip(".0"):
        return series
    numbers = {
        patch_of(PROFILES[each].release): each
        for each in PROFILES
        if each == series or each.startswith(series + ".")
    }
    older = [number for number in numbers if number <= int(patch[1:])]
    return numbers[max(older, default=min(numbers))]


def says(name: str) -> str:
    """One line on what ``name`` was taken for, and how sure that is. Raises ``ValueError`` as `profile_named` does.

    >>> says("debian-12")
    'debian-12: 6.1, recorded (6.1.192)'
    """
    profile = profile_named(name)
    taken_for = "" if profile.name == name else f"{profile.name}, "
    return f"{name}: {taken_for}{profile.known_by}"


def sureness(kernels: Mapping[str, KernelProfile]) -> dict[str, str]:
    """How sure what is said of each of ``kernels`` is, by the name it was asked by. It goes with every answer.

    >>> sureness({"rhel9": profile_named("rhel9")})
    {'rhel9': 'recorded (5.14.0)'}
    """
    return {name: profile.known_by for name, profile in kernels.items()}


def sureness_line(known: Mapping[str, str]) -> str:
    """What `sureness` gave, for people."""
    return "; ".join(f"{name}: {how}" for name, how in known.items())


def profile_named(name: str) -> KernelProfile:
    """The profile called ``name``: a kernel (``6.12``), what people call one, each with a variant (``6.12:nobpf``).

    Raises ``ValueError`` naming what exists and what is nearest. Variants need a memcg kernel; ``nobpf`` exists from
    6.3 on.
    """
    asked, _, variant = name.partition(":")
    base = known_name(asked)
    profile = PROFILES.get(base)
    if profile is None:
        raise ValueError(_unknown(asked))
    if not variant:
        return profile
    change = VARIANTS.get(variant)
    if change is None:
        raise ValueError(f"{name!r}: {unknown('variant', variant, VARIANTS)}")
    if variant == "backport" and not profile.is_rlimit:
        raise ValueError(f"{name!r}: variant 'backport' is of kernels without memcg accounting")
    if profile.is_rlimit and variant not in {"backport", *_OF_ANY_MODEL}:
        raise ValueError(
            f"{name!r}: variant {variant!r} needs a kernel with memcg accounting, {base} has none"
        )
    if variant == "nobpf" and profile.memlock is not Memlock.USAGE:
        raise ValueError(f"{name!r}: cgroup.memory=nobpf exists from 6.3 on")
    return replace(change(profile), name=f"{base}:{variant}")


def _unknown(asked: str) -> str:
    release = _RELEASE.fullmatch(asked)
    if release is None:
        return unknown("kernel", asked, PROFILES, more="'bpfleet profile list' has all")
    return (
        f"unknown kernel {asked!r}; nearest is {nearest_profile(release[1]).name}, 'bpfleet profile list' has all;"
        " for that very kernel make one on its host with 'bpfleet profile capture'"
    )


def kernel_of(name: str) -> KernelProfile:
    """The known kernel whose behaviour the profile ``name`` has: itself, or the base of a captured one (``6.12@host``).

    Raises ``ValueError`` as `profile_named` does.
    """
    return profile_named(name.partition("@")[0])


def nearest_profile(release: str) -> KernelProfile:
    """The known kernel that is nearest to ``release`` (as uname -r prints it).

    That is the one of its distribution, or the newest that is not newer; the oldest one before that.

    >>> [nearest_profile(n).name for n in ("6.8.0-45-generic", "4.18.0-553.el8", "5.3.1", "7.9.2", "6.18.15")]
    ['6.8', 'el8.10', '5.4', '7.3', '6.18.15']
    """
    found = PROFILES.get(known_name(release))
    if found is not None:
        return found
    wanted = series_of(release)
    kernels = [profile for profile in PROFILES.values() if profile.name[0].isdigit()]
    known = sorted(((series_of(each.name), each) for each in kernels), key=lambda pair: pair[0])
    older = [profile for version, profile in known if version <= wanted]
    return older[-1] if older else known[0][1]
