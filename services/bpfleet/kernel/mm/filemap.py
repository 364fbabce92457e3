"""The page cache and tmpfs: file pages, charged to whoever brought them in first [mm/filemap.c, mm/swap.c, mm/shmem.c].

A page read for the first time goes to the inactive list of its memcg, one read again to the active list. Reclaim takes
from the old end of the inactive list. What remembers where a page was (xa_node) stays charged until the file goes: for
want of memory on the node, if none of its pages is cached.

Not emulated: dirty pages and writeback, mapped pages, folios of several pages, refaults that activate at once.
"""

from typing import Final, final

from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.memcg import Memcg, ObjCgroup, Stat
from bpfleet.kernel.mm.memory import Account, AllocKind, Block, Memory, Owner
from bpfleet.kernel.mm.swapfile import SwapEntries, SwapSpace

READAHEAD_PAGES: Final = 32
XA_CHUNK_SIZE: Final = 64  # slots of a node
XA_NODE_BYTES: Final = 584  # objects of radix_tree_node
SHMEM_INODE_BYTES: Final = 136  # of shmem_inode_cache beyond struct inode


@final
class _Run:
    """Pages of one file that came one after the other and have been treated alike since."""

    __slots__ = ("account", "active", "file", "memcg", "pages", "referenced", "start")

    def __init__(
        self, file: "_CachedFile", start: int, pages: int, memcg: Memcg, account: Account
    ) -> None:
        self.file: Final = file
        self.start = start
        self.pages = pages
        self.memcg: Final = memcg
        self.account: Final = account
        self.referenced = True  # the read that brought it in looked at it
        self.active = False

    @property
    def end(self) -> int:
        """The index after its last page."""
        return self.start + self.pages


@final
class _CachedFile:
    """One file: its cached runs by their first page, and the nodes of its index, which only grow.

    ``pages`` are those cached, of a file of tmpfs all it has.
    """

    __slots__ = ("blocks", "nodes", "owner", "pages", "runs", "swapped")

    def __init__(self, owner: Owner) -> None:
        self.owner: Final = owner
        self.runs: Final[list[_Run]] = []  # in the order of the file
        self.pages = 0
        self.nodes = 0
        self.blocks: Final[list[Block]] = []
        self.swapped: Final = SwapEntries()

    def went_out(self, account: Account, pages: int) -> None:
        """Pages of a tmpfs file are in swap space now: it is as long as before."""

    def at(self, index: int) -> tuple[_Run | None, int]:
        """The run with page ``index``, or None; and where the next one begins."""
        following = index + READAHEAD_PAGES
        for run in self.runs:
            if run.start <= index < run.end:
                return run, run.end
            if run.start > index:
                following = min(following, run.start)
                break
        return None, following

    def insert(self, run: _Run) -> None:
        """Puts a run into its place."""
        position = 0
        while position < len(self.runs) and self.runs[position].start < run.start:
            position += 1
        self.runs.insert(position, run)


@final
class Lru:
    """The file pages of one memcg: two lists of runs, the oldest first [struct lruvec]."""

    __slots__ = ("active", "active_pages", "inactive", "inactive_pages")

    def __init__(self) -> None:
        # A dictionary serves as an ordered set.
        self.inactive: Final[dict[_Run, None]] = {}
        self.active: Final[dict[_Run, None]] = {}
        self.inactive_pages = 0
        self.active_pages = 0

    def add(self, run: _Run) -> None:
        """Puts a run at the young end of its list."""
        if run.active:
            self.active[run] = None
            self.active_pages += run.pages
        else:
            self.inactive[run] = None
            self.inactive_pages += run.pages

    def remove(self, run: _Run) -> None:
        """Takes a run off its list."""
        if run.active:
            del self.active[run]
            self.active_pages -= run.pages
        else:
            del self.inactive[run]
            self.inactive_pages -= run.pages


