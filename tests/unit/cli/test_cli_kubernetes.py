"""``compare --from-kubectl``: a cluster in, the usual answers out, beside what Prometheus saw."""

import json
from pathlib import Path

import pytest

from bpfleet.cli.main import main
from tests.cluster_of_kubernetes import cluster


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(cluster()))
    return path


def run(*arguments: object) -> int:
    return main(["compare", "--jobs", "1", "--steps", "1", *map(str, arguments)])


def test_the_cluster_is_compared_from_its_own_kernels(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen.json"
    where = {"namespace": "kube-system", "pod": "cilium-a", "container": "cilium-agent"}
    metrics = [
        ("container_memory_rss", 200 << 20),
        ("container_memory_working_set_bytes", 600 << 20),
    ]
    result = [{"metric": {"__name__": n, **where}, "value": [1, str(v)]} for n, v in metrics]
    seen.write_text(json.dumps({"status": "success", "data": {"result": result}}))
    values = tmp_path / "values.yaml"
    values.write_text("bpf:\n  ctTcpMax: 65536\n")
    arguments = (
        "--from-kubectl",
        file,
        "--to",
        "6.12",
        "--prometheus",
        seen,
        "--helm",
        f"cilium={values}",
    )
    assert run(*arguments) == 0
    out, err = capsys.readouterr()
    assert "From own to 6.12: 3 nodes of Kubernetes, 5 of 6 containers known" in out
    assert "600 MiB" in out
    assert "not matched: nginx:1.27 (1 container)" in err
    assert "heap as Prometheus saw it" in err


def test_options_that_go_together_are_asked_for(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--from-kubectl") == 2
    assert run("--helm", "cilium=x.yaml") == 2
    assert run("--from-kubectl", file, "--helm", "cilium") == 2
    assert capsys.readouterr().err.count("\n") >= 3
