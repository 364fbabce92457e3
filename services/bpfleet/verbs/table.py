"""Every verb: of bpf(2), of processes and what they open, of memory, of cgroups.

The unary services, the stream, the names in errors, the interpreters of recordings, incidents and transcripts and the
load test all take theirs from here. What is no verb is a view of the emulator (lists, counters, the ledger).
"""

from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from bpfleet.abi.bpf import Cmd
from bpfleet.kernel.bpf.syscall import BpfSyscalls
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.locked_memory import LockedMemory
from bpfleet.kernel.proc.objects import Objects
from bpfleet.verbs.verb import Part, Verb

P = ParamSpec("P")
R = TypeVar("R")

BPF: Final = Part("bpf", lambda kernel: kernel.bpf)
KERNEL: Final = Part("kernel", lambda kernel: kernel)
FILES: Final = Part("files", lambda kernel: kernel.files)
OBJECTS: Final = Part("objects", lambda kernel: kernel.objects)
LOCKED: Final = Part("locked", lambda kernel: kernel.locked)


def _bpf(
    cmd: Cmd,
    method: Callable[Concatenate[BpfSyscalls, P], R],
    *rpcs: str,
    arm: str = "",
    reads: bool = False,
) -> Verb[BpfSyscalls, P, R]:
    """A command of bpf(2)."""
    return Verb(f"BPF_{cmd.name}", BPF, method, rpcs, arm, reads)


# -- maps and their elements

MAP_CREATE: Final = _bpf(Cmd.MAP_CREATE, BpfSyscalls.map_create, "CreateMap", arm="create_map")
MAP_GET_FD_BY_ID: Final = _bpf(Cmd.MAP_GET_FD_BY_ID, BpfSyscalls.map_get_fd_by_id, "OpenMap")
MAP_GET_NEXT_ID: Final = _bpf(
    Cmd.MAP_GET_NEXT_ID, BpfSyscalls.map_get_next_id, "ListMaps", reads=True
)
OBJ_GET_INFO_BY_FD: Final = _bpf(
    Cmd.OBJ_GET_INFO_BY_FD,
    BpfSyscalls.obj_get_info_by_fd,
    "GetMapInfo",
    "GetProgramInfo",
    reads=True,
)
MAP_FREEZE: Final = _bpf(Cmd.MAP_FREEZE, BpfSyscalls.map_freeze, "FreezeMap", arm="freeze_map")
MAP_LOOKUP_ELEM: Final = _bpf(
    Cmd.MAP_LOOKUP_ELEM,
    BpfSyscalls.map_lookup_elem,
    "LookupElement",
    arm="lookup_element",
    reads=True,
)
MAP_UPDATE_ELEM: Final = _bpf(
    Cmd.MAP_UPDATE_ELEM, BpfSyscalls.map_update_elem, "UpdateElement", arm="update_element"
)
MAP_DELETE_ELEM: Final = _bpf(
    Cmd.MAP_DELETE_ELEM, BpfSyscalls.map_delete_elem, "DeleteElement", arm="delete_element"
)
MAP_LOOKUP_AND_DELETE_ELEM: Final = _bpf(
    Cmd.MAP_LOOKUP_AND_DELETE_ELEM,
    BpfSyscalls.map_lookup_and_delete_elem,
    "LookupAndDeleteElement",
    arm="lookup_and_delete_element",
)
MAP_GET_NEXT_KEY: Final = _bpf(
    Cmd.MAP_GET_NEXT_KEY,
    BpfSyscalls.map_get_next_key,
    "GetNextKey",
    arm="get_next_key",
    reads=True,
)
MAP_LOOKUP_BATCH: Final = _bpf(
    Cmd.MAP_LOOKUP_BATCH,
    BpfSyscalls.map_lookup_batch,
    "LookupBatch",
    arm="lookup_batch",
    reads=True,
)
MAP_UPDATE_BATCH: Final = _bpf(
    Cmd.MAP_UPDATE_BATCH, BpfSyscalls.map_update_batch, "UpdateBatch", arm="update_batch"
)
MAP_DELETE_BATCH: Final = _bpf(
    Cmd.MAP_DELETE_BATCH, BpfSyscalls.map_delete_batch, "DeleteBatch", arm="delete_batch"
)
MAP_LOOKUP_AND_DELETE_BATCH: Final = _bpf(
    Cmd.MAP_LOOKUP_AND_DELETE_BATCH,
    BpfSyscalls.map_lookup_and_delete_batch,
    "LookupAndDeleteBatch",
    arm="lookup_and_delete_batch",
)

# -- programs, BTF and pins

