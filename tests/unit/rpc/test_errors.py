"""Verdicts and refusals survive the way through google.rpc.Status."""

import grpc
import pytest
from google.rpc import error_details_pb2

from bpfleet.abi.errno import Errno
from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.errors import KernelError, Reason, TaskKilled
from bpfleet.rpc import errors
from bpfleet.rpc.errors import ApiError
from bpfleet.v1 import bpf_service_pb2, cgroup_service_pb2, process_service_pb2


def info_of(status):
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def remote(status):
    info = info_of(status)
    code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
    return errors.RemoteError(code, status.message, info.domain, info.reason, dict(info.metadata))


@pytest.mark.parametrize("errno", list(Errno))
def test_every_errno_has_a_code_that_is_not_one_of_our_own_failures(errno):
    code = errors.CODE_BY_ERRNO[errno]
    ours = {
        grpc.StatusCode.OK,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.CANCELLED,
    }
    assert code not in ours
    status = errors.kernel_status(KernelError(errno, Reason.BAD_ATTRIBUTE, "no"), "BPF_MAP_CREATE")
    info = info_of(status)
    assert status.code == code.value[0]
    assert (info.metadata["errno"], info.metadata["errnoNumber"]) == (errno.name, str(int(errno)))
    assert (info.domain, info.metadata["call"]) == ("kernel.bpfleet", "BPF_MAP_CREATE")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_comes_back_as_the_error_that_was_raised(reason):
    raised = KernelError(
        Errno.ENOMEM, reason, "at the limit (see memory.max): no", limit_bytes=4096, cgroup="/a"
    )
    back = remote(errors.kernel_status(raised, "BPF_MAP_CREATE"))
    assert (back.errno, back.reason, back.call) == (raised.errno, raised.reason, "BPF_MAP_CREATE")
    assert (back.metadata["limitBytes"], back.metadata["cgroup"]) == ("4096", "/a")
    assert raised.detail in back.message


def test_an_eperm_that_is_a_memory_limit_tells_the_truth_in_its_reason():
    error = KernelError(Errno.EPERM, Reason.RLIMIT_MEMLOCK_EXCEEDED, "64 KiB locked", uid=1000)
    seen = remote(errors.status_of(error, "/bpfleet.v1.BpfService/CreateMap"))
    assert seen.code is grpc.StatusCode.PERMISSION_DENIED
    assert (seen.errno, seen.reason) == (Errno.EPERM, "RLIMIT_MEMLOCK_EXCEEDED")
    assert (seen.call, seen.metadata["uid"], seen.is_verdict) == ("BPF_MAP_CREATE", "1000", True)


def test_a_killed_caller_is_a_verdict():
    seen = remote(errors.status_of(TaskKilled(7), "/bpfleet.v1.ProcessService/AllocateMemory"))
    assert (seen.code, seen.reason) == (grpc.StatusCode.ABORTED, "CALLER_KILLED")
    assert seen.call == "page fault"


def test_a_refusal_of_our_own_is_no_verdict():
    error = ApiError(
        grpc.StatusCode.OUT_OF_RANGE, ControlReason.REVISION_COMPACTED, "gone", oldest_revision=7
    )
    seen = remote(errors.status_of(error, "/bpfleet.v1.NodeService/WatchEvents"))
    assert (seen.domain, seen.reason, seen.errno) == ("bpfleet", "REVISION_COMPACTED", None)
    assert seen.metadata == {"oldestRevision": "7"}
    assert seen.errno is None


def test_long_texts_are_cut_so_that_the_trailer_stays_small():
    error = KernelError(Errno.EINVAL, Reason.BAD_ATTRIBUTE, "x" * 10_000, cgroup="y" * 10_000)
    status = errors.kernel_status(error, "BPF_MAP_CREATE")
    assert status.ByteSize() < 4096


@pytest.mark.parametrize("module", [bpf_service_pb2, cgroup_service_pb2, process_service_pb2])
def test_every_method_that_the_kernel_answers_names_its_call(module):
    (service,) = module.DESCRIPTOR.services_by_name.values()
    views = {"GetCgroup", "ListCgroups", "GetProcess", "ListProcesses", "ExecuteSyscalls"}
    methods = {method.name for method in service.methods} - views
    assert methods <= errors.CALLS.keys()


def detail(status, kind):
    """The detail of one kind; None where there is none."""
    for each in status.details:
        found = kind()
        if each.Unpack(found):
            return found
    return None


def test_a_wrong_field_is_told_as_a_bad_request():
    status = errors.api_status(errors.invalid("spec.name", "missing; add it"))
    (violation,) = detail(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("spec.name", "spec.name: missing; add it")
    assert detail(status, error_details_pb2.RetryInfo) is None


def test_who_is_to_come_again_is_told_when():
    busy = ApiError(grpc.StatusCode.UNAVAILABLE, ControlReason.BUSY, "busy", retryAfterMs=1500)
    status = errors.api_status(busy)
    pause = detail(status, error_details_pb2.RetryInfo).retry_delay
    assert pause.ToMilliseconds() == 1500
    assert detail(status, error_details_pb2.BadRequest) is None
