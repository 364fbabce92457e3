"""What every accountant offers, and the record of a precharge."""

from typing import Final, final

from bpfleet.kernel.mm.memcontrol import ObjCgroup
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.proc.user import User


@final
class Charge:
    """Pages held on a user's locked_vm for one map or program [struct bpf_map_memory]. Released once.

    ``user`` is None where the model does not precharge; ``holder`` names the object in explanations.
    """

    __slots__ = ("holder", "pages", "user")

    def __init__(self, user: User | None, pages: int, holder: str) -> None:
        self.user = user
        self.pages = pages
        self.holder = holder


NO_CHARGE: Final = Charge(None, 0, "")


class BpfAccounting:
    """Decides who pays for BPF memory, and whose requests are refused. The base: nobody pays, nothing is refused."""

    def admit(self, task: Task, size_bytes: int, holder: str) -> Charge:
        """Asks for ``size_bytes`` before anything is allocated. Raises EPERM or E2BIG where the model refuses."""
        return NO_CHARGE

    def grow(self, charge: Charge, task: Task, pages: int) -> None:
        """Adds ``pages`` to a charge, against the limit of ``task``. Raises EPERM."""

    def shrink(self, charge: Charge, pages: int) -> None:
        """Takes ``pages`` off a charge again [bpf_map_uncharge_memlock]."""

    def release(self, charge: Charge) -> None:
        """Returns the charge, once."""

    def current_payer(self, task: Task) -> ObjCgroup | None:
        """Who pays for what the current task allocates for BPF (map areas, program images)."""
        return None

    def creation_helper_payer(self, task: Task) -> ObjCgroup | None:
        """Who pays for helper allocations while the map is being created and has no owner record yet."""
        return None

    def pin_payer(self, root: ObjCgroup) -> ObjCgroup | None:
        """Who becomes the payer of an object that is pinned; None: the payer stays. ``root`` is never limited."""
        return None

    def reopen_payer(self, task: Task) -> ObjCgroup | None:
        """Who becomes the payer of an object when ``task`` opens its pin; None: the payer stays."""
        return None

    def element_payer(
        self, creator: ObjCgroup | None, updater: ObjCgroup | None, *, in_interrupt: bool
    ) -> ObjCgroup | None:
        """Who pays for what a map allocates after its creation."""
        return None
