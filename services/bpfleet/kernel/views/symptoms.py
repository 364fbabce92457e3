"""Symptoms: what an errno at a call, or a text that users search for, can mean on each generation of kernels."""

import re
from dataclasses import dataclass
from typing import Final

from bpfleet.abi.errno import Errno

GENERATIONS: Final = ("up to 5.10", "5.11 to 5.19", "6.0 and later")
SAME: Final = "the same"
NEVER: Final = "does not happen"


@dataclass(frozen=True, slots=True)
class Symptom:
    """One condition at one call. ``answers`` are by generation, in the order of ``GENERATIONS``."""

    call: str
    condition: str
    answers: tuple[str, str, str]
    advice: str
    phrases: tuple[str, ...] = ()

    def errnos(self) -> frozenset[str]:
        """Errnos named in any of the answers."""
        words = (word.strip(",;.") for answer in self.answers for word in answer.split())
        return frozenset(word for word in words if word in _ERRNOS)


_ERRNOS: Final = frozenset(
    {
        "EPERM",
        "ENOMEM",
        "E2BIG",
        "ENOSPC",
        "EINVAL",
        "EEXIST",
        "ENOENT",
        "ENOBUFS",
        "524",
        "SIGKILL",
    }
)
_CREATE: Final = "map_create"
_UPDATE: Final = "map_update_elem"
_LOAD: Final = "prog_load"

SYMPTOMS: Final = (
    Symptom(
        _CREATE,
        "the user's locked memory and the map's estimate are over RLIMIT_MEMLOCK",
        ("EPERM; EINVAL for device maps", NEVER, NEVER),
        "raise the soft limit (LimitMEMLOCK=, ulimit -l, prlimit); capabilities do not help",
        (
            "operation not permitted",
            "memlock may be too low",
            "removememlock",
            "try raising 'ulimit -l'",
            "permission error while running as root",
            "memlock rlimit",
        ),
    ),
    Symptom(
        _CREATE,
        "CAP_BPF (or the type's own capability) is missing, or unprivileged_bpf_disabled is set",
        ("EPERM", SAME, SAME),
        "give the capability; no memory limit is involved, though libraries print the same text as for memory",
        ("operation not permitted", "memlock may be too low", "removememlock"),
    ),
    Symptom(
        _CREATE,
        "the estimate is 4 GiB less 4 KiB or more",
        ("E2BIG", NEVER, NEVER),
        "no limit helps: make the map smaller, or split it",
        ("argument list too long",),
    ),
    Symptom(
        _CREATE,
        "memory.max of the container is reached (array, hash, LRU, ring buffer, stack map)",
        ("no effect", "ENOMEM, 18 max events, no kill", "ENOMEM, 18 max events, no kill"),
        "raise memory.max: the whole preallocated map is charged to the creator's container",
        ("map create: cannot allocate memory", "cannot allocate memory"),
    ),
    Symptom(
        _CREATE,
        "per-CPU values of a preallocated map are over memory.max",
        ("no effect", "ENOMEM, or SIGKILL for small values", "passes: they are charged to nobody"),
        "from 6.0 on only the node's memory limits them",
    ),
    Symptom(
        _UPDATE,
        "a hash, queue or stack map is full; a trie is full",
        ("E2BIG; ENOSPC for a trie", SAME, SAME),
        "raise max_entries or delete entries; no memory limit is involved",
        ("argument list too long", "key too big for map", "no space left on device"),
    ),
    Symptom(
        _UPDATE,
        "memory.max is reached, in a map without preallocation",
        (
            "passes: the whole map was charged at creation",
            "passes, beyond the limit, without an event",
            "ENOMEM, without an event",
        ),
        "raise memory.max of the creator's container, or preallocate; the next page fault there may be killed",
        ("cannot allocate memory",),
    ),
    Symptom(
        _UPDATE,
        "the CPU's list of free elements is empty and its refill comes late",
        (NEVER, NEVER, "ENOMEM, with memory free everywhere"),
        "retry, insert in smaller batches, or preallocate",
        ("cannot allocate memory",),
    ),
    Symptom(
        _UPDATE,
        "an LRU map has no node to evict",
        ("ENOMEM", SAME, SAME),
        "use a larger map: very small LRU maps on many CPUs run out of nodes",
        ("cannot allocate memory",),
    ),
    Symptom(
        _LOAD,
        "the program's pages are over RLIMIT_MEMLOCK, before the verifier looks at it",
        ("EPERM; ENOMEM when it grows while being rewritten", NEVER, NEVER),
        "raise the soft limit; a failing two-instruction program is the usual sign",
        ("couldn't load trivial bpf program",),
    ),
    Symptom(
        _LOAD,
        "memory.max is reached",
        (
            "no effect",
            "SIGKILL of a process there; passes where nobody may be killed (up to 5.15)",
            "SIGKILL of a process there; ENOMEM, from 6.9 EINVAL, where nobody may be killed",
        ),
        "raise memory.max of the loader's container",
    ),
    Symptom(
        _LOAD,
        "net.core.bpf_jit_limit is used up and the loader has no CAP_BPF",
        ("runs interpreted; 524 where the JIT is obligatory", SAME, SAME),
        "find what leaks programs (seccomp filters of short-lived containers); the limit is the host's",
        ("errno 524", "error loading seccomp filter"),
    ),
    Symptom(
        "setrlimit",
        "the hard limit is raised without CAP_SYS_RESOURCE",
        ("EPERM", "EPERM, though nothing needs it", "EPERM, though nothing needs it"),
        "give CAP_SYS_RESOURCE, or let the agent ask first whether the kernel needs it",
        ("can't remove mem lock", "failed to set memlock rlimit", "failed to set rlimit_memlock"),
    ),
    Symptom(
        "any page fault",
        "memory.max is reached and a process of that cgroup touches memory",
        ("SIGKILL, for user memory alone", "SIGKILL", "SIGKILL"),
        "maps count and cannot be reclaimed: look at the BPF part of the container, not at its RSS",
        ("out of memory: killed process", "oom-kill:", "oomkilled", "exit code 137"),
    ),
)


