"""bpfleet as a library: ``import bpfleet`` offers what stands in ``__all__`` here.

These names, their parameters and the columns of their results are stable: they change with a major version only,
and first warn for a minor one. Whatever is imported from below ``bpfleet.`` may change at any time.

>>> import bpfleet
>>> bpfleet.size("hash", key=8, value=16, entries=1000, kernels=["6.12"])[0]["memlock_bytes"]
91072
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bpfleet.api.host_kernel import own_kernel
from bpfleet.api.limits import limits_of, limits_of_scenario
from bpfleet.api.tables import Table
from bpfleet.calibrate.containers import host_input
from bpfleet.captures.document import Document, read_document, write_document
from bpfleet.kernel.kernel import Kernel as _Kernel
from bpfleet.kernel.profile import KernelProfile, Use, sureness_line, used_by
from bpfleet.kernel.views.explain import explain_printed
from bpfleet.kernel.views.messages import read_message
from bpfleet.kernel.views.symptoms import GENERATIONS, Symptom, symptoms_of_errno
from bpfleet.report.answer import Answer, HostCase, answer_data, answer_for, to_markdown
from bpfleet.report.answer_page import answer_page
from bpfleet.report.compare import DEFAULT_MODELS, Comparison
from bpfleet.report.compare import compare as _compare
from bpfleet.report.findings import verdict
from bpfleet.report.models import OWN
from bpfleet.report.page import to_html
from bpfleet.report.results import as_plain
from bpfleet.report.scenario_file import read_scenario
from bpfleet.report.sections import study
from bpfleet.report.sizes import MapSize, size_of_inventory, size_of_map
from bpfleet.report.summary import rows_data
from bpfleet.report.summary import to_markdown as _comparison_markdown
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.quantity import parse_bytes
from bpfleet.workload.scenario import Scenario
from bpfleet.workload.spec import MapDeclaration, NodeShape

__all__ = [
    "Capture",
    "ComparisonResult",
    "HostsResult",
    "Kernel",
    "Table",
    "capture",
    "compare",
    "compare_captures",
    "explain",
    "kernel_profile",
    "limit",
    "size",
]

# JSON values of any type.
Plain = Any
FileName = str | PathLike[str]

Kernel = _Kernel
_CAPTURE_SECONDS: Final = 30.0


class ComparisonResult(Table):
    """What `compare` found: a row per model with its totals. Bytes are those at the end."""

    def __init__(self, comparison: Comparison, scenario: Scenario) -> None:
        super().__init__(
            verdict(comparison), [msgspec.to_builtins(totals) for totals in comparison.totals]
        )
        self.comparison: Final = comparison
        self._scenario: Final = scenario

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        return self.title

    @property
    def meanings(self) -> Table:
        """Every row of the printed table with what it counts."""
        rows = rows_data(self.comparison)
        return Table(
            "what is counted", [{k: v for k, v in row.items() if k != "values"} for row in rows]
        )

    def replicas(self) -> Table:
        """A row per model and replica: how it ended."""
        rows = [
            {"model": model, "node": node.node, **to_data(replica)}
            for node in self.comparison.nodes
            for model, result in node.models.items()
            for replica in result.replicas
        ]
        return Table(f"replicas of {self.comparison.scenario}", rows)

    def to_dict(self) -> dict[str, Plain]:
        """All of it as JSON values."""
        found: dict[str, Plain] = as_plain(self.comparison)
        return {"verdict": self.verdict, "rows": rows_data(self.comparison), **found}

    def to_markdown(self) -> str:
        """For a pull request."""
        return _comparison_markdown(self.comparison)

    def to_page(self, *, jobs: int = 1) -> str:
        """The report as one HTML page, with limits and CPU counts, which take a while."""
        extra = study(self._scenario, self.comparison, jobs=jobs)
        return to_html(self.comparison, extra={**extra, "command": "bpfleet.compare(...)"})


class HostsResult(Table):
    """What `compare_captures` found: a row per kind of container, worst first."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.title, answer_data(answer)["rows"])
        self.answer: Final = answer

    @property
    def new_failures(self) -> int:
        """Kinds of container that fail after the change and did not before."""
        return self.answer.new_failures

    def to_dict(self) -> dict[str, Plain]:
        """All of it as JSON values, calibration and assumptions included."""
        found: dict[str, Plain] = answer_data(self.answer)
        return found

    def to_markdown(self) -> str:
        """Answer and calibration as tables."""
        return to_markdown(self.answer)

    def to_page(self) -> str:
        """The answer as one HTML page."""
        return answer_page(self.answer, "bpfleet.compare_captures(...)")


