"""How the emulator does against recordings of real kernels, as last measured by ``bpfleet oracle
check --json``.
"""

import json
from importlib.resources import files
from typing import Any, Final

from bpfleet.kernel.profile import recorded_kernels

__all__ = ["RECORDED_KERNELS", "measured_fidelity"]

# Kernels with recordings of a real one; the others follow from source and type information.
RECORDED_KERNELS: Final = recorded_kernels()

# JSON values of any type.
Plain = Any

_ASSET: Final = "assets/fidelity.json"


def measured_fidelity() -> list[dict[str, Plain]]:
    """Per recording: how many cases, how many answered exactly, how many differ or are not
    supported.
    """
    recordings = json.loads(files("bpfleet.report").joinpath(_ASSET).read_text("utf-8"))
    return [_row(recording) for recording in recordings]


def _row(recording: dict[str, Plain]) -> dict[str, Plain]:
    sections = recording["sections"].values()
    name = recording["file"].removesuffix(".jsonl")
    kernels = [part for part in name.split("-") if part in RECORDED_KERNELS]
    return {
        "kernel": kernels[0] if kernels else "all",
        "file": name,
        "cases": sum(section["cases"] for section in sections),
        "exact": sum(section["exact"] for section in sections),
        "mismatches": sum(section["mismatches"] for section in sections),
        "unsupported": sum(sum(section["unsupported"].values()) for section in sections),
    }
