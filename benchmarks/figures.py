"""What the benchmarks share: a figure with its target, the table of them, and the machine they come from."""

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

import google.protobuf
import grpc
from rich.console import Console
from rich.table import Table

from bpfleet.version import __version__


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``met`` is None where there is no target or nothing was measured."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None
    note: str = ""


def machine() -> dict[str, str]:
    """Where the figures come from. The load says how many others wanted the CPUs meanwhile."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "grpc": grpc.__version__,
        "protobuf": google.protobuf.__version__,
        "bpfleet": __version__,
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def print_table(figures: list[Figure]) -> None:
    """For people."""
    table = Table("figure", "measured", "target", "", "note")
    marks = {True: "met", False: "missed", None: ""}
    for each in figures:
        table.add_row(each.name, each.value, each.target, marks[each.met], each.note)
    console = Console()
    console.print(table)
    console.print("  ".join(f"{name} {value}" for name, value in machine().items()))


def as_json(figures: list[Figure]) -> dict[str, Any]:
    """For programs."""
    return {"machine": machine(), "figures": [asdict(each) for each in figures]}