class Capture:
    """What runs BPF on one host; `capture` makes one. ``document`` has it all."""

    def __init__(self, document: Document) -> None:
        self.document: Final = document

    @property
    def kernel(self) -> KernelProfile:
        """The kernel it was taken on: the nearest known one, with the sizes and changes its BTF shows."""
        return own_kernel(self.document, {})

    def maps(self) -> Table:
        """A row per map."""
        return Table(
            f"maps of {self.document.host.name}", [to_data(each) for each in self.document.maps]
        )

    def save(self, path: FileName) -> None:
        """Writes the document as `bpfleet capture -o` does."""
        Path(path).write_bytes(write_document(self.document))

    def __repr__(self) -> str:
        host = self.document.host
        return f"<Capture of {host.name}: {host.release}, {len(self.document.maps)} maps>"


def compare(
    scenario: str | FileName | Scenario = "mixed-fleet",
    models: Sequence[str] | None = None,
    *,
    nodes: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    jobs: int = 1,
) -> ComparisonResult:
    """One fleet under several kernels: the same replicas, the same operations (`bpfleet compare`).

    ``scenario`` is a built-in name, a TOML file or a ``Scenario``; ``models`` are kernels, variants or ``own``, the
    kernels its pools say. Equal arguments give equal results, with any ``jobs``. Raises ``ValueError``, ``OSError``.

    >>> result = compare("edge", ["5.10", "6.12"], nodes=1, steps=0)
    >>> [row["model"] for row in result], result[0]["placed"]
    (['5.10', '6.12'], 4)
    """
    chosen = scenario if isinstance(scenario, Scenario) else read_scenario(str(scenario))
    if nodes is not None:
        chosen = chosen.scaled_to(nodes)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    if steps is not None:
        chosen = replace(chosen, steps=steps)
    if models is None:
        has_own = all(pool.kernel for pool in chosen.nodes)
        models = (OWN, *DEFAULT_MODELS) if has_own else DEFAULT_MODELS
    return ComparisonResult(_compare(chosen, models, jobs=jobs), chosen)


def compare_captures(
    captures: Sequence[FileName | Capture], to: str | Sequence[str]
) -> HostsResult:
    """What other kernels do to captured hosts (`bpfleet compare CAPTURES --to KERNEL`).

    ``to`` is a kernel or several. Raises ``ValueError``, ``OSError``.
    """
    targets = [profile_from(name) for name in ([to] if isinstance(to, str) else to)]
    cases = []
    for each in captures:
        taken = each if isinstance(each, Capture) else capture(each)
        host = host_input(taken.document)
        source = taken.document.host.name if isinstance(each, Capture) else str(each)
        cases.append(
            HostCase(
                source=source, document=taken.document, before=host, after=host, kernel=taken.kernel
            )
        )
    return HostsResult(answer_for(cases, targets))


def size(
    map_type: str | None = None,
    *,
    key: int = 4,
    value: int = 8,
    entries: int = 1024,
    flags: int = 0,
    application: str | None = None,
    options: dict[str, int] | None = None,
    cpus: int = 16,
    ram: int | str = "64G",
    kernels: Sequence[str] | None = None,
) -> Table:
    """What a map or an application costs under each kernel (`bpfleet size`): a row per kernel and object.

    Raises ``ValueError``.

    >>> size("array", entries=10, kernels=["5.10"])[0]["estimate_bytes"]
    4096
    """
    if (map_type is None) == (application is None):
        raise ValueError("give a map type, or application=")
    names = tuple(kernels or used_by(Use.SIZE))
    profiles = {name: profile_from(name) for name in names}
    rows: list[dict[str, Plain]] = []
    for name, profile in profiles.items():
        if map_type is not None:
            data = {
                "name": "map",
                "map_type": map_type.lower(),
                "key_size": key,
                "value_size": value,
                "max_entries": entries,
                "map_flags": flags,
            }
            declared = from_data(MapDeclaration, data, map_type)
            rows.append(_size_row(name, size_of_map(declared, profile, cpus)))
        else:
            shape = NodeShape(possible_cpus=cpus, ram_bytes=_bytes(ram))
            inventory = inventory_for(application or "", shape, options or {})
            found = size_of_inventory(inventory, profile, cpus)
            rows += [_size_row(name, one) for one in found]
    what = map_type or application
    known = sureness_line({name: profile.known_by for name, profile in profiles.items()})
    return Table(f"{what} on {cpus} CPUs; {known}", rows)


