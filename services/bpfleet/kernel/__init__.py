"""The emulated kernel: pure, deterministic, importable alone."""

from bpfleet.kernel.errors import KernelError, Reason, TaskKilled
from bpfleet.kernel.profile import PROFILES, KernelProfile, profile_named

__all__ = [
    "PROFILES",
    "KernelError",
    "KernelProfile",
    "Reason",
    "TaskKilled",
    "profile_named",
]
