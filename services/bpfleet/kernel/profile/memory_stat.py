"""The lines of memory.stat, in order, by release."""

from typing import Final

_WORKINGSET: Final = (
    "workingset_refault_anon", "workingset_refault_file", "workingset_activate_anon",
    "workingset_activate_file", "workingset_restore_anon", "workingset_restore_file",
    "workingset_nodereclaim",
)  # fmt: skip
_LRU_AND_SLAB: Final = (
    "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable",
    "slab_reclaimable", "slab_unreclaimable", "slab",
)  # fmt: skip
STAT_5_10: Final = (
    "anon", "file", "kernel_stack", "percpu", "sock", "shmem", "file_mapped", "file_dirty",
    "file_writeback", "anon_thp", *_LRU_AND_SLAB, *_WORKINGSET, "pgfault", "pgmajfault", "pgrefill",
    "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
    "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
STAT_5_11: Final = (  # pagetables joined in 5.11
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
STAT_6_1: Final = (
    *_STAT_STATE_6_1, "pgscan", "pgsteal", "pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd",
    "pgsteal_direct", "pgfault", "pgmajfault", "pgrefill", "pgactivate", "pgdeactivate",
    "pglazyfree", "pglazyfreed", "zswpin", "zswpout", "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip
_DEMOTED_AND_SUMS_6_12: Final = (
    "pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged", "pgpromote_success", "pgscan",
    "pgsteal",
)  # fmt: skip
_EVENTS_6_12: Final = (
    "pgscan_kswapd", "pgscan_direct",
    "pgscan_khugepaged", "pgsteal_kswapd", "pgsteal_direct", "pgsteal_khugepaged", "pgfault",
    "pgmajfault", "pgrefill", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
    "swpin_zero", "swpout_zero", "zswpin", "zswpout", "zswpwb", "thp_fault_alloc",
    "thp_collapse_alloc", "thp_swpout", "thp_swpout_fallback", "numa_pages_migrated",
    "numa_pte_updates", "numa_hint_faults",
)  # fmt: skip
STAT_6_12: Final = (*_STAT_STATE_6_1, *_DEMOTED_AND_SUMS_6_12, *_EVENTS_6_12)
STAT_6_13: Final = (
    *_STAT_STATE_6_1, *_DEMOTED_AND_SUMS_6_12, "pswpin", "pswpout", *_EVENTS_6_12,
)  # fmt: skip
