"""Why two models answered differently, in one sentence of words that are equal for equal causes."""

from collections.abc import Mapping
from typing import Final

from bpfleet.report.results import ABSENT, SUCCESS, Verdict

__all__ = ["cause_of"]

_SENTENCES: Final[Mapping[str, str]] = {
    "RLIMIT_MEMLOCK_EXCEEDED": (
        "the precharge does not fit the user's RLIMIT_MEMLOCK, which other models do not consult"
    ),
    "ALLOCATION_TOO_LARGE": (
        "the precharge is 4 GiB or more, which the rlimit model refuses at once"
    ),
    "MEMCG_LIMIT_EXCEEDED": (
        "the container's memory.max is used up by BPF memory that other models charge elsewhere or not at all"
    ),
    "NODE_OUT_OF_MEMORY": "the node itself has no free memory left",
    "ALLOCATOR_REFILL_LATE": (
        "the map's allocator cache is empty and its refill is late or could not be charged"
    ),
    "JIT_LIMIT_EXCEEDED": "the JIT memory limit is reached",
    "MAP_TYPE_UNSUPPORTED": "this kernel does not know the map type",
    "CAPABILITY_MISSING": "a capability is required here and not there",
    "MAP_FULL": "the map is full under one model and not under the other",
    "OPTMEM_EXCEEDED": "the socket's option memory is used up",
}
_KILLED: Final = (
    "the OOM killer took the process: BPF memory counts against its memory.max here and not there"
)
_KEY: Final = "an earlier refusal left the map with other keys"


def cause_of(verdicts: Mapping[str, Verdict]) -> str:
    """The cause of a divergence, from the verdict that is worst for the application.

    Starts with the models that refused, so that equal causes under different models stay apart.
    """
    worst = min(_failed(verdicts).values(), key=_severity, default=None)
    if worst is None:
        return "the models differ in what they do, not in what they answer"
    models = ", ".join(m for m, v in verdicts.items() if v.errno == worst.errno)
    return f"{worst.errno} under {models}: {_sentence(worst)}"


def _failed(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    return {m: v for m, v in verdicts.items() if v.errno not in (SUCCESS, ABSENT)}


def _severity(verdict: Verdict) -> tuple[int, str]:
    order = {"SIGKILL": 0, "EPERM": 1, "ENOMEM": 2, "E2BIG": 3}
    return order.get(verdict.errno, 4), verdict.errno


def _sentence(verdict: Verdict) -> str:
    if verdict.errno == "SIGKILL":
        return _KILLED
    if verdict.reason in ("KEY_NOT_FOUND", "KEY_EXISTS"):
        return _KEY
    return _SENTENCES.get(verdict.reason, verdict.detail or verdict.reason)
