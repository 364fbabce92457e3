"""Kernel memory of a container beside its maps and programs, object by object, as Linux allocates it. Pure.

A cgroup pays for its processes too: page tables and stacks, which memory.stat tells from version 2 on, and the slab
objects of address spaces and descriptors, which it does not. Those are counted here as the kernel makes them: what was
traced on 6.12 as accounted allocations of a tool that starts (kmem:kmem_cache_alloc, accounted=true). Sizes are the
host's own where the capture has them (/proc/slabinfo, BTF).

Not charged by any kernel, and so not counted: BTF, links, perf events, trampolines and JIT images. A task that moved
into its cgroup left its task_struct and stack where it was forked, and brought nothing but what it made since exec.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.calibrate.containers import Container
from bpfleet.captures.document import Cgroup, Document, Others, Process, Program
from bpfleet.kernel.mm.sizes import OBJCG_POINTER_BYTES, kmalloc_charge_bytes
from bpfleet.kernel.proc.start import (
    ANON_VMA_BYTES,
    ANON_VMA_CHAIN_BYTES,
    CHAINS_PER_ANON_VMA,
    CRED_BYTES,
    MAPPED_FILES,
    PGD_PAGES,
    PID_BYTES,
    VMAS,
    WRITABLE_VMAS,
)
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of
from bpfleet.kernel.views.oom_report import KERNEL_PARTS

__all__ = ["OtherMemory", "other_memory"]

# Objects of named caches where the capture does not tell their size [Debian's 6.12].
_SLABS: Final = {
    "anon_vma": ANON_VMA_BYTES,
    "anon_vma_chain": ANON_VMA_CHAIN_BYTES,
    "cred_jar": CRED_BYTES,
    "pid": PID_BYTES,
    "proc_inode_cache": 704,
}
_PGD_BYTES: Final = bytes_of(PGD_PAGES)
# What the start looks up for the first time in /proc, /sys and bpffs: dentries and inodes that stay cached.
_LOOKUPS: Final = 6
_LOOKUP_INODES: Final = 4
_STANDARD_DESCRIPTORS: Final = 3  # inherited from whoever started it
_TOLD_LINES: Final = ("kernel_stack", "pagetables", "sec_pagetables", "sock")
# One line of debug information for so many instructions, where the capture does not tell their number.
_INSNS_PER_LINE: Final = 2
_LINE_INFO: Final = 16  # sizeof(struct bpf_line_info)
_FUNC_INFO: Final = 8  # sizeof(struct bpf_func_info)
_FUNCTIONS_MAX: Final = 8  # of one program, where they are told by their images alone
_JITED_LINE: Final = 8


class OtherMemory(Struct, frozen=True, kw_only=True):
    """``told`` by the kernel by name; ``modelled`` from objects that are there; ``uncertain`` may be there or not.

    Uncertain is what the first task of each process cost at fork: it was charged where it was forked.
    """

    told: Mapping[str, int] = {}
    modelled: Mapping[str, int] = {}
    uncertain_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All that is told or modelled."""
        return sum(self.told.values()) + sum(self.modelled.values())


def other_memory(
    container: Container,
    cgroup: Cgroup | None,
    document: Document,
    profile: KernelProfile,
    *,
    by_kind: Mapping[str, int],
) -> tuple[OtherMemory, ...]:
    """What else the cgroup of a container pays for. ``by_kind`` is what is emulated for BPF, by allocator.

    There are two answers where the kernel does not tell page tables: a process that was moved into its cgroup after
    exec left its address space where it was. Precondition: ``profile`` is the kernel the capture was taken on.
    """
    inside = [process for process in document.processes if process.cgroup == container.path]
    if cgroup is not None and cgroup.others.processes:
        inside.append(_summed(cgroup.others))
    parts = _Parts(container, cgroup, document, profile, by_kind, inside)
    tables = parts.stat.get("pagetables")
    if tables is None:
        return parts.found(moved_in=False), parts.found(moved_in=True)
    return (parts.found(moved_in=2 * tables < sum(process.vm_pte for process in inside)),)


