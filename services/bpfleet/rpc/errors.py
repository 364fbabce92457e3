"""Verdicts of the emulated kernel and refusals of our own, as google.rpc.Status with one ErrorInfo.

The status code of a verdict is a function of errno alone. That is a deliberate deviation: google's code.proto says
that PERMISSION_DENIED must not stand for an exhausted resource, yet EPERM for RLIMIT_MEMLOCK does exactly that in old
kernels, and showing this confusion is what the project is for. ``reason`` tells the truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bpfleet.abi.errno import Errno
from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.errors import KernelError
from bpfleet.verbs.table import CALLS

__all__ = [
    "CODE_BY_ERRNO",
    "CONTROL_DOMAIN",
    "KERNEL_DOMAIN",
    "ApiError",
    "RemoteError",
    "api_status",
    "call_name",
    "decode_rpc_error",
    "invalid",
    "kernel_status",
    "status_of",
]

KERNEL_DOMAIN: Final = "kernel.bpfleet"
CONTROL_DOMAIN: Final = "bpfleet"
# Trailing metadata share 8 KiB with the rest of the trailer; a cut sentence beats a lost status.
_MESSAGE_CHARS_MAX: Final = 800
_VALUE_CHARS_MAX: Final = 256

_CODES: Final[dict[grpc.StatusCode, tuple[Errno, ...]]] = {
    grpc.StatusCode.PERMISSION_DENIED: (Errno.EPERM, Errno.EACCES),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Errno.ENOMEM, Errno.ENOSPC, Errno.E2BIG, Errno.EMFILE, Errno.ENFILE, Errno.ENOBUFS,
    ),
    grpc.StatusCode.NOT_FOUND: (
        Errno.ENOENT, Errno.ESRCH, Errno.EBADF, Errno.ENODEV, Errno.ECHILD,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (Errno.EEXIST,),
    grpc.StatusCode.INVALID_ARGUMENT: (
        Errno.EINVAL, Errno.EFAULT, Errno.ERANGE, Errno.EOVERFLOW, Errno.ENAMETOOLONG, Errno.ELOOP,
        Errno.ESPIPE, Errno.ENOTSOCK,
    ),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Errno.EBUSY, Errno.ENOTEMPTY, Errno.ENOTDIR, Errno.EISDIR, Errno.EROFS, Errno.EINPROGRESS,
    ),
    grpc.StatusCode.ABORTED: (Errno.EAGAIN, Errno.EINTR),
    grpc.StatusCode.UNIMPLEMENTED: (Errno.EOPNOTSUPP, Errno.ENOTSUPP, Errno.ENOSYS),
    grpc.StatusCode.UNKNOWN: (Errno.EIO,),
}  # fmt: skip
CODE_BY_ERRNO: Final[dict[Errno, grpc.StatusCode]] = {
    errno: code for code, errnos in _CODES.items() for errno in errnos
}


class ApiError(Exception):
    """A refusal of our own control plane, with the status code, the reason and further facts for the ErrorInfo."""

    def __init__(
        self, code: grpc.StatusCode, reason: ControlReason, message: str, **facts: int | str
    ) -> None:
        super().__init__(message)
        self.code: Final = code
        self.reason: Final = reason
        self.message: Final = message
        self.facts: Final = facts


def invalid(field_path: str, problem: str) -> ApiError:
    """INVALID_ARGUMENT about one field: what it is called, what is wrong and what is accepted."""
    return ApiError(
        grpc.StatusCode.INVALID_ARGUMENT,
        ControlReason.BAD_REQUEST,
        f"{field_path}: {problem}",
        field=field_path,
    )


def call_name(method: str) -> str:
    """The system call behind ``/bpfleet.v1.BpfService/CreateMap``; the method's own name where there is none."""
    name = method.rpartition("/")[2]
    return CALLS.get(name, name)


def kernel_status(error: KernelError, call: str) -> status_pb2.Status:
    """The status of a verdict: errno, its number and the call, and the counters behind it."""
    metadata = {_camel(name): value for name, value in error.numbers.items()}
    metadata |= {"errno": error.errno.name, "errnoNumber": int(error.errno), "call": call}
    message = f"{call}: {error}"
    return _status(CODE_BY_ERRNO[error.errno], message, KERNEL_DOMAIN, str(error.reason), metadata)


def api_status(error: ApiError) -> status_pb2.Status:
    """The status of a refusal of our own."""
    facts = {_camel(name): value for name, value in error.facts.items()}
    return _status(error.code, error.message, CONTROL_DOMAIN, error.reason, facts)


def status_of(error: KernelError | ApiError, method: str) -> status_pb2.Status:
    """The status of either, for the method (its full name) that met it."""
    if isinstance(error, ApiError):
        return api_status(error)
    return kernel_status(error, call_name(method))


def _status(
    code: grpc.StatusCode,
    message: str,
    domain: str,
    reason: str,
    metadata: Mapping[str, int | str],
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        domain=domain,
        reason=reason,
        metadata={name: _cut(str(value), _VALUE_CHARS_MAX) for name, value in metadata.items()},
    )
    told: list[Message] = [info, *_more(message, metadata)]
    return status_pb2.Status(
        code=code.value[0],
        message=_cut(message, _MESSAGE_CHARS_MAX),
        details=[_packed(detail) for detail in told],
    )


def _more(message: str, metadata: Mapping[str, int | str]) -> list[Message]:
    """What AIP-193 has a message of its own for: which field is wrong, and when to try again."""
    told: list[Message] = []
    if field := metadata.get("field"):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(str(field), _VALUE_CHARS_MAX), description=_cut(message, _VALUE_CHARS_MAX)
        )
        told.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if pause_ms := metadata.get("retryAfterMs"):
        pause = Duration()
        pause.FromMilliseconds(int(pause_ms))
        told.append(error_details_pb2.RetryInfo(retry_delay=pause))
    return told


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


@dataclass(frozen=True, slots=True)
class RemoteError:
    """A failed call as its client sees it. ``domain`` is empty where the status carries no ErrorInfo of ours."""

    code: grpc.StatusCode
    message: str
    domain: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_verdict(self) -> bool:
        """Whether the emulated kernel said no: a measurement, not a failure of the cluster."""
        return self.domain == KERNEL_DOMAIN

    @property
    def errno(self) -> Errno | None:
        """errno of a verdict; None for everything else."""
        return Errno(int(self.metadata["errnoNumber"])) if self.is_verdict else None

    @property
    def retry_after_seconds(self) -> float | None:
        """When the service says that it is worth while to try again; None where it does not say."""
        pause_ms = self.metadata.get("retryAfterMs", "")
        return int(pause_ms) / 1000 if self.domain == CONTROL_DOMAIN and pause_ms else None

    @property
    def call(self) -> str:
        """The system call that was refused; empty for everything but verdicts."""
        return self.metadata.get("call", "")


def decode_rpc_error(error: grpc.RpcError) -> RemoteError:
    """The typed form of what a call of the blocking or the asyncio stub raised."""
    # Both kinds of RpcError are calls, or quack like one; the type stubs know neither.
    call: grpc.Call = error  # type: ignore[assignment]
    code, message = call.code(), call.details() or ""
    for detail in _details(call):
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return RemoteError(code, message, info.domain, info.reason, dict(info.metadata))
    return RemoteError(code, message)


def _details(call: grpc.Call) -> list[any_pb2.Any]:
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # a proxy rewrote code or message: the details no longer belong to it
        return []
    return list(status.details) if status is not None else []
