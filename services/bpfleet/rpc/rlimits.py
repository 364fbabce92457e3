"""RLIMIT_MEMLOCK on the wire and in our records: None the default, ``RLIM_INFINITY`` lifted, else bytes."""

from typing import Final

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.rpc.errors import invalid
from bpfleet.v1 import process_service_pb2, rlimit_pb2

__all__ = ["memlock_message", "memlock_record", "resource_limit_message", "resource_limit_record"]

_INT64_MAX: Final = (1 << 63) - 1


def memlock_message(size_bytes: int | None) -> rlimit_pb2.RlimitValue | None:
    """The limit for a message; None where it is left to the default."""
    if size_bytes is None:
        return None
    if size_bytes > _INT64_MAX:
        return rlimit_pb2.RlimitValue(unlimited=True)
    return rlimit_pb2.RlimitValue(bytes=size_bytes)


def memlock_record(message: rlimit_pb2.RlimitValue, field: str) -> int:
    """The limit that a message which is there gives. Raises ``ApiError`` naming ``field``."""
    match message.WhichOneof("value"):
        case "bytes" if message.bytes >= 0:
            return message.bytes
        case "unlimited" if message.unlimited:
            return RLIM_INFINITY
        case "bytes":
            raise invalid(f"{field}.bytes", f"{message.bytes} is negative; use 0 or more")
        case _:
            raise invalid(field, "is empty; give bytes, or unlimited: true")


def resource_limit_message(soft_bytes: int, hard_bytes: int) -> process_service_pb2.ResourceLimit:
    """Soft and hard limit."""
    return process_service_pb2.ResourceLimit(
        soft=memlock_message(soft_bytes), hard=memlock_message(hard_bytes)
    )


def resource_limit_record(
    message: process_service_pb2.ResourceLimit,
    otherwise: tuple[int, int],
    field: str = "memlock",
) -> tuple[int, int]:
    """Soft and hard limit, each as in ``otherwise`` where it is absent. Raises ``ApiError`` naming the field."""
    soft, hard = otherwise
    if message.HasField("soft"):
        soft = memlock_record(message.soft, f"{field}.soft")
    if message.HasField("hard"):
        hard = memlock_record(message.hard, f"{field}.hard")
    if soft > hard:
        raise invalid(f"{field}.soft", f"{soft} is over the hard limit; use at most {hard}")
    return soft, hard
