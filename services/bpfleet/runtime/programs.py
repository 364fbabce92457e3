"""The BPF_PROG_LOAD attributes of a declared program."""

from collections.abc import Mapping
from typing import Final

from bpfleet.abi.bpf import AttachType, ProgType
from bpfleet.kernel.bpf.complexity import Complexity
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.workload.spec import ProgramDeclaration

__all__ = ["complexity_of", "prog_attr"]

# Types that are refused without an expected attach type; listings do not tell which one it was.
_ATTACH_TYPES: Final[Mapping[ProgType, int]] = {
    ProgType.CGROUP_SOCK_ADDR: AttachType.CGROUP_INET4_CONNECT,
    ProgType.CGROUP_SOCKOPT: AttachType.CGROUP_GETSOCKOPT,
    ProgType.SK_LOOKUP: AttachType.SK_LOOKUP,
    ProgType.NETFILTER: AttachType.NETFILTER,
}


def prog_attr(declared: ProgramDeclaration, map_fds: tuple[int, ...] = ()) -> ProgAttr:
    """What a loader passes for ``declared``; ``map_fds`` are descriptors of the maps it uses."""
    return ProgAttr(
        prog_type=declared.prog_type,
        insn_cnt=declared.insn_cnt,
        prog_name=declared.name,
        map_fds=map_fds,
        expected_attach_type=_ATTACH_TYPES.get(declared.prog_type, 0),
        subprog_insns=declared.subprog_insns,
        complexity=complexity_of(declared),
    )


def complexity_of(declared: ProgramDeclaration) -> Complexity:
    """What the verifier meets in a declared program."""
    return Complexity(
        **{
            name: getattr(declared.complexity, name)
            for name in declared.complexity.__struct_fields__
        }
    )
