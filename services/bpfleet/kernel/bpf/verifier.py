"""What verifying a program takes: tables by instruction, and the states that the walk keeps [kernel/bpf/verifier.c].

Nothing is verified here. What is declared of a program becomes the allocations that verifying such a program makes,
in the kernel's order, each charged to the loader from 6.17 on ("bpf: include verifier memory allocations in memcg
statistics") and given back before BPF_PROG_LOAD returns. Charged to nobody before, they are left out there.

Cost plan, per instruction: bpf_insn_aux_data (charged from 7.3), a list head of explored states, the postorder; while
the control flow is looked at, four or five integers; from 7.1 on, while argument tracking runs, a bpf_arg_track for
each register and each of 64 stack slots. Per state: itself, a bpf_func_state for each frame, the stack slots written
so far, and the jumps since the last one.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple, final

from bpfleet.abi.limits import KMALLOC_MAX_SIZE, PAGE_SIZE
from bpfleet.kernel.bpf.complexity import (
    PENDING_MAX,
    STACK_SLOTS_MAX,
    STATE_INSNS,
    Complexity,
    States,
    walk,
)
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memcg import ObjCgroup
from bpfleet.kernel.mm.memory import Block, Memory, Owner
from bpfleet.kernel.mm.sizes import kmalloc_charge_bytes, vmalloc_bytes
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up

INT_BYTES: Final = 4
LIST_HEAD_BYTES: Final = 16
POINTER_BYTES: Final = 8
PTE_BYTES: Final = 8
SUBPROG_AT_INFO_BYTES: Final = 16
BPF_REGISTERS: Final = 11


class Take(NamedTuple):
    """``times`` objects of ``size`` bytes. ``kv``: pages that need not lie together will do; ``area``: only such.

    ``zero``: cleared, which only the kernel's log tells.
    """

    name: str
    size: int
    times: int = 1
    kv: bool = True
    area: bool = False
    zero: bool = True


class Give(NamedTuple):
    """All that was taken under a name goes back."""

    name: str


def allocations(
    profile: KernelProfile,
    insn_cnt: int,
    subprogs: tuple[int, ...],
    code: Complexity,
    states: States,
) -> Iterator[Take | Give]:
    """What bpf_check takes and gives, in its order; what is left over at the end goes back then."""
    structs = profile.structs
    lengths = (max(insn_cnt - sum(subprogs), 1), *subprogs)
    yield Take("env", structs.bpf_verifier_env)
    if profile.verifier_aux_charged:
        yield Take("aux", structs.bpf_insn_aux_data * insn_cnt, area=True)
    yield Take("explored", LIST_HEAD_BYTES * insn_cnt)
    ints = INT_BYTES * insn_cnt
    yield from _passing("cfg", ints, 2)
    yield Take("postorder", ints)
    yield from _passing("postorder-of", ints, 2)
    if structs.bpf_liveness:
        yield Take("liveness", structs.bpf_liveness)
    if profile.verifier_arg_registers:
        yield from _passing("const-regs", structs.const_arg_info * BPF_REGISTERS * insn_cnt, 1)
    yield from _passing("scc", ints, 4)
    live = structs.insn_live_regs * insn_cnt
    if profile.verifier_arg_registers:
        yield Take("live-regs", live)
        yield from _arguments(profile, insn_cnt, lengths, stack=code.uses_stack)
        yield Give("live-regs")
    else:
        yield from _passing("live-regs", live, 1)
        yield from _instances(profile, lengths, marks=code.is_told)
    yield from _states(profile, states)
    for name in (*_OF_STATES, "explored"):
        yield Give(name)


def rewrites(profile: KernelProfile, insn_cnt: int, grown: int) -> Iterator[Take | Give]:
    """What replacing instructions by more of them takes: a longer bpf_insn_aux_data beside the one before it."""
    if grown > insn_cnt and profile.verifier_aux_rewritten_charged:
        size = profile.structs.bpf_insn_aux_data
        yield Take("aux", size * (grown - 1), area=True)
        yield Take("aux-grown", size * grown, area=True)
        yield Give("aux")


def _passing(name: str, size: int, count: int) -> Iterator[Take | Give]:
    """Arrays that one pass over the program needs."""
    for _ in range(count):
        yield Take(name, size)
    yield Give(name)


def _arguments(
    profile: KernelProfile, insn_cnt: int, lengths: tuple[int, ...], *, stack: bool
) -> Iterator[Take | Give]:
    """bpf_compute_subprog_arg_access: functions one after the other, called ones first."""
    structs = profile.structs
    track = structs.arg_track
    yield Take("arg-info", SUBPROG_AT_INFO_BYTES * len(lengths))
    yield Take("callsites", POINTER_BYTES * insn_cnt)
    for number, length in reversed(tuple(enumerate(lengths))):
        yield Take("instances", structs.func_instance, kv=False)
        yield Take("at-in", track * profile.verifier_arg_registers * length, zero=False)
        yield Take("at-stack", track * STACK_SLOTS_MAX * length, zero=False)
        yield Take("at-stack", track * STACK_SLOTS_MAX, zero=False)
        if stack and not number:
            yield Take("masks", structs.per_frame_masks * length)
        if not number and len(lengths) > 1:
            yield Take("at-callsites", track * STACK_SLOTS_MAX, len(lengths) - 1)
        yield Give("at-stack")
    for name in ("at-callsites", "callsites", "at-in", "arg-info"):
        yield Give(name)


def _instances(
    profile: KernelProfile, lengths: tuple[int, ...], *, marks: bool
) -> Iterator[Take | Give]:
    """Stack liveness as 6.18 to 7.0 collect it: an instance for each function and call of it."""
    structs = profile.structs
    if not structs.func_instance:
        return
    for number, length in enumerate(lengths):
        yield Take("instances", structs.func_instance, kv=False)
        yield Take("written", length)
        if marks and not number:
            yield Take("masks", structs.per_frame_masks * length)


def _states(profile: KernelProfile, states: States) -> Iterator[Take | Give]:
    """The states at the moment of the most, and the one that is walked with [_OF_STATES]."""
    structs = profile.structs
    yield Take("state", structs.bpf_verifier_state, kv=False)
    yield Take("frames", structs.bpf_func_state, 1 + states.pending + states.remembered, kv=False)
    if states.pending:
        yield Take("pending", structs.bpf_verifier_stack_elem, states.pending, kv=False)
    if states.remembered:
        yield Take("remembered", structs.bpf_verifier_state_list, states.remembered, kv=False)
    for slots, count in sorted(states.stacks.items()):
        if slots:
            yield Take("stacks", structs.bpf_stack_state * slots, count, kv=False)
    for entries, count in sorted(states.histories.items()):
        if entries:
            size = structs.bpf_jmp_history_entry * entries
            yield Take("histories", size, count, kv=False)


_OF_STATES: Final = ("histories", "stacks", "remembered", "pending", "frames", "state")


def charge_of(take: Take, page_bytes: int = PAGE_SIZE, min_bytes: int = 8) -> int:
    """Bytes charged for it where there is room: blocks of a power of two of pages, areas above KMALLOC_MAX_SIZE.

    >>> charge_of(Take("explored", 16_000)), charge_of(Take("aux", 20_000, area=True))
    (16384, 20480)
    """
    if take.area or (take.kv and take.size > KMALLOC_MAX_SIZE):
        return vmalloc_bytes(take.size, page_bytes) * take.times
    return kmalloc_charge_bytes(take.size, page_bytes, min_bytes) * take.times


def peak_bytes(
    profile: KernelProfile, insn_cnt: int, subprogs: tuple[int, ...], code: Complexity
) -> int:
    """The most that verifying holds at once, 0 where nobody is charged for it. Raises E2BIG."""
    if not profile.verifier_memory_charged:
        return 0
    states = walk(profile, insn_cnt, subprogs, code)
    held: Counter[str] = Counter()
    now = most = 0
    steps = chain(
        allocations(profile, insn_cnt, subprogs, code, states),
        rewrites(profile, insn_cnt, insn_cnt + code.inlined_insns),
    )
    for step in steps:
        if isinstance(step, Give):
            now -= held.pop(step.name, 0)
            continue
        charge = charge_of(step, profile.page_bytes, profile.kmalloc_min_bytes)
        held[step.name] += charge
        now += charge
        most = max(most, now)
    return most


def bounds_bytes(
    profile: KernelProfile, insn_cnt: int, subprogs: tuple[int, ...], code: Complexity
) -> tuple[int, int]:
    """Least and most that verifying can hold. They are one where the paths are told.

    Known by its length and ``verified_insns`` alone, a program is at least a single path. At most there is a state
    for every eight instructions walked, each with a stack of 512 bytes, and every other instruction branches.
    """
    least = peak_bytes(profile, insn_cnt, subprogs, code)
    if code.is_told or code.verified_insns <= insn_cnt or not profile.verifier_memory_charged:
        return least, least
    structs = profile.structs
    pending = min(insn_cnt // 2, PENDING_MAX)
    remembered = code.verified_insns // STATE_INSNS
    sizes = (
        structs.bpf_func_state,
        structs.bpf_stack_state * STACK_SLOTS_MAX,
        structs.bpf_verifier_state_list,
    )
    page, small = profile.page_bytes, profile.kmalloc_min_bytes
    each = sum(kmalloc_charge_bytes(size, page, small) for size in sizes)
    return least, least + each * (pending + remembered)


# -- charging ------------------------------------------------------------------------------------------


@final
class VerifierMemory:
    """What one load holds while it is verified. ``close`` gives all of it back."""

    def __init__(self, memory: Memory, objcg: ObjCgroup | None, task: Task, name: str) -> None:
        self._memory: Final = memory
        self._objcg: Final = objcg
        self._task: Final = task
        self._owner: Final = Owner("verifier", 0, name)
        self._held: Final[dict[str, list[Block]]] = {}

    def run(self, steps: Iterator[Take | Give]) -> None:
        """Takes and gives. Raises ENOMEM; a killed loader raises too."""
        for step in steps:
            if isinstance(step, Give):
                self._free(step.name)
            else:
                self._held.setdefault(step.name, []).append(self._take(step))

    def close(self) -> None:
        """Gives back what is held, the newest first."""
        for name in reversed(tuple(self._held)):
            self._free(name)

    def _free(self, name: str) -> None:
        self._memory.free_blocks(self._held.pop(name, ()), self._task.cpu)

    def _take(self, step: Take) -> Block:
        memory = self._memory
        gfp = GFP.GFP_KERNEL_ACCOUNT | (GFP.ZERO if step.zero else 0)
        if step.area:
            return memory.vmalloc(step.size, gfp, self._objcg, self._task, self._owner)
        if step.kv and step.size > memory.profile.page_bytes:
            return self._take_large(step.size, gfp)
        size = memory.slab_size(step.size)
        account = memory.account(self._owner, size.kind, self._objcg)
        if not size.is_page_charged:
            return memory.take_block(account, size, gfp, self._task, step.times)
        block = memory.take_block(account, size, gfp, self._task)
        for _ in range(step.times - 1):
            self._held.setdefault(step.name, []).append(
                memory.take_block(account, size, gfp, self._task)
            )
        return block

    def _take_large(self, size: int, gfp: int) -> Block:
        """kvmalloc: a block of pages without reclaim; then an area, in huge pages where they fit [mm/slub.c,
        vmalloc.c].
        """
        memory, owner = self._memory, self._owner
        if size <= KMALLOC_MAX_SIZE:
            quiet = (gfp | GFP.NOWARN) & ~GFP.DIRECT_RECLAIM
            try:
                return memory.kmalloc(size, quiet, self._objcg, self._task, owner)
            except KernelError:
                pass
        page = memory.profile.page_bytes
        pmd_bytes = page // PTE_BYTES * page
        if size >= pmd_bytes:
            huge = round_up(size, pmd_bytes)
            try:
                # Of so high an order that nobody is killed for it.
                return memory.vmalloc(huge, gfp | GFP.NORETRY, self._objcg, self._task, owner)
            except KernelError:
                pass
        return memory.vmalloc(size, gfp, self._objcg, self._task, owner)