PROG_LOAD: Final = _bpf(Cmd.PROG_LOAD, BpfSyscalls.prog_load, "LoadProgram", arm="load_program")
PROG_GET_FD_BY_ID: Final = _bpf(Cmd.PROG_GET_FD_BY_ID, BpfSyscalls.prog_get_fd_by_id, "OpenProgram")
PROG_GET_NEXT_ID: Final = _bpf(
    Cmd.PROG_GET_NEXT_ID, BpfSyscalls.prog_get_next_id, "ListPrograms", reads=True
)
PROG_ATTACH: Final = _bpf(Cmd.PROG_ATTACH, BpfSyscalls.prog_attach, "AttachProgram")
PROG_DETACH: Final = _bpf(Cmd.PROG_DETACH, BpfSyscalls.prog_detach, "DetachProgram")
PROG_TEST_RUN: Final = _bpf(
    Cmd.PROG_TEST_RUN, BpfSyscalls.prog_test_run, "RunProgram", arm="run_program"
)
BTF_LOAD: Final = _bpf(Cmd.BTF_LOAD, BpfSyscalls.btf_load)
OBJ_PIN: Final = _bpf(Cmd.OBJ_PIN, BpfSyscalls.obj_pin, "PinObject", arm="pin_object")
OBJ_GET: Final = _bpf(
    Cmd.OBJ_GET, BpfSyscalls.obj_get, "OpenPinnedObject", arm="open_pinned_object"
)
UNLINK: Final = Verb("unlink", BPF, BpfSyscalls.unlink, ("UnpinObject",), "unpin_object")
OPEN_HOOK: Final = Verb("perf_event_open", BPF, BpfSyscalls.open_hook, ("AttachProgram",))
MMAP: Final = Verb("mmap", BPF, BpfSyscalls.mmap)
MUNMAP: Final = Verb("munmap", BPF, BpfSyscalls.munmap)

# -- processes and what they open

SPAWN: Final = Verb("fork", KERNEL, Kernel.spawn, ("CreateProcess",))
KILL: Final = Verb("kill", KERNEL, Kernel.kill, ("KillProcess",))
EXIT: Final = Verb("exit", KERNEL, Kernel.exit)
PRLIMIT: Final = Verb("prlimit", KERNEL, Kernel.prlimit, ("SetResourceLimit",))
SETRESUID: Final = Verb("setresuid", KERNEL, Kernel.setresuid)
CAPSET: Final = Verb("capset", KERNEL, Kernel.capset)
CLOSE: Final = Verb("close", KERNEL, Kernel.close, ("CloseFile",), "close_file")
DUP: Final = Verb("dup", FILES, FileTable.dup)
OPEN: Final = Verb("open", OBJECTS, Objects.file, ("OpenFile",))
OPEN_CGROUP: Final = Verb("open", OBJECTS, Objects.cgroup, ("OpenFile",))
SOCKET: Final = Verb("socket", OBJECTS, Objects.socket, ("OpenFile",))
PIDFD_OPEN: Final = Verb("pidfd_open", OBJECTS, Objects.pidfd, ("OpenFile",))
PERF_EVENT_OPEN: Final = Verb("perf_event_open", OBJECTS, Objects.perf_event, ("OpenFile",))
EPOLL_CREATE: Final = Verb("epoll_create", OBJECTS, Objects.epoll)
READ_PROC: Final = Verb("read", KERNEL, Kernel.read_proc, ("ReadProcFile",), reads=True)

# -- memory

TOUCH: Final = Verb("page fault", KERNEL, Kernel.touch, ("AllocateMemory",), "allocate_memory")
RELEASE: Final = Verb("munmap", KERNEL, Kernel.release, ("ReleaseMemory",), "release_memory")
MLOCK: Final = Verb("mlock", LOCKED, LockedMemory.mlock, ("LockMemory",))
SHM_LOCK: Final = Verb("shmctl", LOCKED, LockedMemory.shm_lock, ("LockMemory",))
IO_URING_SETUP: Final = Verb("io_uring_setup", LOCKED, LockedMemory.io_uring_setup, ("LockMemory",))
IO_URING_REGISTER: Final = Verb(
    "io_uring_register", LOCKED, LockedMemory.register_buffers, ("LockMemory",)
)
MUNLOCK: Final = Verb("munlock", LOCKED, LockedMemory.munlock, ("UnlockMemory",))
MMAP_PERF: Final = Verb("mmap", LOCKED, LockedMemory.mmap_perf)
XDP_UMEM_REG: Final = Verb("setsockopt", LOCKED, LockedMemory.register_umem)

# -- cgroups

MKDIR: Final = Verb("mkdir", KERNEL, Kernel.mkdir, ("CreateCgroup",))
RMDIR: Final = Verb("rmdir", KERNEL, Kernel.rmdir, ("DeleteCgroup",))
READ_FILE: Final = Verb("read", KERNEL, Kernel.read_file, ("ReadControlFile",), reads=True)
WRITE_FILE: Final = Verb("write", KERNEL, Kernel.write_file, ("WriteControlFile",))

# Rows differ in what they take and answer; a walk over all of them looks at names only.
VERBS: Final[tuple[Verb[Any, ..., Any], ...]] = tuple(
    each for each in list(globals().values()) if isinstance(each, Verb)
)
BY_ARM: Final[dict[str, Verb[Any, ..., Any]]] = {verb.arm: verb for verb in VERBS if verb.arm}
# The system call behind each RPC that makes one; the first row where an RPC makes one of several.
CALLS: Final[dict[str, str]] = {rpc: verb.call for verb in reversed(VERBS) for rpc in verb.rpcs}
