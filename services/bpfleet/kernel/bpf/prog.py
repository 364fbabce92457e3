"""BPF_PROG_LOAD and what follows: cost, order of checks, JIT, ids, test runs, freeing [kernel/bpf/syscall.c, core.c].

Up to 5.10 a program is allocated first and precharged second: image pages against RLIMIT_MEMLOCK, growth included.
From 5.11 image, aux, recursion counter and statistics are charged to the loader's cgroup as they are allocated.
Programs are not verified: one is refused only for its attributes, its maps and its memory, that of the verifier
included.
"""

from dataclasses import dataclass
from hashlib import sha1
from typing import Final, final

from bpfleet.abi.bpf import BPF_OBJ_NAME_LEN, F_NO_PREALLOC, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.complexity import walk
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.jit import JitBudget, jited_estimate_bytes
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.cgroup_storage import CgroupStorageMap
from bpfleet.kernel.bpf.object import IdTable
from bpfleet.kernel.bpf.prog_types import (
    check_attach_type,
    check_prog_capability,
    fixed_attach_type,
)
from bpfleet.kernel.bpf.program import BpfProg, ProgAttr, ProgOp, prog_of
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.verifier import VerifierMemory, allocations, rewrites
from bpfleet.kernel.deferred import RCU_GRACE_NS, WORK_ITEM_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Block, Memory, Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import bytes_of, pages_for, round_up

