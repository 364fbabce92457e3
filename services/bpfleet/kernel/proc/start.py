"""What a process and its threads are charged for themselves [kernel/fork.c, mm/mmap.c, fs/exec.c].

A runtime forks the first process of a container inside its cgroup, which so pays for the task; exec(2) then makes an
address space there. How many mappings that has is the program's: here it is one that is linked against three or four
libraries. Sizes are those of the caches (/proc/slabinfo), where the profile has none of its own.
"""

from collections.abc import Iterator
from typing import Final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.mm.memory import AllocKind, AllocSize, Memory

VMAS: Final = 35
WRITABLE_VMAS: Final = 10
MAPPED_FILES: Final = 6
PAGE_TABLES: Final = 11
PGD_PAGES: Final = 2  # with the kernel's and the user's half on x86-64 [PGD_ALLOCATION_ORDER]
PID_BYTES: Final = 128
CRED_BYTES: Final = 192
ANON_VMA_BYTES: Final = 104
ANON_VMA_CHAIN_BYTES: Final = 64
CHAINS_PER_ANON_VMA: Final = 2
# What threads share: signal_cache, sighand_cache, files_cache, fs_cache.
_SHARED_BYTES: Final = (1152, 2112, 704, 64)

Objects = Iterator[tuple[AllocSize, int]]  # a size, and how many of it


def task_objects(memory: Memory) -> Objects:
    """A task: its kernel stack, task_struct, pid and credentials."""
    yield memory.page_size(AllocKind.STACK), memory.profile.thread_bytes // PAGE_SIZE
    for size in (memory.profile.structs.task_struct, PID_BYTES, CRED_BYTES):
        yield memory.cache_size(size), 1


def thread_objects(memory: Memory) -> Objects:
    """A thread: a task, and an area with a page table for its stack."""
    yield from task_objects(memory)
    for size in memory.profile.vma_slab_bytes:
        yield memory.cache_size(size), 1
    yield memory.page_size(AllocKind.PAGE_TABLE), memory.profile.page_units


def process_objects(memory: Memory) -> Objects:
    """A process that was forked and started in its cgroup, with its first thread.

    >>> from bpfleet.kernel import Kernel, profile_named
    >>> memory = Kernel(profile_named("6.18"), possible_cpus=2, ram_bytes=1 << 30).memory
    >>> sum(size.charge * count for size, count in process_objects(memory))
    92296
    """
    structs, page = memory.profile.structs, memory.profile.page_units
    yield from task_objects(memory)
    for size in (*_SHARED_BYTES, structs.mm_struct):
        yield memory.cache_size(size), 1
    for size in memory.profile.file_vma_slab_bytes:
        yield memory.cache_size(size), VMAS
    yield memory.cache_size(structs.file), MAPPED_FILES
    yield memory.cache_size(ANON_VMA_BYTES), WRITABLE_VMAS
    yield memory.cache_size(ANON_VMA_CHAIN_BYTES), WRITABLE_VMAS * CHAINS_PER_ANON_VMA
    yield memory.page_size(), PGD_PAGES * page
    yield memory.page_size(AllocKind.PAGE_TABLE), PAGE_TABLES * page