def _summed(others: Others) -> Process:
    """Several processes as one; ``other_memory`` counts the address spaces apart."""
    return Process(
        pid=0,
        threads=max(1, others.threads),
        descriptors=max(0, others.descriptors - _STANDARD_DESCRIPTORS * (others.processes - 1)),
        vm_pte=others.vm_pte,
        vmas=others.vmas,
        writable_vmas=others.writable_vmas,
        mapped_files=others.mapped_files,
    )


class _Parts:
    """The parts of one container's kernel memory."""

    def __init__(
        self,
        container: Container,
        cgroup: Cgroup | None,
        document: Document,
        profile: KernelProfile,
        by_kind: Mapping[str, int],
        inside: Sequence[Process],
    ) -> None:
        self.stat: Final = cgroup.stat if cgroup is not None else {}
        self._by_kind: Final = by_kind
        self._profile: Final = profile
        self._inside: Final = inside
        self._spaces: Final = len(inside) + max(0, _others_of(cgroup) - 1)
        self._programs: Final = _programs(container, document)
        self._sizes: Final = _Sizes(
            document, profile, dentries_told="slab_reclaimable" in self.stat
        )

    def found(self, *, moved_in: bool) -> OtherMemory:
        """All parts, with or without what processes made before they moved in."""
        sizes, inside, stat = self._sizes, self._inside, self.stat
        profile = self._profile
        modelled = {
            "descriptors": sum(sizes.descriptors(process) for process in inside),
            "program tables": sum(sizes.tables(program) for program in self._programs),
            "functions": sizes.function * self._functions(),
        }
        told = {name: stat[name] for name in _TOLD_LINES if name in stat}
        if "slab_reclaimable" in stat:
            told["dentries and inodes"] = stat["slab_reclaimable"] - self._by_kind.get(
                "slab_reclaimable", 0
            )
        threads = sum(process.threads for process in inside) - self._spaces
        uncertain = 0
        if not moved_in:
            modelled["processes"] = sum(map(sizes.process, inside))
            modelled["processes"] += (self._spaces - len(inside)) * sizes.space
            modelled["threads"] = sizes.task * threads
        if "kernel_stack" not in stat and not moved_in:
            told["page tables"] = sum(_pages(process.vm_pte) for process in inside)
            told["stacks"] = profile.thread_bytes * threads
            uncertain = (sizes.task + profile.thread_bytes) * self._spaces
        elif moved_in:
            uncertain = sum(_pages(process.vm_pte) for process in inside)  # made since it moved
        elif inside and stat.get("kernel_stack", 0) >= profile.thread_bytes * (
            threads + self._spaces
        ):
            modelled["first tasks"] = sizes.task * self._spaces
        unnamed = _unnamed_bytes(stat)
        if unnamed is not None:
            told["other pages"] = unnamed - self._by_kind.get("pages", 0)
        elif not moved_in:
            modelled["page directories"] = _PGD_BYTES * self._spaces
        return OtherMemory(
            told={name: size for name, size in told.items() if size > 0},
            modelled={name: size for name, size in modelled.items() if size > 0},
            uncertain_bytes=uncertain,
        )

    def _functions(self) -> int:
        """Functions of programs that have several: each is a program of its own [jit_subprogs].

        Where the capture does not tell, they are the images in vmalloc memory that are not of maps and programs.
        """
        programs = self._programs
        if all(program.functions is not None for program in programs):
            return sum(n for program in programs if (n := program.functions or 0) > 1)
        surplus = self.stat.get("vmalloc", 0) - self._by_kind.get("vmalloc", 0)
        return min(_FUNCTIONS_MAX * len(programs), max(0, surplus // PAGE_SIZE))


def _others_of(cgroup: Cgroup | None) -> int:
    return cgroup.others.processes if cgroup is not None else 0


def _unnamed_bytes(stat: Mapping[str, int]) -> int | None:
    """Whole pages without a line of their own: page directories, pipe buffers, ring buffers. None where not told."""
    if "kernel" not in stat or not all(name in stat for name in ("vmalloc", "slab", "percpu")):
        return None
    return stat["kernel"] - sum(stat.get(name, 0) for name in KERNEL_PARTS)


def _programs(container: Container, document: Document) -> list[Program]:
    held = {
        number
        for process in document.processes
        if process.cgroup == container.path
        for number in process.programs
    }
    return [p for p in document.programs if p.payer.path == container.path or p.id in held]


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_SIZE) * PAGE_SIZE


class _Sizes:
    """Sizes of slab objects on one host, each with its objcg pointer."""

    def __init__(self, document: Document, profile: KernelProfile, *, dentries_told: bool) -> None:
        self._profile: Final = profile
        self._dentries_told: Final = dentries_told
        self._host: Final = document.host.slabs
        self._vma: Final = sum(size + OBJCG_POINTER_BYTES for size in profile.file_vma_slab_bytes)

    def _of(self, name: str, known: int = 0) -> int:
        return self._host.get(name, known or _SLABS.get(name, 0)) + OBJCG_POINTER_BYTES

    @property
    def task(self) -> int:
        """A thread: its task_struct and pid; its stack is told."""
        return self._of("task_struct", self._profile.structs.task_struct) + self._of("pid")

    @property
    def _file(self) -> int:
        return self._of("filp", self._profile.structs.file)

    @property
    def _dentry(self) -> int:
        """0 where the kernel tells reclaimable objects apart."""
        return 0 if self._dentries_told else self._of("dentry", self._profile.structs.dentry)

    def process(self, process: Process) -> int:
        """What exec makes: the address space, its mappings with their files, credentials, and what it looks up."""
        vmas = process.vmas or VMAS
        writable = process.writable_vmas or WRITABLE_VMAS
        mapped = process.mapped_files or MAPPED_FILES
        anon = self._of("anon_vma") + CHAINS_PER_ANON_VMA * self._of("anon_vma_chain")
        mappings = vmas * self._of_vma() + writable * anon + mapped * self._file
        return self.space + mappings

    @property
    def space(self) -> int:
        """An address space without its mappings, with credentials and what the start looks up."""
        inode = self._of("inode_cache", self._profile.structs.inode)
        lookups = 0 if self._dentries_told else _LOOKUP_INODES * inode
        return (
            self._of("mm_struct", self._profile.structs.mm_struct)
            + self._of("cred_jar")
            + lookups
            + _LOOKUPS * self._dentry
        )

    def _of_vma(self) -> int:
        size = self._host.get("vm_area_struct")
        return self._vma if size is None else size + OBJCG_POINTER_BYTES

    def descriptors(self, process: Process) -> int:
        """Open files that are not maps and programs: links, BTF, perf events, epoll. Each has a dentry of its own."""
        of_bpf = len(process.maps) + len(process.programs)
        others = process.descriptors - of_bpf - _STANDARD_DESCRIPTORS
        return max(0, others) * (self._file + self._dentry)

    def tables(self, program: Program) -> int:
        """Tables of lines and functions, which live as long as the program."""
        lines = program.lines
        if lines is None:
            insns = max(program.insn_cnt, (program.memlock_bytes - PAGE_SIZE) // 8)
            lines = insns // _INSNS_PER_LINE
        tables = [lines * _JITED_LINE]
        if self._profile.verifier_memory_charged:
            # From 6.17 on what the verifier leaves with the program is charged as well.
            functions = (program.functions or 1) * _FUNC_INFO
            tables += [lines * _LINE_INFO, functions, len(program.maps) * 8]
        return sum(kmalloc_charge_bytes(size) for size in tables if size)

    @property
    def function(self) -> int:
        """One function's program: a page of instructions and its aux."""
        return PAGE_SIZE + kmalloc_charge_bytes(self._profile.structs.bpf_prog_aux)
