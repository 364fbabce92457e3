"""``bpfleet fleet`` against a real coordinator and a real agent, both processes on loopback."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from coordinator_process import CoordinatorProcess
from redis_server import free_port

from bpfleet.cli.main import main
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import Session

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 240


class Running:
    """A coordinator with one agent of three nodes."""

    def __init__(self, folder: Path) -> None:
        self.coordinator = CoordinatorProcess(folder)
        self.coordinator.start()
        self.agent = f"127.0.0.1:{free_port()}"
        arguments = ["--listen", self.agent, "--coordinator", self.coordinator.target]
        with (folder / "agent.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bpfleet.node_agent",
                    *arguments,
                    "--nodes",
                    "3",
                    "--node-ram",
                    "4G",
                ],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self.coordinator.terminate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("cluster"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def fleet(cluster: Running, capsys: pytest.CaptureFixture[str]) -> "Fleet":
    found = Fleet(cluster, capsys)
    found.wait_for(lambda status: status["ready_node_count"] == 3)
    return found


class Fleet:
    """Runs ``bpfleet fleet`` commands and reads what they print."""

    def __init__(self, cluster: Running, capsys: pytest.CaptureFixture[str]) -> None:
        self.cluster = cluster
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = main(["fleet", *arguments, "--coordinator", self.cluster.coordinator.target])
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err

    def data(self, *arguments: str):  # JSON of any shape
        status, out, err = self.run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    def wait_for(self, condition) -> None:  # a predicate of the status
        deadline = time.monotonic() + DEADLINE_SECONDS
        answer: object = None
        while time.monotonic() < deadline:
            status, out, answer = self.run("status", "--json")
            if status == 0:
                answer = json.loads(out)
                if condition(answer):
                    return
            time.sleep(0.05)
        raise AssertionError(answer)


def test_nodes_are_listed(fleet: Fleet) -> None:
    names = [node["name"] for node in fleet.data("nodes")]
    assert [Path(name).name for name in names] == ["a1-00001", "a1-00002", "a1-00003"]
    status, out, _ = fleet.run("nodes")
    assert status == 0
    assert "3.8 GiB" in out


def test_a_workload_is_created_shown_scaled_explained_and_deleted(fleet: Fleet) -> None:
    created = (
        "create",
        "web",
        "--application",
        "beyla",
        "--replicas",
        "2",
        "--memory-limit",
        "512M",
    )
    assert fleet.run(*created, "--option", "groups=1")[0] == 0
    fleet.wait_for(lambda status: status["replicas"].get("RUNNING", 0) >= 2)
    shown = fleet.data("show", "web")
    assert shown["spec"]["application"] == "beyla"
    assert shown["spec"]["options"] == {"groups": 1}
    assert len(shown["replicas"]) == 2
    assert fleet.run("scale", "web", "--replicas", "3")[:2] == (0, "web: 3 replicas wanted\n")
    fleet.wait_for(lambda status: status["replicas"].get("RUNNING", 0) >= 3)
    assert fleet.data("explain", "web")[0]["chosen_node"]
    assert any(row["name"].endswith("web") for row in fleet.data("workloads"))
    assert [row["name"] for row in fleet.data("list")] == [
        row["name"] for row in fleet.data("workloads")
    ]
    assert fleet.run("delete", "web")[0] == 0


def test_a_scenario_file_is_applied(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "workloads.toml"
    file.write_text(
        '[[workloads]]\nname = "falco"\napplication = "falco"\nper_node = true\nmemory_limit_bytes = "1G"\n'
    )
    assert fleet.run("apply", str(file))[:2] == (0, "falco: created\n")
    fleet.wait_for(lambda status: status["replicas"].get("RUNNING", 0) >= 3)
    assert fleet.run("apply", str(file))[:2] == (0, "falco: unchanged\n")
    with file.open("a") as more:
        more.write(
            'tolerations = [{ key = "repair" }]\n[workloads.scheduling]\nmax_unavailable = 2\n'
        )
    assert fleet.run("apply", str(file))[:2] == (0, "falco: configured\n")
    spec = fleet.data("show", "falco")["spec"]
    assert spec["tolerations"][0]["key"] == "repair"
    assert spec["scheduling"]["max_unavailable"] == 2
    assert fleet.run("apply", str(file))[:2] == (0, "falco: unchanged\n")
    assert fleet.run("delete", "falco")[0] == 0


def test_nodes_are_labelled_and_tainted_as_kubectl_does_it(fleet: Fleet) -> None:
    node = "a1-00003"
    assert fleet.run("label", node, "tier=gold", "disk=")[:2] == (
        0,
        f"{node}: labels disk=,tier=gold\n",
    )
    status, _, err = fleet.run("label", node, "tier=iron")
    assert (status, "use overwrite" in err) == (1, True)
    assert fleet.data("label", node, "tier=iron", "disk-", "--overwrite")["labels"] == {
        "tier": "iron"
    }
    assert fleet.run("taint", node, "repair=disk:NoExecute", "gpu:NoSchedule")[:2] == (
        0,
        f"{node}: taints gpu:NoSchedule,repair=disk:NoExecute\n",
    )
    assert "gpu:NoSchedule,repair=disk:NoExecute" in fleet.run("nodes", "-o", "wide")[1]
    assert fleet.run("taint", node, "repair:NoExecute-", "gpu-")[:2] == (
        0,
        f"{node}: taints none\n",
    )
    assert fleet.run("label", node, "tier-")[:2] == (0, f"{node}: labels none\n")


def test_a_drain_is_watched_until_the_node_is_empty(fleet: Fleet) -> None:
    status, out, _ = fleet.run("drain", "a1-00003", "--watch")
    assert (status, out.splitlines()[-1]) == (0, "a1-00003: drained")
    assert fleet.data("nodes")[2]["draining"] is True
    status, _, err = fleet.run("remove", "a1-00003")
    assert (status, "is Ready" in err) == (1, True)
    assert fleet.run("uncordon", "a1-00003")[0] == 0


def test_nodes_are_cordoned_and_uncordoned(fleet: Fleet) -> None:
    assert fleet.run("cordon", "a1-00001")[0] == 0
    assert fleet.data("nodes")[0]["cordoned"] is True
    assert fleet.run("uncordon", "a1-00001")[0] == 0
    assert fleet.run("events", "--json")[0] == 0


@pytest.mark.parametrize(
    ("command", "seen"),
    [(("events",), "NODE_CORDONED"), (("nodes", "--json"), '"cordoned": true')],
)
def test_watching_shows_what_changes_until_ctrl_c(
    fleet: Fleet, command: tuple[str, ...], seen: str
) -> None:
    program = [sys.executable, "-m", "bpfleet.cli.main", "fleet", *command, "--watch"]
    target = fleet.cluster.coordinator.target
    watching = subprocess.Popen(
        [*program, "--coordinator", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        # Cordons again and again: when the watcher has connected cannot be told from outside.
        lines = iter(watching.stdout.readline, "")
        deadline = time.monotonic() + DEADLINE_SECONDS
        toggling = threading.Thread(target=_toggle, args=(fleet, watching, deadline))
        toggling.start()
        assert any(seen in line for line in lines)
    finally:
        watching.send_signal(signal.SIGINT)
        _, complaint = watching.communicate(timeout=240)
        toggling.join()
    assert watching.returncode == 130
    assert "Traceback" not in complaint


def _toggle(fleet: Fleet, watching: "subprocess.Popen[str]", deadline: float) -> None:
    target = fleet.cluster.coordinator.target
    while watching.poll() is None and time.monotonic() < deadline:
        for command in ("cordon", "uncordon"):
            with Session(target) as session:
                getattr(FleetClient(session), command)("a1-00002")
            time.sleep(0.3)
    if watching.poll() is None:
        watching.kill()  # so that whoever reads from it learns that nothing came


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("show", "absent"), 1, "absent"),
        (("scale", "absent", "--replicas", "1"), 1, "absent"),
        (
            ("create", "x", "--application", "falco", "--option", "pods=1"),
            2,
            "options.pods = 1: unknown",
        ),
        (("label", "absent", "a=b"), 1, "absent"),
        (("label", "a1-00001", "tier"), 2, "KEY=VALUE"),
        (("label", "a1-00001", "node=b"), 2, "describes the node itself"),
        (("taint", "a1-00001", "a=b:Never"), 2, "effect 'Never' is unknown"),
        (("taint", "a1-00001", "a=b"), 2, "KEY=VALUE:EFFECT"),
        (("create", "Not a name", "--application", "falco"), 2, "name = 'Not a name'"),
        (("create", "x", "--application", "falco", "--memory-limit", "-5"), 2, "not a size"),
    ],
)
def test_refusals_are_one_line(
    fleet: Fleet, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found, out, err = fleet.run(*arguments)
    assert found == status, err
    assert message in err
    assert out == ""


def test_a_bad_workload_file_names_file_field_and_value(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "workloads.toml"
    file.write_text('[[workloads]]\nname = "x"\napplication = "falco"\nreplicas = -1\n')
    status, _, err = fleet.run("apply", str(file))
    assert status == 2
    assert "workloads.toml" in err
    assert "replicas = -1: out of range" in err
