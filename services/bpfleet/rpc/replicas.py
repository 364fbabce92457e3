"""What a replica is doing: phases, errnos and one status message, both ways."""

from collections.abc import Mapping
from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.fleet.commands import ReplicaNews
from bpfleet.fleet.reasons import ReplicaReason
from bpfleet.runtime import ReplicaRun
from bpfleet.v1 import replica_pb2 as pb
from bpfleet.workload.phase import Phase

__all__ = [
    "errno_message",
    "errno_record",
    "news_message",
    "news_record",
    "phase_message",
    "phase_record",
    "status_message",
]

_REPLICA_CHARS_MAX: Final = 253
_REASON_CHARS_MAX: Final = 64
_MESSAGE_CHARS_MAX: Final = 500
_PHASES: Final[Mapping[Phase, pb.ReplicaPhase.ValueType]] = {
    phase: pb.ReplicaPhase.Value(f"REPLICA_PHASE_{phase.name}") for phase in Phase
}
_PHASE_RECORDS: Final[Mapping[int, Phase]] = {number: phase for phase, number in _PHASES.items()}


def phase_message(phase: Phase) -> pb.ReplicaPhase.ValueType:
    """The phase on the wire."""
    return _PHASES[phase]


def phase_record(number: int) -> Phase:
    """The phase a number stands for; one we do not know is taken for a start under way, which decides nothing."""
    return _PHASE_RECORDS.get(number, Phase.ASSIGNED)


def errno_message(name: str) -> int:
    """Linux's number of an errno's name; 0 for "" and for what is no errno, such as a kill."""
    return Errno[name] if name in Errno.__members__ else 0


def errno_record(number: int) -> str:
    """Linux's name of an errno; "" for 0 and for numbers we do not know."""
    try:
        return Errno(number).name
    except ValueError:
        return ""


def status_message(
    run: ReplicaRun,
    *,
    replica: str,
    attempt: int,
    node: str,
    phase: Phase,
    charged_bytes: int,
    crash_message: str = "",
) -> pb.ReplicaStatus:
    """What an attempt is doing. ``crash_message`` says why its node is stopped, where it is."""
    task, failure = run.task, run.failure
    message = pb.ReplicaStatus(
        replica=replica,
        attempt=attempt,
        node=node,
        workload=run.spec.workload.name,
        phase=phase_message(phase),
        pid=task.pid if task is not None else 0,
        cgroup=run.cgroup,
        charged_bytes=charged_bytes,
        rss_bytes=task.rss_bytes if task is not None and task.alive else 0,
        map_count=run.maps_created,
        program_count=run.programs_loaded,
        operation_count=run.operations,
    )
    for (_, errno, _), count in run.outcomes.items():
        message.outcomes[errno] += count
    if failure is not None:
        message.reason = ReplicaReason.OOM_KILLED if failure.oom_killed else failure.reason
        message.errno = errno_message(failure.errno)
        message.call = failure.call
        message.object = failure.object
        message.message = _sentence(message, failure.detail)
    elif crash_message:
        message.reason = ReplicaReason.NODE_CRASHED
        message.message = crash_message
    return message


def _sentence(status: pb.ReplicaStatus, detail: str) -> str:
    errno = f" {errno_record(status.errno)}" if status.errno else ""
    about = f" of {status.object}" if status.object else ""
    return f"{status.call}{about}:{errno} {status.reason}: {detail}"


def news_message(news: ReplicaNews) -> pb.ReplicaStatus:
    """What an agent says about a replica, for a coordinator."""
    return pb.ReplicaStatus(
        replica=news.replica,
        attempt=news.attempt,
        phase=phase_message(news.phase),
        reason=news.reason,
        errno=errno_message(news.errno),
        message=news.message,
        charged_bytes=news.charged_bytes,
        rss_bytes=news.rss_bytes,
    )


def news_record(message: pb.ReplicaStatus) -> ReplicaNews:
    """What an agent says about a replica. Negative figures count as 0: they are only shown."""
    return ReplicaNews(
        replica=message.replica[:_REPLICA_CHARS_MAX],
        attempt=message.attempt,
        phase=phase_record(message.phase),
        reason=message.reason[:_REASON_CHARS_MAX],
        errno=errno_record(message.errno),
        message=message.message[:_MESSAGE_CHARS_MAX],
        charged_bytes=max(0, message.charged_bytes),
        rss_bytes=max(0, message.rss_bytes),
    )