def _size_row(kernel: str, found: MapSize) -> dict[str, Plain]:
    return {"kernel": kernel, "charged_bytes": found.charged_bytes, **msgspec.to_builtins(found)}


def limit(
    what: str | FileName | Scenario,
    *,
    kernels: Sequence[str] = (),
    cpus: int | None = None,
    ram: int | str = "64G",
    heap: int | str | None = None,
) -> Table:
    """The least and the recommended memory.max and RLIMIT_MEMLOCK (`bpfleet limit`).

    ``what`` is an application, a capture, a listing of bpftool, or a ``Scenario``. Raises ``ValueError``, ``OSError``.

    >>> rows = limit("falco", cpus=16, kernels=["6.12"])
    >>> rows[0]["setting"], rows[0]["least_bytes"] < rows[0]["recommended_bytes"]
    ('memory.max', True)
    """
    if isinstance(what, Scenario):
        return Table("limits", [to_data(row) for row in limits_of_scenario(what, kernels=kernels)])
    found = limits_of(
        str(what),
        kernels,
        cpus=cpus,
        ram_bytes=_bytes(ram),
        heap_bytes=None if heap is None else _bytes(heap),
    )
    rows, notes = [], []
    for each in found:
        if isinstance(each, str):
            notes.append(each)
        else:
            rows.append(to_data(each))
    return Table("; ".join([f"limits of {what}", *notes]), rows)


def explain(text: str = "", *, errno: str | None = None, call: str = "") -> Table:
    """What an error message or errno of BPF memory means, a row per possible cause (`bpfleet explain`).

    No row: nothing is known. Raises ``ValueError`` where both or neither are given.

    >>> explain("map create: operation not permitted (MEMLOCK may be too low)")[0]["call"]
    'map_create'
    """
    if bool(text) == bool(errno):
        raise ValueError("give a text, or errno=")
    printed = explain_printed(text) if text else None
    if printed is not None:
        return Table(text, [{"call": "", "condition": "; ".join(printed.lines())}])
    found = symptoms_of_errno(errno, call) if errno else read_message(text).symptoms
    rows = [_symptom(symptom) for symptom in found if call in ("", symptom.call)]
    return Table(text or f"{errno} {call}".strip(), rows)


def _symptom(symptom: Symptom) -> dict[str, Plain]:
    return {
        "call": symptom.call,
        "condition": symptom.condition,
        **dict(zip(GENERATIONS, symptom.answers, strict=True)),
        "advice": symptom.advice,
    }


def capture(path: FileName | None = None) -> Capture:
    """A capture: of this host, read-only and as root, or the one in a file (`bpfleet capture`).

    Raises ``bpfleet.captures.collect.Unavailable`` where this host cannot be captured, ``ValueError``, ``OSError``.
    """
    if path is not None:
        return Capture(read_document(Path(path).read_bytes(), str(path)))
    from bpfleet.captures.collect import collect

    plain = collect(True, False, _CAPTURE_SECONDS)
    return Capture(read_document(msgspec.json.encode(plain), "this host"))


def kernel_profile(name: str) -> KernelProfile:
    """The profile called ``name``, or in a TOML file: what ``Kernel`` takes. Raises ``ValueError``.

    >>> Kernel(kernel_profile("6.12"), possible_cpus=4, ram_bytes=8 << 30).profile.known_by
    'recorded (6.12.107)'
    """
    return profile_from(name)


def _bytes(size: int | str) -> int:
    return size if isinstance(size, int) else parse_bytes(size)
