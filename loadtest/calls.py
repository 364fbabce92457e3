"""The system calls scripts make, as the messages an agent takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bpfleet.v1 import bpf_pb2
from bpfleet.v1 import bpf_service_pb2 as pb
from bpfleet.v1.bpf_service_pb2 import Syscall
from bpfleet.verbs.table import BY_ARM
from bpfleet.workload.spec import MapDeclaration, ProgramDeclaration

__all__ = ["RESTART", "Reply", "name_of", "reply_of"]

RESTART: Final = Syscall()
"""No call at all, alone in its message: the process ends and another takes its place in the same cgroup."""


class Reply(NamedTuple):
    """What came of a call: errno 0 or Linux's number, the true reason, a new descriptor, elements done."""

    errno: int = 0
    reason: str = ""
    fd: int = -1
    elements: int = 0


def name_of(call: Syscall) -> str:
    """What the kernel calls it: the name in every table of a load test."""
    return BY_ARM[call.WhichOneof("operation") or ""].name


def reply_of(result: pb.SyscallResult) -> Reply:
    """The agent's answer to a call."""
    fd = result.fd if result.HasField("fd") else -1
    return Reply(result.errno, result.reason, fd, result.element_count)


def create_map(declared: MapDeclaration, inner_fd: int | None = None) -> Syscall:
    """BPF_MAP_CREATE; a map of maps takes the descriptor of its template."""
    return Syscall(
        create_map=bpf_pb2.MapSpec(
            map_type=bpf_pb2.MapType.ValueType(declared.map_type),
            key_size_bytes=declared.key_size,
            value_size_bytes=declared.value_size,
            max_entries=declared.max_entries,
            map_flags=declared.map_flags,
            map_name=declared.name,
            map_extra=declared.map_extra,
            inner_map_fd=inner_fd,
        )
    )


def load_program(program: ProgramDeclaration, map_fds: Sequence[int]) -> Syscall:
    """BPF_PROG_LOAD."""
    return Syscall(
        load_program=bpf_pb2.ProgramSpec(
            program_type=bpf_pb2.ProgramType.ValueType(program.prog_type),
            instruction_count=program.insn_cnt,
            program_name=program.name,
            map_fds=map_fds,
        )
    )


def lookup(fd: int, key: bytes | None) -> Syscall:
    """BPF_MAP_LOOKUP_ELEM."""
    return Syscall(lookup_element=pb.LookupElementOperation(fd=fd, key=key))


def pop(fd: int) -> Syscall:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM of a queue or stack."""
    return Syscall(lookup_and_delete_element=pb.LookupElementOperation(fd=fd))


def update(fd: int, key: bytes | None, value: bytes) -> Syscall:
    """BPF_MAP_UPDATE_ELEM."""
    return Syscall(update_element=pb.UpdateElementOperation(fd=fd, key=key, value=value))


def delete(fd: int, key: bytes | None) -> Syscall:
    """BPF_MAP_DELETE_ELEM."""
    return Syscall(delete_element=pb.DeleteElementOperation(fd=fd, key=key or b""))


def lookup_batch(fd: int, count: int) -> Syscall:
    """BPF_MAP_LOOKUP_BATCH from the beginning."""
    return Syscall(lookup_batch=pb.LookupBatchOperation(fd=fd, element_count=count))


def update_batch(fd: int, keys: bytes, values: bytes, count: int) -> Syscall:
    """BPF_MAP_UPDATE_BATCH."""
    return Syscall(
        update_batch=pb.UpdateBatchOperation(fd=fd, keys=keys, values=values, element_count=count)
    )


def delete_batch(fd: int, keys: bytes, count: int) -> Syscall:
    """BPF_MAP_DELETE_BATCH."""
    return Syscall(delete_batch=pb.DeleteBatchOperation(fd=fd, keys=keys, element_count=count))


def freeze(fd: int) -> Syscall:
    """BPF_MAP_FREEZE."""
    return Syscall(freeze_map=pb.FileOperation(fd=fd))


def close(fd: int) -> Syscall:
    """close(2)."""
    return Syscall(close_file=pb.FileOperation(fd=fd))


def pin(fd: int, path: str) -> Syscall:
    """BPF_OBJ_PIN."""
    return Syscall(pin_object=pb.PinOperation(path=path, fd=fd))


def open_pinned(path: str) -> Syscall:
    """BPF_OBJ_GET."""
    return Syscall(open_pinned_object=pb.PinOperation(path=path))


def unpin(path: str) -> Syscall:
    """unlink(2) of a pin."""
    return Syscall(unpin_object=pb.PinOperation(path=path))


def touch(size_bytes: int) -> Syscall:
    """Page faults."""
    return Syscall(allocate_memory=pb.MemoryOperation(size_bytes=size_bytes))
