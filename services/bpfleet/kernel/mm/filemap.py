"""The page cache and tmpfs: file pages, charged to whoever brought them in first [mm/filemap.c, mm/shmem.c]."""

from typing import Final, final

from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.memcg import Memcg, Stat
from bpfleet.kernel.mm.memory import Account, AllocKind, Memory, Owner

READAHEAD_PAGES: Final = 32


@final
class _CachedFile:
    """Pages of one file. ``segments`` has one account per memcg that brought pages in."""

    __slots__ = ("accessed_twice", "owner", "pages", "segments")

    def __init__(self, owner: Owner) -> None:
        self.owner: Final = owner
        self.pages = 0
        self.segments: Final[list[tuple[Memcg, Account]]] = []
        self.accessed_twice = False


@final
class PageCache:
    """File pages of one node. Clean and evictable; those of tmpfs files stay until the file goes (there is no swap).

    Files are kept in the order of their latest access: reclaim evicts from the front. A file read again becomes active.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory: Final = memory
        self._files: Final[dict[str, _CachedFile]] = {}
        self._tmpfs: Final[dict[str, _CachedFile]] = {}
        self._file_page: Final = memory.page_size(AllocKind.FILE)
        self._shmem_page: Final = memory.page_size(AllocKind.SHMEM)
        self._next_id = 1

    def read(self, path: str, pages: int, memcg: Memcg, current: Current) -> int:
        """Reads the first ``pages`` of a file; those not cached are charged to ``memcg``. Returns pages read.

        Pages come in readahead by readahead, so a file larger than a limit pushes its own beginning out. Fewer than
        asked for: `Memory.failure` says why.
        """
        cached = self._files.pop(path, None) or self._new(path)
        self._files[path] = cached
        if cached.pages and not cached.accessed_twice:
            cached.accessed_twice = True
            for owner, account in cached.segments:
                owner.add_stat(Stat.ACTIVE_FILE_PAGES, account.count)
        done = min(cached.pages, pages)
        while done < pages:
            step = min(READAHEAD_PAGES, pages - done)
            got = self._extend(cached, AllocKind.FILE, step, memcg, current)
            self._files[path] = cached  # reclaim may have pushed all of it out in between
            done += got
            if got < step:
                break
        if not cached.pages:
            self._files.pop(path, None)
        return done

    def write_tmpfs(self, path: str, pages: int, memcg: Memcg, current: Current) -> int:
        """Makes a tmpfs file at least ``pages`` long. Returns its length; shorter: `Memory.failure` says why."""
        cached = self._tmpfs.get(path)
        if cached is None:
            cached = self._tmpfs[path] = self._new(path)
        self._extend(cached, AllocKind.SHMEM, pages - cached.pages, memcg, current)
        length = cached.pages
        if not length:
            del self._tmpfs[path]
        return length

    def unlink_tmpfs(self, path: str) -> bool:
        """Removes a tmpfs file with its pages; False if it does not exist."""
        cached = self._tmpfs.pop(path, None)
        if cached is None:
            return False
        for _, account in cached.segments:
            self._memory.give(account, self._shmem_page, 0, account.count)
        return True

    def _new(self, path: str) -> _CachedFile:
        self._next_id += 1
        return _CachedFile(Owner("file", self._next_id, path))

    def _extend(
        self, cached: _CachedFile, kind: AllocKind, pages: int, memcg: Memcg, current: Current
    ) -> int:
        """Adds up to ``pages`` to a file. Returns how many came."""
        if pages <= 0:
            return 0
        payer = memcg.css_ref if memcg.parent is not None else None
        account = self._memory.account(cached.owner, kind, payer)
        got = self._memory.fault(account, pages, GFP.GFP_KERNEL, current)
        if not got:
            return 0
        cached.pages += got
        if all(known is not account for _, known in cached.segments):
            cached.segments.append((memcg, account))
        if cached.accessed_twice:
            memcg.add_stat(Stat.ACTIVE_FILE_PAGES, got)
        return got

    @property
    def is_empty(self) -> bool:
        """Whether no file page can be evicted anywhere."""
        return not self._files

    # -- reclaim -------------------------------------------------------------------------------------------------

    def evictable_pages(self, memcg: Memcg) -> int:
        """Pages of ``memcg`` itself (not of groups below) that reclaim can evict."""
        return sum(
            account.count
            for cached in self._files.values()
            for owner, account in cached.segments
            if owner is memcg
        )

    def evict(self, memcg: Memcg, pages: int) -> int:
        """Drops up to ``pages`` of ``memcg`` itself, files not accessed for longest first. Returns how many."""
        left = pages
        for path, cached in list(self._files.items()):
            if not left:
                break
            left -= self._evict_from(cached, memcg, left)
            if not cached.pages:
                del self._files[path]
        return pages - left

    def _evict_from(self, cached: _CachedFile, memcg: Memcg, pages: int) -> int:
        for position, (owner, account) in enumerate(cached.segments):
            if owner is not memcg:
                continue
            step = min(pages, account.count)
            if cached.accessed_twice:
                memcg.add_stat(Stat.ACTIVE_FILE_PAGES, -step)
            self._memory.give(account, self._file_page, 0, step)
            cached.pages -= step
            if not account.count:
                del cached.segments[position]
            return step
        return 0
