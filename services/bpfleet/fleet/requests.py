"""Request ids: a command that carries one is carried out once, however often and late it is repeated."""

from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.reasons import ControlReason
from bpfleet.fleet.records import RequestRecord
from bpfleet.fleet.transition import Transition

__all__ = ["remember", "repeated"]


def repeated(t: Transition, request_id: str, fingerprint: str) -> bool:
    """Whether this very request was carried out before."""
    known = t.tables.requests.get(request_id) if request_id else None
    if known is None:
        return False
    if known.fingerprint != fingerprint:
        text = f"request_id {request_id!r} was used for another request; use a new one"
        raise FleetError(
            Refused.INVALID, ControlReason.REQUEST_ID_REUSED, text, requestId=request_id
        )
    return True


def remember(t: Transition, request_id: str, fingerprint: str, *, workload: str = "") -> None:
    """Keeps the newest request ids, so that repeating one of them changes nothing."""
    if not request_id:
        return
    t.tables.put(
        RequestRecord(
            request_id=request_id,
            fingerprint=fingerprint,
            workload=workload,
            serial=t.revision,
        )
    )
    if len(t.tables.requests) > t.settings.requests_max:
        t.tables.remove(next(iter(t.tables.requests.values())))
