"""No BPF accounting: cgroup.memory=nobpf and kernels without kmem accounting."""

from typing import final

from bpfleet.kernel.bpf.accounting.base import NO_CHARGE, Charge
from bpfleet.kernel.mm.memcontrol import ObjCgroup
from bpfleet.kernel.proc.task import Task


@final
class NoAccounting:
    """Admits everything and charges nobody."""

    def admit(self, task: Task, size_bytes: int, holder: str) -> Charge:
        """Always admits."""
        return NO_CHARGE

    def grow(self, charge: Charge, task: Task, pages: int) -> None:
        """Nothing to do."""

    def shrink(self, charge: Charge, pages: int) -> None:
        """Nothing to do."""

    def release(self, charge: Charge) -> None:
        """Nothing to do."""

    def current_payer(self, task: Task) -> ObjCgroup | None:
        """Nobody."""
        return None

    def creation_helper_payer(self, task: Task) -> ObjCgroup | None:
        """Nobody."""
        return None

    def pin_payer(self, root: ObjCgroup) -> ObjCgroup | None:
        """Nothing moves."""
        return None

    def reopen_payer(self, task: Task) -> ObjCgroup | None:
        """Nothing moves."""
        return None

    def element_payer(
        self, creator: ObjCgroup | None, updater: ObjCgroup | None, *, in_interrupt: bool
    ) -> ObjCgroup | None:
        """Nobody."""
        return None
