"""Allocation flags, reduced to what decides between waiting, failing, forcing and killing [include/linux/gfp_types.h]."""

from typing import Final

HIGH: Final = 0x1  # may dip into reserves: forces the charge on 5.18 and later
ATOMIC_BIT: Final = 0x2  # __GFP_ATOMIC, gone in 6.3: forces the charge up to 5.17
DIRECT_RECLAIM: Final = 0x4  # the caller may block
NORETRY: Final = 0x8
RETRY_MAYFAIL: Final = 0x10
NOFAIL: Final = 0x20
NOWARN: Final = 0x40
ACCOUNT: Final = 0x80
USER_FAULT: Final = 0x100  # a page fault of user space: never answers ENOMEM, it kills or spins

GFP_KERNEL: Final = DIRECT_RECLAIM
GFP_USER: Final = DIRECT_RECLAIM
GFP_ATOMIC: Final = HIGH | ATOMIC_BIT
GFP_NOWAIT: Final = 0
