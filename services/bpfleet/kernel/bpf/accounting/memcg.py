"""The memory cgroup model from 5.11 on: each allocation is charged when it happens [kernel/bpf/syscall.c]."""

from typing import Final, final

from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.mm.memcontrol import ObjCgroup
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile, Payer


@final
class MemcgAccounting(BpfAccounting):
    """No precharge and no EPERM: blocks uncharge themselves. The payer follows the profile's policy."""

    def __init__(self, profile: KernelProfile) -> None:
        self._creation_helpers_charged: Final = profile.creation_percpu_charged
        self._payer: Final = profile.payer

    def current_payer(self, task: Task) -> ObjCgroup | None:
        """The calling task's objcg."""
        return task.objcg

    def creation_helper_payer(self, task: Task) -> ObjCgroup | None:
        """The task up to 5.19; nobody from 6.0, where the unset owner record is taken for the root cgroup."""
        return task.objcg if self._creation_helpers_charged else None

    def pin_payer(self, root: ObjCgroup) -> ObjCgroup | None:
        """Nobody, unless pinned objects are free (the no-charge proposal of 2022): then root becomes the payer."""
        return root if self._payer is Payer.NOCHARGE else None

    def reopen_payer(self, task: Task) -> ObjCgroup | None:
        """Nobody, unless charges follow the user (the recharge proposal of 2022): then the task that opens the pin."""
        return task.objcg if self._payer is Payer.RECHARGE else None

    def element_payer(
        self, creator: ObjCgroup | None, updater: ObjCgroup | None, *, in_interrupt: bool
    ) -> ObjCgroup | None:
        """The creator; in the series as posted (v5-v7) the updating process unless in interrupt context."""
        if self._payer is Payer.UPDATER and not in_interrupt:
            return updater
        return creator
