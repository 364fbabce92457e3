"""What changed between kernels, a flag a row: what it was, what it became, and which kernels have the change.

A change came with a release (``since``), may have come to older series by a stable release (``stable``), and to a
distribution's kernels by one of its own releases (``backports``). Where only a later release is known to have it, that
one is named: a profile of an older one needs a look first. The subjects are those of Linux' commits.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import takewhile
from typing import Any, Final, TypeVar

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.kernel.profile.memory_stat import STAT_5_10, STAT_5_11, STAT_6_1, STAT_6_12, STAT_6_13
from bpfleet.kernel.profile.model import Memlock, Model, Payer

# A value of any flag: the fields of KernelProfile say which type.
Value = Any
_Type = TypeVar("_Type", bound=IntEnum)


@dataclass(frozen=True, slots=True)
class Change:
    """A flag's new value, and the kernels that have it.

    ``since`` is a mainline release, or empty for what only a distribution has; each of ``stable`` the first of its
    series (``5.10.83``), each of ``backports`` the first of its distribution (``el9.2``); a distribution named here
    follows its own calendar alone.
    """

    new: Value
    since: str
    why: str
    stable: tuple[str, ...] = ()
    backports: tuple[str, ...] = ()

    def is_in(self, version: str, distribution: str) -> bool:
        """Whether the kernel that is ``version`` upstream has it; ``distribution`` is empty for one of kernel.org.

        >>> change = Change(True, "6.13", "a fix", stable=("6.1.190",), backports=("el9.6",))
        >>> [change.is_in(version, "") for version in ("6.13.0", "6.12.1", "6.1.189", "6.1.192")]
        [True, False, False, True]
        >>> change.is_in("5.14.0", "el9.4"), change.is_in("5.14.0", "el9.6")
        (False, True)
        >>> of_red_hat = Change((216, 40), "", "spare room", backports=("el9.6",))
        >>> of_red_hat.is_in("6.12.1", ""), of_red_hat.is_in("5.14.0", "el9.6")
        (False, True)
        """
        name, minor = _distribution(distribution)
        firsts = [first for brand, first in map(_distribution, self.backports) if brand == name]
        if name and firsts:
            return minor >= min(firsts)
        if not self.since:
            return False
        major_minor, patch = series_of(version), patch_of(version)
        return major_minor >= series_of(self.since) or any(
            series_of(first) == major_minor and patch_of(first) <= patch for first in self.stable
        )


@dataclass(frozen=True, slots=True)
class Flag:
    """A field of KernelProfile: its value in the oldest kernels, and what changed it, in order."""

    name: str
    old: Value
    changes: tuple[Change, ...]

    def value(self, version: str, distribution: str) -> Value:
        """Its value in a kernel."""
        value = self.old
        for change in self.changes:
            if change.is_in(version, distribution):
                value = change.new
        return value


@dataclass(frozen=True, slots=True)
class Option:
    """A field of KernelProfile that a build decides: what is usual, and by which option it is built otherwise."""

    name: str
    usual: Value
    why: str


def series_of(version: str) -> tuple[int, int]:
    """(major, minor) of a release. Raises ``ValueError``."""
    major, _, rest = version.partition(".")
    minor = "".join(takewhile(str.isdigit, rest))
    if not major.isdigit() or not minor:
        raise ValueError(f"{version!r} is not a kernel release like 6.12.3")
    return int(major), int(minor)


def patch_of(version: str) -> int:
    """The number of a stable release, 0 where there is none."""
    numbers = version.split(".")
    return int("".join(takewhile(str.isdigit, numbers[2])) or 0) if len(numbers) > 2 else 0


def _distribution(release: str) -> tuple[str, int]:
    """``el9.6`` as ("el9", 6)."""
    name, _, minor = release.rpartition(".")
    return name, int(minor or 0)


def _flag(name: str, old: Value, *changes: Change) -> Flag:
    return Flag(name, old, changes)


def _since(
    release: str, why: str, *, stable: Iterable[str] = (), backports: Iterable[str] = ()
) -> Change:
    """A change of a flag from False to True."""
    return Change(True, release, why, tuple(stable), tuple(backports))


def _until(
    release: str, why: str, *, stable: Iterable[str] = (), backports: Iterable[str] = ()
) -> Change:
    """A change of a flag from True to False: ``release`` is the first without."""
    return Change(False, release, why, tuple(stable), tuple(backports))


def _type(release: str, why: str, *backports: str) -> Change:
    """A map or program type that came with a release."""
    return Change(True, release, why, backports=backports)


_MEASURED: Final = "measured; the release that changed it is not known"

ACCOUNTING: Final = (
    _flag("model", Model.RLIMIT,
          Change(Model.MEMCG, "5.11", "bpf: switch to memcg-based memory accounting (a series)", backports=("el8.5",))),
    _flag("payer", Payer.CREATOR),
    _flag("kmem_accounting", True),
    _flag("bpf_accounting", True),
    _flag("map_holds_objcg", False,
          _since("6.0", "bpf: reparent bpf maps on memcg offlining; maps hold an objcg",
                 backports=("el9.2",))),
    _flag("creation_percpu_charged", True,
          _until("6.0", "lost when maps switched to an objcg, which is unset during creation", backports=("el9.2",))),
)  # fmt: skip

MEMCG: Final = (
    _flag("memcg_charge_batch", 32,
          Change(64, "6.1", "memcg: increase MEMCG_CHARGE_BATCH to 64", backports=("el8.8", "el9.2"))),
    _flag("memcg_stock_slots", 1, Change(7, "6.16", "memcg: multi-memcg percpu charge cache")),
    _flag("stock_bypassed_over_batch", False,
          _since("6.16", "memcg: multi-memcg percpu charge cache; a refill over the batch goes to the counters")),
    _flag("byte_stock_keeps_uncharged", False,
          _since("5.14", "mm: memcg/slab: don't uncharge in refill; allow_uncharge", backports=("el8.5",))),
    _flag("percpu_charges_objcg_vector", False,
          _since("5.17", "mm: memcg/percpu: account extra objcg space", backports=("el9.2",))),
    _flag("atomic_forces_early", True,
          _until("5.18", "__GFP_ATOMIC forced before reclaim", backports=("el8.8", "el9.2"))),
    _flag("high_forces", False,
          _since("5.18", "__GFP_HIGH forces at the end of the slow path", backports=("el8.8", "el9.2"))),
    _flag("dying_task_forces", True,
          _until("5.16", "memcg: prohibit unconditional exceeding the limit of dying tasks",
                 stable=("5.10.83", "5.15.215"), backports=("el8.8", "el9.1"))),
    _flag("oom_without_victim_forces", True,
          _until("5.16", "memcg: prohibit unconditional exceeding the limit of dying tasks",
                 stable=("5.10.83", "5.15.215"), backports=("el8.8", "el9.1"))),
    _flag("forced_charge_raises_max", False,
          _since("6.0", "memcg: sync high/max events on forced charges", backports=("el9.3",))),
    _flag("high_throttles_inside", False,
          _since("5.18", "memcg: synchronously enforce memory.high for large overcharges",
                 backports=("el8.8", "el9.2"))),
    _flag("vmalloc_tries_bulk_first", False,
          _since("5.13", "mm/vmalloc: switch to bulk allocator in __vmalloc_area_node()")),
    _flag("vmalloc_takes_large_orders", False,
          _since("6.19", "mm/vmalloc: request large order pages from buddy allocator")),
    _flag("nowait_charge_raises_max", False,
          _since("7.3", "seen in memory.events of 7.3: a charge that must not wait counts as well when it fails")),
    _flag("memcg_percpu_bytes", (1064, 1064, 304, 304),
          Change((1024, 728), "6.1", _MEASURED), Change((880, 640), "6.12", _MEASURED),
          Change((976, 640), "6.16", _MEASURED)),
    _flag("memcg_slab_bytes", (), Change((2048, 1024), "6.12", _MEASURED),
          Change((), "6.16", "mm/memcg: use kmem_cache when alloc memcg")),
    _flag("memcg_cache_bytes", (),
          Change((2240, 1088), "6.16", "mm/memcg: use kmem_cache when alloc memcg pernode info; in cache lines")),
    _flag("reclaim_walks_in_part", False,
          _since("6.11", "mm: vmscan: restore incremental cgroup iteration")),
    _flag("file_vma_slab_bytes", (200,),
          Change((152,), "6.1", _MEASURED),
          Change((176, 40), "6.4", "mm: add per-VMA lock; the sizes are those measured on 6.12"),
          Change((192,), "6.15", "mm: move per-vma lock into vm_area_struct; a cache line at a time"),
          Change((216, 40), "", "per-vma locks, and Red Hat's structures have spare room", backports=("el9.6",))),
    _flag("vma_slab_bytes", (200, 88, 64),
          Change((152, 104, 64), "6.1", _MEASURED),
          Change((176, 40, 104, 64), "6.4", "mm: add per-VMA lock; the sizes are those measured on 6.12"),
          Change((192, 104, 64), "6.15", "mm: move per-vma lock into vm_area_struct; a cache line at a time"),
          Change((216, 40, 88, 64), "", "per-vma locks, and Red Hat's structures have spare room",
                 backports=("el9.6",))),
)  # fmt: skip

CONTROL_FILES: Final = (
    _flag("has_oom_group_kill_event", False, _since("5.17", "memory.events oom_group_kill", backports=("el9.2",))),
    _flag("has_memory_peak", False, _since("5.19", "memory.peak", backports=("el8.10", "el9.3"))),
    _flag("memory_peak_resets", False, _since("6.12", "a write resets memory.peak for that file")),
    _flag("has_memory_reclaim", False, _since("5.19", "memory.reclaim", backports=("el8.8", "el9.2"))),
    _flag("reclaim_takes_swappiness", False, _since("6.9", "memory.reclaim swappiness=")),
    _flag("memory_stat_lines", STAT_5_10,
          Change(STAT_5_11, "5.11", "pagetables"),
          Change(STAT_6_1, "5.19", "vmalloc (5.17), kernel (5.18), sec_pagetables and zswap (5.19)",
                 backports=("el9.2",)),
          Change(STAT_6_12, "6.12", "pgdemote, pgpromote, khugepaged, swpin_zero, NUMA lines"),
          Change(STAT_6_13, "6.13", "15ff4d409e1a mm/memcontrol: add per-memcg pgpgin/pswpin counter")),
    _flag("io_uring_rings_locked", True,
          _until("5.12", "io_uring: account io_uring internal files as REQ_F_INFLIGHT; rings are charged to the memcg",
                 stable=("5.10.162",), backports=("el8.10",))),
    _flag("gfp_bits_of_4_18", True,
          _until("5.0", "mm: change how the GFP bits are numbered; the numbers of the OOM report")),
    _flag("has_cgroup_kill", False, _since("5.14", "cgroup.kill")),
    _flag("has_memory_swap_peak", False, _since("6.5", "memory.swap.peak", backports=("el8.10", "el9.4"))),
    _flag("cgroup_stat_has_subsystems", False,
          _since("6.12", "cgroup.stat nr_subsys_* and nr_dying_subsys_*", backports=("el9.6",))),
)  # fmt: skip

ALLOCATION: Final = (
    _flag("elements_nowait", False,
          _since("6.0", "bpf: Make non-preallocated allocation low priority; GFP_NOWAIT instead of GFP_ATOMIC",
                 backports=("el9.2",))),
    _flag("kfree_rcu_waits_for_more", False,
          _since("6.1", "rcu/kvfree: Update KFREE_DRAIN_JIFFIES interval", backports=("el9.2",))),
    _flag("maps_freed_behind_grace", True,
          _until("5.9", "bpf: Remove redundant synchronize_rcu", backports=("el8.4",))),
    _flag("hash_uses_mem_alloc", False,
          _since("6.1", "bpf: Convert hash map to bpf_mem_alloc.", backports=("el9.3",))),
    _flag("lpm_uses_mem_alloc", False, _since("6.14", "bpf: Switch to bpf mem allocator for LPM trie")),
    _flag("task_storage_uses_mem_alloc", False,
          _since("6.4", "bpf: Use bpf_mem_cache_alloc/free in bpf_local_storage_elem", backports=("el9.4",)),
          _until("6.19", "kmalloc_nolock instead")),
    _flag("mem_alloc_prefill_blocks", False, _since("6.6", "prefill with GFP_KERNEL", backports=("el9.4",))),
    _flag("mem_alloc_percpu_low_watermarks", False,
          _since("6.8", "the per-CPU instance has watermarks 1 and 3", backports=("el9.6",))),
    _flag("mem_alloc_reuses_waiting", False,
          _since("6.6", "a refill takes objects that wait for RCU first", backports=("el9.4",))),
    _flag("mem_alloc_grace_restarts", False,
          _since("7.2", "the end of a grace period sends off what came while it ran; it waited for the next overflow")),
    _flag("lru_target_free_scaled", False,
          _since("6.16", "bpf: Adjust free target to avoid global starvation of LRU map",
                 stable=("6.6.150", "6.12.107"))),
    _flag("redirect_flush_lists_charged", True,
          _until("5.6", "xdp: Use bulk queues of the device; a list head per CPU before", backports=("el8.3",))),
    _flag("percpu_value_size_checked", False,
          _since("6.12", "bpf: Check percpu map value size first",
                 stable=("5.4.301", "5.10.262", "5.15.215", "6.1.192", "6.6.150"), backports=("el9.6",))),
    _flag("array_value_limit_bytes", 4 << 20,
          Change((1 << 31) - 1, "5.17", "bpf: Fix integer overflow in argument calculation for bpf_map_area_alloc;"
                 " KMALLOC_MAX_SIZE before", backports=("el9.2",))),
    _flag("lpm_full_checked_first", True,
          _until("6.13", "bpf: Handle in-place update for full LPM trie correctly",
                 stable=("6.1.192", "6.6.150", "6.12.107"))),
    _flag("lpm_ignores_update_flags", True,
          _until("6.13", "bpf: Handle BPF_EXIST and BPF_NOEXIST for LPM trie",
                 stable=("5.4.301", "5.10.262", "5.15.215", "6.1.192", "6.6.150", "6.12.107"))),
    _flag("hash_has_elem_count", False, _since("6.6", "an element counter per CPU", backports=("el9.4",))),
    _flag("hash_has_map_locked", False,
          _since("5.11", "bpf: Avoid hashtab deadlock with map_locked; eight counters per CPU",
                 backports=("el8.5",)),
          _until("6.15", "bpf: Convert hashtab.c to rqspinlock")),
    _flag("hash_of_maps_spare_elements", True,
          _until("6.15", "no spare elements for hashes of maps")),
    _flag("usage_counts_map_locked", True,
          _until("7.0", "the lock counters leave htab_map_mem_usage, long after they left the table")),
    _flag("bloom_value_size_checked", False,
          _since("6.9", "bpf: Check bloom filter map value size", stable=("6.1.192", "6.6.150"),
                 backports=("el9.6",))),
    _flag("queue_size_checked", False, _since("7.3", "E2BIG for a queue or stack over the limit of a vmalloc")),
    _flag("arena_tracks_free_ranges", False,
          _since("7.0", "the arena's tree of free ranges is charged: a node of 64 bytes at creation")),
    _flag("arena_usage_counts_pages", False, _since("7.3", "arena_map_mem_usage answers its pages, 0 before")),
    _flag("arena_has_scratch_page", False, _since("7.2", "a page that faults of programs fall on")),
    _flag("stack_map_entries_checked", False,
          _since("6.9", "bpf: Fix stackmap overflow check on 32-bit arches",
                 stable=("5.4.301", "5.10.262", "5.15.215", "6.1.192", "6.6.150"), backports=("el9.6",))),
    _flag("stack_map_over_allocates", False,
          _since("5.11", "the old cost passed as size", backports=("el8.3",)),
          _until("5.17", "the size is that of the pointers alone again", stable=("5.15.215",), backports=("el9.2",))),
    _flag("local_storage_buckets_charged", True,
          _until("6.0", "the helper that allocates them finds no objcg during creation", backports=("el9.3",))),
    _flag("hash_key_limited_to_stack", True,
          _until("5.11", "the key no longer has to fit MAX_BPF_STACK; the value limit is separate",
                 backports=("el8.5",))),
    _flag("map_structs_by_area_alloc", False,
          _since("6.1", "bpf: Use bpf_map_area_alloc consistently on bpf map creation", backports=("el9.3",))),
    _flag("local_storage_charges_replacement", False,
          _since("6.0", "the new element is charged before the old one is gone")),
    _flag("jit_charges_bytes", False,
          _since("5.18", "bpf: Introduce bpf_prog_pack allocator; 64 B chunks charged in bytes",
                 backports=("el9.2",))),
    _flag("arm64_jit_charges_bytes", False, _since("6.9", "bpf, arm64: use bpf_prog_pack for memory management")),
    _flag("arm64_kmalloc_min_bytes", 128,
          Change(8, "6.5", "arm64: enable kmalloc() below ARCH_DMA_MINALIGN; buffers for DMA are bounced")),
    _flag("verifier_memory_charged", False,
          _since("6.17", "bpf: include verifier memory allocations in memcg statistics")),
    _flag("verifier_aux_charged", False,
          _since("7.3", "bpf_insn_aux_data is allocated with __GFP_ACCOUNT; by vzalloc() before")),
    _flag("verifier_aux_rewritten_charged", False,
          _since("6.18", "bpf_insn_aux_data of a rewritten program comes from vrealloc() with __GFP_ACCOUNT")),
    _flag("verifier_arg_registers", 0,
          Change(11, "7.1", "bpf: stack liveness by static analysis of arguments: a bpf_arg_track for each register"),
          Change(18, "7.2", "bpf: arguments on the stack: MAX_STACK_ARG_SLOTS more of them")),
    _flag("verifier_excludes_compared", False,
          _since("7.2", "bpf: circular numbers: ranges leave out what was compared with; paths meet no more")),
    _flag("prog_active_percpu", False,
          _since("5.12", "bpf: Add per-program recursion prevention mechanism", backports=("el8.6",))),
)  # fmt: skip

INTERFACE: Final = (
    _flag("has_ktime_get_coarse_ns", False,
          _since("5.11", "bpf: Add bpf_ktime_get_coarse_ns helper; libbpf takes it for a sign of memcg accounting",
                 backports=("el8.5",))),
    _flag("memlock", Memlock.CHARGED,
          Change(Memlock.FOOTPRINT, "5.11", "bpf_map_memory_footprint, a bare product", backports=("el8.5",)),
          Change(Memlock.USAGE, "6.4", "bpf: add new map ops ->map_mem_usage", backports=("el9.3",))),
    _flag("default_memlock_bytes", 64 << 10,
          Change(8 << 20, "5.16", "Increase default MLOCK_LIMIT to 8 MiB")),
    _flag("capability_check_central", False,
          _since("6.5", "bpf: centralize permissions checks for all BPF map types; after alloc_check",
                 backports=("el9.4",))),
    _flag("sys_admin_is_net_admin", False,
          _since("6.9", "with BPF tokens CAP_SYS_ADMIN stands for CAP_NET_ADMIN when a map is created",
                 backports=("el9.6",))),
    _flag("unprivileged_gate_all_commands", True,
          _until("5.19", "unprivileged_bpf_disabled refused every command", backports=("el9.2",))),
    _flag("fdinfo_has_ino", False, _since("5.14", "procfs/dmabuf: add inode number to /proc/*/fdinfo")),
    _flag("fdinfo_has_map_extra", False,
          _since("5.16", "bpf: Add bloom filter map implementation", backports=("el9.1",))),
    _flag("has_map_extra", False, _since("5.16", "bpf: Add bloom filter map implementation", backports=("el9.1",))),
    _flag("bpf_attr_bytes", 120,
          Change(144, "6.1", _MEASURED, backports=("el9.3",)),
          Change(152, "6.12", _MEASURED, backports=("el9.6",)),
          Change(168, "6.18", _MEASURED)),
    _flag("bpf_attr_map_create_bytes", 64,
          Change(72, "5.16", "map_extra", backports=("el9.1",)),
          Change(80, "6.9", "value_type_btf_obj_fd and map_token_fd", backports=("el9.6",)),
          Change(92, "6.18", "excl_prog_hash")),
    _flag("has_batch", False,
          _since("5.6", "bpf: Add generic support for lookup batch op (and update, delete, hash tables)",
                 backports=("el8.3",))),
    _flag("lpm_has_batch", False,
          _since("5.13", "bpf: Add batched ops support for percpu array; for LPM tries", backports=("el8.6",))),
    _flag("map_in_map_has_batch", False,
          _since("5.18", "bpf: Add map-in-map batch ops for arrays and hashes", backports=("el9.2",))),
    _flag("batch_skips_missing_keys", False,
          _since("6.14", "bpf: skip non exist keys in generic_map_lookup_batch; EINTR after three tries before",
                 stable=("6.1.192", "6.6.150", "6.12.107"))),
    _flag("has_cpu_flags", False,
          _since("7.0", "bpf: Introduce BPF_F_CPU and BPF_F_ALL_CPUS flags")),
    _flag("cpu_insert_leaves_others", False,
          _since("7.0", "bpf: Add BPF_F_CPU and BPF_F_ALL_CPUS flags support for percpu_hash and lru_percpu_hash maps:"
                 " pcpu_init_value writes one CPU alone"),
          _until("7.2", "pcpu_init_value fills the other CPUs with zeros for BPF_F_CPU too")),
    _flag("stack_trace_lookup_and_delete", False,
          _since("6.18", "bpf: Add lookup_and_delete_elem for BPF_MAP_STACK_TRACE")),
    _flag("hash_lookup_and_delete", False,
          _since("5.14", "bpf: Add lookup_and_delete_elem support to hashtab", backports=("el8.8", "el9.1"))),
    _flag("freeze_checks_access", False,
          _since("6.5", "freezing needs a writable descriptor, not CAP_BPF", backports=("el9.4",))),
    _flag("prog_image_failure_einval", False, _since("6.9", "the token rework answers EINVAL for a failed image")),
    _flag("perf_progs_need_prealloc", True,
          _until("6.1", "bpf: Relax the requirement to use preallocated hash maps in tracing progs.",
                 backports=("el9.3",))),
    _flag("sockmap_takes_any_psock", False,
          _since("5.15", "sock_map: Relax config dependency to CONFIG_NET; unix and vsock sockets",
                 backports=("el9.1",))),
    _flag("sockmap_takes_listeners_and_udp", False,
          _since("5.7", "bpf: Allow listening and UDP sockets in sockmaps, and lookups from user space",
                 backports=("el8.3",))),
    _flag("sockmap_needs_bound_udp", True,
          _until("5.15", "sock_map: Lift socket state restriction for datagram sockets", backports=("el9.1",)),
          _since("7.1", "an unbound UDP socket does not enter a sockmap",
                 stable=("6.1.192", "6.6.150", "6.12.107", "6.18.44"))),
    _flag("sockmap_entries_limited", False, _since("7.2", "max_entries <= INT_MAX", stable=("6.1.192",))),
    _flag("sockmap_value_takes_cookie", False,
          _since("5.8", "values of 8 bytes, for the cookie", backports=("el8.4",))),
    _flag("redirect_value_holds_prog", False,
          _since("5.8", "values of 8 bytes, with a program: devmaps (5.8), cpumaps (5.9)", backports=("el8.4",))),
    _flag("cgroup_storage_key_takes_id", False,
          _since("5.9", "bpf: Make cgroup storages shared between programs; keys of 8 bytes", backports=("el8.4",))),
    _flag("has_cap_bpf", False,
          _since("5.8", "bpf, capability: Introduce CAP_BPF; and CAP_PERFMON", backports=("el8.4",))),
    _flag("has_pidfd_open", False, _since("5.3", "pidfd: add pidfd_open()")),
    _flag("pin_probes_every_kind", False,
          _since("5.7", "bpf: Introduce pinnable bpf_link abstraction; EINVAL for any bad descriptor",
                 backports=("el8.3",))),
    _flag("has_mmap", False,
          _since("5.5", "bpf: Add mmap() support for BPF_MAP_TYPE_ARRAY", backports=("el8.3",))),
    _flag("array_takes_inner_map_flag", False,
          _since("5.10", "bpf: Allow for map-in-map with dynamic inner array map entries", backports=("el8.5",))),
    _flag("perf_event_array_keeps_entries", False,
          _since("5.10", "bpf: Introduce BPF_F_PRESERVE_ELEMS for perf event array", backports=("el8.5",))),
    _flag("optmem_max_bytes", 20_480, Change(131_072, "6.7", "net: increase optmem_max default value")),
    _flag("cgroup_storage_value_limit_page", True,
          _until("5.17", "bpf: Relax allowed local storage value size", stable=("5.15.215",), backports=("el9.1",))),
    _flag("struct_ops_has_links", False,
          _since("6.0", "link pointers instead of programs", backports=("el9.2",))),
    _flag("struct_ops_has_ksyms", False,
          _since("6.13", "bpf: Add kernel symbol for struct_ops trampoline", stable=("6.12.107",))),
    _flag("struct_ops_takes_link", False,
          _since("6.9", "BPF_F_LINK (6.4) and BPF_F_VTYPE_BTF_OBJ_FD (6.9)", backports=("el9.4",))),
    _flag("btf_has_records", False,
          _since("6.2", "bpf: Refactor kptr_off_tab into btf_record; fields are checked together",
                 backports=("el9.3",))),
    _flag("struct_ops_needs_parsed_btf", True,
          _until("6.9", "map creation parses it itself; before 524 until a program was loaded")),
    _flag("bpftool_memlock_wraps", True, _until("6.1", "bpftool: Use atoll")),
    _flag("prog_info_has_orphaned", False, _since("6.8", "bpftool prints it", backports=("el9.6",))),
    _flag("prog_fdinfo_has_misses", False,
          _since("5.12", "recursion_misses (5.12), verified_insns (5.16)", backports=("el8.6",))),
)  # fmt: skip

# Sections of the generated page, in order.
SECTIONS: Final[dict[str, tuple[Flag, ...]]] = {
    "Who pays": ACCOUNTING,
    "The memory cgroup": MEMCG,
    "Control files": CONTROL_FILES,
    "What maps and programs allocate": ALLOCATION,
    "What user space sees": INTERFACE,
}
OPTIONS: Final = (
    Option("bpf_jit_limit_bytes", 528_482_304, "bpf_jit_limit: half of the module area"),
    Option("nr_cpus", 8192, "CONFIG_NR_CPUS: bounds a cpumap"),
    Option("bpf_jit_always_on", False, "CONFIG_BPF_JIT_ALWAYS_ON: no interpreter to fall back to"),
    Option("arch", "x86-64", "the machine: arm64 in the variants arm64, 16k and 64k"),
    Option("page_bytes", 4096, "a page: what areas, ring buffers, machine code and charges are rounded to"),
    Option("thread_bytes", 16_384, "THREAD_SIZE: a task's kernel stack, at least a page"),
    Option("kmalloc_min_bytes", 8, "the smallest object of kmalloc [ARCH_KMALLOC_MINALIGN]"),
    Option("stats_lag", False, "memory.stat is shown as late as Linux flushes it; here it is exact unless asked for"),
    Option("cgroup_v1", False, "the memory controller is mounted as cgroup v1"),
    Option("percpu_populated_bytes", 0,
           "what lies ready on each CPU for who cannot sleep, after booting; 0: always enough"),
    Option("bpf_lsm_enabled", True, "CONFIG_BPF_LSM: without it inodes have no room for storage"),
)  # fmt: skip

# Types newer than 4.18. A distribution's headers may name types its code does not have.
MAP_TYPES: Final[dict[MapType, Change]] = {
    MapType.CGROUP_STORAGE: _type("4.19", "bpf: introduce cgroup storage maps", "el8.3"),
    MapType.REUSEPORT_SOCKARRAY: _type("4.19", "bpf: Introduce BPF_MAP_TYPE_REUSEPORT_SOCKARRAY", "el8.3"),
    MapType.PERCPU_CGROUP_STORAGE: _type("4.20", "bpf: introduce per-cpu cgroup local storage", "el8.3"),
    MapType.QUEUE: _type("4.20", "bpf: add queue and stack maps", "el8.3"),
    MapType.STACK: _type("4.20", "bpf: add queue and stack maps", "el8.3"),
    MapType.SK_STORAGE: _type("5.2", "bpf: Introduce bpf sk local storage", "el8.3"),
    MapType.DEVMAP_HASH: _type("5.4", "xdp: Add devmap_hash map type", "el8.3"),
    MapType.STRUCT_OPS: _type("5.6", "bpf: Introduce BPF_MAP_TYPE_STRUCT_OPS", "el8.3"),
    MapType.RINGBUF: _type("5.8", "bpf: Implement BPF ring buffer and verifier support for it", "el8.4"),
    MapType.INODE_STORAGE: _type("5.10", "bpf: Implement bpf_local_storage for inodes", "el8.5"),
    MapType.TASK_STORAGE: _type("5.11", "bpf: Implement task local storage"),
    MapType.BLOOM_FILTER: _type("5.16", "bpf: Add bloom filter map implementation", "el9.1"),
    MapType.USER_RINGBUF: _type("6.1", "bpf: Define new BPF_MAP_TYPE_USER_RINGBUF map type", "el9.3"),
    MapType.CGRP_STORAGE: _type("6.2", "bpf: Implement cgroup storage available to non-cgroup-attached bpf progs",
                                "el9.3"),
    MapType.ARENA: _type("6.9", "bpf: Introduce bpf_arena.", "el9.6"),
    MapType.INSN_ARRAY: _type("6.19", "bpf, x86: add new map type: instructions array"),
}  # fmt: skip
# Program types newer than 5.4 and 4.18.
PROG_TYPES: Final[dict[ProgType, Change]] = {
    ProgType.TRACING: _type("5.5", "bpf: Introduce BPF_PROG_TYPE_TRACING", "el8.3"),
    ProgType.STRUCT_OPS: _type("5.6", "bpf: Introduce BPF_PROG_TYPE_STRUCT_OPS", "el8.3"),
    ProgType.EXT: _type("5.6", "bpf: Introduce dynamic program extensions", "el8.3"),
    ProgType.LSM: _type("5.7", "bpf: Introduce BPF_PROG_TYPE_LSM", "el8.3"),
    ProgType.SK_LOOKUP: _type("5.9", "bpf: Introduce SK_LOOKUP program type with a dedicated attach point",
                                   "el8.4"),
    ProgType.SYSCALL: _type("5.14", "bpf: Introduce bpf_sys_bpf() helper and program type"),
    ProgType.NETFILTER: _type("6.4", "bpf: add bpf_link support for BPF_NETFILTER programs"),
}  # fmt: skip


def flags() -> Iterator[Flag]:
    """Every row."""
    for section in SECTIONS.values():
        yield from section


def map_types_of(version: str, distribution: str) -> frozenset[MapType]:
    """The types that maps of a kernel can have."""
    return _types_of(MapType, MAP_TYPES, version, distribution)


def prog_types_of(version: str, distribution: str) -> frozenset[ProgType]:
    """The types that programs of a kernel can have."""
    return _types_of(ProgType, PROG_TYPES, version, distribution)


def _types_of(
    kinds: type[_Type], newer: Mapping[_Type, Change], version: str, distribution: str
) -> frozenset[_Type]:
    """All but UNSPEC, which is 0, and those that came later."""
    return frozenset(
        each
        for each in kinds
        if each and (each not in newer or newer[each].is_in(version, distribution))
    )
