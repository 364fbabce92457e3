"""Explanations: what a refusal means, with the numbers behind it, and on which kernels it would not have happened."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.profile import PROFILES, KernelProfile, sureness, sureness_line
from bpfleet.kernel.units import bytes_of
from bpfleet.kernel.views.hints import cilium_hint, libbpf_hint

HOLDERS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """One refusal explained. ``numbers`` are those of the error; ``holders`` (name, bytes) share the same counter."""

    headline: str
    facts: tuple[str, ...]
    advice: tuple[str, ...]
    elsewhere: tuple[str, ...]  # where it would have passed, or failed in another way
    tool_messages: tuple[str, ...]  # what user-space libraries print for it
    numbers: dict[str, int | str] = field(default_factory=dict)
    holders: tuple[tuple[str, int], ...] = ()
    kernels: dict[str, str] = field(
        default_factory=dict
    )  # those it is of, each with how sure that is

    def lines(self) -> list[str]:
        """The whole text, one sentence a line."""
        found = [self.headline, *self.facts]
        found += [f"held: {name}, {held} bytes" for name, held in self.holders[:HOLDERS_SHOWN]]
        if len(self.holders) > HOLDERS_SHOWN:
            rest = sum(held for _, held in self.holders[HOLDERS_SHOWN:])
            found.append(f"held: {len(self.holders) - HOLDERS_SHOWN} others, {rest} bytes")
        found += [f"to do: {line}" for line in self.advice]
        found += [f"elsewhere: {line}" for line in self.elsewhere]
        found += [f"shown as: {line}" for line in self.tool_messages]
        found.append(f"said of: {sureness_line(self.kernels)}")
        return found


def explain(
    error: KernelError, profile: KernelProfile, holders: Sequence[tuple[str, int]] = ()
) -> Explanation:
    """What ``error`` means on a kernel of ``profile``. ``holders`` share the counter that was exceeded."""
    explainer = _EXPLAINERS.get(error.reason, _plain)
    headline, facts, advice, elsewhere = explainer(error, profile)
    return Explanation(
        headline,
        facts,
        advice,
        elsewhere,
        _tool_messages(error),
        dict(error.numbers),
        tuple(holders),
        sureness({profile.name: profile}),
    )


_PRINTED: Final = re.compile(r"\b(E[A-Z0-9]+) \(([A-Z_]+)\)(?:: (.*))?", re.DOTALL)
_PRINTED_LIMIT: Final = re.compile(
    r"memory\.max of (?P<cgroup>\S+) is (?P<limit_bytes>\d+) bytes,"
    r" (?P<usage_bytes>\d+) are in use and (?P<requested_bytes>\d+) more"
)


def explain_printed(text: str) -> Explanation | None:
    """Explains a refusal as it was printed, ``ERRNO (REASON): detail``; None for any other text."""
    printed = _PRINTED.search(text)
    if (
        printed is None
        or printed[1] not in Errno.__members__
        or printed[2] not in Reason.__members__
    ):
        return None
    reason, detail = Reason(printed[2]), (printed[3] or "").strip()
    if reason is Reason.RLIMIT_MEMLOCK_EXCEEDED and (outside := _outside_bpf(detail)) is not None:
        return outside(Errno[printed[1]], detail)
    limit = _PRINTED_LIMIT.match(detail) if reason is Reason.MEMCG_LIMIT_EXCEEDED else None
    numbers = {} if limit is None else {"charged_cgroup": limit["cgroup"], "waited": 1}
    numbers |= {} if limit is None else limit.groupdict()
    era = "5.10" if reason is Reason.RLIMIT_MEMLOCK_EXCEEDED else "6.12"
    found = explain(KernelError(Errno[printed[1]], reason, detail, **numbers), PROFILES[era])
    return found if limit is not None else replace(found, facts=(detail,) if detail else ())


_SHARED: Final = re.compile(
    r"(?P<what>.+) of (?P<pages>\d+) pages: (?P<used>\d+) are counted already,"
    r" RLIMIT_MEMLOCK of process (?P<pid>\d+) allows (?P<limit>\d+)"
)
# What shares RLIMIT_MEMLOCK with BPF: a word of the refusal, and the counter that was compared.
_OUTSIDE: Final = (
    (
        re.compile(r"perf"),
        "perf's own test: pages of this process beyond kernel.perf_event_mlock_kb for each CPU",
        "raise kernel.perf_event_mlock_kb",
    ),
    (re.compile(r"umem|AF_XDP|XDP"), "AF_XDP's own test, per user: umems", "use a smaller umem"),
    (
        re.compile(r"io_uring|uring"),
        "io_uring's own test, per user: registered buffers, and rings up to 5.11",
        "register smaller buffers",
    ),
    (
        re.compile(r"zero"),
        "the socket layer's own test, per user: pages in flight",
        "send by copying",
    ),
    (re.compile(r"mlock"), "mlock's own test, per process; not the counter of BPF", "lock less"),
)


def _outside_bpf(detail: str) -> Callable[[Errno, str], Explanation] | None:
    """How to explain a refusal of something that is not BPF; None where BPF was refused."""
    for word, whose, smaller in _OUTSIDE:
        if _SHARED.match(detail) and word.search(detail.partition(" of ")[0]):
            return partial(_of_outside, whose, smaller)
    return None


def _of_outside(whose: str, smaller: str, errno: Errno, detail: str) -> Explanation:
    found = _SHARED.match(detail)
    assert found is not None, "matched by the caller"
    limit = bytes_of(int(found["limit"]))
    return Explanation(
        f"{errno.name}: RLIMIT_MEMLOCK is used up by {found['what']}, not by a map or program",
        (
            detail,
            whose,
            f"RLIMIT_MEMLOCK of process {found['pid']} is {limit} bytes, {found['limit']} pages",
        ),
        ("give CAP_IPC_LOCK, which lifts the limit here, or raise RLIMIT_MEMLOCK", f"or {smaller}"),
        ("the same from 5.10 to 6.18: only BPF left this limit in 5.11",),
        (),
        {
            "limit_bytes": limit,
            "usage_bytes": bytes_of(int(found["used"])),
            "requested_bytes": bytes_of(int(found["pages"])),
        },
        kernels=sureness({name: PROFILES[name] for name in ("5.10", "6.18")}),
    )


_Parts = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]
_DISGUISES: Final = {
    Errno.EINVAL: "EINVAL here: device maps turn every refused charge into it",
    Errno.ENOMEM: "ENOMEM here: growing a program, cgroup storage and io_uring report the limit as lack of memory",
    Errno.ENOBUFS: "ENOBUFS here: AF_XDP reports the limit so",
}


def _memlock(error: KernelError, profile: KernelProfile) -> _Parts:
    numbers = error.numbers
    facts = [
        f"uid {numbers.get('uid')} holds {numbers.get('usage_bytes')} bytes, the call asks for"
        f" {numbers.get('requested_bytes')} more, the soft limit of the calling process is"
        f" {numbers.get('limit_bytes')} bytes",
        "the counter is per real uid, over all its processes and containers, root included",
    ]
    if error.errno in _DISGUISES:
        facts.append(_DISGUISES[error.errno])
    elsewhere = (
        (
            "would have passed on 5.11 and later: nothing is charged in advance there, memory is charged"
            " to the cgroup when it is allocated, so memory.max is the limit to look at",
        )
        if profile.is_rlimit
        else ("BPF itself does not count here any more; perf, AF_XDP and io_uring still do",)
    )
    return (
        f"{error.errno.name}: the RLIMIT_MEMLOCK budget is used up, no capability is missing",
        tuple(facts),
        (
            "raise the soft limit of the process (ulimit -l, LimitMEMLOCK=, prlimit); beyond the hard limit that"
            " takes CAP_SYS_RESOURCE. No capability replaces the limit itself",
            "or free what the same uid holds elsewhere; pinned maps count until they are unpinned",
        ),
        elsewhere,
    )


def _memcg_limit(error: KernelError, profile: KernelProfile) -> _Parts:
    numbers = error.numbers
    limited, payer = numbers.get("cgroup"), numbers.get("charged_cgroup")
    facts = [
        f"memory.max of {limited} is {numbers.get('limit_bytes')} bytes, {numbers.get('usage_bytes')}"
        f" are in use, {numbers.get('requested_bytes')} more were asked for",
    ]
    if payer != limited:
        facts.append(
            f"the memory is charged to {payer}; the limit that stops it is that of an ancestor"
        )
    if not numbers.get("waited"):
        facts.append(
            "an element is charged to the map's creator, not to the updater; enlarge the creator's cgroup"
        )
        facts.append("no counter of memory.events moved: the request could not wait for reclaim")
    if numbers.get("hangs"):
        facts.append("Linux repeats such a page fault for ever; the process hangs")
    elsewhere = ["would have passed up to 5.10: BPF memory is not charged to cgroups there"]
    if not numbers.get("waited"):
        elsewhere.append(
            "would have been charged beyond the limit, without an event, from 5.11 to 5.19"
        )
    if not numbers.get("hangs"):
        elsewhere.append("would have passed with cgroup.memory=nobpf (6.3 and later)")
    return (
        f"{error.errno.name}: the memory cgroup limit of {limited or 'the payer, or of one above it,'} is reached",
        tuple(facts),
        (
            "raise memory.max, or make maps smaller; the kernel cannot reclaim BPF memory",
            "expect the OOM killer at the next page fault of a process in that cgroup",
        ),
        tuple(elsewhere),
    )


def _node_memory(error: KernelError, profile: KernelProfile) -> _Parts:
    numbers = error.numbers
    return (
        f"{error.errno.name}: the node itself has no memory left",
        (
            f"{numbers.get('usage_bytes')} of {numbers.get('limit_bytes')} bytes are in use,"
            f" {numbers.get('requested_bytes')} more were asked for",
        ),
        (
            "free memory on the node or make the map smaller; no limit of a user or cgroup is involved",
        ),
        (),
    )


def _late_refill(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: the element cache of this CPU was empty; neither the node nor the cgroup is full",
        (
            error.detail,
            "maps without preallocation take elements from a per-CPU list that an interrupt refills a little later",
        ),
        (
            "retry; insert in smaller batches; or preallocate the map",
            "with memory.max reached the refill fails too, and then retrying does not help",
        ),
        ("would have passed up to 6.0 (6.13 for LPM tries): each element is allocated on its own",),
    )


def _map_full(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: the map is full; no memory limit is involved",
        (
            error.detail,
            "hash, queue and stack maps answer E2BIG, LPM tries ENOSPC, an LRU without a free node ENOMEM",
        ),
        ("raise max_entries, delete stale entries, or use an LRU map",),
        (),
    )


def _capability(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: a permission is missing; memory has nothing to do with it",
        (error.detail, "raising RLIMIT_MEMLOCK or memory.max does not help"),
        ("give the process the capability named above",),
        ("the same on every kernel that asks for it",),
    )


def _jit_limit(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: the JIT budget of the whole host is used up",
        (
            error.detail,
            "net.core.bpf_jit_limit is shared by all programs, seccomp filters among them",
        ),
        ("find who keeps loading filters; raising net.core.bpf_jit_limit only buys time",),
        ("independent of RLIMIT_MEMLOCK and of cgroups, on every kernel",),
    )


def _jit_area(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: the area for machine code of the whole host is full",
        (
            error.detail,
            "CAP_BPF passes net.core.bpf_jit_limit, so such loaders fill the area itself (x86-64: some 1 GiB)",
        ),
        ("find who leaks programs: pins and descriptors that nobody needs keep their code",),
        ("independent of RLIMIT_MEMLOCK and of cgroups, on every kernel",),
    )


def _optmem(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: the option memory of one socket is used up",
        (error.detail,),
        ("raise net.core.optmem_max, or store less per socket",),
        ("the same on every kernel; independent of memory.max",),
    )


def _injected(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: a fault was injected into this node",
        (error.detail,),
        ("clear the node's faults",),
        (),
    )


def _killed(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        "killed: nothing returns to the caller",
        (
            error.detail,
            "the oom_kill event of the node has the candidates and what memory was used for",
        ),
        (
            "give the cgroup more memory, or the process less to do; exit status 137 is what users see",
        ),
        (),
    )


def _plain(error: KernelError, profile: KernelProfile) -> _Parts:
    return (
        f"{error.errno.name}: {error.reason.value}",
        (error.detail,) if error.detail else (),
        (),
        (),
    )


_EXPLAINERS: Final[dict[Reason, Callable[[KernelError, KernelProfile], _Parts]]] = {
    Reason.RLIMIT_MEMLOCK_EXCEEDED: _memlock,
    Reason.MEMCG_LIMIT_EXCEEDED: _memcg_limit,
    Reason.NODE_OUT_OF_MEMORY: _node_memory,
    Reason.ALLOCATOR_REFILL_LATE: _late_refill,
    Reason.MAP_FULL: _map_full,
    Reason.CAPABILITY_MISSING: _capability,
    Reason.UNPRIVILEGED_BPF_DISABLED: _capability,
    Reason.JIT_LIMIT_EXCEEDED: _jit_limit,
    Reason.JIT_AREA_FULL: _jit_area,
    Reason.OPTMEM_EXCEEDED: _optmem,
    Reason.FAULT_INJECTED: _injected,
    Reason.CALLER_KILLED: _killed,
}


def _tool_messages(error: KernelError) -> tuple[str, ...]:
    """What libraries print for the errno, which is all they have to go by."""
    limit = error.numbers.get("limit_bytes")
    messages = []
    if error.errno == Errno.EPERM and error.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED:
        hint = libbpf_hint(error.errno, int(error.numbers.get("uid", 0)), int(limit or 0))
        messages += [hint] if hint else []
    if error.errno == Errno.EPERM:
        messages.append(cilium_hint())
    if error.errno == Errno.ENOMEM:
        messages.append("map create: cannot allocate memory")
    if error.errno == Errno.E2BIG and error.reason is Reason.MAP_FULL:
        messages.append("update failed: key too big for map: argument list too long")
    return tuple(messages)
