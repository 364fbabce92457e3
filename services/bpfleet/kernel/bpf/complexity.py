"""What the verifier meets in a program, and the states it keeps of it [kernel/bpf/verifier.c, states.c].

The walk goes to the end of the first path before it looks at the other sides of branches. It leaves a state behind at
pruning points, where at least two jumps and eight instructions lie between, in loops twenty or a hundred.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.profile import KernelProfile

INSNS_WALKED_MAX: Final = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
PENDING_MAX: Final = 8192  # BPF_COMPLEXITY_LIMIT_JMP_SEQ
STACK_SLOTS_MAX: Final = 64  # MAX_BPF_STACK / BPF_REG_SIZE
STATE_INSNS: Final = 8  # a state is remembered after so many instructions and
STATE_JUMPS: Final = 2  # so many jumps; inside a loop after
LOOP_INSNS: Final = 100  # so many instructions or
LOOP_JUMPS: Final = 20  # so many jumps
STATES_AT_POINT: Final = 4  # the fourth time that it does not help, a state is dropped
LOOKUP_INLINED_INSNS: Final = 6


@dataclass(frozen=True, slots=True)
class Complexity:
    """What the verifier meets in a program. All 0: one path from the first instruction to the last.

    ``branches`` are conditional jumps on a value that is not known, each on another one; ``compared`` those that ask
    one value again and again (a switch). ``spills`` write a register to a stack slot of its own and branch on it;
    ``lookups`` look an element up and use it; ``loop_turns`` are turns of a bounded loop. ``verified_insns``
    (bpftool) and ``states`` (the peak of veristat) say how much was walked and kept; what is declared beside them
    says more, and is used where it is more.
    """

    branches: int = 0
    compared: int = 0
    spills: int = 0
    lookups: int = 0
    loop_turns: int = 0
    states: int = 0
    verified_insns: int = 0

    @property
    def inlined_insns(self) -> int:
        """How many instructions the code of its lookups has more than the calls it replaces [array_map_gen_lookup]."""
        return LOOKUP_INLINED_INSNS * self.lookups

    @property
    def uses_stack(self) -> bool:
        """Whether it reads or writes its stack."""
        return bool(self.spills or self.lookups)

    @property
    def is_told(self) -> bool:
        """Whether its paths are known, not just how long they are."""
        told = self.branches or self.compared or self.spills or self.lookups or self.loop_turns
        return bool(told or self.states)


PLAIN: Final = Complexity()


@dataclass(slots=True)
class States:
    """The states that exist at once when there are most: ``pending`` wait for their turn, ``remembered`` serve pruning.

    ``stacks`` counts them by stack slots, ``histories`` by the jumps they carry. ``walked`` are instructions of the
    path.
    """

    pending: int = 0
    remembered: int = 0
    stacks: Counter[int] = field(default_factory=Counter)
    histories: Counter[int] = field(default_factory=Counter)
    walked: int = 0


class _Unit(NamedTuple):
    """A piece of code with one jump of a kind, as compilers write it.

    ``points`` are its pruning points: instructions and jumps of the unit before each. ``history`` are entries it adds
    to the jump history; ``slots`` stack slots it writes; ``waits``: its other side waits for its turn.
    """

    insns: int
    jumps: int
    points: tuple[tuple[int, int], ...]
    history: int
    waits: bool = False
    slots: int = 0
    loops: bool = False


# A comparison is a jump and the instruction it skips; a branch has a helper's answer before, a spill the way to the
# stack and back; a lookup prepares the key, calls, asks for NULL and reads.
_COMPARE: Final = _Unit(2, 1, ((0, 0),), 1, waits=True)
_BRANCH: Final = _Unit(3, 2, ((0, 0), (1, 1)), 2, waits=True)
_SPILL: Final = _Unit(4, 2, ((0, 0), (3, 1)), 4, waits=True, slots=1)
_LOOKUP: Final = _Unit(7, 2, ((0, 0), (5, 1)), 2)
_TURN: Final = _Unit(3, 2, ((0, 0), (2, 1)), 2, loops=True)


def walk(
    profile: KernelProfile, insn_cnt: int, subprogs: tuple[int, ...], code: Complexity
) -> States:
    """What is kept when the first path reaches its end, which is the most but for comparisons that do not converge.

    Raises E2BIG for what the kernel gives up.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> found = walk(PROFILES["6.18"], 1001, (), Complexity(compared=499))
    >>> found.pending, found.remembered
    (499, 124)
    """
    path = _Path()
    units = (
        [_SPILL] * code.spills
        + [_COMPARE] * code.compared
        + [_BRANCH] * code.branches
        + [_LOOKUP] * code.lookups
    )
    static = sum(unit.insns for unit in units) + (_TURN.insns if code.loop_turns else 0)
    main = max(insn_cnt - sum(subprogs), 1)
    places = len(units) + len(subprogs) + bool(code.loop_turns)
    plain = max(main - static - len(subprogs), 0)
    # Plain instructions stand between the units, evenly; the rest in front.
    gap, rest = divmod(plain, places) if plain >= 2 * places and places else (0, plain)
    path.plain(rest if gap else 0)
    for unit in units:
        path.plain(gap)
        path.unit(unit)
    path.plain(gap if code.loop_turns else 0)
    path.turns(min(code.loop_turns, INSNS_WALKED_MAX))
    for length in subprogs:
        path.plain(gap)
        path.call(length)
    path.end(0 if gap else rest)
    found = path.states
    if found.walked > INSNS_WALKED_MAX:
        raise refuse(
            Errno.E2BIG, f"BPF program is too large. Processed {INSNS_WALKED_MAX + 1} insn"
        )
    if found.pending > PENDING_MAX:
        raise refuse(Errno.E2BIG, f"The sequence of {PENDING_MAX + 1} jumps is too complex.")
    if profile.verifier_excludes_compared:
        _no_convergence(found, code.compared)
    if code.states > found.remembered:
        more = code.states - found.remembered
        found.remembered += more
        found.stacks[max(found.stacks, default=0)] += more
        found.histories[STATE_JUMPS] += more
    return found


def _no_convergence(found: States, compared: int) -> None:
    """Each path on its own: a point remembers as many states as stay before they are dropped, in the end all points do.

    A path remembers a state at every fourth comparison, so a point is reached by a quarter of the paths before it.
    """
    kept = sum(min(STATES_AT_POINT, (point + 2) // 4) for point in range(1, compared + 1))
    more = kept - found.pending - found.remembered
    if more > 0:  # there are most at the end, when nothing waits any more
        found.pending, found.remembered = 0, kept
        found.stacks[0] += more
        found.histories[STATES_AT_POINT] += more


@final
class _Path:
    """The first path through a program, instruction by instruction where something happens."""

    def __init__(self) -> None:
        self.states: Final = States()
        self._insns = 0
        self._jumps = 0
        self._history = 0
        self._slots = 0
        self._turning = False

    def plain(self, count: int) -> None:
        """Instructions that only add up."""
        self._insns += count
        self.states.walked += count

    def unit(self, unit: _Unit) -> None:
        """Walks a unit."""
        done = jumped = 0
        for at, jumps in unit.points:
            self.plain(at - done)
            self._jumps += jumps - jumped
            done, jumped = at, jumps
            self._point(loops=unit.loops and self._turning)
        self._slots = min(self._slots + unit.slots, STACK_SLOTS_MAX)
        self._history += unit.history
        if unit.waits:
            self.states.pending += 1
            self._keep()
        self.plain(unit.insns - done)
        self._jumps += unit.jumps - jumped
        self._turning = unit.loops

    def turns(self, count: int) -> None:
        """Turns of a loop. Once one ends as an earlier one did, all between repeat: a million take no million steps."""
        ended: dict[tuple[int, int, int], tuple[int, int, Counter[int], int]] = {}
        states, done = self.states, 0
        while done < count:
            self.unit(_TURN)
            done += 1
            end = self._insns, self._jumps, self._history
            before = ended.get(end)
            if before is None or done - before[0] > count - done:
                ended[end] = done, states.remembered, Counter(states.histories), states.walked
                continue
            first, remembered, histories, walked = before
            times = (count - done) // (done - first)
            new = states.remembered - remembered
            states.remembered += times * new
            states.stacks[self._slots] += times * new
            for entries, seen in list(states.histories.items()):
                states.histories[entries] += times * (seen - histories[entries])
            states.walked += times * (states.walked - walked)
            done += times * (done - first)

    def call(self, length: int) -> None:
        """Calls a function of ``length`` instructions; on return is a pruning point."""
        self.plain(1 + length)
        self._jumps += 2
        self._history += 2
        self._point(loops=False)

    def end(self, plain: int) -> None:
        """The last instructions."""
        self.plain(plain)

    def _point(self, *, loops: bool) -> None:
        """Remembers a state, where the last one is far enough behind [is_state_visited]."""
        # The instruction at the point itself counts as walked.
        insns, jumps = self._insns + 1, self._jumps
        if loops:
            far = insns >= LOOP_INSNS or jumps >= LOOP_JUMPS
        else:
            far = insns >= STATE_INSNS + 1 and jumps >= STATE_JUMPS
        if not far:
            return
        self.states.remembered += 1
        self._keep()
        self._insns = self._jumps = self._history = 0

    def _keep(self) -> None:
        self.states.stacks[self._slots] += 1
        self.states.histories[self._history] += 1
