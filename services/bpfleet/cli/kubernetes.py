"""What ``compare --from-kubectl`` reads: a cluster, with Helm values and answers of Prometheus, as a scenario."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import yaml

from bpfleet.captures.helm import options_of_values
from bpfleet.captures.kubectl import Cluster, read_cluster, scenario_of
from bpfleet.captures.prometheus import Seen, read_answers
from bpfleet.cli.output import console, print_table
from bpfleet.report.compare import Comparison
from bpfleet.report.scenario_file import read_text
from bpfleet.workload.catalogue import application_of_image
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import counted, format_bytes
from bpfleet.workload.scenario import Scenario

__all__ = ["FromKubectl", "from_kubectl", "print_seen"]

_UNMATCHED_SHOWN: Final = 10
_CILIUM: Final = "cilium"


@dataclass(frozen=True, slots=True)
class FromKubectl:
    """The scenario of a cluster, and by workload what its containers were seen to use, bytes."""

    scenario: Scenario
    seen_bytes: dict[str, int]


def from_kubectl(
    files: Sequence[Path], helm: Iterable[str], prometheus: Iterable[Path]
) -> FromKubectl:
    """Reads the files and says on standard error what was matched, what was not, and what is assumed.

    Raises ``SpecError`` and ``OSError``.
    """
    cluster = read_cluster((str(path), read_text(path)) for path in files)
    seen = read_answers((str(path), read_text(path)) for path in prometheus)
    options = dict(_helm(text) for text in helm)
    heaps = _highest(cluster, seen.heap_bytes)
    scenario = scenario_of(
        cluster,
        options=options,
        heaps=heaps,
        fill={_CILIUM: seen.pressure} if seen.pressure else {},
    )
    _say(cluster, seen)
    return FromKubectl(scenario, _by_workload(cluster, scenario, seen))


def _helm(text: str) -> tuple[str, dict[str, int]]:
    chart, equals, file = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r}: write CHART=values.yaml", param_hint="--helm")
    try:
        values = yaml.safe_load(read_text(Path(file)))
    except (yaml.YAMLError, RecursionError) as error:
        problem = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise SpecError(
            file, "", None, f"not YAML ({problem})", "give the chart's values"
        ) from None
    return chart, options_of_values(chart, values or {})


def _highest(
    cluster: Cluster, seen: dict[tuple[str, str, str], int]
) -> dict[tuple[str, str, str], int]:
    """Of all pods of a workload the highest."""
    found: dict[tuple[str, str, str], int] = {}
    for pod in cluster.pods:
        size = seen.get((pod.namespace, pod.name, pod.container))
        if size is not None:
            found[pod.workload] = max(size, found.get(pod.workload, 0))
    return found


def _by_workload(cluster: Cluster, scenario: Scenario, seen: Seen) -> dict[str, int]:
    """What was seen, by the names of the scenario's workloads, which carry where they come from as a label."""
    used = _highest(cluster, seen.used_bytes)
    return {
        workload.name: used[key]
        for workload in scenario.workloads
        if (
            key := (
                workload.labels["namespace"],
                workload.labels["owner"],
                workload.labels["container"],
            )
        )
        in used
    }


def _say(cluster: Cluster, seen: Seen) -> None:
    known = sum(1 for pod in cluster.pods if application_of_image(pod.image, pod.container))
    click.echo(
        f"{counted(len(cluster.nodes), 'node')}; {known:,} of {counted(len(cluster.pods), 'container')} matched to"
        " applications of the catalogue, the others are not emulated",
        err=True,
    )
    unmatched = list(cluster.unmatched.items())
    for image, count in unmatched[:_UNMATCHED_SHOWN]:
        click.echo(f"not matched: {image} ({counted(count, 'container')})", err=True)
    if len(unmatched) > _UNMATCHED_SHOWN:
        click.echo(f"not matched: {len(unmatched) - _UNMATCHED_SHOWN} more images", err=True)
    heap = (
        "as Prometheus saw it"
        if seen.heap_bytes
        else "from the catalogue (--prometheus gives the real one)"
    )
    click.echo(
        f"assumed: heap {heap}, RLIMIT_MEMLOCK unlimited, pods stay where they are", err=True
    )


def print_seen(found: FromKubectl, result: Comparison) -> None:
    """Beside what was seen of each workload, what is emulated of it."""
    if not found.seen_bytes:
        return
    limits = {w.name: w.memory_limit_bytes for w in found.scenario.workloads}
    peaks: dict[str, dict[str, int]] = {}
    for node in result.nodes:
        for model, on_node in node.models.items():
            for replica in on_node.replicas:
                peak = peaks.setdefault(replica.workload, {})
                peak[model] = max(replica.peak_bytes, peak.get(model, 0))
    out = console()
    out.print()
    out.print("Seen by Prometheus beside the emulated peak, worst replica", style="bold")
    print_table(
        ("workload", "limit", "seen", "head-room", *result.models),
        (
            (
                name,
                "max" if limits[name] is None else format_bytes(limits[name] or 0),
                format_bytes(size),
                "" if limits[name] is None else _signed((limits[name] or 0) - size),
                *(format_bytes(peaks.get(name, {}).get(model, 0)) for model in result.models),
            )
            for name, size in found.seen_bytes.items()
        ),
    )


def _signed(size: int) -> str:
    return f"-{format_bytes(-size)}" if size < 0 else format_bytes(size)
