"""How long a fleet of captures takes and how large it is: `python -m benchmarks.captures`.

Documents are made of one golden capture each under its own name, with heaps and maps of their own where hosts are to be
different. What is timed is the whole command: reading, emulating, writing the answer.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

_HOSTS: Final = Path(__file__).parents[1] / "tests" / "unit" / "capture" / "hosts"
_KERNELS: Final = ("5.10", "6.1", "6.12")
_MIB: Final = 1 << 20


def write_documents(folder: Path, count: int, *, different: int) -> int:
    """``count`` documents of ``different`` kinds of hosts; returns their bytes."""
    golden = [json.loads((_HOSTS / f"host-{kernel}.json").read_text()) for kernel in _KERNELS]
    total = 0
    for number in range(count):
        document = golden[number % len(golden)]
        document["host"]["name"] = f"host-{number:05}"
        kind = number % different
        for each in document["cgroups"]:
            if each["path"] == "/system.slice/agent.service":
                each.setdefault("stat", {})["anon"] = (kind + 1) * 4096
        text = json.dumps(document, separators=(",", ":"))
        total += len(text)
        (folder / f"{number:05}.json").write_text(text)
    return total


def measure(folder: Path) -> tuple[float, float, dict[str, int]]:
    """Seconds and MiB of `compare CAPTURES --to 6.12 --json`, and what it says of hosts and groups."""
    command = [sys.executable, "-m", "bpfleet.cli.main", "compare", "--to", "6.12", "--json"]
    begun = time.perf_counter()
    result = subprocess.run(
        [*command, *map(str, sorted(folder.glob("*.json")))],
        capture_output=True,
        check=True,
    )
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    answer = json.loads(result.stdout)
    return seconds, peak, {"hosts": answer["hosts"], "groups": answer["groups"]}


@click.command()
@click.option("--count", "counts", type=int, multiple=True, default=(1000, 10_000))
@click.option("--different", type=click.IntRange(1), default=50, show_default=True)
def main(counts: tuple[int, ...], different: int) -> None:
    """Prints a line per number of documents."""
    click.echo("documents  on disk      seconds  documents/s  peak of memory  emulated hosts")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            size = write_documents(Path(folder), count, different=different)
            seconds, peak, said = measure(Path(folder))
        click.echo(
            f"{said['hosts']:9,}  {size / _MIB:6.1f} MiB  {seconds:8.1f}  {count / seconds:11.0f}"
            f"  {peak:10.0f} MiB  {said['groups']:14,}"
        )


if __name__ == "__main__":
    main()
