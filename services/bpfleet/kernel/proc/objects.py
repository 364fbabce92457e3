"""Opening what is not BPF but what BPF refers to: sockets, cgroup directories, pidfds, perf events, files."""

from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memory import Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.sockets import SOCKET_KINDS, Cookies, Inode, PerfEvent, Socket
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile


@final
class Objects:
    """Descriptors of other subsystems. Each costs its opener a struct file and a dentry; nothing else is modelled."""

    def __init__(self, files: FileTable, profile: KernelProfile) -> None:
        self._profile: Final = profile
        self._files: Final = files
        self._inodes: Final[dict[str, Inode]] = {}
        self._cookies: Final = Cookies()

    def socket(self, task: Task, kind: str) -> int:
        """A socket in the state ``kind`` names (see ``SOCKET_KINDS``). Raises EINVAL, EMFILE, ENOMEM."""
        found = SOCKET_KINDS.get(kind)
        if found is None:
            raise KernelError(
                Errno.EINVAL,
                Reason.BAD_ATTRIBUTE,
                f"no socket kind {kind!r}; known: {', '.join(SOCKET_KINDS)}",
            )
        sock = Socket(found, self._cookies)
        return self._open(task, File("socket", sock, lambda _: sock.destroy()))

    def cgroup(self, task: Task, cgroup: Cgroup) -> int:
        """open(2) of a cgroup directory. Raises EMFILE, ENOMEM."""
        return self._open(task, File("cgroup", cgroup, writable=False))

    def pidfd(self, task: Task, target: Task) -> int:
        """pidfd_open(2). Raises ENOSYS (up to 5.2), EMFILE, ENOMEM."""
        if not self._profile.has_pidfd_open:
            raise KernelError(
                Errno.ENOSYS,
                Reason.OPERATION_UNSUPPORTED,
                f"{self._profile.release} has no pidfd_open",
            )
        return self._open(task, File("pidfd", target), target.pid)

    def perf_event(self, task: Task) -> int:
        """perf_event_open(2) of a software event. Raises EMFILE, ENOMEM."""
        return self._open(task, File("perf-event", PerfEvent()))

    def epoll(self, task: Task) -> int:
        """epoll_create(2): a descriptor that is none of what BPF knows. Raises EMFILE, ENOMEM."""
        return self._open(task, File("epoll", None))

    def file(self, task: Task, path: str) -> int:
        """open(2) of a regular file; one path is one inode. Raises EMFILE, ENOMEM."""
        inode = self._inodes.get(path)
        if inode is None:
            inode = self._inodes[path] = Inode(path)
        return self._open(task, File("file", inode))

    def _open(self, task: Task, file: File, ident: int = 0) -> int:
        return self._files.open(task, file, Owner("file", ident, file.kind))
