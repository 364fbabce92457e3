"""One comparison in parts: a plan made once, shards run anywhere, and their segments put together again.

A plan is the scenario, the models and where every replica goes, with a digest of all that results depend on. Shard
``I/N`` is the nodes whose index leaves I - 1 when divided by N. Its segment is one file, written whole, with a checksum
at its end. Segments of other plans, or of a plan that was cut otherwise, are refused.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from bpfleet.report.placing import Assignment, NodePlan, Placement, place
from bpfleet.report.results import NodeResult
from bpfleet.report.resume import run_digest, write_whole
from bpfleet.version import __version__
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.scenario import Scenario

__all__ = ["Plan", "Segments", "make_plan", "read_plan", "shard_of", "write_plan"]

# JSON values of any type.
Plain = Any

_FORMAT: Final = "bpfleet.plan/1"
_SHARD: Final = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_SHARDS_MAX: Final = 100_000
_SEGMENT: Final = re.compile(r"segment-([0-9]+)-of-([0-9]+)\.jsonl")


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be compared, and where each replica goes. ``digest`` stands for all that results depend on."""

    digest: str
    scenario: Scenario
    models: tuple[str, ...]
    placement: Placement


def make_plan(scenario: Scenario, models: Sequence[str]) -> Plan:
    """Places everything. Raises ``ValueError`` for models that are not known."""
    return Plan(
        digest=run_digest(scenario, models),
        scenario=scenario,
        models=tuple(models),
        placement=place(scenario),
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan as JSON. Raises ``OSError``."""
    names = [workload.name for workload in plan.scenario.workloads]
    data = {
        "format": _FORMAT,
        "version": __version__,
        "digest": plan.digest,
        "models": list(plan.models),
        "scenario": to_data(plan.scenario),
        # By the node's index: pairs of the workload's place in the scenario and the replica's serial.
        "nodes": [
            [[names.index(each.workload.name), each.serial] for each in node.assignments]
            for node in plan.placement.nodes
        ],
        "unplaced": [list(pair) for pair in plan.placement.unplaced],
    }
    write_whole(path, json.dumps(data, separators=(",", ":")).encode())


def read_plan(path: Path) -> Plan:
    """The plan in ``path``. Raises ``ValueError`` where it is none, or one of another version; ``OSError``."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not a plan (not JSON); make one with compare --plan") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a plan of this version; make one with compare --plan")
    scenario = from_data(Scenario, data.get("scenario"), str(path))
    models = tuple(map(str, data.get("models", ())))
    digest = run_digest(scenario, models)
    if digest != data.get("digest"):
        made_by = str(data.get("version"))
        raise ValueError(
            f"{path}: made by bpfleet {made_by}, whose results differ from those of {__version__}; make the plan again"
        )
    return Plan(
        digest=digest, scenario=scenario, models=models, placement=_placement(scenario, data, path)
    )


def _placement(scenario: Scenario, data: dict[str, Plain], path: Path) -> Placement:
    fleet = scenario.fleet()
    try:
        nodes = tuple(
            NodePlan(
                index,
                node,
                tuple(
                    Assignment(scenario.workloads[w], serial) for w, serial in data["nodes"][index]
                ),
            )
            for index, node in enumerate(fleet)
        )
        unplaced = tuple((str(name), str(why)) for name, why in data["unplaced"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: damaged; make the plan again") from None
    return Placement(nodes, unplaced)


def shard_of(text: str) -> tuple[int, int]:
    """``3/16``: the third of sixteen parts. Raises ``ValueError``."""
    match = _SHARD.fullmatch(text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count <= _SHARDS_MAX:
        raise ValueError(f"{text!r}: write I/N, such as 1/16, I from 1 to N")
    return number, count


class Segments:
    """The results of a plan's shards in a directory."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder: Final = folder
        self._plan: Final = plan

    def path(self, number: int, count: int) -> Path:
        """The file of shard ``number`` of ``count``."""
        return self._folder / f"segment-{number}-of-{count}.jsonl"

    def nodes(self, number: int, count: int) -> list[NodePlan]:
        """The nodes of a shard."""
        return list(self._plan.placement.nodes[number - 1 :: count])

    def is_done(self, number: int, count: int) -> bool:
        """Whether the segment is there and verifies. Raises ``ValueError`` for that of another plan."""
        path = self.path(number, count)
        return path.exists() and self._verified(path) is not None

    def write(self, number: int, count: int, results: Sequence[NodeResult]) -> None:
        """Writes a segment. Raises ``OSError``."""
        self._folder.mkdir(parents=True, exist_ok=True)
        body = "".join(json.dumps(to_data(each), separators=(",", ":")) + "\n" for each in results)
        end = {
            "digest": self._plan.digest,
            "nodes": len(results),
            "sha256": hashlib.sha256(body.encode()).hexdigest(),
        }
        write_whole(self.path(number, count), f"{body}{json.dumps(end)}\n".encode())

    def read(self) -> Iterator[NodeResult]:
        """All results, node by node. Raises ``ValueError`` naming shards that are missing or damaged, ``OSError``."""
        count = self._count()
        missing = [n for n in range(1, count + 1) if not self.path(n, count).exists()]
        if missing:
            raise ValueError(f"{self._folder}: missing {_few(missing, count)}")
        readers = []
        damaged = []
        for number in range(1, count + 1):
            lines = self._verified(self.path(number, count))
            if lines is None:
                damaged.append(number)
            else:
                readers.append(iter(lines))
        if damaged:
            raise ValueError(f"{self._folder}: damaged {_few(damaged, count)}; run them again")
        for index, plan in enumerate(self._plan.placement.nodes):
            line = next(readers[index % count], None)
            found = (
                None if line is None else from_data(NodeResult, json.loads(line), plan.node.name)
            )
            if found is None or found.node != plan.node.name:
                raise ValueError(f"{self._folder}: no result of node {plan.node.name}")
            yield found

    def _count(self) -> int:
        """Into how many shards the run was cut."""
        found = {
            int(match[2])
            for path in self._folder.iterdir()
            if (match := _SEGMENT.fullmatch(path.name))
        }
        if len(found) != 1:
            cuts = ", ".join(map(str, sorted(found))) or "no number"
            raise ValueError(
                f"{self._folder}: holds shards of {cuts} different divisions; keep those of one"
            )
        return found.pop()

    def _verified(self, path: Path) -> list[bytes] | None:
        """The lines of a segment but for the last; None where it is not whole. Raises ``ValueError`` for a foreign
        one.
        """
        *lines, last = path.read_bytes().splitlines(keepends=True) or [b""]
        try:
            end = json.loads(last)
            digest, checksum = end["digest"], end["sha256"]
        except (ValueError, KeyError, TypeError):
            return None
        if digest != self._plan.digest:
            raise ValueError(f"{path}: belongs to another plan; name another directory")
        return lines if hashlib.sha256(b"".join(lines)).hexdigest() == checksum else None


def _few(numbers: Sequence[int], count: int) -> str:
    shown = ", ".join(f"{number}/{count}" for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"shard{'s' if len(numbers) > 1 else ''} {shown}{more}"