INSN_BYTES: Final = 8
LINE_INFO_BYTES: Final = 8
LPM_PREFIX_BYTES: Final = 4
ACTIVE_BYTES: Final = 4  # the per-CPU recursion counter
INSNS_MAX: Final = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
INSNS_MAX_UNPRIVILEGED: Final = 4096  # BPF_MAXINSNS
USED_MAPS_MAX: Final = 64
PROG_FLAGS_KNOWN: Final = 0xFF
PROG_GFP: Final = GFP.GFP_KERNEL_ACCOUNT
IMAGE_GFP: Final = GFP.GFP_USER | GFP.ZERO | GFP.ACCOUNT
_NAME_EXTRA: Final = frozenset("_.")
_NOT_BLINDED: Final = KernelError(
    Errno.ENOTSUPP, Reason.JIT_LIMIT_EXCEEDED, "blinding the program's constants failed"
)
_PROG_TYPES: Final = frozenset(int(prog_type) for prog_type in ProgType)


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """struct bpf_prog_info, the parts with a meaning here. Sizes are bytes; it has no memory field."""

    id: int
    prog_type: ProgType
    name: str
    tag: str
    gpl_compatible: bool
    jited_bytes: int
    loaded_at_ns: int
    map_ids: tuple[int, ...]
    run_time_ns: int
    run_cnt: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a number of runs of one program's operations did. ``errno`` is the last refusal, 0 without any.

    ``charged_bytes`` is what memory cgroups were charged for them.
    """

    runs: int
    failed_ops: int
    errno: int
    charged_bytes: int


@final
class Programs:
    """All programs of a node."""

    def __init__(
        self,
        host: Host,
        memory: Memory,
        accounting: BpfAccounting,
        files: FileTable,
        timeline: Timeline,
    ) -> None:
        self._host: Final = host
        self._memory: Final = memory
        self._accounting: Final = accounting
        self._files: Final = files
        self._timeline: Final = timeline
        self.ids: Final = IdTable[BpfProg]("program")
        self._stats_bytes: Final = host.profile.structs.bpf_prog_stats
        self.jit: Final = JitBudget(host)
        self.blinding_leaks = (
            False  # jit_harden with a failing JIT: the growth stays charged (rlimit model)
        )

    # -- loading -------------------------------------------------------------------------------------------------

    def load(self, task: Task, attr: ProgAttr) -> int:
        """BPF_PROG_LOAD. Returns a descriptor.

        Raises EINVAL, E2BIG, EPERM (capability, or RLIMIT_MEMLOCK up to 5.10), EBADF, EBUSY, ENOMEM (growth over the
        limit; memory), EINVAL for failed memory from 6.9, 524 when the JIT must run and may not, EMFILE.
        """
        self._check(task, attr)
        expected = fixed_attach_type(attr.prog_type, attr.expected_attach_type)
        check_attach_type(attr.prog_type, expected)
        owner = Owner("prog", 0, attr.prog_name)
        prog = BpfProg(attr, _known_type(attr.prog_type), task.uid, owner, self._timeline.now_ns)
        prog.expected_attach_type = expected
        try:
            self._allocate(prog, task)
            self._precharge(prog, task)
            _check_known(attr, self._host.profile)
            self._verify(prog, task)
            self._jit(prog, task)
        except KernelError:
            self._undo(prog, task.cpu)
            raise
        return self._publish(prog, task)

    def load_classic(self, task: Task, insn_cnt: int) -> BpfProg:
        """A seccomp filter: charged like a program but not precharged, without id or descriptor; a reference is taken.

        Raises EINVAL for its length, ENOMEM, 524 when the JIT may not run and the build lacks an interpreter.
        """
        if not 0 < insn_cnt <= INSNS_MAX_UNPRIVILEGED:
            raise refuse(Errno.EINVAL, f"a filter has 1 to {INSNS_MAX_UNPRIVILEGED} instructions")
        attr = ProgAttr(ProgType.SOCKET_FILTER, insn_cnt, "seccomp")
        owner = Owner("seccomp", task.pid)
        prog = BpfProg(attr, ProgType.SOCKET_FILTER, task.uid, owner, self._timeline.now_ns)
        try:
            self._allocate_one(prog, task, insn_cnt)
            prog.blocks.append(self._percpu(self._stats_bytes, owner, task))
            self._jit(prog, task)
        except KernelError:
            self._undo(prog, task.cpu)
            raise
        prog.on_unreferenced = self._uncharge
        prog.get()
        return prog

    def _check(self, task: Task, attr: ProgAttr) -> None:
        """Attributes and capabilities, before anything is allocated."""
        profile = self._host.profile
        if not profile.capability_check_central:
            self._check_unprivileged(task)
        if attr.prog_flags & ~PROG_FLAGS_KNOWN:
            raise refuse(Errno.EINVAL, f"prog_flags {attr.prog_flags:#x} are unknown")
        if profile.capability_check_central:
            self._check_unprivileged(task)
        limit = INSNS_MAX if task.bpf_capable() else INSNS_MAX_UNPRIVILEGED
        if not 0 < attr.insn_cnt <= limit:
            raise refuse(Errno.E2BIG, f"{attr.insn_cnt} instructions: allowed are 1 to {limit}")
        check_prog_capability(attr.prog_type, task, profile)

    def _check_unprivileged(self, task: Task) -> None:
        if self._host.unprivileged_bpf_disabled and not task.bpf_capable():
            raise KernelError(
                Errno.EPERM,
                Reason.UNPRIVILEGED_BPF_DISABLED,
                "kernel.unprivileged_bpf_disabled is set and the task has no CAP_BPF",
            )

    # -- memory --------------------------------------------------------------------------------------------------

    def _allocate(self, prog: BpfProg, task: Task) -> None:
        """bpf_prog_alloc. Raises ENOMEM, from 6.9 EINVAL."""
        try:
            self._allocate_one(prog, task, prog.attr.insn_cnt)
            prog.blocks.append(self._percpu(self._stats_bytes, prog.owner, task))
        except KernelError as error:
            if self._host.profile.prog_image_failure_einval:
                raise KernelError(
                    Errno.EINVAL, error.reason, error.detail, **error.numbers
                ) from error
            raise

    def _allocate_one(self, prog: BpfProg, task: Task, insn_cnt: int) -> None:
        """bpf_prog_alloc_no_stats: image, aux, recursion counter."""
        profile, memory = self._host.profile, self._memory
        payer = self._accounting.current_payer(task)
        image = self._image(prog, task, insn_cnt)
        if prog.image is None:
            prog.image = image
            prog.image_pages = self.image_pages(insn_cnt)
        else:
            prog.blocks.append(image)
        aux = profile.structs.bpf_prog_aux
        prog.blocks.append(memory.kmalloc(aux, PROG_GFP, payer, task, prog.owner))
        if profile.prog_active_percpu:
            prog.blocks.append(self._percpu(ACTIVE_BYTES, prog.owner, task))

    def _image(self, prog: BpfProg, task: Task, insn_cnt: int) -> Block:
        payer = self._accounting.current_payer(task)
        size = bytes_of(self.image_pages(insn_cnt))
        return self._memory.vmalloc(size, IMAGE_GFP, payer, task, prog.owner)

    def _percpu(self, size_bytes: int, owner: Owner, task: Task) -> Block:
        payer = self._accounting.current_payer(task)
        return self._memory.alloc_percpu(size_bytes, 1, PROG_GFP, payer, task, owner)

    def image_pages(self, insn_cnt: int) -> int:
        """Pages of struct bpf_prog with its instructions: 1 up to 505 instructions on 5.10."""
        profile = self._host.profile
        size = profile.structs.bpf_prog + INSN_BYTES * insn_cnt
        return pages_for(round_up(size, profile.page_bytes))

    def _precharge(self, prog: BpfProg, task: Task) -> None:
        """bpf_prog_charge_memlock: after the allocation, before any other check. Raises EPERM."""
        holder = f"prog {prog.name}".rstrip()
        prog.charge = self._accounting.admit(task, bytes_of(prog.image_pages), holder)

    def _grow(self, prog: BpfProg, task: Task, insn_cnt: int) -> None:
        """bpf_prog_realloc: charge, then a new image beside the old one. A refused charge is ENOMEM."""
        pages = self.image_pages(insn_cnt)
        more = pages - prog.image_pages
        if more <= 0:
            return
        charged = prog.charge.user is not None
        try:
            if charged:
                self._accounting.grow(prog.charge, task, more)
            image = self._image(prog, task, insn_cnt)
        except KernelError as error:
            raise KernelError(Errno.ENOMEM, error.reason, error.detail, **error.numbers) from error
        assert prog.image is not None
        self._memory.free(prog.image, task.cpu)
        prog.image = image
        prog.image_pages = pages

    # -- the verifier's and the JIT's part -----------------------------------------------------------------------

    def _verify(self, prog: BpfProg, task: Task) -> None:
        """bpf_check without checking: resolves maps, rewrites to the largest form, makes subprograms."""
        self._host.vmlinux_btf_parsed = True
        memory = self._verifier_memory(prog, task)
        try:
            self._use_maps(prog, task)
            self._check_main(prog, memory)
            self._rewrite(prog, task, memory)
        finally:
            memory.close()

    def _verifier_memory(self, prog: BpfProg, task: Task) -> VerifierMemory:
        payer = self._accounting.current_payer(task)
        return VerifierMemory(self._memory, payer, task, prog.name)

    def _check_main(self, prog: BpfProg, memory: VerifierMemory) -> None:
        """do_check_main: walks what is declared of the program. Raises E2BIG, ENOMEM; ENOMEM of a killed loader too."""
        attr, profile = prog.attr, self._host.profile
        states = walk(profile, attr.insn_cnt, attr.subprog_insns, attr.complexity)
        if profile.verifier_memory_charged:
            memory.run(
                allocations(profile, attr.insn_cnt, attr.subprog_insns, attr.complexity, states)
            )

    def _rewrite(self, prog: BpfProg, task: Task, memory: VerifierMemory) -> None:
        """The rewrites after it, and an image for each function."""
        attr, profile = prog.attr, self._host.profile
        grown = max(attr.largest_insn_cnt, attr.insn_cnt + attr.complexity.inlined_insns)
        if profile.verifier_memory_charged:
            memory.run(rewrites(profile, attr.insn_cnt, grown))
        self._grow(prog, task, grown)
        for insn_cnt in prog.attr.subprog_insns:
            self._allocate_one(prog, task, insn_cnt)

    def _use_maps(self, prog: BpfProg, task: Task) -> None:
        kinds: dict[MapType, BpfMap] = {}
        for fd in prog.attr.map_fds:
            found = task.file(fd).target
            if not isinstance(found, BpfMap):
                raise refuse(
                    Errno.EINVAL, f"descriptor {fd} is not a map", Reason.BAD_FILE_DESCRIPTOR
                )
            self._check_map(prog, found)
            is_storage = isinstance(found, CgroupStorageMap)
            if is_storage and kinds.setdefault(found.map_type, found) is not found:
                raise refuse(Errno.EBUSY, "one cgroup storage map of a kind per program")
            if found in prog.maps:
                continue
            if len(prog.maps) == USED_MAPS_MAX:
                raise refuse(Errno.E2BIG, f"more than {USED_MAPS_MAX} maps")
            found.get()
            prog.maps.append(found)

    def _check_map(self, prog: BpfProg, bpf_map: BpfMap) -> None:
        """check_map_prog_compatibility. Raises EINVAL."""
        if bpf_map.map_type is MapType.STRUCT_OPS:
            raise refuse(Errno.EINVAL, "a program cannot use a struct_ops map")
        sparse = bpf_map.map_type in (MapType.HASH, MapType.PERCPU_HASH, MapType.HASH_OF_MAPS)
        sparse = sparse and bool(bpf_map.map_flags & F_NO_PREALLOC)
        if (
            sparse
            and prog.prog_type is ProgType.PERF_EVENT
            and self._host.profile.perf_progs_need_prealloc
        ):
            raise refuse(Errno.EINVAL, "perf event programs need preallocated hash maps")

    def _jit(self, prog: BpfProg, task: Task) -> None:
        """bpf_prog_select_runtime. Raises 524 where the build lacks an interpreter to fall back to."""
        attr = prog.attr
        blinded = self._blind(prog, task)
        self._line_info(prog, task)
        code = attr.jited_bytes or jited_estimate_bytes(max(attr.insn_cnt, attr.largest_insn_cnt))
        images = [self.jit.image_bytes(code)]
        images += [self.jit.image_bytes(jited_estimate_bytes(n)) for n in attr.subprog_insns]
        refusal = _NOT_BLINDED
        if blinded:
            try:
                prog.jit_images = self.jit.charge(task, images)
            except KernelError as error:
                refusal = error
            else:
                prog.jited = True
                prog.jited_bytes = code
                return
            self._leak(prog, prog.image_pages - self._unblinded_pages(prog))
        if self._host.jit_always_on:
            raise KernelError(
                refusal.errno,
                refusal.reason,
                f"{refusal.detail}; this kernel has no interpreter",
                **refusal.numbers,
            )

    def _unblinded_pages(self, prog: BpfProg) -> int:
        return self.image_pages(max(prog.attr.insn_cnt, prog.attr.largest_insn_cnt))

    def _blind(self, prog: BpfProg, task: Task) -> bool:
        """bpf_jit_blind_constants: grows page by page; False when the limit stops it and the JIT is given up."""
        target = self.image_pages(prog.attr.blinded_insn_cnt)
        while prog.image_pages < target:
            insns = (bytes_of(prog.image_pages + 1) - self._host.profile.structs.bpf_prog) // 8
            try:
                self._grow(prog, task, insns)
            except KernelError:
                self._leak(prog, prog.image_pages - self._unblinded_pages(prog))
                return False
        return True

    def _leak(self, prog: BpfProg, pages: int) -> None:
        """The abandoned clone's growth: given back, or with ``blinding_leaks`` charged until reboot (5.10)."""
        if pages <= 0 or prog.charge.user is None:
            return
        prog.image_pages -= pages
        if not self.blinding_leaks:
            self._accounting.shrink(prog.charge, pages)
            return
        user = prog.charge.user
        user.drop(prog.charge.holder, pages)
        user.hold("leaked by JIT constant blinding", pages)
        prog.charge.pages -= pages
        self._timeline.emit(EventKind.CHARGE_LEAKED, uid=user.uid, pages=pages, holder="prog")

    def _line_info(self, prog: BpfProg, task: Task) -> None:
        """bpf_prog_alloc_jited_linfo: a pointer per line, charged from 5.11."""
        if not prog.attr.line_info_cnt:
            return
        payer = self._accounting.current_payer(task)
        size = LINE_INFO_BYTES * prog.attr.line_info_cnt
        gfp = PROG_GFP | GFP.NOWARN
        prog.blocks.append(self._memory.kmalloc(size, gfp, payer, task, prog.owner))

    # -- life ----------------------------------------------------------------------------------------------------

    def _publish(self, prog: BpfProg, task: Task) -> int:
        prog.id = prog.owner.ident = self.ids.add(prog)
        prog.tag = sha1(f"{prog.attr!r}".encode(), usedforsecurity=False).hexdigest()[:16]
        prog.on_unreferenced = self._unreferenced
        self._timeline.emit(
            EventKind.PROG_LOADED, prog_id=prog.id, name=prog.name, pages=prog.image_pages
        )
        prog.get()
        return self._open(task, prog)

    def _open(self, task: Task, prog: BpfProg) -> int:
        """A descriptor for a reference already taken; drops it if none can be opened. Raises EMFILE, ENOMEM."""
        try:
            file = File("bpf-prog", prog, _release_prog)
            return self._files.open(task, file, Owner("file", prog.id, "prog"))
        except KernelError:
            prog.put()
            raise

    def _unreferenced(self, prog: BpfProg) -> None:
        """The id goes at once, the budget after a grace period, the memory with a work item, then the maps."""
        self.ids.remove(prog.id)
        self._timeline.defer(RCU_GRACE_NS, lambda: self._uncharge(prog))

    def _uncharge(self, prog: BpfProg) -> None:
        self._accounting.release(prog.charge)
        self._timeline.defer(WORK_ITEM_NS, lambda: self._free(prog))

    def _free(self, prog: BpfProg) -> None:
        self._undo(prog, 0)
        if prog.id:
            self._timeline.emit(EventKind.PROG_FREED, prog_id=prog.id, name=prog.name)

    def _undo(self, prog: BpfProg, cpu: int) -> None:
        """Gives everything back; harmless for what was never taken."""
        self._accounting.release(prog.charge)
        self.jit.uncharge(prog.jit_images)
        prog.jit_images = ()
        while prog.blocks:
            self._memory.free(prog.blocks.pop(), cpu)
        if prog.image is not None:
            self._memory.free(prog.image, cpu)
            prog.image = None
        while prog.maps:
            prog.maps.pop().put()

    # -- descriptors and info -------------------------------------------------------------------------------------

    def open(self, task: Task, prog: BpfProg) -> int:
        """A new descriptor of a program. Raises EMFILE, ENOMEM."""
        prog.get()
        return self._open(task, prog)

    def info(self, prog: BpfProg) -> ProgInfo:
        """OBJ_GET_INFO_BY_FD."""
        attr = prog.attr
        return ProgInfo(
            id=prog.id,
            prog_type=prog.prog_type,
            name=prog.name,
            tag=prog.tag,
            gpl_compatible=attr.gpl_compatible,
            jited_bytes=prog.jited_bytes,
            loaded_at_ns=prog.loaded_at_ns,
            map_ids=tuple(held.id for held in prog.maps),
            run_time_ns=prog.run_time_ns,
            run_cnt=prog.run_cnt,
        )

    # -- running -------------------------------------------------------------------------------------------------

    def test_run(
        self, task: Task, fd: int, *, repeat: int = 1, in_interrupt: bool = False
    ) -> RunResult:
        """BPF_PROG_TEST_RUN: performs the program's operations ``repeat`` times as ``task``.

        Raises EBADF, EINVAL; what the operations answer is in the result.
        """
        if repeat < 0:
            raise refuse(Errno.EINVAL, f"repeat {repeat} is negative")
        context = OpContext(task, from_prog=True, in_interrupt=in_interrupt)
        return self.run(prog_of(task, fd), context, max(repeat, 1))

    def run(self, prog: BpfProg, context: OpContext, times: int = 1) -> RunResult:
        """Runs a program ``times`` times in ``context``: its helpers act for the task that is interrupted or calls."""
        failed = errno = 0
        before = self._memory.charged_bytes_total
        ops = [(op, self._map_for(prog, op)) for op in prog.attr.ops]
        for _ in range(times):
            prog.run_cnt += 1
            for op, bpf_map in ops:
                try:
                    _perform(op, bpf_map, context, prog.run_cnt - 1)
                except KernelError as error:
                    failed += 1
                    errno = int(error.errno)
        charged_bytes = self._memory.charged_bytes_total - before
        return RunResult(times, failed, errno, charged_bytes)

    def _map_for(self, prog: BpfProg, op: ProgOp) -> BpfMap:
        if not 0 <= op.map < len(prog.maps):
            raise refuse(
                Errno.EINVAL, f"the program has {len(prog.maps)} maps, not number {op.map}"
            )
        found = prog.maps[op.map]
        assert isinstance(found, BpfMap)
        if op.key is not None and len(op.key) != found.key_size:
            # The verifier lets no program hand a helper another number of bytes than the map's keys have.
            raise refuse(Errno.EINVAL, f"a key of {len(op.key)} bytes; keys have {found.key_size}")
        return found


