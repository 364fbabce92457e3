"""The per-user model up to 5.10: an estimate charged up front to locked_vm, refused with EPERM [syscall.c]."""

from typing import final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.accounting.base import BpfAccounting, Charge
from bpfleet.kernel.bpf.cost import LARGEST_COST_BYTES
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.proc.user import User
from bpfleet.kernel.units import bytes_of, pages_for, whole_pages


@final
class RlimitAccounting(BpfAccounting):
    """Counts pages on the real uid's user_struct against the acting task's soft RLIMIT_MEMLOCK. No capability helps.

    The whole map is paid for at creation; memory cgroups are charged for nothing.
    """

    def admit(self, task: Task, size_bytes: int, holder: str) -> Charge:
        """bpf_map_charge_init. Raises E2BIG from 4294963199 bytes, EPERM over the limit."""
        if size_bytes >= LARGEST_COST_BYTES:
            raise KernelError(
                Errno.E2BIG,
                Reason.ALLOCATION_TOO_LARGE,
                f"the estimate of {size_bytes} bytes does not fit the 32-bit precharge",
                requested_bytes=size_bytes,
                limit_bytes=LARGEST_COST_BYTES - 1,
            )
        pages = pages_for(size_bytes)
        _charge(task.user, task, pages, holder)
        return Charge(task.user, pages, holder)

    def grow(self, charge: Charge, task: Task, pages: int) -> None:
        """bpf_map_charge_memlock: the creator's counter against the limit of the acting task. Raises EPERM."""
        assert charge.user is not None
        _charge(charge.user, task, pages, charge.holder)
        charge.pages += pages

    def shrink(self, charge: Charge, pages: int) -> None:
        """bpf_map_uncharge_memlock: back to the user who paid."""
        assert charge.user is not None
        charge.user.drop(charge.holder, pages)
        charge.pages -= pages

    def release(self, charge: Charge) -> None:
        """bpf_map_charge_finish: the pages go back to the user who paid."""
        if charge.user is not None and charge.pages:
            charge.user.drop(charge.holder, charge.pages)
        charge.pages = 0


def _charge(user: User, task: Task, pages: int, holder: str) -> None:
    limit_pages = whole_pages(task.memlock_soft_bytes)
    if user.locked_vm_pages + pages > limit_pages:
        raise KernelError(
            Errno.EPERM,
            Reason.RLIMIT_MEMLOCK_EXCEEDED,
            f"uid {user.uid} holds {user.locked_vm_pages} locked pages, {pages} more are asked for,"
            f" RLIMIT_MEMLOCK of process {task.pid} allows {limit_pages}",
            uid=user.uid,
            limit_bytes=task.memlock_soft_bytes,
            usage_bytes=bytes_of(user.locked_vm_pages),
            requested_bytes=bytes_of(pages),
        )
    user.hold(holder, pages)
