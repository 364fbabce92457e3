"""`bpfleet profile capture`: turns a host's BTF into a kernel profile.

Sizes come from the BTF. Behaviour comes from the nearest known release, corrected by what the BTF itself shows: a
struct or a member that came with a change tells that the change is in.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final

from bpfleet.abi.bpf import MapType
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.profile import (
    X86_64,
    KernelProfile,
    Memlock,
    StructSizes,
    nearest_profile,
    on_machine,
    profile_named,
    series_of,
)
from bpfleet.kernel.profile_file import profile_to_toml
from bpfleet.kernel.units import round_up
from bpfleet.oracle.vmlinux_btf import BtfError, Vmlinux, read_btf

# Fields of StructSizes whose kernel struct has another name, or is not one.
_RENAMED: Final = {
    "bpf_ringbuf": None,  # a flexible layout: kernel, consumer and producer page
    "bpf_local_storage_elem_header": None,
    "bpf_shtab_elem": None,
    "htab_elem": None,
    "task_struct": None,  # its cache's objects have a length of their own
    "mm_struct": None,
}
_ALIGNED: Final = frozenset({"file", "dentry"})  # caches with SLAB_HWCACHE_ALIGN
_CACHE_LINE_BYTES: Final = 64


def _has(struct_name: str, member: str) -> Callable[[Vmlinux], bool]:
    return lambda btf: btf.has_member(struct_name, member)


# Types that headers of older kernels name too. That of cgrp storage has the name that cgroup storage had before.
_ALLOCATORS: Final[dict[MapType, str]] = {
    MapType.RINGBUF: "ringbuf_map_alloc",
    MapType.INODE_STORAGE: "inode_storage_map_alloc",
    MapType.TASK_STORAGE: "task_storage_map_alloc",
    MapType.BLOOM_FILTER: "bloom_map_alloc",
    MapType.ARENA: "arena_map_alloc",
    MapType.INSN_ARRAY: "insn_array_alloc",
}
# flag -> (what shows it, in words; the test). Only what BTF can decide either way.
_EVIDENCE: Final[dict[str, tuple[str, Callable[[Vmlinux], bool]]]] = {
    "map_holds_objcg": ("member bpf_map.objcg", _has("bpf_map", "objcg")),
    "hash_uses_mem_alloc": ("member bpf_htab.ma", _has("bpf_htab", "ma")),
    "hash_has_map_locked": ("member bpf_htab.map_locked", _has("bpf_htab", "map_locked")),
    "lpm_uses_mem_alloc": ("member lpm_trie.ma", _has("lpm_trie", "ma")),
    "task_storage_uses_mem_alloc": (
        "member bpf_local_storage_map.selem_ma",
        _has("bpf_local_storage_map", "selem_ma"),
    ),
    "prog_active_percpu": ("member bpf_prog.active", _has("bpf_prog", "active")),
    "has_map_extra": ("member bpf_map.map_extra", _has("bpf_map", "map_extra")),
    "fdinfo_has_map_extra": ("member bpf_map.map_extra", _has("bpf_map", "map_extra")),
    "btf_has_records": ("member bpf_map.record", _has("bpf_map", "record")),
    "struct_ops_has_links": (
        "member bpf_struct_ops_map.links",
        _has("bpf_struct_ops_map", "links"),
    ),
    "struct_ops_has_ksyms": (
        "member bpf_struct_ops_map.ksyms",
        _has("bpf_struct_ops_map", "ksyms"),
    ),
}


def capture(
    data: bytes,
    release: str,
    *,
    name: str = "",
    machine: str = X86_64,
    page_bytes: int = PAGE_SIZE,
) -> str:
    """The text of a profile file for a host with this vmlinux BTF. ``release`` is what ``uname -r`` says.

    The profile is called ``<known kernel>@<name or release>``.

    Raises ``BtfError`` for bytes that are not BTF or not of a kernel with BPF.
    """
    return capture_btf(read_btf(data), release, name=name, machine=machine, page_bytes=page_bytes)


def capture_btf(
    btf: Vmlinux,
    release: str,
    *,
    name: str = "",
    machine: str = X86_64,
    page_bytes: int = PAGE_SIZE,
) -> str:
    """The same for what was read of a BTF before."""
    if "bpf_map" not in btf.structs:
        raise BtfError("there is no struct bpf_map: not the BTF of a kernel with BPF")
    base = on_machine(_base_of(btf, release), machine, page_bytes)
    sources: dict[str, str] = {}
    sizes = _sizes(btf, base, sources)
    flags = _flags(btf, base, sources)
    types = frozenset(each for each in MapType if each and _has_type(btf, each))
    profile = replace(
        base,
        name=f"{base.name}@{name or release}",
        release=release,
        structs=replace(base.structs, **sizes),
        map_types=types or base.map_types,
        **flags,
    )
    header = (
        f"Kernel profile captured from the BTF of {release}.\n"
        f"Sizes are the BTF's; behaviour is that of {base.name} ({base.release}) but for the flags below."
    )
    return profile_to_toml(profile, base, sources, header)


def _base_of(btf: Vmlinux, release: str) -> KernelProfile:
    """The known kernel whose behaviour is taken: the nearest by name, unless the BTF shows another accounting model.

    Distributions put later accounting into kernels with old names: what a map holds decides before its name.
    """
    base = nearest_profile(release)
    by_memcg = btf.has_member("bpf_map", "objcg") or btf.has_member("bpf_map", "memcg")
    by_rlimit = btf.has_member("bpf_map", "memory") or btf.has_member("bpf_map", "user")
    if base.is_rlimit and by_memcg:
        return profile_named("el8.10" if series_of(release) < (5, 4) else "5.11")
    if not base.is_rlimit and by_rlimit:
        return profile_named("5.4" if series_of(release) < (5, 10) else "5.10")
    return base


def _has_type(btf: Vmlinux, map_type: MapType) -> bool:
    """Whether the kernel has a map type: its enumerator, and where functions are listed its allocator too."""
    if f"BPF_MAP_TYPE_{map_type.name}" not in btf.enumerators:
        return False
    allocator = _ALLOCATORS.get(map_type, "")
    return not btf.functions or not allocator or allocator in btf.functions


def _sizes(btf: Vmlinux, base: KernelProfile, sources: dict[str, str]) -> dict[str, int]:
    found = {}
    for each in fields(StructSizes):
        struct_name = _RENAMED.get(each.name, each.name)
        struct = btf.structs.get(struct_name) if struct_name else None
        if struct is not None:
            line = _CACHE_LINE_BYTES if each.name in _ALIGNED else 1
            found[each.name] = round_up(struct.size_bytes, line)
            sources[each.name] = f"BTF, struct {struct_name}" + (
                ", in cache lines" if line > 1 else ""
            )
    return found


def _flags(btf: Vmlinux, base: KernelProfile, sources: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for flag, (words, shows) in _EVIDENCE.items():
        found[flag] = shows(btf)
        sources[flag] = f"BTF, {'' if found[flag] else 'no '}{words}"
    slots = btf.structs["memcg_stock_pcp"].members.get("cached") if _stock(btf) else None
    if slots is not None:
        found["memcg_stock_slots"] = max(slots, 1)
        sources["memcg_stock_slots"] = "BTF, member memcg_stock_pcp.cached"
    if not base.is_rlimit:
        usage = btf.has_member("bpf_map_ops", "map_mem_usage")
        found["memlock"] = Memlock.USAGE if usage else Memlock.FOOTPRINT
        sources["memlock"] = f"BTF, {'' if usage else 'no '}member bpf_map_ops.map_mem_usage"
    return found


def _stock(btf: Vmlinux) -> bool:
    return "memcg_stock_pcp" in btf.structs
