"""What a message means: the call it names decides, then the errno by name, wording or number, then its numbers."""

import re
from dataclasses import dataclass
from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.views import symptoms as at
from bpfleet.kernel.views.symptoms import SYMPTOMS, Symptom

__all__ = ["Reading", "read_message"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A message as it was read: the calls it can be about, its errnos, what they can mean, what its numbers say."""

    calls: frozenset[str]
    errnos: frozenset[str]
    symptoms: tuple[Symptom, ...]
    notes: tuple[str, ...]
    next_steps: tuple[str, ...]


# Advice that libraries append whatever the cause; it must not be taken for the call or the cause.
_LIBRARY_ADVICE: Final = re.compile(
    r"\(?memlock may be too low[^)]*\)?|consider rlimit\.removememlock|removememlock"
    r"|permission error while running as root|try raising 'ulimit -l'\??( current value: [^,;]*)?"
)
# A library tried twice; that it gave no BTF to the map is not the reason.
_SECOND_TRY: Final = re.compile(r"\(?without btf( k/v)?\)?")
_ADVISED: Final = frozenset({at.CREATE})
_CREATE_OR_LOAD: Final = frozenset({at.CREATE, at.LOAD})
_UPDATES: Final = frozenset({at.UPDATE})

# Later entries of one length win nothing: the call that ends nearest before the errno decides.
_CALLS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    (
        r"setrlimit|prlimit|rlim(it)?_memlock|\bmemlock rlimit|rlimit\b.{0,12}memlock|remove mem ?lock"
        r"|(rais|lift|remov|increas|bump|adjust|set)\w* (the )?(mem ?lock|memory lock|rlimit|locked memory)",
        frozenset({at.SETRLIMIT}),
    ),
    (
        r"perf[ _-]?(ring|buf|event|map|reader)[^;\n]*?\bmmap|\bm(m)?ap\w* [^;\n]{0,20}perf|perf[^;\n]{0,30}\bmmap"
        r"|perf ring buffer of|perf_?mmap|failed to mmap with",
        frozenset({at.PERF_MMAP}),
    ),
    (
        r"perf_event_open|(open|creat)\w* (a )?perf[ _-]?(event|buffer|ring|reader)|perf (event"
        r"|buffer) (open|creat)\w*"
        r"|sys_perf_event",
        frozenset({at.PERF_OPEN}),
    ),
    (
        r"ring ?_?buf(fer)?[^;\n]*?\b(mmap|map (consumer|producer)|(consumer|producer) page)"
        r"|mmap\w* [^;\n]{0,30}(ring ?_?buf|consumer|producer)",
        frozenset({at.RING_MMAP}),
    ),
    (
        r"af_xdp|\bumem\b|\bxsk\b|xsk_\w+|xdp_umem|\bxdp socket|xdp_(rx|tx)_ring|xdp_\w*_ring",
        frozenset({at.AF_XDP}),
    ),
    (r"io_?uring|\bqueue_init|iou?ring_\w+|\bregister(ed|ing)? buffers", frozenset({at.IO_URING})),
    (r"zero-?_?copy", frozenset({at.ZEROCOPY})),
    (r"\bmlock(all|2)?\b", frozenset({at.MLOCK})),
    (r"seccomp", frozenset({at.SECCOMP})),
    (
        r"map object '[^']*' rejected|(detect|prob)\w* (memory cgroup|memcg)[- ]?(based )?accounting"
        r"|map[_ -]?creat\w*|creat\w* (?:[\w@'\"./-]+ ){0,3}maps?\b|\bmap\b[^;:\n]*: (failed to|can't"
        r"|cannot|could not) (be )?creat\w*"
        r"|bpf_map_create|(creat|open|mak|alloc)\w* [^:;\n]{0,40}?map\b|bpf_create_map\w*|creat\w* (inner|outer) map",
        frozenset({at.CREATE}),
    ),
    (
        r"(batch|bulk)[ _-]?(look\w*|get|read|dump)\w*|(look\w*|get|read)[ _-](and[ _-]delete["
        r" _-])?batch|map_lookup_batch"
        r"|batch get",
        frozenset({at.LOOKUP_BATCH}),
    ),
    (
        r"(batch|bulk)[ _-]?(updat|writ|put|delet|insert)\w*(: key too big for map)?"
        r"|(updat|delet|writ|insert)\w*[ _-](elem[ _-])?batch",
        frozenset({at.UPDATE_BATCH}),
    ),
    (r"\b(trie|map|hash)\w* (insert|put)\w*", _UPDATES),
    (
        r"map[_ ]?(elem[_ ])?updat\w*|updat\w* [^;:\n]{0,40}\b(map|elem\w*|key|entry|entries)\b"
        r"|update failed|updat\w*[_ ]elem\w*"
        r"|(put|insert|writ|add)\w* [^;:\n]{0,30}\b(to|into|in) [^;:\n]{0,30}map|key too big for map"
        r"|map[_ ]update|\bupdate(?=:)",
        _UPDATES,
    ),
    (
        r"map[_ ]lookup\w*|look(up|ing up)\w* [^;:\n]{0,30}\b(map|elem\w*|key)\b|lookup[_ ]elem\w*"
        r"|\blookup(?=( failed)?:)|get_next_key",
        frozenset({at.LOOKUP}),
    ),
    (
        r"map[_ ]delete\w*|delet\w* [^;:\n]{0,30}\b(elem\w*|key|entry)\b|delete[_ ]elem\w*",
        frozenset({at.DELETE}),
    ),
    (r"freez\w*|map_freeze", frozenset({at.FREEZE})),
    (
        r"btf[_ ]load|load\w* [^;:\n]{0,30}\bbtf\b|\bbtf\b[^;:\n]{0,20}load\w*|kernel btf|vmlinux btf|load_?btf",
        frozenset({at.BTF_LOAD}),
    ),
    (
        r"probe_loading|program (is )?too large|processed \d+ insns|prog section '[^']*' rejected|bpf_load_program\w*"
        r"|prog(ram)?s?[_ ]load\w*|load\w* [^;:\n]{0,40}\bprog(ram)?s?\b|\bprog(ram)?\b[^:;\n]*:"
        r" (failed to |can't |cannot )?load\w*"
        r"|load\w* \"?(raw_)?(tracepoint|k(ret)?probe|u(ret)?probe|kprobe\.multi|fentry|fexit|lsm|xdp"
        r"|tc|cgroup|socket|iter)\w*/"
        r"|verifier|bpf_prog_load\w*|program [^;\n]{0,60}: load program|\bload program",
        frozenset({at.LOAD}),
    ),
    (
        r"load\w* (ebpf|bpf)\w* (object|spec|collection|skeleton|code|file)s?|load\w* (object|collection|skeleton)\b"
        r"|(object|skeleton)[^;:\n]{0,20}load\w*|load\w* e?bpf\b",
        _CREATE_OR_LOAD,
    ),
    (
        r"\battach\w*|link[_ ]create|bpf_link_create|creat\w* [^;:\n]{0,20}\blink\b"
        r"|(k|u)probe_events|raw_tracepoint_open|(creat|open)\w* (a )?raw[_ ]tracepoint|perf_event_ioc_set_bpf",
        frozenset({at.ATTACH}),
    ),
    (
        r"obj(ect)?[_ ]get\b|open(ing)? pinned|pinned (map|object|program)\b[^;:\n]*: open",
        frozenset({at.GET}),
    ),
    (
        r"get_(next_id|fd_by_id)|(next|by)[_ ]id\b|get (next (map|prog|link|btf)|\w+ by id)",
        frozenset({at.BY_ID}),
    ),
    (r"test[_ ]run|prog(ram)? (test )?run\b", frozenset({at.TEST_RUN})),
    (r"\bpin(ned|ning)?\b|obj_pin|bpffs|bpf filesystem", frozenset({at.PIN})),
)
_CALL_PATTERNS: Final = tuple((re.compile(pattern), calls) for pattern, calls in _CALLS)
_OUTSIDE: Final = frozenset(
    {at.PERF_OPEN, at.PERF_MMAP, at.RING_MMAP, at.AF_XDP, at.IO_URING, at.ZEROCOPY, at.MLOCK}
)

_ERRNO_TEXTS: Final = {
    "operation not permitted": "EPERM",
    "no such file or directory": "ENOENT",
    "no such process": "ESRCH",
    "argument list too long": "E2BIG",
    "resource temporarily unavailable": "EAGAIN",
    "cannot allocate memory": "ENOMEM",
    "out of memory (os error": "ENOMEM",
    "permission denied": "EACCES",
    "bad address": "EFAULT",
    "bad file descriptor": "EBADF",
    "device or resource busy": "EBUSY",
    "file exists": "EEXIST",
    "no such device": "ENODEV",
    "invalid argument": "EINVAL",
    "too many open files in system": "ENFILE",
    "too many open files": "EMFILE",
    "no space left on device": "ENOSPC",
    "function not implemented": "ENOSYS",
    "operation not supported": "EOPNOTSUPP",
    "not supported": "EOPNOTSUPP",
    "no buffer space available": "ENOBUFS",
    "key too big for map": "E2BIG",
}
_ERRNO_NUMBER: Final = re.compile(
    r"(?:\berr(?:or|no)?(?: code)?\s*[=:]?\s*|\(os error |\bcode[=: ]+|\bret(?:urned|val)?[=: ]+|[:(=]\s*(?=-))"
    r"-?(\d{1,3})(?=\s*(?:$|[),.;:=\]}'\"])|\s+\w+=)"
)
_EXIT_137: Final = re.compile(r"exit(ed)? (with )?(code|status):? ?137|oom-?killed")
_ABOUT_BPF: Final = re.compile(r"e?bpf|\bmaps?\b|memlock|libbpf|\bxdp\b|verifier|tracepoint|kprobe")
# Errnos that mean something without the call; EINVAL or ENOENT alone mean nothing.
_TELLING: Final = frozenset(
    {"EPERM", "ENOMEM", "E2BIG", "ENOSPC", "ENOTSUPP", "EMFILE", "ENFILE", at.KILLED}
)


def read_message(text: str) -> Reading:
    """Reads a message as a log shows it. Without symptoms the message is not known; ``next_steps`` say what helps."""
    wanted = " ".join(_SECOND_TRY.sub(" ", text.lower()).split())
    bare, advised = _LIBRARY_ADVICE.subn(" ", wanted)
    errnos = _errnos_in(text, bare)
    if advised and not errnos:
        errnos = frozenset({Errno.EPERM.name})
    calls = _calls_in(bare, errnos) or (_ADVISED if advised else frozenset())
    found = _signed(wanted, calls)
    if not found:
        found = _by_errno(wanted, calls, errnos)
    found = sorted(found, key=lambda symptom: not symptom.hinted(wanted))
    return Reading(calls, errnos, tuple(found), _notes(wanted), _next_steps(calls, errnos))


def _signed(wanted: str, calls: frozenset[str]) -> list[Symptom]:
    """Symptoms whose signs stand in the text, at the call it names. BTF may be asked for by any loading."""
    admitted = {*calls, at.BPF, at.FAULT}
    if calls & _CREATE_OR_LOAD:
        admitted.add(at.BTF_LOAD)
    return [s for s in SYMPTOMS if s.signed(wanted) and (not calls or s.call in admitted)]


def _by_errno(wanted: str, calls: frozenset[str], errnos: frozenset[str]) -> list[Symptom]:
    if not errnos:
        return []
    if calls:
        looked_at = calls | ({at.BPF} if calls & at.ANY_COMMAND else frozenset())
    elif errnos & _TELLING and (_ABOUT_BPF.search(wanted) or _is_bare(wanted)):
        looked_at = frozenset({at.CREATE, at.LOAD, at.UPDATE, at.BPF})
    else:
        return []
    return [
        symptom
        for symptom in SYMPTOMS
        if symptom.call in looked_at
        and errnos & symptom.errnos()
        and (not symptom.rare or symptom.hinted(wanted))
    ]


def _is_bare(wanted: str) -> bool:
    """Whether the text is an errno and nothing else."""
    rest = _ERRNO_NUMBER.sub(" ", wanted)
    for phrase in (*_ERRNO_TEXTS, *(name.lower() for name in Errno.__members__)):
        rest = rest.replace(phrase, " ")
    return not re.search(r"[a-z]{2}", rest.replace("error", ""))


def _calls_in(bare: str, errnos: frozenset[str]) -> frozenset[str]:
    """The call whose name ends nearest before the errno: chains of errors go from the outermost to the innermost."""
    places = [bare.rfind(phrase) for phrase in _ERRNO_TEXTS if phrase in bare]
    places += [match.start() for match in _ERRNO_NUMBER.finditer(bare)]
    places += [bare.rfind(name.lower()) for name in errnos if name.lower() in bare]
    until = max((place for place in places if place > 0), default=len(bare))
    named = [
        (match.end() <= until, match.end() if match.end() <= until else -match.start(), -number)
        for number, (pattern, _) in enumerate(_CALL_PATTERNS)
        for match in pattern.finditer(bare)
    ]
    if not named:
        return frozenset()
    outside = [entry for entry in named if entry[0] and _CALL_PATTERNS[-entry[2]][1] & _OUTSIDE]
    # Buffers of perf, AF_XDP and io_uring are never refused by a map's call; what is named after them is their object.
    chosen = max(outside) if outside and not _command_after(named, max(outside)) else max(named)
    return _CALL_PATTERNS[-chosen[2]][1]


def _command_after(named: list[tuple[bool, int, int]], outside: tuple[bool, int, int]) -> bool:
    return any(
        entry[0] and entry[1] > outside[1] and _CALL_PATTERNS[-entry[2]][1] & at.ANY_COMMAND
        for entry in named
    )


def _errnos_in(text: str, bare: str) -> frozenset[str]:
    named = {word for word in re.findall(r"[A-Z0-9]+", text) if word in Errno.__members__}
    rest = bare
    for phrase, name in _ERRNO_TEXTS.items():
        if phrase in rest:
            named.add(name)
            rest = rest.replace(phrase, " ")
    numbers = {int(number) for number in _ERRNO_NUMBER.findall(bare)}
    if re.search(r"\b524\b", bare):
        numbers = {524}
    if len(named) or len(numbers) > 1:
        numbers -= {1}  # C functions answer -1 whatever the errno
    named |= {errno.name for errno in Errno if errno in numbers and not (named and errno != 524)}
    if Errno.ENOTSUPP in numbers:
        named.discard(Errno.EOPNOTSUPP.name)
    return frozenset(named | ({at.KILLED} if _EXIT_137.search(bare) else set()))


_RING_AND_PAGE: Final = re.compile(r"size (\d+) .*?page size (\d+)")
_CURRENT: Final = re.compile(r"current value: ([\d.]+ ?\w+)")


def _notes(wanted: str) -> tuple[str, ...]:
    notes = []
    if ring := _RING_AND_PAGE.search(wanted):
        size, page = int(ring[1]), int(ring[2])
        if page and size % page:
            rounded = 1 << max(page - 1, size - 1).bit_length()
            notes.append(f"{size} bytes on a host of pages of {page}: use {rounded}")
    if current := _CURRENT.search(wanted):
        notes.append(f"the soft RLIMIT_MEMLOCK of the process was {current[1].strip()}")
    return tuple(notes)


def _next_steps(calls: frozenset[str], errnos: frozenset[str]) -> tuple[str, ...]:
    steps = []
    if not errnos:
        steps.append("find the errno: by name, as -N, or in the line before")
    if not calls:
        steps.append(
            "find the call that failed: strace -f -e trace=bpf,setrlimit,mmap,perf_event_open PROGRAM"
        )
    if calls and errnos:
        named = ", ".join(sorted(calls))
        steps.append(
            f"{named} does not answer {', '.join(sorted(errnos))} for any cause known here"
        )
    steps.append(
        "look into dmesg and the audit log at that time, and at memory.events of the container"
    )
    return tuple(steps)
