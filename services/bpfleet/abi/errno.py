"""errno values of Linux x86-64 (include/uapi/asm-generic/errno*.h), not of the host Python runs on."""

from enum import IntEnum


class Errno(IntEnum):
    """An errno as a positive number. ``ENOTSUPP`` (524) is kernel-internal but does reach user space."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    EINTR = 4
    EIO = 5
    E2BIG = 7
    EBADF = 9
    ECHILD = 10
    EAGAIN = 11
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    ENODEV = 19
    ENOTDIR = 20
    EISDIR = 21
    EINVAL = 22
    ENFILE = 23
    EMFILE = 24
    ENOSPC = 28
    ESPIPE = 29
    EROFS = 30
    ERANGE = 34
    ENAMETOOLONG = 36
    ENOSYS = 38
    ENOTEMPTY = 39
    ELOOP = 40
    EOVERFLOW = 75
    ENOTSOCK = 88
    EOPNOTSUPP = 95
    ENOBUFS = 105
    EINPROGRESS = 115
    ENOTSUPP = 524
