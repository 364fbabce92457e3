"""Verdicts of the emulated kernel: an errno as user space sees it, and the true reason behind it."""

from enum import StrEnum
from typing import Final

from bpfleet.abi.errno import Errno


class Reason(StrEnum):
    """Why a call failed. The errno is what Linux answers; the reason is what Linux does not say."""

    RLIMIT_MEMLOCK_EXCEEDED = "RLIMIT_MEMLOCK_EXCEEDED"
    MEMCG_LIMIT_EXCEEDED = "MEMCG_LIMIT_EXCEEDED"
    NODE_OUT_OF_MEMORY = "NODE_OUT_OF_MEMORY"
    ALLOCATOR_REFILL_LATE = "ALLOCATOR_REFILL_LATE"
    FAULT_INJECTED = "FAULT_INJECTED"
    JIT_LIMIT_EXCEEDED = "JIT_LIMIT_EXCEEDED"
    JIT_AREA_FULL = "JIT_AREA_FULL"
    OPTMEM_EXCEEDED = "OPTMEM_EXCEEDED"
    CAPABILITY_MISSING = "CAPABILITY_MISSING"
    UNPRIVILEGED_BPF_DISABLED = "UNPRIVILEGED_BPF_DISABLED"
    MAP_FULL = "MAP_FULL"
    MAP_FROZEN = "MAP_FROZEN"
    MAP_ACCESS_MODE = "MAP_ACCESS_MODE"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_EXISTS = "KEY_EXISTS"
    BAD_ATTRIBUTE = "BAD_ATTRIBUTE"
    BAD_ADDRESS = "BAD_ADDRESS"
    BAD_FILE_DESCRIPTOR = "BAD_FILE_DESCRIPTOR"
    TOO_MANY_FILES = "TOO_MANY_FILES"
    TOO_MANY_PROCESSES = "TOO_MANY_PROCESSES"
    ALLOCATION_TOO_LARGE = "ALLOCATION_TOO_LARGE"
    OPERATION_UNSUPPORTED = "OPERATION_UNSUPPORTED"
    MAP_TYPE_UNSUPPORTED = "MAP_TYPE_UNSUPPORTED"
    CGROUP_BUSY = "CGROUP_BUSY"
    NOTHING_TO_RECLAIM = "NOTHING_TO_RECLAIM"
    NO_SUCH_OBJECT = "NO_SUCH_OBJECT"
    OBJECT_EXISTS = "OBJECT_EXISTS"
    OBJECT_BUSY = "OBJECT_BUSY"
    NO_SUCH_PROCESS = "NO_SUCH_PROCESS"
    CALLER_KILLED = "CALLER_KILLED"


class KernelError(Exception):
    """A call refused by the emulated kernel.

    ``errno`` is what user space sees. ``reason`` names the true cause even where the errno hides it (an EPERM that
    is a memory limit). ``detail`` is one plain sentence; ``numbers`` holds the counters behind it, with units in the
    names (``limit_bytes``, ``usage_bytes``, ``requested_bytes``, ``cgroup``, ``uid``, ...).
    """

    def __init__(
        self, errno: Errno, reason: Reason, detail: str = "", **numbers: int | str
    ) -> None:
        super().__init__(errno, reason, detail)
        self.errno: Final = errno
        self.reason: Final = reason
        self.detail: Final = detail
        self.numbers: Final[dict[str, int | str]] = numbers

    def __str__(self) -> str:
        text = f"{self.errno.name} ({self.reason})"
        return f"{text}: {self.detail}" if self.detail else text


class TaskKilled(KernelError):
    """The calling task received SIGKILL inside the call (it was the OOM victim): nothing returns to user space."""

    def __init__(self, pid: int, detail: str = "") -> None:
        super().__init__(
            Errno.EINTR, Reason.CALLER_KILLED, detail or f"process {pid} was killed", pid=pid
        )
