"""Captures made by hand: hosts with one or two containers, for tests of calibration and answer."""

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.captures.collect import identify
from bpfleet.captures.document import (
    SCHEMA,
    Cgroup,
    ChargesRead,
    Document,
    Host,
    Map,
    Payer,
    Process,
    Program,
)
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.plan import memlock_line
from bpfleet.kernel.profile import PROFILES

MIB = 1 << 20
CAPS = "000001ffffffffff"


def host(
    name: str,
    *,
    release: str = "5.10.200",
    profile: str = "5.10",
    cpus: int = 4,
    entries: int = 10_000,
    limit: int | None = 64 * MIB,
    memlock: int | None = None,
    heap: int = 4 * MIB,
    path: str = "/system.slice/agent.service",
    comm: str = "agent",
    pinned: bool = False,
    off: int = 0,
) -> Document:
    """A host with one container that holds a hash map and a program; ``off`` spoils the memlock it shows."""
    known = PROFILES[profile]
    shown = memlock_line(MapAttr(MapType.HASH, 8, 64, entries), known, cpus) + off
    payer = (
        Payer(kind="user", uid=0, read=True)
        if known.is_rlimit
        else Payer(kind="cgroup", path=path, read=True)
    )
    return Document(
        schema=SCHEMA,
        host=Host(
            name=name, release=release, machine="x86_64", possible_cpus=cpus, ram_bytes=8 << 30
        ),
        charges=ChargesRead(read=True, how="user" if known.is_rlimit else "objcg"),
        maps=(
            Map(
                id=1,
                type=MapType.HASH,
                name="flows",
                key_size=8,
                value_size=64,
                max_entries=entries,
                memlock_bytes=shown,
                elements=0,
                holders=(10,),
                payer=payer,
                pinned=("/sys/fs/bpf/flows",) if pinned else (),
            ),
        ),
        programs=(
            Program(
                id=2,
                type=ProgType.KPROBE,
                name="probe",
                insn_cnt=100,
                maps=(1,),
                holders=(10,),
                payer=payer,
            ),
        ),
        processes=(
            Process(
                pid=10,
                comm=comm,
                capabilities=CAPS,
                memlock=(memlock, memlock),
                cgroup=path,
                maps=(1,),
                programs=(2,),
                rss_anon=heap,
            ),
        ),
        cgroups=(
            Cgroup(path="/", what=identify("/")),
            Cgroup(path=path, what=identify(path), max=limit, current=heap, stat={"anon": heap}),
        ),
    )
