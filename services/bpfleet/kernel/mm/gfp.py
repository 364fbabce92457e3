"""Allocation flags with Linux's bits, and their spelling in the kernel log [include/linux/gfp_types.h, mmflags.h]."""

from typing import Final

HIGHMEM: Final = 0x2
HIGH: Final = 0x20  # may dip into reserves: forces the charge on 5.18 and later
IO: Final = 0x40
FS: Final = 0x80
ZERO: Final = 0x100
ATOMIC_BIT: Final = 0x200  # __GFP_ATOMIC, gone in 6.3: forces the charge up to 5.17
DIRECT_RECLAIM: Final = 0x400  # the caller may block
KSWAPD_RECLAIM: Final = 0x800
NOWARN: Final = 0x2000
RETRY_MAYFAIL: Final = 0x4000
NOFAIL: Final = 0x8000
NORETRY: Final = 0x10000
COMP: Final = 0x40000
HARDWALL: Final = 0x100000
ACCOUNT: Final = 0x400000

GFP_KERNEL: Final = IO | FS | DIRECT_RECLAIM | KSWAPD_RECLAIM
GFP_USER: Final = GFP_KERNEL | HARDWALL
GFP_HIGHUSER: Final = GFP_USER | HIGHMEM
GFP_KERNEL_ACCOUNT: Final = GFP_KERNEL | ACCOUNT
GFP_ATOMIC: Final = HIGH | ATOMIC_BIT | KSWAPD_RECLAIM
GFP_NOWAIT: Final = KSWAPD_RECLAIM
GFP_PAGE_TABLE: Final = GFP_KERNEL_ACCOUNT | COMP | ZERO  # GFP_PGTABLE_USER, as its charge shows it

_COMPOSITES: Final = (
    (GFP_HIGHUSER, "GFP_HIGHUSER"),
    (GFP_USER, "GFP_USER"),
    (GFP_KERNEL_ACCOUNT, "GFP_KERNEL_ACCOUNT"),
    (GFP_KERNEL, "GFP_KERNEL"),
    (GFP_ATOMIC, "GFP_ATOMIC"),
    (GFP_NOWAIT, "GFP_NOWAIT"),
)
_SINGLES: Final = (
    (HIGHMEM, "__GFP_HIGHMEM"),
    (HIGH, "__GFP_HIGH"),
    (ATOMIC_BIT, "__GFP_ATOMIC"),
    (IO, "__GFP_IO"),
    (FS, "__GFP_FS"),
    (NOWARN, "__GFP_NOWARN"),
    (RETRY_MAYFAIL, "__GFP_RETRY_MAYFAIL"),
    (NOFAIL, "__GFP_NOFAIL"),
    (NORETRY, "__GFP_NORETRY"),
    (COMP, "__GFP_COMP"),
    (ZERO, "__GFP_ZERO"),
    (HARDWALL, "__GFP_HARDWALL"),
    (ACCOUNT, "__GFP_ACCOUNT"),
    (DIRECT_RECLAIM, "__GFP_DIRECT_RECLAIM"),
    (KSWAPD_RECLAIM, "__GFP_KSWAPD_RECLAIM"),
)


# Where the bits were up to 4.20.
_BITS_4_18: Final = {
    NOWARN: 0x200,
    RETRY_MAYFAIL: 0x400,
    NOFAIL: 0x800,
    NORETRY: 0x1000,
    COMP: 0x4000,
    ZERO: 0x8000,
    HARDWALL: 0x20000,
    ATOMIC_BIT: 0x80000,
    ACCOUNT: 0x100000,
    DIRECT_RECLAIM: 0x200000,
    KSWAPD_RECLAIM: 0x400000,
}


def bits_of_4_18(gfp: int) -> int:
    """The flags with the bits of 4.18.

    >>> hex(bits_of_4_18(GFP_KERNEL))
    '0x6000c0'
    """
    return sum(_BITS_4_18.get(1 << bit, 1 << bit) for bit in range(32) if gfp & 1 << bit)


def gfp_text(gfp: int, *, as_4_18: bool = False) -> str:
    """The flags as printk's %pGg spells them; ``as_4_18`` with the bits of that kernel.

    >>> gfp_text(GFP_KERNEL)
    '0xcc0(GFP_KERNEL)'
    >>> gfp_text(GFP_HIGHUSER | NOWARN | ZERO | ACCOUNT)
    '0x502dc2(GFP_HIGHUSER|__GFP_NOWARN|__GFP_ZERO|__GFP_ACCOUNT)'
    """
    names: list[str] = []
    left = gfp
    for mask, name in (*_COMPOSITES, *_SINGLES):
        if left & mask == mask:
            names.append(name)
            left &= ~mask
    return f"{bits_of_4_18(gfp) if as_4_18 else gfp:#x}({'|'.join(names)})"
