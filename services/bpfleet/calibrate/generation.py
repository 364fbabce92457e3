"""Which kernels and how many CPUs reproduce the memlock values of a listing. Pure.

Up to 5.10 the value is what the kernel charged in advance, up to 6.3 a footprint in pages, from 6.4 on the exact usage;
per-CPU maps add the number of possible CPUs. A build's structures shift all maps of a type by the same few bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bpfleet.captures.listings import SeenMap
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.plan import memlock_line
from bpfleet.kernel.profile import PROFILES, KernelProfile
from bpfleet.runtime.maps import map_attr
from bpfleet.workload.spec import CPUS_MAX

__all__ = ["GenerationMatch", "best_matches", "likely_cpus", "match_kernels"]

# Kernels of the real world: others are models and variants.
_KERNELS: Final = tuple(profile for profile in PROFILES.values() if profile.name[0].isdigit())
# A build's structures differ from another's by less; more is another kernel, other CPUs or elements.
_STRUCTURE_BYTES_MAX: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMatch:
    """How far one kernel reproduces a listing, and with how many CPUs (None where nothing in it depends on them).

    ``off`` is what is missing for every map of a type, where that is one number for all of them.
    """

    profile: str
    cpus: tuple[int, int] | None
    exact: int
    compared: int
    off: Mapping[str, int]

    @property
    def is_exact(self) -> bool:
        """Whether every value is reproduced."""
        return self.exact == self.compared

    @property
    def cpus_text(self) -> str:
        """The CPUs in words; empty where nothing depends on them."""
        if self.cpus is None:
            return ""
        low, high = self.cpus
        return f"{low} CPUs" if low == high else f"{low} to {high} CPUs"

    def admits(self, cpus: int) -> bool:
        """Whether a host of that many possible CPUs can show the listing."""
        return self.cpus is None or self.cpus[0] <= cpus <= self.cpus[1]


def likely_cpus(matches: Sequence[GenerationMatch]) -> int | None:
    """The number of CPUs that the matches agree on; of several the roundest, as machines have it."""
    agreed = _intersection([match.cpus for match in matches if match.cpus is not None])
    if agreed is None:
        return None
    return max(range(agreed[0], agreed[1] + 1), key=lambda cpus: (cpus & -cpus, -cpus))


@dataclass(frozen=True, slots=True)
class _Case:
    attr: MapAttr
    type_name: str
    shown: int


def match_kernels(seen: Iterable[SeenMap]) -> tuple[GenerationMatch, ...]:
    """What each known kernel reproduces, those first that reproduce most; empty where no value is shown."""
    cases = tuple(
        _Case(map_attr(each.declared), each.declared.type_name, each.memlock_bytes)
        for each in dict.fromkeys(seen)
        if each.memlock_bytes and not each.declared.is_map_in_map
    )
    if not cases:
        return ()
    matches = [_match(cases, profile) for profile in _KERNELS]
    return tuple(sorted(matches, key=lambda match: (-match.exact, len(match.off) or 99)))


def best_matches(seen: Iterable[SeenMap]) -> tuple[GenerationMatch, ...]:
    """The kernels that reproduce all values; without one, those that differ by a build's structures alone."""
    matches = match_kernels(seen)
    exact = tuple(match for match in matches if match.is_exact)
    return exact or tuple(match for match in matches if match.off)


def _match(cases: Sequence[_Case], profile: KernelProfile) -> GenerationMatch:
    ranges = [(case, _cpus_of(case, profile)) for case in cases]
    agreed = _intersection([found for _, found in ranges if found is not None])
    cpus = agreed or _most_frequent(ranges)
    number = cpus[0] if cpus is not None else 1
    differences: dict[str, set[int]] = defaultdict(set)
    exact = 0
    for case in cases:
        difference = _difference(case, profile, number)
        exact += difference == 0
        differences[case.type_name].add(difference)
    off = {}
    if exact < len(cases) and all(len(found) == 1 for found in differences.values()):
        off = {name: found.pop() for name, found in differences.items() if found != {0}}
    alone = exact == 0 and all(count == 1 for count in Counter(c.type_name for c in cases).values())
    if alone or any(abs(value) > _STRUCTURE_BYTES_MAX for value in off.values()):
        off = {}
    return GenerationMatch(
        profile=profile.name, cpus=cpus, exact=exact, compared=len(cases), off=off
    )


def _shown(case: _Case, profile: KernelProfile, cpus: int, entries: int = 0) -> int:
    try:
        return memlock_line(case.attr, profile, cpus, entries)
    except KernelError:
        return 0  # a kernel without the type shows nothing


def _difference(case: _Case, profile: KernelProfile, cpus: int) -> int:
    """What the listing shows more than the kernel would, with any number of elements in the map."""
    empty = _shown(case, profile, cpus)
    full = _shown(case, profile, cpus, case.attr.max_entries)
    if full > empty and empty <= case.shown <= full:
        return 0
    return case.shown - empty


def _cpus_of(case: _Case, profile: KernelProfile) -> tuple[int, int] | None:
    """The CPUs with which the kernel shows this value; None where it does not depend on them or cannot be had.

    A value that a build's structures shift still tells the CPUs if the shift is less than what one CPU adds.
    """
    one, two = _shown(case, profile, 1), _shown(case, profile, 1024)
    if two <= one or _shown(case, profile, 1, case.attr.max_entries) != one:
        return None
    low = _least(case, profile, case.shown)
    if low is None or _shown(case, profile, low) != case.shown:
        return _near(case, profile, one, two)
    high = _least(case, profile, case.shown + 1)
    return low, (CPUS_MAX if high is None else high - 1)


def _near(case: _Case, profile: KernelProfile, one: int, many: int) -> tuple[int, int] | None:
    step = (many - one) // 1023
    if step <= 2 * _STRUCTURE_BYTES_MAX:
        return None
    cpus = 1 + round((case.shown - one) / step)
    if 1 <= cpus <= CPUS_MAX and abs(_difference(case, profile, cpus)) <= _STRUCTURE_BYTES_MAX:
        return cpus, cpus
    return None


def _least(case: _Case, profile: KernelProfile, wanted: int) -> int | None:
    """The fewest CPUs with which the value is at least ``wanted``."""
    low, high = 1, CPUS_MAX
    if _shown(case, profile, high) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        if _shown(case, profile, middle) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def _intersection(ranges: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if not ranges:
        return None
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    return (low, high) if low <= high else None


def _most_frequent(
    ranges: Sequence[tuple[_Case, tuple[int, int] | None]],
) -> tuple[int, int] | None:
    found = [each for _, each in ranges if each is not None]
    return max(found, key=found.count) if found else None
