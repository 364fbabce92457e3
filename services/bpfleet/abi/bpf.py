"""bpf(2) enumerations and flags (include/uapi/linux/bpf.h, 6.12), spelled as bpftool prints them."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class MapType(IntEnum):
    """``enum bpf_map_type``. The lower-case member name is what bpftool prints."""

    UNSPEC = 0
    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    REUSEPORT_SOCKARRAY = 20
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    STRUCT_OPS = 26
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    BLOOM_FILTER = 30
    USER_RINGBUF = 31
    CGRP_STORAGE = 32
    ARENA = 33
    INSN_ARRAY = 34


class ProgType(IntEnum):
    """``enum bpf_prog_type``."""

    UNSPEC = 0
    SOCKET_FILTER = 1
    KPROBE = 2
    SCHED_CLS = 3
    SCHED_ACT = 4
    TRACEPOINT = 5
    XDP = 6
    PERF_EVENT = 7
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    LWT_IN = 10
    LWT_OUT = 11
    LWT_XMIT = 12
    SOCK_OPS = 13
    SK_SKB = 14
    CGROUP_DEVICE = 15
    SK_MSG = 16
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    LWT_SEG6LOCAL = 19
    LIRC_MODE2 = 20
    SK_REUSEPORT = 21
    FLOW_DISSECTOR = 22
    CGROUP_SYSCTL = 23
    RAW_TRACEPOINT_WRITABLE = 24
    CGROUP_SOCKOPT = 25
    TRACING = 26
    STRUCT_OPS = 27
    EXT = 28
    LSM = 29
    SK_LOOKUP = 30
    SYSCALL = 31
    NETFILTER = 32


class AttachType(IntEnum):
    """``enum bpf_attach_type``, without the ``BPF_`` in front."""

    CGROUP_INET_INGRESS = 0
    CGROUP_INET_EGRESS = 1
    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    SK_SKB_STREAM_PARSER = 4
    SK_SKB_STREAM_VERDICT = 5
    CGROUP_DEVICE = 6
    SK_MSG_VERDICT = 7
    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    LIRC_MODE2 = 16
    FLOW_DISSECTOR = 17
    CGROUP_SYSCTL = 18
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_GETSOCKOPT = 21
    CGROUP_SETSOCKOPT = 22
    TRACE_RAW_TP = 23
    TRACE_FENTRY = 24
    TRACE_FEXIT = 25
    MODIFY_RETURN = 26
    LSM_MAC = 27
    TRACE_ITER = 28
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    CGROUP_INET4_GETSOCKNAME = 31
    CGROUP_INET6_GETSOCKNAME = 32
    XDP_DEVMAP = 33
    CGROUP_INET_SOCK_RELEASE = 34
    XDP_CPUMAP = 35
    SK_LOOKUP = 36
    XDP = 37
    SK_SKB_VERDICT = 38
    SK_REUSEPORT_SELECT = 39
    SK_REUSEPORT_SELECT_OR_MIGRATE = 40
    PERF_EVENT = 41
    TRACE_KPROBE_MULTI = 42
    LSM_CGROUP = 43
    STRUCT_OPS = 44
    NETFILTER = 45
    TCX_INGRESS = 46
    TCX_EGRESS = 47
    TRACE_UPROBE_MULTI = 48
    CGROUP_UNIX_CONNECT = 49
    CGROUP_UNIX_SENDMSG = 50
    CGROUP_UNIX_RECVMSG = 51
    CGROUP_UNIX_GETPEERNAME = 52
    CGROUP_UNIX_GETSOCKNAME = 53
    NETKIT_PRIMARY = 54
    NETKIT_PEER = 55
    TRACE_KPROBE_SESSION = 56


class Cmd(IntEnum):
    """``enum bpf_cmd``: the commands the emulated bpf(2) knows."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    BTF_LOAD = 18
    MAP_LOOKUP_AND_DELETE_ELEM = 21
    MAP_FREEZE = 22
    MAP_LOOKUP_BATCH = 24
    MAP_LOOKUP_AND_DELETE_BATCH = 25
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27


class Capability(IntEnum):
    """Capabilities the emulated kernel asks for (include/uapi/linux/capability.h)."""

    NET_ADMIN = 12
    IPC_LOCK = 14
    SYS_ADMIN = 21
    SYS_RESOURCE = 24
    PERFMON = 38
    BPF = 39


ALL_CAPABILITIES: Final = frozenset(Capability)


def capabilities_of(names: Iterable[str]) -> frozenset[Capability]:
    """The capabilities of these names: any case, with or without ``CAP_``. Raises ``ValueError`` for an unknown one."""
    found = set()
    for name in names:
        capability = Capability.__members__.get(name.upper().removeprefix("CAP_"))
        if capability is None:
            known = ", ".join(f"CAP_{each.name}" for each in Capability)
            raise ValueError(f"{name[:32]!r} is unknown; use {known}")
        found.add(capability)
    return frozenset(found)


# map_flags of BPF_MAP_CREATE
F_NO_PREALLOC: Final = 0x1
F_NO_COMMON_LRU: Final = 0x2
F_NUMA_NODE: Final = 0x4
F_RDONLY: Final = 0x8
F_WRONLY: Final = 0x10
F_STACK_BUILD_ID: Final = 0x20
F_ZERO_SEED: Final = 0x40
F_RDONLY_PROG: Final = 0x80
F_WRONLY_PROG: Final = 0x100
F_CLONE: Final = 0x200
F_MMAPABLE: Final = 0x400
F_PRESERVE_ELEMS: Final = 0x800
F_INNER_MAP: Final = 0x1000
F_LINK: Final = 0x2000
F_PATH_FD: Final = 0x4000
F_VTYPE_BTF_OBJ_FD: Final = 0x8000
F_TOKEN_FD: Final = 0x10000
F_SEGV_ON_FAULT: Final = 0x20000
F_NO_USER_CONV: Final = 0x40000

# flags of element commands
BPF_ANY: Final = 0
BPF_NOEXIST: Final = 1
BPF_EXIST: Final = 2
BPF_F_LOCK: Final = 4
BPF_F_CPU: Final = 8
BPF_F_ALL_CPUS: Final = 16

# attach_flags of BPF_PROG_ATTACH
BPF_F_ALLOW_OVERRIDE: Final = 1
BPF_F_ALLOW_MULTI: Final = 2

BPF_OBJ_NAME_LEN: Final = 16


def map_type_from_name(name: str) -> MapType:
    """The map type bpftool prints as ``name``. Raises ``KeyError`` for a name it does not know."""
    return MapType[name.upper()]


def creation_flags(map_type: MapType, shown: int) -> int:
    """The map_flags that a map's maker passed, of those that the kernel shows: it sets some itself and refuses them.

    >>> creation_flags(MapType.DEVMAP, F_RDONLY_PROG), creation_flags(MapType.HASH, F_NO_PREALLOC | F_INNER_MAP)
    (0, 1)
    """
    if map_type in (MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.INSN_ARRAY):
        return shown & ~F_RDONLY_PROG
    if map_type is not MapType.ARRAY:
        return shown & ~F_INNER_MAP
    both = F_RDONLY_PROG | F_WRONLY_PROG
    return shown & ~F_WRONLY_PROG if shown & both == both else shown
