"""Kernel profiles: what differs between kernels, as data. The only place that knows versions.

Each flag names the commit subject or source that changed it and the first release with the new behaviour. Struct sizes
are those of x86-64 builds: 5.10, 6.1 and 6.12 from the BTF of Debian's images, 6.18 from a running host's BTF, 5.11
from a local build's debug information.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import Final

from bpfleet.abi.bpf import MapType


class Model(StrEnum):
    """Which accountant a kernel uses for BPF memory."""

    RLIMIT = "rlimit"
    MEMCG = "memcg"
    NONE = "none"


class Payer(StrEnum):
    """Whose memcg pays for what a map allocates after its creation."""

    CREATOR = "creator"  # merged rule
    UPDATER = "updater"  # series v5-v7: the updating process; interrupt context charges the creator
    RECHARGE = "recharge"  # what-if: re-opening a pinned map moves its charge to the new user
    NOCHARGE = "nocharge"  # what-if: pinned maps may be created without a charge


class Memlock(StrEnum):
    """What the memlock line of fdinfo means."""

    CHARGED = "charged"  # <= 5.10: the precharged pages
    FOOTPRINT = "footprint"  # 5.11 - 6.3: bpf_map_memory_footprint, a bare product
    USAGE = "usage"  # >= 6.4: map_mem_usage per type


@dataclass(frozen=True, slots=True)
class StructSizes:
    """sizeof of the structures that BPF allocates, in bytes."""

    bpf_map: int
    bpf_array: int
    bpf_array_aux: int
    bpf_htab: int
    lpm_trie: int
    lpm_trie_node: int
    bpf_stack_map: int
    bpf_queue_stack: int
    bpf_ringbuf_map: int
    bpf_bloom_filter: int
    bpf_dtab: int
    bpf_dtab_netdev: int
    bpf_cpu_map: int
    bpf_cpu_map_entry: int
    xsk_map: int
    bpf_stab: int
    bpf_shtab: int
    reuseport_array: int
    bpf_local_storage_map: int
    bpf_local_storage: int
    bpf_cgroup_storage_map: int
    bpf_struct_ops_map: int
    bpf_arena: int
    bpf_prog: int
    bpf_prog_aux: int
    bpf_prog_stats: int
    file: int
    bpf_lru_locallist: int = 40
    bpf_lru_list: int = 128
    pcpu_freelist_head: int = 16
    bucket: int = 16
    htab_elem: int = 48
    stack_map_bucket: int = 16
    bpf_ringbuf: int = 12288
    ptr_ring: int = 192
    xdp_bulk_queue: int = 96
    xsk_map_node: int = 32
    bpf_shtab_bucket: int = 16
    bpf_shtab_elem: int = 48
    bpf_local_storage_map_bucket: int = 16
    bpf_local_storage_elem_header: int = (
        72  # offsetof(sdata.data); sizeof (128) until "bpf: Reduce smap->elem_size" (6.3, 6.1.y)
    )
    bpf_cgroup_storage: int = 104
    bpf_storage_buffer: int = 16
    bpf_event_entry: int = 40
    dentry: int = 192
    inode: int = 616  # objects of inode_cache


_STRUCTS_5_10: Final = StructSizes(
    bpf_map=256, bpf_array=320, bpf_array_aux=104, bpf_htab=640, lpm_trie=320, lpm_trie_node=40,
    bpf_stack_map=320, bpf_queue_stack=320, bpf_ringbuf_map=320, bpf_bloom_filter=0, bpf_dtab=320,
    bpf_dtab_netdev=72, bpf_cpu_map=320, bpf_cpu_map_entry=112, xsk_map=320, bpf_stab=320,
    bpf_shtab=320, reuseport_array=256, bpf_local_storage_map=320, bpf_local_storage=168,
    bpf_cgroup_storage_map=320, bpf_struct_ops_map=384, bpf_arena=0, bpf_prog=56, bpf_prog_aux=632,
    bpf_prog_stats=16, file=256, bpf_local_storage_elem_header=128,
    inode=568,
)  # fmt: skip
_STRUCTS_5_11: Final = replace(_STRUCTS_5_10, bpf_array_aux=96, bpf_htab=704, bpf_prog_aux=640)
_STRUCTS_6_1: Final = StructSizes(
    bpf_map=256, bpf_array=320, bpf_array_aux=88, bpf_htab=832, lpm_trie=320, lpm_trie_node=40,
    bpf_stack_map=320, bpf_queue_stack=320, bpf_ringbuf_map=320, bpf_bloom_filter=320,
    bpf_dtab=320, bpf_dtab_netdev=72, bpf_cpu_map=320, bpf_cpu_map_entry=144, xsk_map=320,
    bpf_stab=320, bpf_shtab=320, reuseport_array=256, bpf_local_storage_map=320,
    bpf_local_storage=168, bpf_cgroup_storage_map=320, bpf_struct_ops_map=448, bpf_arena=0,
    bpf_prog=72, bpf_prog_aux=1080, bpf_prog_stats=32, file=256, inode=656,
)  # fmt: skip
_STRUCTS_6_12: Final = StructSizes(
    bpf_map=248, bpf_array=264, bpf_array_aux=88, bpf_htab=896, lpm_trie=288, lpm_trie_node=40,
    bpf_stack_map=288, bpf_queue_stack=264, bpf_ringbuf_map=256, bpf_bloom_filter=264,
    bpf_dtab=296, bpf_dtab_netdev=64, bpf_cpu_map=256, bpf_cpu_map_entry=136, xsk_map=256,
    bpf_stab=328, bpf_shtab=336, reuseport_array=248, bpf_local_storage_map=400,
    bpf_local_storage=176, bpf_cgroup_storage_map=280, bpf_struct_ops_map=512, bpf_arena=336,
    bpf_prog=72, bpf_prog_aux=1128, bpf_prog_stats=32, file=192,
)  # fmt: skip
_STRUCTS_6_18: Final = StructSizes(
    bpf_map=296, bpf_array=312, bpf_array_aux=88, bpf_htab=832, lpm_trie=400, lpm_trie_node=24,
    bpf_stack_map=320, bpf_queue_stack=312, bpf_ringbuf_map=304, bpf_bloom_filter=312,
    bpf_dtab=344, bpf_dtab_netdev=64, bpf_cpu_map=304, bpf_cpu_map_entry=360, xsk_map=304,
    bpf_stab=376, bpf_shtab=384, reuseport_array=296, bpf_local_storage_map=448,
    bpf_local_storage=176, bpf_cgroup_storage_map=328, bpf_struct_ops_map=512, bpf_arena=400,
    bpf_prog=96, bpf_prog_aux=1304, bpf_prog_stats=32, file=192, bpf_lru_locallist=32,
)  # fmt: skip

_MAP_TYPES_5_10: Final = frozenset(t for t in MapType if 1 <= t <= MapType.INODE_STORAGE)
_MAP_TYPES_5_11: Final = _MAP_TYPES_5_10 | {MapType.TASK_STORAGE}
_MAP_TYPES_6_1: Final = _MAP_TYPES_5_11 | {MapType.BLOOM_FILTER, MapType.USER_RINGBUF}
_MAP_TYPES_6_12: Final = _MAP_TYPES_6_1 | {MapType.CGRP_STORAGE, MapType.ARENA}


_WORKINGSET: Final = (
    "workingset_refault_anon", "workingset_refault_file", "workingset_activate_anon",
    "workingset_activate_file", "workingset_restore_anon", "workingset_restore_file",
    "workingset_nodereclaim",
)  # fmt: skip
_LRU_AND_SLAB: Final = (
    "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable",
    "slab_reclaimable", "slab_unreclaimable", "slab",
)  # fmt: skip
_STAT_5_10: Final = (
    "anon", "file", "kernel_stack", "percpu", "sock", "shmem", "file_mapped", "file_dirty",
    "file_writeback", "anon_thp", *_LRU_AND_SLAB, *_WORKINGSET, "pgfault", "pgmajfault", "pgrefill",
    "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
    "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
_STAT_5_11: Final = (  # pagetables joined in 5.11
    "anon", "file", "kernel_stack", "pagetables", "percpu", "sock", "shmem", "file_mapped",
    "file_dirty", "file_writeback", "anon_thp", *_LRU_AND_SLAB, *_WORKINGSET, "pgfault",
    "pgmajfault", "pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree",
    "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
_STAT_STATE_6_1: Final = (  # kernel 5.18, vmalloc 5.17, sec_pagetables and zswap 5.19
    "anon", "file", "kernel", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock",
    "vmalloc", "shmem", "zswap", "zswapped", "file_mapped", "file_dirty", "file_writeback",
    "swapcached", "anon_thp", "file_thp", "shmem_thp", *_LRU_AND_SLAB, *_WORKINGSET,
)  # fmt: skip
_STAT_6_1: Final = (
    *_STAT_STATE_6_1, "pgscan", "pgsteal", "pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd",
    "pgsteal_direct", "pgfault", "pgmajfault", "pgrefill", "pgactivate", "pgdeactivate",
    "pglazyfree", "pglazyfreed", "zswpin", "zswpout", "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
_STAT_6_12: Final = (
    *_STAT_STATE_6_1, "pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged",
    "pgpromote_success", "pgscan", "pgsteal", "pgscan_kswapd", "pgscan_direct",
    "pgscan_khugepaged", "pgsteal_kswapd", "pgsteal_direct", "pgsteal_khugepaged", "pgfault",
    "pgmajfault", "pgrefill", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
    "swpin_zero", "swpout_zero", "zswpin", "zswpout", "zswpwb", "thp_fault_alloc",
    "thp_collapse_alloc", "thp_swpout", "thp_swpout_fallback", "numa_pages_migrated",
    "numa_pte_updates", "numa_hint_faults",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """One kernel as data. Sizes are bytes unless the name says pages."""

    name: str
    release: str
    model: Model
    structs: StructSizes
    map_types: frozenset[MapType]

    # -- memcg machinery
    memcg_charge_batch: int = 32  # pages; 64 since "memcg: increase MEMCG_CHARGE_BATCH to 64" (6.1)
    memcg_stock_slots: int = 1  # 7 since "memcg: multi-memcg percpu charge cache" (6.16)
    stock_bypassed_over_batch: bool = (
        False  # same commit: a refill over the batch goes to the counters
    )
    byte_stock_keeps_uncharged: bool = (
        False  # "mm: memcg/slab: don't uncharge in refill" allow_uncharge (5.14)
    )
    percpu_charges_objcg_vector: bool = (
        False  # "mm: memcg/percpu: account extra objcg space" (5.17)
    )
    atomic_forces_early: bool = True  # __GFP_ATOMIC forces before reclaim; until the 5.18 rework
    high_forces: bool = False  # __GFP_HIGH forces at the end of the slow path (5.18)
    dying_task_forces: bool = (
        True  # until "memcg: prohibit unconditional exceeding the limit" (5.16)
    )
    oom_without_victim_forces: bool = True  # same commit
    forced_charge_raises_max: bool = False  # "memcg: sync high/max events on forced charges" (6.0)
    has_oom_group_kill_event: bool = False  # memory.events oom_group_kill (5.17)
    has_memory_peak: bool = False  # 5.19
    memory_peak_resets: bool = False  # a write resets it for that file (6.12)
    has_memory_reclaim: bool = False  # 5.19
    reclaim_takes_swappiness: bool = False  # 6.9
    memory_stat_lines: tuple[str, ...] = _STAT_5_11  # lines of memory.stat, in order
    has_cgroup_kill: bool = False  # 5.14
    has_memory_swap_peak: bool = False  # 6.5
    cgroup_stat_has_subsystems: bool = False  # nr_subsys_* and nr_dying_subsys_* (6.12)
    vmalloc_tries_bulk_first: bool = (
        False  # "mm/vmalloc: switch to bulk allocator in __vmalloc_area_node()" (5.13)
    )
    high_throttles_inside: bool = (
        False  # "memcg: synchronously enforce memory.high for large overcharges" (5.18)
    )
    memcg_percpu_bytes: tuple[int, ...] = (
        1064,
        1064,
        304,
        304,
    )  # a memcg's own, charged to its parent
    memcg_slab_bytes: tuple[int, ...] = ()
    vma_slab_bytes: tuple[int, ...] = (200, 88, 64)  # vm_area_struct, anon_vma, anon_vma_chain

    # -- who pays
    payer: Payer = Payer.CREATOR
    map_holds_objcg: bool = (
        False  # maps hold an objcg, reparented on rmdir (6.0); before: the memcg
    )
    creation_percpu_charged: bool = (
        True  # lost when maps switched to objcg, still unset during creation (6.0)
    )
    kmem_accounting: bool = True  # cgroup.memory=nokmem switches it off
    bpf_accounting: bool = True  # cgroup.memory=nobpf (6.3) switches it off

    # -- BPF allocation
    elements_nowait: bool = False  # GFP_NOWAIT instead of GFP_ATOMIC for elements (6.0)
    hash_uses_mem_alloc: bool = False  # bpf_mem_alloc (6.1)
    lpm_uses_mem_alloc: bool = False  # 6.14
    task_storage_uses_mem_alloc: bool = False  # 6.4
    mem_alloc_prefill_blocks: bool = False  # prefill with GFP_KERNEL (6.6)
    mem_alloc_percpu_low_watermarks: bool = False  # per-CPU instance: low 1, high 3 (6.8)
    mem_alloc_reuses_waiting: bool = False  # refill takes objects waiting for RCU first (6.6)
    lru_target_free_scaled: bool = (
        False  # "bpf: Adjust free target to avoid global starvation of LRU map" (6.16)
    )
    percpu_value_size_checked: bool = (
        True  # "bpf: Check percpu map value size first" (6.12, 5.10.y)
    )
    array_value_limit_bytes: int = (
        4 << 20
    )  # KMALLOC_MAX_SIZE; INT_MAX since "bpf: Fix integer overflow..." (5.17)
    lpm_full_checked_first: bool = (
        True  # until "bpf: Fix update of full LPM trie" (6.13, stable 6.1.y on)
    )
    lpm_ignores_update_flags: bool = (
        False  # until "bpf: Handle BPF_EXIST and BPF_NOEXIST for LPM trie" (6.13)
    )
    hash_has_elem_count: bool = False  # per-CPU element counter (6.6)
    hash_has_map_locked: bool = False  # eight per-CPU lock counters, 5.11 until 6.15
    hash_of_maps_spare_elements: bool = True  # gone in 6.15
    stack_map_over_allocates: bool = False  # the old cost passed as size, 5.11 until 5.17
    local_storage_buckets_charged: bool = True  # helper-based allocation escapes from 6.0
    hash_key_limited_to_stack: bool = False  # key <= MAX_BPF_STACK, value limit separate (5.10)
    map_structs_by_area_alloc: bool = False  # 6.1

    # -- what user space sees
    # The helper libbpf takes for a sign of memcg accounting: "bpf: Add bpf_ktime_get_coarse_ns helper" (5.11).
    has_ktime_get_coarse_ns: bool = True
    memlock: Memlock = Memlock.FOOTPRINT
    default_memlock_bytes: int = 64 << 10  # 8 MiB since 5.16
    capability_check_central: bool = False  # type capabilities after alloc_check (6.5)
    unprivileged_gate_all_commands: bool = (
        True  # unprivileged_bpf_disabled refuses every command (until 5.18)
    )
    fdinfo_has_ino: bool = False  # "procfs/dmabuf: add inode number to /proc/*/fdinfo", 5.14
    fdinfo_has_map_extra: bool = False  # 5.16
    has_map_extra: bool = False  # 5.16
    bpf_attr_bytes: int = 120  # sizeof(union bpf_attr)
    bpf_attr_map_create_bytes: int = 64  # end of the last MAP_CREATE field
    wide_batch: bool = False  # batches for per-CPU arrays, LPM tries and maps of maps (5.13 - 5.18)
    stack_trace_lookup_and_delete: bool = (
        False  # "bpf: Add lookup_and_delete_elem for BPF_MAP_STACK_TRACE" (6.18)
    )
    hash_lookup_and_delete: bool = (
        False  # "bpf: Add lookup_and_delete_elem support to hashtab" (5.14)
    )
    freeze_checks_access: bool = False  # freezing needs a writable descriptor, not CAP_BPF (6.5)
    prog_active_percpu: bool = False  # per-CPU recursion counter (5.12)
    prog_image_failure_einval: bool = False  # token rework answers EINVAL for a failed image (6.9)
    verifier_memory_charged: bool = False  # 6.17
    bpf_jit_limit_bytes: int = 528_482_304
    nr_cpus: int = 8192  # CONFIG_NR_CPUS of the build; bounds a cpumap
    bpf_jit_always_on: bool = (
        False  # CONFIG_BPF_JIT_ALWAYS_ON of the build: no interpreter to fall back to
    )
    # 64 B chunks of packs, charged in bytes: "bpf: Introduce bpf_prog_pack allocator" (5.18)
    jit_charges_bytes: bool = False
    # until "bpf: Relax the requirement to use preallocated hash maps in tracing progs" (6.1)
    perf_progs_need_prealloc: bool = True
    sockmap_takes_any_psock: bool = (
        False  # unix and vsock sockets: "sock_map: Relax config dependency to CONFIG_NET" (5.15)
    )
    sockmap_entries_limited: bool = (
        False  # max_entries <= INT_MAX, in 6.1.192 but not yet in 6.12.107
    )
    bpf_lsm_enabled: bool = (
        True  # without the BPF LSM inodes have no room for storage (Debian 5.10)
    )
    optmem_max_bytes: int = 20_480  # 128 KiB since "net: increase optmem_max default value" (6.7)
    local_storage_charges_replacement: bool = (
        False  # the new element before the old one is gone (6.0)
    )
    cgroup_storage_value_limit_page: bool = (
        True  # until "bpf: Relax allowed local storage value size" (5.17)
    )
    struct_ops_has_links: bool = (
        False  # link pointers instead of programs, 6.0; also symbols from 6.12
    )
    struct_ops_has_ksyms: bool = False
    struct_ops_takes_link: bool = False  # BPF_F_LINK and BPF_F_VTYPE_BTF_OBJ_FD (6.4, 6.9)
    # special fields checked as one record: "bpf: Refactor kptr_off_tab into btf_record" (6.2)
    btf_has_records: bool = False
    struct_ops_needs_parsed_btf: bool = (
        True  # 524 until a program was loaded; map creation parses it itself from 6.9
    )
    bpftool_memlock_wraps: bool = True  # atoi; "bpftool: Use atoll" by 6.1
    prog_info_has_orphaned: bool = False  # bpftool prints it (6.12's, not 6.1's)
    prog_fdinfo_has_misses: bool = False  # recursion_misses, verified_insns (5.12, 5.16)

    @property
    def is_rlimit(self) -> bool:
        """Whether maps and programs are precharged to the user under RLIMIT_MEMLOCK."""
        return self.model is Model.RLIMIT


_V5_10: Final = KernelProfile(
    name="5.10",
    release="5.10.262",
    model=Model.RLIMIT,
    structs=_STRUCTS_5_10,
    map_types=_MAP_TYPES_5_10,
    memory_stat_lines=_STAT_5_10,
    has_ktime_get_coarse_ns=False,
    dying_task_forces=False,  # the 5.16 change is in 5.10.y since 5.10.83
    oom_without_victim_forces=False,
    memlock=Memlock.CHARGED,
    hash_key_limited_to_stack=True,
    bpf_lsm_enabled=False,
)
_V5_11: Final = KernelProfile(
    name="5.11",
    release="5.11.14",
    model=Model.MEMCG,
    structs=_STRUCTS_5_11,
    map_types=_MAP_TYPES_5_11,
    hash_has_map_locked=True,
    stack_map_over_allocates=True,
    percpu_value_size_checked=False,
    lpm_ignores_update_flags=True,
)
_SEED_V5: Final = replace(
    _V5_11, name="seed-v5", release="5.10-rc (series v5)", payer=Payer.UPDATER
)
_V6_1: Final = replace(
    _V5_11,
    name="6.1",
    release="6.1.192",
    structs=_STRUCTS_6_1,
    map_types=_MAP_TYPES_6_1,
    memcg_charge_batch=64,
    byte_stock_keeps_uncharged=True,
    percpu_charges_objcg_vector=True,
    atomic_forces_early=False,
    high_forces=True,
    dying_task_forces=False,
    oom_without_victim_forces=False,
    forced_charge_raises_max=True,
    has_oom_group_kill_event=True,
    has_memory_peak=True,
    has_memory_reclaim=True,
    memory_stat_lines=_STAT_6_1,
    has_cgroup_kill=True,
    vmalloc_tries_bulk_first=True,
    high_throttles_inside=True,
    memcg_percpu_bytes=(1024, 728),
    vma_slab_bytes=(152, 104, 64),
    map_holds_objcg=True,
    creation_percpu_charged=False,
    elements_nowait=True,
    hash_uses_mem_alloc=True,
    stack_map_over_allocates=False,
    local_storage_buckets_charged=False,
    map_structs_by_area_alloc=True,
    default_memlock_bytes=8 << 20,
    unprivileged_gate_all_commands=False,
    fdinfo_has_ino=True,
    fdinfo_has_map_extra=True,
    has_map_extra=True,
    jit_charges_bytes=True,
    perf_progs_need_prealloc=False,
    sockmap_takes_any_psock=True,
    sockmap_entries_limited=True,
    local_storage_charges_replacement=True,
    cgroup_storage_value_limit_page=False,
    struct_ops_has_links=True,
    prog_fdinfo_has_misses=True,
    bpftool_memlock_wraps=False,
    bpf_attr_bytes=144,
    bpf_attr_map_create_bytes=72,
    wide_batch=True,
    hash_lookup_and_delete=True,
    percpu_value_size_checked=True,
    lpm_full_checked_first=False,
    lpm_ignores_update_flags=False,
    array_value_limit_bytes=(1 << 31) - 1,
    prog_active_percpu=True,
)
_V6_12: Final = replace(
    _V6_1,
    name="6.12",
    release="6.12.107",
    structs=_STRUCTS_6_12,
    map_types=_MAP_TYPES_6_12,
    memory_peak_resets=True,
    memory_stat_lines=_STAT_6_12,
    has_memory_swap_peak=True,
    cgroup_stat_has_subsystems=True,
    memcg_percpu_bytes=(880, 640),
    memcg_slab_bytes=(2048, 1024),
    vma_slab_bytes=(176, 40, 104, 64),
    reclaim_takes_swappiness=True,
    task_storage_uses_mem_alloc=True,
    mem_alloc_prefill_blocks=True,
    mem_alloc_percpu_low_watermarks=True,
    hash_has_elem_count=True,
    memlock=Memlock.USAGE,
    capability_check_central=True,
    mem_alloc_reuses_waiting=True,
    lru_target_free_scaled=True,
    freeze_checks_access=True,
    bpf_attr_bytes=152,
    bpf_attr_map_create_bytes=80,
    prog_image_failure_einval=True,
    optmem_max_bytes=131_072,
    struct_ops_has_ksyms=True,
    struct_ops_takes_link=True,
    struct_ops_needs_parsed_btf=False,
    sockmap_entries_limited=False,
    btf_has_records=True,
    prog_info_has_orphaned=True,
)
_V6_18: Final = replace(
    _V6_12,
    name="6.18",
    release="6.18.44",
    structs=_STRUCTS_6_18,
    memcg_stock_slots=7,
    stock_bypassed_over_batch=True,
    lpm_uses_mem_alloc=True,
    hash_has_map_locked=False,
    hash_of_maps_spare_elements=False,
    verifier_memory_charged=True,
    nr_cpus=256,
    stack_trace_lookup_and_delete=True,
    bpf_attr_bytes=168,
    bpf_attr_map_create_bytes=92,
)

PROFILES: Final[dict[str, KernelProfile]] = {
    profile.name: profile for profile in (_V5_10, _SEED_V5, _V5_11, _V6_1, _V6_12, _V6_18)
}


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
    ('6.1', '5.10', '6.18')
    """
    wanted = _version(release)
    kernels = [profile for profile in PROFILES.values() if profile.name[0].isdigit()]
    known = sorted(((_version(each.name), each) for each in kernels), key=lambda pair: pair[0])
    older = [profile for version, profile in known if version <= wanted]
    return older[-1] if older else known[0][1]


def _version(release: str) -> tuple[int, int]:
    """(major, minor) of a release. Raises ``ValueError``."""
    major, _, rest = release.partition(".")
    minor = "".join(takewhile(str.isdigit, rest))
    if not major.isdigit() or not minor:
        raise ValueError(f"{release!r} is no kernel release like 6.12.3")
    return int(major), int(minor)
