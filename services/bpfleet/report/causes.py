"""Why models answered differently, in one sentence of words that are equal for equal causes."""

from collections.abc import Mapping, Sequence
from typing import Final

from bpfleet.report.results import ABSENT, KILLED, SUCCESS, ModelAnswer

__all__ = ["and_list", "cause_of"]

_SENTENCES: Final[Mapping[str, str]] = {
    "RLIMIT_MEMLOCK_EXCEEDED": (
        "the precharge does not fit the user's RLIMIT_MEMLOCK, which other models do not consult"
    ),
    "ALLOCATION_TOO_LARGE": "the precharge is 4 GiB or more, which the rlimit model refuses at once",
    "NODE_OUT_OF_MEMORY": "the node itself has no free memory left",
    "ALLOCATOR_REFILL_LATE": "the map's allocator cache is empty and its refill is late or could not be charged",
    "JIT_LIMIT_EXCEEDED": "the JIT memory limit is reached",
    "JIT_AREA_FULL": "the area for machine code is full",
    "MAP_TYPE_UNSUPPORTED": "this kernel does not know the map type",
    "CAPABILITY_MISSING": "a capability is required here and not there",
    "MAP_FULL": "the map is full under one model and not under the other",
    "OPTMEM_EXCEEDED": "the socket's option memory is used up",
}
_LIMIT: Final = "MEMCG_LIMIT_EXCEEDED"
_KEY: Final = "an earlier refusal left the map with other keys"
_WORST_FIRST: Final = (KILLED, "EPERM", "ENOMEM", "E2BIG")
_ERRNO_NAMES: Final = {KILLED: "OOM kill"}


def cause_of(verdicts: Mapping[str, ModelAnswer]) -> str:
    """The cause of a divergence: a clause for every way the call failed, the worst for the application first.

    A clause starts with the models that failed this way, so that equal causes under different models stay apart.
    """
    failed: dict[tuple[str, str], list[str]] = {}
    for model, verdict in verdicts.items():
        if verdict.errno not in (SUCCESS, ABSENT):
            failed.setdefault((verdict.errno, _why(verdict, verdicts)), []).append(model)
    clauses = [
        f"{_ERRNO_NAMES.get(errno, errno)} under {and_list(models)}: {why}"
        for (errno, why), models in sorted(failed.items(), key=lambda item: _severity(item[0][0]))
    ]
    return "; ".join(clauses) or "the models differ in what they do, not in what they answer"


def and_list(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _severity(errno: str) -> tuple[int, str]:
    known = errno in _WORST_FIRST
    return _WORST_FIRST.index(errno) if known else len(_WORST_FIRST), errno


def _why(verdict: ModelAnswer, verdicts: Mapping[str, ModelAnswer]) -> str:
    if verdict.errno == KILLED:
        return f"heap, maps and programs count against one memory.max and exceed it{_contrast(verdicts)}"
    if verdict.reason == _LIMIT:
        return f"maps and programs count against memory.max and use it up{_contrast(verdicts)}"
    if verdict.reason in ("KEY_NOT_FOUND", "KEY_EXISTS"):
        return _KEY
    return _SENTENCES.get(verdict.reason, verdict.detail or verdict.reason)


def _contrast(verdicts: Mapping[str, ModelAnswer]) -> str:
    """What the models where the call went through do with the same memory.

    Another memcg model went through: then this one charges the container with more. Else those that went through
    charge no container.
    """
    passed: dict[str, list[str]] = {}
    for model, verdict in verdicts.items():
        if verdict.errno == SUCCESS and verdict.counters is not None:
            passed.setdefault(verdict.counters.model, []).append(model)
    if memcg := passed.get("memcg"):
        return f" (more is charged to the container than under {and_list(memcg)})"
    others = [
        f"under {and_list(models)} {_ELSEWHERE[kind]}"
        for kind, models in passed.items()
        if kind in _ELSEWHERE
    ]
    return f" (maps and programs count {', '.join(others)})" if others else ""


_ELSEWHERE: Final[Mapping[str, str]] = {
    "rlimit": "against RLIMIT_MEMLOCK",
    "none": "against nothing",
}