def _perform(op: ProgOp, bpf_map: BpfMap, context: OpContext, run: int) -> None:
    key = _counting_key(bpf_map, run) if op.key is None else op.key
    if op.op == "update":
        value = op.value[: bpf_map.user_value_size].ljust(bpf_map.user_value_size, b"\0")
        bpf_map.update(key, value, op.flags, context)
    elif op.op == "lookup":
        bpf_map.lookup(key, context)
    elif op.op == "delete":
        bpf_map.delete(key, context)
    else:
        raise refuse(Errno.EINVAL, f"a program has no operation {op.op!r}")


def _counting_key(bpf_map: BpfMap, run: int) -> bytes:
    """The key of a program that counts its runs, little endian; in an LPM trie a full-length prefix of it."""
    size = bpf_map.key_size
    if bpf_map.map_type is MapType.LPM_TRIE:
        data = size - LPM_PREFIX_BYTES
        prefix = (8 * data).to_bytes(LPM_PREFIX_BYTES, "little")
        return prefix + run.to_bytes(max(data, 8), "little")[:data]
    return run.to_bytes(max(size, 8), "little")[:size]


def _known_type(prog_type: int) -> ProgType:
    """The type, or UNSPEC for a number without one: the kernel refuses it only after the charge."""
    return ProgType(prog_type) if prog_type in _PROG_TYPES else ProgType.UNSPEC


def _check_known(attr: ProgAttr, profile: KernelProfile) -> None:
    """find_prog_type and bpf_obj_name_cpy, after the charge. Raises EINVAL."""
    if _known_type(attr.prog_type) not in profile.prog_types:
        raise refuse(Errno.EINVAL, f"program type {attr.prog_type} is unknown")
    name = attr.prog_name
    if len(name) >= BPF_OBJ_NAME_LEN or not all(
        (c.isascii() and c.isalnum()) or c in _NAME_EXTRA for c in name
    ):
        raise refuse(Errno.EINVAL, f"program name {name!r}: up to 15 of letters, digits, _ and .")


def _release_prog(file: File) -> None:
    assert isinstance(file.target, BpfProg), file.kind
    file.target.put()
