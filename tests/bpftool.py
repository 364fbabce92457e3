"""What the bpftool of each kernel prints: ``map show`` and ``prog show``, plain and JSON [tools/bpf/bpftool].

bpftool reads memlock from fdinfo. Up to 5.11 it parses it with atoi, so sizes of 2 GiB and more come out wrong.
"""

import json
from typing import Final

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.kernel.bpf.btf import Btf
from bpfleet.kernel.bpf.fdinfo import map_lines, prog_lines
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.fd_array import ProgArrayMap
from bpfleet.kernel.bpf.prog import INSN_BYTES
from bpfleet.kernel.bpf.program import BpfProg
from bpfleet.kernel.profile import KernelProfile

_TYPE_NAMES: Final = {map_type: map_type.name.lower() for map_type in MapType}


def atoi(text: str) -> int:
    """C's atoi as glibc has it on x86-64: strtol cut to 32 bits.

    >>> atoi("2147483648"), atoi("4294963200"), atoi("4096")
    (-2147483648, -4096, 4096)
    """
    low = int(text) & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _memlock(lines: list[tuple[str, str]], profile: KernelProfile) -> int:
    text = dict(lines)["memlock"]
    return atoi(text) if profile.bpftool_memlock_wraps else int(text)


def map_record(
    bpf_map: BpfMap, profile: KernelProfile, *, pinned: bool = False
) -> dict[str, object]:
    """One object of ``bpftool -j map show``, keys in bpftool's order. ``pinned``: as with -f."""
    record: dict[str, object] = {"id": bpf_map.id, "type": _TYPE_NAMES[bpf_map.map_type]}
    if bpf_map.name:
        record["name"] = bpf_map.name
    record |= {
        "flags": bpf_map.map_flags,
        "bytes_key": bpf_map.key_size,
        "bytes_value": bpf_map.value_size,
        "max_entries": bpf_map.max_entries,
        "bytes_memlock": _memlock(map_lines(bpf_map, profile), profile),
    }
    if isinstance(bpf_map, ProgArrayMap) and bpf_map.owner is not None:
        record["owner_prog_type"] = ProgType(bpf_map.owner[0]).name.lower()
        record["owner_jited"] = bpf_map.owner[1]
    record["frozen"] = int(bpf_map.frozen)
    if isinstance(bpf_map.btf, Btf):
        record["btf_id"] = bpf_map.btf.id
    if pinned:
        record["pinned"] = [f"/sys/fs/bpf/{path}" for path in bpf_map.pinned_paths]
    return record


def prog_record(
    prog: BpfProg, profile: KernelProfile, *, boot_unix_s: int = 0, pinned: bool = False
) -> dict[str, object]:
    """One object of ``bpftool -j prog show``. ``boot_unix_s`` is when the node booted, in Unix seconds."""
    attr = prog.attr
    record: dict[str, object] = {"id": prog.id, "type": prog.prog_type.name.lower()}
    if prog.name:
        record["name"] = prog.name
    record |= {"tag": prog.tag, "gpl_compatible": attr.gpl_compatible}
    if prog.run_time_ns:
        record |= {"run_time_ns": prog.run_time_ns, "run_cnt": prog.run_cnt}
    if prog.recursion_misses and profile.prog_fdinfo_has_misses:
        record["recursion_misses"] = prog.recursion_misses
    record |= {
        "loaded_at": boot_unix_s + prog.loaded_at_ns // 1_000_000_000,
        "uid": prog.uid,
    }
    if profile.prog_info_has_orphaned:
        record["orphaned"] = False
    record["bytes_xlated"] = INSN_BYTES * max(attr.insn_cnt, attr.largest_insn_cnt)
    record["jited"] = prog.jited
    if prog.jited:
        record["bytes_jited"] = prog.jited_bytes
    record["bytes_memlock"] = _memlock(prog_lines(prog, profile), profile)
    if prog.maps:
        record["map_ids"] = [held.id for held in prog.maps]
    if pinned:
        record["pinned"] = [f"/sys/fs/bpf/{path}" for path in prog.pinned_paths]
    return record


def to_json(records: list[dict[str, object]]) -> str:
    """``bpftool -j``: one line, no spaces."""
    return json.dumps(records, separators=(",", ":"))


def map_plain(bpf_map: BpfMap, profile: KernelProfile) -> str:
    """One map of ``bpftool map show``; two spaces between fields, tabs before further lines."""
    name = f"name {bpf_map.name}  " if bpf_map.name else ""
    memlock = dict(map_lines(bpf_map, profile))["memlock"]
    lines = [
        f"{bpf_map.id}: {_TYPE_NAMES[bpf_map.map_type]}  {name}flags {bpf_map.map_flags:#x}",
        f"\tkey {bpf_map.key_size}B  value {bpf_map.value_size}B"
        f"  max_entries {bpf_map.max_entries}  memlock {memlock}B",
    ]
    if isinstance(bpf_map, ProgArrayMap) and bpf_map.owner is not None:
        owner, jited = bpf_map.owner
        lines.append(
            f"\towner_prog_type {ProgType(owner).name.lower()}  owner{'' if jited else ' not'} jited"
        )
    lines += [f"\tpinned /sys/fs/bpf/{path}" for path in bpf_map.pinned_paths]
    state = [f"btf_id {bpf_map.btf.id}"] if isinstance(bpf_map.btf, Btf) else []
    state += ["frozen"] if bpf_map.frozen else []
    if state:
        lines.append("\t" + "  ".join(state))
    return "\n".join(lines)


def prog_plain(prog: BpfProg, profile: KernelProfile, *, loaded_at: str) -> str:
    """One program of ``bpftool prog show``. ``loaded_at`` is the time as text, which needs a clock and a zone."""
    attr = prog.attr
    name = f"name {prog.name}  " if prog.name else ""
    memlock = dict(prog_lines(prog, profile))["memlock"]
    xlated = INSN_BYTES * max(attr.insn_cnt, attr.largest_insn_cnt)
    jited = f"jited {prog.jited_bytes}B" if prog.jited else "not jited"
    maps = f"  map_ids {','.join(str(held.id) for held in prog.maps)}" if prog.maps else ""
    lines = [
        f"{prog.id}: {prog.prog_type.name.lower()}  {name}tag {prog.tag}"
        + ("  gpl" if attr.gpl_compatible else ""),
        f"\tloaded_at {loaded_at}  uid {prog.uid}",
        f"\txlated {xlated}B  {jited}  memlock {memlock}B{maps}",
    ]
    lines += [f"\tpinned /sys/fs/bpf/{path}" for path in prog.pinned_paths]
    return "\n".join(lines)
