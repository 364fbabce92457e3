"""What became of a replica under one kernel, in one word."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from bpfleet.report.results import ReplicaResult
from bpfleet.workload.phase import Phase

__all__ = ["Fate", "fate_of"]


class Fate(StrEnum):
    """What became of a replica under one kernel."""

    RUNS = "runs"
    REFUSED = "updates refused"
    OOM = "OOM-killed"
    EPERM = "EPERM"
    ENOMEM = "ENOMEM"
    E2BIG = "E2BIG"
    OTHER = "fails"


def fate_of(replica: ReplicaResult) -> Fate:
    """The worst that happened to a replica; a first start that failed counts also where a later one
    found pinned maps.
    """
    if replica.oom_kills:
        return Fate.OOM
    if replica.first_start in _BY_ERRNO:
        return _BY_ERRNO[replica.first_start]
    if replica.phase in (Phase.BACK_OFF, Phase.FAILED):
        return _BY_ERRNO.get(replica.first_errno, Fate.OTHER)
    return Fate.REFUSED if replica.refused_updates else Fate.RUNS


_BY_ERRNO: Final[Mapping[str, Fate]] = {
    "EPERM": Fate.EPERM,
    "ENOMEM": Fate.ENOMEM,
    "E2BIG": Fate.E2BIG,
}
