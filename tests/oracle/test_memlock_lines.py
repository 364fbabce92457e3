"""memlock lines of real machines, found in public listings or measured, byte for byte."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bpfleet.abi.bpf import map_type_from_name
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.plan import memlock_line
from bpfleet.kernel.profile import PROFILES, KernelProfile

with (Path(__file__).parent / "recorded" / "memlock-lines.csv").open(newline="") as _lines:
    ROWS = list(csv.DictReader(_lines))


def _built(
    bpf_htab: int, bpf_array: int, bpf_ringbuf_map: int, bpf_stack_map: int
) -> KernelProfile:
    """A kernel that prints real usage, built with other struct sizes than ours."""
    return replace(
        PROFILES["6.12"],
        structs=replace(
            PROFILES["6.12"].structs,
            bpf_htab=bpf_htab,
            bpf_array=bpf_array,
            bpf_ringbuf_map=bpf_ringbuf_map,
            bpf_stack_map=bpf_stack_map,
        ),
    )


GENERATIONS = {
    "A": PROFILES["5.10"],
    "B": PROFILES["6.1"],
    "C": _built(832, 320, 320, 320),
    "C(LinuxKit)": _built(768, 248, 240, 248),
    "C(6.18)": PROFILES["6.18"],
}


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=f"{r['generation']}-{r['type']}-{r['memlock']}") for r in ROWS]
)
def test_the_memlock_line_is_the_published_one(row: dict[str, str]) -> None:
    attr = MapAttr(
        map_type_from_name(row["type"]),
        int(row["key"]),
        int(row["value"]),
        int(row["max_entries"]),
        int(row["flags"], 0),
    )
    cpus = 4 if row["possible_cpus"] == "any" else int(row["possible_cpus"])
    used = int(row["used"]) if row["used"].isdigit() else 0
    assert memlock_line(attr, GENERATIONS[row["generation"]], cpus, used) == int(row["memlock"])
