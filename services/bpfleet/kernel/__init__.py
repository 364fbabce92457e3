"""The emulated kernel: pure, deterministic, importable alone."""

from bpfleet.kernel.errors import KernelError, Reason, TaskKilled
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import PROFILES, KernelProfile, profile_named
from bpfleet.kernel.views.ledger import LedgerLine
from bpfleet.kernel.views.receipt import Receipt

__all__ = [
    "PROFILES",
    "Kernel",
    "KernelError",
    "KernelProfile",
    "LedgerLine",
    "Reason",
    "Receipt",
    "TaskKilled",
    "profile_named",
]
