"""bpf(2) of the kernel Python runs on, through ctypes: the other side of the comparison.

Standard library only, so that a bare virtual machine with ``python3`` can run it. Every call returns a number: the
result, or the negated errno. Nothing here raises for what the kernel refuses.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final

from bpfleet.abi.bpf import Cmd, MapType, ProgType
from bpfleet.abi.errno import Errno

__all__ = [
    "ATTR_BYTES",
    "BAD_ADDRESS",
    "Buffer",
    "bpf",
    "bpf_refusal",
    "btf_load",
    "errno_name",
    "map_create_attr",
    "map_fd_by_id",
    "object_info",
    "prog_load",
]

_NR_BPF: Final = 321  # x86-64
ATTR_BYTES: Final = (
    120  # union bpf_attr of 5.10; later ones only grow, and a zero tail is accepted everywhere
)
_FIELDS_ALWAYS_WRITTEN: Final = 20  # map_type to map_flags
BAD_ADDRESS: Final = 0x1000  # below vm.mmap_min_addr: never mapped
_SOCKET_FILTER_RETURNS_0: Final = bytes.fromhex("b7000000000000009500000000000000")
_LICENSE: Final = ctypes.create_string_buffer(b"GPL")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final[Callable[..., int]] = _libc.syscall


class Buffer:
    """Memory handed to the kernel: keeps it alive while its address is used."""

    def __init__(self, content: bytes | int) -> None:
        """``content`` is what the buffer holds, or its size in bytes for a zeroed one."""
        self.memory = (
            ctypes.create_string_buffer(content, len(content) or 1)
            if isinstance(content, bytes)
            else ctypes.create_string_buffer(max(content, 1))
        )

    @property
    def address(self) -> int:
        return ctypes.addressof(self.memory)

    def read(self, size: int, offset: int = 0) -> bytes:
        return self.memory.raw[offset : offset + size]


def bpf(cmd: int, attr: Buffer, size: int) -> int:
    """The system call: its result, or the negated errno."""
    result = _syscall(_NR_BPF, cmd, ctypes.c_void_p(attr.address), ctypes.c_uint(size))
    return result if result >= 0 else -ctypes.get_errno()


def errno_name(result: int) -> str | int:
    """0 for success (any result not negative), else the errno's name, or its number where it has none.

    >>> errno_name(7), errno_name(-1), errno_name(-524), errno_name(-95)
    (0, 'EPERM', 'ENOTSUPP', 'EOPNOTSUPP')
    """
    if result >= 0:
        return 0
    try:
        return Errno(-result).name
    except ValueError:
        return str(-result)


def map_create_attr(
    map_type: int,
    sizes: tuple[int, int, int],
    *,
    flags: int = 0,
    inner_fd: int = 0,
    numa_node: int = 0,
    name: bytes = b"",
    ifindex: int = 0,
    btf: tuple[int, int, int] = (0, 0, 0),
    extra: int = 0,
    byte_count: int = ATTR_BYTES,
    tail: int = 0,
) -> Buffer:
    """``union bpf_attr`` of BPF_MAP_CREATE. ``sizes``: key, value, max_entries; ``btf``: fd, key type, value type.

    ``tail`` goes into the last of the ``byte_count`` bytes, unless that lies in the fields up to map_flags.
    """
    fixed = struct.pack(
        "<7I16s4IIQ", map_type, *sizes, flags, inner_fd & 0xFFFFFFFF, numa_node & 0xFFFFFFFF,
        name[:16], ifindex, *(part & 0xFFFFFFFF for part in btf), 0, extra,
    )  # fmt: skip
    content = bytearray(fixed.ljust(max(byte_count, ATTR_BYTES), b"\0"))
    if byte_count > _FIELDS_ALWAYS_WRITTEN:
        content[byte_count - 1] |= tail
    return Buffer(bytes(content))


def prog_load(
    prog_type: int, *, insns: bytes = _SOCKET_FILTER_RETURNS_0, attach_type: int = 0
) -> int:
    """Load a program that returns 0 (or ``insns``): its descriptor, or the negated errno."""
    code = Buffer(insns)
    attr = Buffer(
        struct.pack(
            "<IIQQIIQII16sII", prog_type, len(insns) // 8, code.address, ctypes.addressof(_LICENSE),
            0, 0, 0, 0, 0, b"", 0, attach_type,
        ).ljust(ATTR_BYTES, b"\0")
    )  # fmt: skip
    return bpf(Cmd.PROG_LOAD, attr, ATTR_BYTES)


def btf_load(value_size: int) -> int:
    """BTF with type 1 a 32-bit signed integer and type 2 a structure of ``value_size`` bytes, as map key and value.

    Returns the descriptor, or the negated errno.
    """
    blob = Buffer(btf_blob(value_size))
    attr = Buffer(
        struct.pack("<QQIII", blob.address, 0, len(blob.memory.raw), 0, 0).ljust(ATTR_BYTES, b"\0")
    )
    return bpf(Cmd.BTF_LOAD, attr, ATTR_BYTES)


def btf_blob(value_size: int) -> bytes:
    """The raw BTF that ``btf_load`` loads: int (1), struct of ``value_size`` bytes (2)."""
    strings = b"\0int\0value\0"
    integer = struct.pack("<IIII", 1, 1 << 24, 4, (1 << 24) | 32)
    structure = struct.pack("<III", 5, 4 << 24, value_size)
    types = integer + structure
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def map_fd_by_id(map_id: int, open_flags: int = 0) -> int:
    """BPF_MAP_GET_FD_BY_ID: a new descriptor, or the negated errno."""
    attr = Buffer(struct.pack("<III", map_id, 0, open_flags).ljust(ATTR_BYTES, b"\0"))
    return bpf(Cmd.MAP_GET_FD_BY_ID, attr, ATTR_BYTES)


def object_info(fd: int, size: int = 80) -> tuple[int, bytes]:
    """BPF_OBJ_GET_INFO_BY_FD: (result, the first ``size`` bytes of the information)."""
    info = Buffer(size)
    attr = Buffer(struct.pack("<iIQ", fd, size, info.address).ljust(ATTR_BYTES, b"\0"))
    return bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, ATTR_BYTES), info.read(size)


def bpf_refusal() -> str | None:
    """Why bpf(2) cannot be recorded here, as one clause; None where it can."""
    if os.uname().machine != "x86_64":
        return f"the recordings are of x86-64 kernels, this machine is {os.uname().machine}"
    attr = map_create_attr(MapType.ARRAY, (4, 8, 1))
    fd = bpf(Cmd.MAP_CREATE, attr, ATTR_BYTES)
    if fd < 0:
        return f"bpf(2) refused to create an array map: {errno_name(fd)}"
    os.close(fd)
    prog = prog_load(ProgType.SOCKET_FILTER)
    if prog < 0:
        return f"bpf(2) refused to load a socket filter: {errno_name(prog)}"
    os.close(prog)
    return None