@final
class PageCache:
    """File pages of one node. Clean and evictable; those of tmpfs files go to ``swap``, or stay until the file goes.

    ``window_pages`` is how much a disk reads at a time: files go on behind what is read of them, and a read that misses
    brings the rest of a window in as well. 1: nothing but what was asked for.
    """

    def __init__(self, memory: Memory, swap: SwapSpace | None = None) -> None:
        self._memory: Final = memory
        self._swap: Final = swap
        self._files: Final[dict[str, _CachedFile]] = {}
        self._tmpfs: Final[dict[str, _CachedFile]] = {}
        self._lrus: Final[dict[Memcg, Lru]] = {}
        self._file_page: Final = memory.page_size(AllocKind.FILE)
        self._shmem_page: Final = memory.page_size(AllocKind.SHMEM)
        self._next_id = 1
        self._cached_pages = 0
        self.window_pages = 1

    def read(self, path: str, pages: int, memcg: Memcg, current: Current) -> int:
        """Reads the first ``pages`` of a file; those not cached are charged to ``memcg``. Returns pages read.

        Pages come in readahead by readahead, so a file larger than a limit pushes its own beginning out. Fewer than
        asked for: `Memory.failure` says why.
        """
        cached = self._files.get(path)
        if cached is None:
            cached = self._files[path] = self._new(path)
        done, missed = 0, False
        while done < pages:
            run, end = cached.at(done)
            end = min(end, pages)
            if run is not None:
                self._access(self._cut(run, done, end))
                done = end
                continue
            got = self._bring_in(cached, done, end - done, memcg, current)
            done, missed = done + got, True
            if not got or current.dying:
                return done
        beyond = -pages % self.window_pages
        if missed and beyond and cached.at(pages)[0] is None:
            self._bring_in(cached, pages, beyond, memcg, current, referenced=False)
        return done

    def _bring_in(
        self,
        cached: _CachedFile,
        start: int,
        pages: int,
        memcg: Memcg,
        current: Current,
        *,
        referenced: bool = True,
    ) -> int:
        """Adds up to ``pages`` from ``start`` on to the cache. Returns how many came."""
        account, got = self._extend(cached, AllocKind.FILE, start, pages, memcg, current)
        if not got:
            return 0
        self._cached_pages += got
        lru = self._lrus.setdefault(memcg, Lru())
        newest = next(reversed(lru.inactive), None)
        if (
            newest is not None
            and (newest.file, newest.end, newest.account) == (cached, start, account)
            and newest.referenced == referenced
        ):
            newest.pages += got
            lru.inactive_pages += got
            return got
        run = _Run(cached, start, got, memcg, account)
        run.referenced = referenced
        cached.insert(run)
        lru.add(run)
        return got

    def _cut(self, run: _Run, start: int, end: int) -> _Run:
        """The pages from ``start`` to ``end`` of a run as a run of their own; the rest keeps its place on the list."""
        if (run.start, run.end) == (start, end):
            return run
        lru = self._lrus[run.memcg]
        if end < run.end:
            self._split(lru, run, end)
        return run if run.start == start else self._split(lru, run, start)

    def _split(self, lru: Lru, run: _Run, index: int) -> _Run:
        """Ends a run before page ``index``; the rest follows it on its list. Returns the rest."""
        rest = _Run(run.file, index, run.end - index, run.memcg, run.account)
        rest.referenced, rest.active = run.referenced, run.active
        run.pages = index - run.start
        run.file.insert(rest)
        ordered = lru.active if run.active else lru.inactive
        following = list(ordered)
        at = following.index(run)
        ordered[rest] = None
        for later in following[at + 1 :]:  # re-queued behind it, in their order
            del ordered[later]
            ordered[later] = None
        return rest

    def _access(self, run: _Run) -> None:
        """A read of what is cached: the second makes a page active [folio_mark_accessed]."""
        if not run.referenced:
            run.referenced = True
        elif not run.active:
            lru = self._lrus[run.memcg]
            lru.remove(run)
            run.active, run.referenced = True, False
            lru.add(run)
            run.memcg.add_stat(Stat.ACTIVE_FILE_PAGES, run.pages)

    # -- tmpfs ---------------------------------------------------------------------------------------------------

    def write_tmpfs(self, path: str, pages: int, memcg: Memcg, current: Current) -> int:
        """Makes a tmpfs file at least ``pages`` long. Returns its length; shorter: `Memory.failure` says why.

        Raises KernelError(ENOMEM) where not even its inode fits.
        """
        cached = self._tmpfs.get(path)
        if cached is None:
            cached = self._new(path)
            cached.blocks.extend(self._create_inode(cached.owner, current))
            self._tmpfs[path] = cached
        while cached.pages < pages:
            wanted = pages - cached.pages
            _, got = self._extend(cached, AllocKind.SHMEM, cached.pages, wanted, memcg, current)
            if not got or current.dying:
                break
        return cached.pages

    def _create_inode(self, owner: Owner, current: Current) -> tuple[Block, ...]:
        memory = self._memory
        structs = memory.profile.structs
        sizes = (
            memory.cache_size(structs.inode + SHMEM_INODE_BYTES, AllocKind.SLAB_RECLAIMABLE),
            memory.cache_size(structs.dentry, AllocKind.SLAB_RECLAIMABLE),
        )
        gfp = GFP.GFP_KERNEL_ACCOUNT
        return memory.take_objects(sizes, gfp, current.objcg, current, owner)

    def unlink_tmpfs(self, path: str) -> bool:
        """Removes a tmpfs file with its pages; False if it does not exist."""
        cached = self._tmpfs.pop(path, None)
        if cached is None:
            return False
        for account in cached.owner.lines():
            if account.kind == AllocKind.SHMEM:
                self._memory.give(account, self._shmem_page, 0, account.count)
                if self._swap is not None:
                    self._swap.forget(account)
        if self._swap is not None:
            for account in list(cached.swapped.lines):
                self._swap.discard(cached, account, cached.swapped.of(account))
        self._memory.free_blocks(cached.blocks, 0)
        return True

    def swap_entries(self) -> list[SwapEntries]:
        """What is out of each file of tmpfs."""
        return [cached.swapped for cached in self._tmpfs.values()]

    def _new(self, path: str) -> _CachedFile:
        self._next_id += 1
        return _CachedFile(Owner("file", self._next_id, path))

    def _extend(
        self,
        cached: _CachedFile,
        kind: AllocKind,
        start: int,
        pages: int,
        memcg: Memcg,
        current: Current,
    ) -> tuple[Account, int]:
        """Takes up to ``pages`` pages from ``start`` on, with the nodes that index them. Returns how many came."""
        payer = memcg.css_ref if memcg.parent is not None else None
        account = self._memory.account(cached.owner, kind, payer)
        got = self._memory.fault(account, pages, GFP.GFP_KERNEL, current)
        if not got:
            return account, 0
        cached.pages += got
        if kind is AllocKind.SHMEM and self._swap is not None:
            self._swap.add(account, cached)
        self._grow_index(cached, start + got, current.objcg, current)
        return account, got

    def _grow_index(
        self, cached: _CachedFile, pages: int, objcg: ObjCgroup | None, current: Current
    ) -> None:
        """The nodes for that many pages. The first page alone needs none; one that does not fit is done without."""
        memory = self._memory
        size = memory.cache_size(XA_NODE_BYTES, AllocKind.SLAB_RECLAIMABLE)
        while cached.nodes < index_nodes(pages):
            account = memory.account(cached.owner, AllocKind.SLAB_RECLAIMABLE, objcg)
            try:
                block = memory.take_block(account, size, GFP.GFP_KERNEL_ACCOUNT, current)
            except KernelError:
                return
            cached.blocks.append(block)
            cached.nodes += 1

    # -- reclaim -------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether no file page can be evicted anywhere."""
        return not self._cached_pages

    def lru(self, memcg: Memcg) -> Lru | None:
        """The file lists of ``memcg`` itself (not of groups below); None where it never had any."""
        return self._lrus.get(memcg)

    def evict(self, memcg: Memcg, pages: int) -> int:
        """Drops up to ``pages`` from the old end of the inactive list [shrink_inactive_list]. Returns how many."""
        lru = self._lrus[memcg]
        left = pages
        while left and lru.inactive:
            run = next(iter(lru.inactive))
            step = min(left, run.pages)
            self._drop(lru, run, step)
            left -= step
        return pages - left

    def _drop(self, lru: Lru, run: _Run, pages: int) -> None:
        """Gives the first ``pages`` of the oldest inactive run back."""
        self._memory.give(run.account, self._file_page, 0, pages)
        self._cached_pages -= pages
        run.file.pages -= pages
        lru.inactive_pages -= pages
        run.start += pages
        run.pages -= pages
        if not run.pages:
            del lru.inactive[run]
            run.file.runs.remove(run)

    def prune_inodes(self) -> None:
        """Lets go of files without a cached page, with what remembers where their pages were [prune_icache_sb]."""
        for path, cached in list(self._files.items()):
            if not cached.pages:
                del self._files[path]
                self._memory.free_blocks(cached.blocks, 0)

    def deactivate(self, memcg: Memcg, pages: int) -> None:
        """Moves up to ``pages`` from the old end of the active list to the inactive one [shrink_active_list]."""
        lru = self._lrus[memcg]
        left = pages
        while left and lru.active:
            run = next(iter(lru.active))
            if run.pages > left:
                self._split(lru, run, run.start + left)
            lru.remove(run)
            run.active = run.referenced = False
            lru.add(run)
            memcg.add_stat(Stat.ACTIVE_FILE_PAGES, -run.pages)
            left -= run.pages


def index_nodes(pages: int) -> int:
    """Nodes of the tree that finds ``pages`` pages by their number [lib/xarray.c].

    >>> index_nodes(1), index_nodes(64), index_nodes(65), index_nodes(4097)
    (0, 1, 3, 68)
    """
    nodes = 0
    while pages > 1:
        pages = -(-pages // XA_CHUNK_SIZE)
        nodes += pages
    return nodes
