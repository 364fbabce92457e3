"""struct user_struct: the per-user counter behind RLIMIT_MEMLOCK [kernel/user.c]."""

from typing import Final, final


@final
class User:
    """One kernel uid. Lives as long as the node: a later process of the same uid inherits the counter.

    Invariant *memlock conservation*: ``locked_vm_pages`` = pages of live charges + pages of its other holders.
    """

    __slots__ = ("holders", "locked_shm_pages", "locked_vm_pages", "uid")

    def __init__(self, uid: int) -> None:
        self.uid: Final = uid
        self.locked_vm_pages = 0
        self.locked_shm_pages = 0  # SHM_LOCK and SHM_HUGETLB: another counter
        self.holders: Final[dict[str, int]] = {}  # what -> pages, for explanations and invariants

    def hold(self, what: str, pages: int) -> None:
        """Adds ``pages`` on behalf of ``what`` (a map, a program, a perf buffer, ...)."""
        if pages:
            self.locked_vm_pages += pages
            self.holders[what] = self.holders.get(what, 0) + pages

    def drop(self, what: str, pages: int) -> None:
        """Takes them off again."""
        if not pages:
            return
        left = self.holders[what] - pages
        assert left >= 0, (what, left)
        if left:
            self.holders[what] = left
        else:
            del self.holders[what]
        self.locked_vm_pages -= pages


@final
class UserTable:
    """All users of one node, made on first use."""

    def __init__(self) -> None:
        self._users: Final[dict[int, User]] = {}

    def get(self, uid: int) -> User:
        """The user_struct of kernel uid ``uid``."""
        found = self._users.get(uid)
        if found is None:
            found = self._users[uid] = User(uid)
        return found

    def all(self) -> list[User]:
        """Every user seen so far, by uid."""
        return [self._users[uid] for uid in sorted(self._users)]
