"""Sizes and limits that user space sees."""

from typing import Final

PAGE_SIZE: Final = 4096
RLIM_INFINITY: Final = (1 << 64) - 1
RLIMIT_NOFILE_DEFAULT: Final = 1024
KMALLOC_MAX_SIZE: Final = 4 << 20
NR_CPUS: Final = 8192
U32_MAX: Final = (1 << 32) - 1
MAX_BPF_STACK: Final = 512
PCPU_MIN_UNIT_SIZE: Final = 32768
