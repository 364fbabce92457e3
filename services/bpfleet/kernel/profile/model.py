"""The profile of a kernel: everything the emulator has to know about it, as data. What each flag changes, and where,
stands in rows.py.
"""

from dataclasses import dataclass
from enum import StrEnum

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.abi.limits import PAGE_SIZE


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
    SELECTABLE = "selectable"  # what-if: the creator names an ancestor of its cgroup that pays


class Memlock(StrEnum):
    """What the memlock line of fdinfo means."""

    CHARGED = "charged"  # <= 5.10: the precharged pages
    FOOTPRINT = "footprint"  # 5.11 - 6.3: bpf_map_memory_footprint, a bare product
    USAGE = "usage"  # >= 6.4: map_mem_usage per type


class Provenance(StrEnum):
    """How a profile is known to be right."""

    RECORDED = (
        "recorded"  # a real kernel of this build was recorded, and the recordings are replayed
    )
    DERIVED = "derived"  # from its source and the type information of a build
    NEAREST = "nearest"  # the sizes or the behaviour of another kernel, as its source says


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
    # offsetof(sdata.data); sizeof (128) until "bpf: Reduce smap->elem_size" (6.3, 6.1.y)
    bpf_local_storage_elem_header: int = 72
    bpf_cgroup_storage: int = 104
    bpf_storage_buffer: int = 16
    bpf_event_entry: int = 40
    dentry: int = 192
    inode: int = 616  # objects of inode_cache
    # of a process, as /proc/slabinfo shows them; a task_struct ends with what the CPU's registers need
    task_struct: int = 8448
    mm_struct: int = 1408
    # of the verifier, where what it takes is charged
    bpf_verifier_env: int = 0
    bpf_insn_aux_data: int = 0
    bpf_verifier_state: int = 0
    bpf_verifier_state_list: int = 0
    bpf_verifier_stack_elem: int = 0
    bpf_func_state: int = 0
    bpf_stack_state: int = 0
    bpf_jmp_history_entry: int = 0
    insn_live_regs: int = 0
    bpf_liveness: int = 0
    func_instance: int = 0
    per_frame_masks: int = 0
    arg_track: int = 0
    const_arg_info: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProfile:
    """One kernel as data. Sizes are bytes unless the name says pages.

    ``release`` is what uname -r prints, up to the distribution's own part; ``source`` says which build was measured.
    """

    name: str
    release: str
    provenance: Provenance
    source: str
    structs: StructSizes
    map_types: frozenset[MapType]
    prog_types: frozenset[ProgType]
    model: Model

    # -- memcg machinery
    memcg_charge_batch: int
    memcg_stock_slots: int
    stock_bypassed_over_batch: bool
    byte_stock_keeps_uncharged: bool
    percpu_charges_objcg_vector: bool
    atomic_forces_early: bool
    high_forces: bool
    dying_task_forces: bool
    oom_without_victim_forces: bool
    forced_charge_raises_max: bool
    has_oom_group_kill_event: bool
    has_memory_peak: bool
    memory_peak_resets: bool
    has_memory_reclaim: bool
    reclaim_takes_swappiness: bool
    memory_stat_lines: tuple[str, ...]
    gfp_bits_of_4_18: bool
    io_uring_rings_locked: bool
    has_cgroup_kill: bool
    has_memory_swap_peak: bool
    cgroup_stat_has_subsystems: bool
    vmalloc_tries_bulk_first: bool
    vmalloc_takes_large_orders: bool
    nowait_charge_raises_max: bool
    high_throttles_inside: bool
    memcg_percpu_bytes: tuple[int, ...]
    memcg_slab_bytes: tuple[int, ...]
    memcg_cache_bytes: tuple[int, ...]
    reclaim_walks_in_part: bool
    vma_slab_bytes: tuple[int, ...]
    file_vma_slab_bytes: tuple[int, ...]

    # -- who pays
    payer: Payer
    map_holds_objcg: bool
    creation_percpu_charged: bool
    kmem_accounting: bool
    bpf_accounting: bool

    # -- BPF allocation
    elements_nowait: bool
    hash_uses_mem_alloc: bool
    kfree_rcu_waits_for_more: bool
    maps_freed_behind_grace: bool
    lpm_uses_mem_alloc: bool
    task_storage_uses_mem_alloc: bool
    mem_alloc_prefill_blocks: bool
    mem_alloc_percpu_low_watermarks: bool
    mem_alloc_reuses_waiting: bool
    mem_alloc_grace_restarts: bool
    lru_target_free_scaled: bool
    redirect_flush_lists_charged: bool
    percpu_value_size_checked: bool
    array_value_limit_bytes: int
    lpm_full_checked_first: bool
    lpm_ignores_update_flags: bool
    hash_has_elem_count: bool
    hash_has_map_locked: bool
    hash_of_maps_spare_elements: bool
    usage_counts_map_locked: bool
    bloom_value_size_checked: bool
    queue_size_checked: bool
    arena_tracks_free_ranges: bool
    arena_usage_counts_pages: bool
    arena_has_scratch_page: bool
    stack_map_entries_checked: bool
    stack_map_over_allocates: bool
    local_storage_buckets_charged: bool
    hash_key_limited_to_stack: bool
    map_structs_by_area_alloc: bool

    # -- what user space sees
    has_ktime_get_coarse_ns: bool
    memlock: Memlock
    default_memlock_bytes: int
    capability_check_central: bool
    sys_admin_is_net_admin: bool
    unprivileged_gate_all_commands: bool
    fdinfo_has_ino: bool
    fdinfo_has_map_extra: bool
    has_map_extra: bool
    bpf_attr_bytes: int
    bpf_attr_map_create_bytes: int
    has_batch: bool
    lpm_has_batch: bool
    map_in_map_has_batch: bool
    batch_skips_missing_keys: bool
    has_cpu_flags: bool
    cpu_insert_leaves_others: bool
    stack_trace_lookup_and_delete: bool
    hash_lookup_and_delete: bool
    freeze_checks_access: bool
    prog_active_percpu: bool
    verifier_memory_charged: bool
    verifier_aux_charged: bool
    verifier_aux_rewritten_charged: bool
    verifier_arg_registers: int
    verifier_excludes_compared: bool
    prog_image_failure_einval: bool
    bpf_jit_limit_bytes: int
    nr_cpus: int
    bpf_jit_always_on: bool
    jit_charges_bytes: bool
    arm64_jit_charges_bytes: bool
    arm64_kmalloc_min_bytes: int
    perf_progs_need_prealloc: bool
    sockmap_takes_any_psock: bool
    sockmap_takes_listeners_and_udp: bool
    sockmap_needs_bound_udp: bool
    sockmap_entries_limited: bool
    sockmap_value_takes_cookie: bool
    redirect_value_holds_prog: bool
    cgroup_storage_key_takes_id: bool
    has_cap_bpf: bool
    has_pidfd_open: bool
    pin_probes_every_kind: bool
    has_mmap: bool
    array_takes_inner_map_flag: bool
    perf_event_array_keeps_entries: bool
    percpu_populated_bytes: int
    bpf_lsm_enabled: bool
    arch: str
    page_bytes: int
    thread_bytes: int
    kmalloc_min_bytes: int
    cgroup_v1: bool
    stats_lag: bool
    optmem_max_bytes: int
    local_storage_charges_replacement: bool
    cgroup_storage_value_limit_page: bool
    struct_ops_has_links: bool
    struct_ops_has_ksyms: bool
    struct_ops_takes_link: bool
    btf_has_records: bool
    struct_ops_needs_parsed_btf: bool
    bpftool_memlock_wraps: bool
    prog_info_has_orphaned: bool
    prog_fdinfo_has_misses: bool

    @property
    def known_by(self) -> str:
        """How sure what is said of it is, and of which build: ``recorded (6.12.107)``."""
        return f"{self.provenance} ({self.release})"

    @property
    def page_units(self) -> int:
        """Units of 4 KiB in a page of this kernel: counters here count those, whatever the page."""
        return self.page_bytes // PAGE_SIZE

    @property
    def is_rlimit(self) -> bool:
        """Whether maps and programs are precharged to the user under RLIMIT_MEMLOCK."""
        return self.model is Model.RLIMIT
