"""What the verifier meets in a program goes over the wire and comes back."""

import pytest

from bpfleet.abi.bpf import ProgType
from bpfleet.kernel.bpf.complexity import Complexity as Met
from bpfleet.rpc.convert import prog_attr
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.workloads import inventory_message, inventory_record
from bpfleet.v1 import bpf_pb2
from bpfleet.workload.spec import Complexity, Inventory, ProgramDeclaration


@pytest.mark.parametrize("complexity", [Complexity(), Complexity(branches=3, states=9)])
def test_a_declared_program_comes_back_as_it_was(complexity: Complexity) -> None:
    program = ProgramDeclaration(
        name="p",
        prog_type=ProgType.XDP,
        insn_cnt=500,
        subprog_insns=(100, 50),
        complexity=complexity,
    )
    inventory = Inventory(name="x", programs=(program,))
    assert inventory_record(inventory_message(inventory), "inventory").programs == (program,)


def test_a_load_is_given_what_the_verifier_meets() -> None:
    spec = bpf_pb2.ProgramSpec(
        program_type=bpf_pb2.PROGRAM_TYPE_XDP,
        instruction_count=500,
        subprogram_instruction_counts=[100],
        complexity=bpf_pb2.ProgramComplexity(compared=7, verified_insns=900),
    )
    attr = prog_attr(spec)
    assert attr.subprog_insns == (100,)
    assert attr.complexity == Met(compared=7, verified_insns=900)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"complexity": bpf_pb2.ProgramComplexity(branches=-1)}, "spec.complexity.branches"),
        ({"complexity": bpf_pb2.ProgramComplexity(states=1_000_001)}, "spec.complexity.states"),
        ({"subprogram_instruction_counts": [5]}, "spec.subprogram_instruction_counts"),
        ({"subprogram_instruction_counts": [0] * 257}, "spec.subprogram_instruction_counts"),
    ],
)
def test_what_no_program_has_is_refused_by_its_field(spec: dict[str, object], field: str) -> None:
    message = bpf_pb2.ProgramSpec(instruction_count=5, **spec)  # type: ignore[arg-type]
    with pytest.raises(ApiError, match=field.replace(".", r"\.")):
        prog_attr(message)
