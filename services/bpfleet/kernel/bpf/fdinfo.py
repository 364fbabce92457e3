"""Text of /proc/PID/fdinfo/FD for BPF descriptors [kernel/bpf/syscall.c, bpf_map_show_fdinfo, bpf_prog_show_fdinfo].

The kernel's printf writes ``%#x`` of zero as ``0x0``. What the memlock line means depends on the kernel.
"""

from typing import Final

from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.fd_array import ProgArrayMap
from bpfleet.kernel.bpf.program import BpfProg
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of

O_CLOEXEC: Final = 0o2000000
MNT_ID_ANON: Final = 15  # the anonymous inode mount of a freshly booted system
INO_ANON: Final = 1057  # and the inode that all anonymous descriptors share


def fdinfo_text(file: File, profile: KernelProfile) -> str:
    """All lines for one open file, BPF or not."""
    target = file.target
    lines = [("pos", "0"), ("flags", f"0{_open_flags(file):o}"), ("mnt_id", str(MNT_ID_ANON))]
    if profile.fdinfo_has_ino:
        lines.append(("ino", str(INO_ANON)))
    if isinstance(target, BpfMap):
        lines += map_lines(target, profile)
    elif isinstance(target, BpfProg):
        lines += prog_lines(target, profile)
    return "".join(f"{name}:\t{value}\n" for name, value in lines)


def _open_flags(file: File) -> int:
    access = 2 if file.readable and file.writable else 1 if file.writable else 0
    return O_CLOEXEC | access


def map_lines(bpf_map: BpfMap, profile: KernelProfile) -> list[tuple[str, str]]:
    """The lines a map adds, in order."""
    lines = [
        ("map_type", str(int(bpf_map.map_type))),
        ("key_size", str(bpf_map.key_size)),
        ("value_size", str(bpf_map.value_size)),
        ("max_entries", str(bpf_map.max_entries)),
        ("map_flags", f"{bpf_map.map_flags:#x}"),
    ]
    if profile.fdinfo_has_map_extra:
        lines.append(("map_extra", f"{bpf_map.attr.map_extra:#x}"))
    lines += [
        ("memlock", str(bpf_map.memlock_bytes())),
        ("map_id", str(bpf_map.id)),
        ("frozen", str(int(bpf_map.frozen))),
    ]
    if isinstance(bpf_map, ProgArrayMap) and bpf_map.owner is not None:
        prog_type, jited = bpf_map.owner
        lines += [("owner_prog_type", str(prog_type)), ("owner_jited", str(int(jited)))]
    return lines


def prog_lines(prog: BpfProg, profile: KernelProfile) -> list[tuple[str, str]]:
    """The lines a program adds, in order. Its memlock is the image's pages, in all versions."""
    lines = [
        ("prog_type", str(int(prog.prog_type))),
        ("prog_jited", str(int(prog.jited))),
        ("prog_tag", prog.tag),
        ("memlock", str(bytes_of(prog.image_pages))),
        ("prog_id", str(prog.id)),
        ("run_time_ns", str(prog.run_time_ns)),
        ("run_cnt", str(prog.run_cnt if prog.run_time_ns else 0)),
    ]
    if profile.prog_fdinfo_has_misses:
        lines += [
            ("recursion_misses", str(prog.recursion_misses)),
            ("verified_insns", str(prog.attr.insn_cnt)),
        ]
    return lines