_ERRNO_TEXTS: Final = {
    "operation not permitted": "EPERM",
    "cannot allocate memory": "ENOMEM",
    "argument list too long": "E2BIG",
    "no space left on device": "ENOSPC",
    "no buffer space available": "ENOBUFS",
    "invalid argument": "EINVAL",
}
_CALL_TEXTS: Final = {
    "setrlimit": ("rlimit",),
    _CREATE: ("map_create", "map create", "create map", "creating map"),
    _UPDATE: ("map_update", "map update", "update map", "update elem"),
    _LOAD: ("prog_load", "load program", "loading program", "program load"),
}
_ERRNO_NUMBER: Final = re.compile(r"(?:err(?:or|no)?\s*[=:]?\s*|[:(]\s*)-(\d{1,3})\b")


def symptoms_of_text(text: str) -> list[Symptom]:
    """What a message can mean: by its wording, else by the errno and the call in it; empty when it has neither."""
    wanted = text.lower()
    found = [s for s in SYMPTOMS if any(phrase in wanted for phrase in s.phrases)]
    if found:
        return found
    call = next((c for c, texts in _CALL_TEXTS.items() if any(t in wanted for t in texts)), "")
    errnos = _errnos_in(text)
    return [s for s in SYMPTOMS if errnos & s.errnos() and call in ("", s.call)]


def _errnos_in(text: str) -> frozenset[str]:
    named = {word for word in re.findall(r"[A-Z0-9]+", text) if word in _ERRNOS}
    named |= {name for phrase, name in _ERRNO_TEXTS.items() if phrase in text.lower()}
    numbers = {int(number) for number in _ERRNO_NUMBER.findall(text)}
    return frozenset(named | {errno.name for errno in Errno if errno in numbers})


def symptoms_of_errno(errno: str, call: str = "") -> list[Symptom]:
    """What an errno can mean, at one call or anywhere."""
    wanted = errno.upper()
    return [s for s in SYMPTOMS if wanted in s.errnos() and call in ("", s.call)]
