"""Locust against real agents: headless, distributed, with thresholds, through its web page."""

import asyncio
import csv
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from bpfleet.launcher.probe import probe

ROOT = Path(__file__).parents[2]
MODELS = ("5.10", "6.12", "6.12:nobpf")
SECONDS = 400.0

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(holds, what: str):
    deadline = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} within {SECONDS:g} s"
        time.sleep(0.05)
    return found


@contextmanager
def _agents(folder: Path, models: Iterable[str]) -> Iterator[str]:
    """One agent per model, with four small nodes each."""
    started, addresses = [], []
    try:
        for number, model in enumerate(models):
            address = f"127.0.0.1:{_free_port()}"
            command = [sys.executable, "-m", "bpfleet.node_agent", "--listen", address]
            command += ["--agent-id", f"a{number}", "--kernel", model, "--nodes", "4"]
            with (folder / f"a{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen([*command, "--node-ram", "16G"], stdout=log, stderr=log)
                )
            addresses.append(address)
        for address in addresses:
            _until(lambda a=address: probe(a, deadline_seconds=10) == "SERVING", address)
        yield ",".join(addresses)
    finally:
        for process in started:
            _stop(process)


@pytest.fixture(scope="module")
def agents(tmp_path_factory) -> Iterator[str]:
    """Agents of all models, for tests that do not mind what others left on the nodes."""
    with _agents(tmp_path_factory.mktemp("agents"), MODELS) as addresses:
        yield addresses


@pytest.fixture
def fresh_agent(tmp_path) -> Iterator[str]:
    """An agent of 6.12 on whose nodes nothing has run."""
    with _agents(tmp_path, ["6.12"]) as address:
        yield address


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *arguments]


def _headless(agents: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = _command("--headless", "--only-summary", "--bpfleet-agents", agents)
    command += ["--bpfleet-coordinator", "", "--memory-max", "8M", "--memlock", "default"]
    command += arguments
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.fixture(scope="module")
def run(agents, tmp_path_factory):
    """One test with every kind of user that needs no coordinator, and what it exported."""
    file = tmp_path_factory.mktemp("run") / "outcomes.json"
    weights = "element=1,batch=1,inventory=1,tenant=2,rolling=1,fleet=0"
    done = _headless(
        agents,
        *("-u", "18", "-r", "18", "-t", "5s", "--outcomes", str(file), "--weights", weights),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads(file.read_text())


def test_all_models_are_loaded_without_a_transport_failure(run) -> None:
    _, data = run
    rows = {row["model"]: row for row in data["models"]}
    assert set(rows) == set(MODELS)
    for row in rows.values():
        assert row["calls"] > 100
        assert row["transport_failures"] == 0
        assert row["p50_ms"] > 0


def test_each_model_refuses_in_its_own_way(run) -> None:
    _, data = run
    rows = {row["model"]: row for row in data["models"]}
    reasons = {(o["model"], o["errno"], o["reason"]) for o in data["outcomes"]}
    assert ("5.10", "EPERM", "RLIMIT_MEMLOCK_EXCEEDED") in reasons
    assert ("6.12", "ENOMEM", "MEMCG_LIMIT_EXCEEDED") in reasons
    assert rows["5.10"]["errnos"].get("ENOMEM", 0) == 0
    assert rows["6.12"]["errnos"].get("EPERM", 0) == 0
    # With nobpf the file of a map is still charged, its memory is not.
    refused = {(o["call"], o["errno"]) for o in data["outcomes"] if o["model"] == "6.12:nobpf"}
    assert not {(c, e) for c, e in refused if e == "EPERM" or (e == "ENOMEM" and "update" in c)}


def test_tenants_are_killed_only_where_their_maps_are_charged_to_their_cgroup(
    agents, tmp_path
) -> None:
    file = tmp_path / "outcomes.json"
    tenants = ("--tags", "tenant", "-u", "4", "-r", "4", "-t", "5s")
    done = _headless(agents, *tenants, "--kernel", "5.10,6.12", "--outcomes", str(file))
    assert done.returncode == 0, done.stderr
    kills = {row["model"]: row["oom_kills"] for row in json.loads(file.read_text())["models"]}
    assert kills["6.12"] > 0
    assert kills["5.10"] == 0


def test_the_rows_of_locusts_own_table_carry_model_call_and_errno(run) -> None:
    done, data = run
    rows = re.findall(r"^bpf +(\S+ \S+ [A-Z0-9]+) +(\d+) +0\(0\.00%\)", done.stderr, re.MULTILINE)
    counted = {}
    for outcome in data["outcomes"]:
        name = f"{outcome['model']} {outcome['call']} {outcome['errno']}"
        counted[name] = counted.get(name, 0) + outcome["count"]
    assert {name: int(count) for name, count in rows} == counted


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fail-if", "5.10:EPERM>0.0"), "calls were EPERM, above 0.00%"),
        (("--fail-if", "6.99:EPERM>0.5"), "6.99: no call was made under it"),
        (("--kernel", "4.19"), "no agent has a node of a wanted model"),
    ],
)
def test_a_passed_threshold_or_an_empty_test_ends_with_one(agents, arguments, says) -> None:
    tenants = ("--tags", "tenant", "-u", "6", "-r", "6", "-t", "6s")
    done = _headless(agents, *tenants, *arguments)
    assert done.returncode == 1
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_that_is_away_is_a_failure_and_not_a_verdict(tmp_path) -> None:
    file = tmp_path / "outcomes.csv"
    done = _headless(f"127.0.0.1:{_free_port()}", "-u", "1", "-t", "5s", "--outcomes", str(file))
    assert done.returncode == 1
    assert "cannot list the nodes: UNAVAILABLE" in done.stderr
    assert list(csv.reader(file.read_text().splitlines())) == [
        ["model", "call", "errno", "reason", "count"]
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--memory-max", "lots"), "bpfleet: --memory-max 'lots': use a number of bytes"),
        (("--load-shape", "zigzag"), "bpfleet: --load-shape 'zigzag': use one of"),
        (("--tags", "ghost"), "leave no user to run"),
        (("--outcomes", "/no/such/folder/x.json"), "name a file in a directory that exists"),
    ],
)
def test_a_bad_setting_ends_with_one_line_and_status_two(arguments, says) -> None:
    done = _headless("127.0.0.1:1", "-u", "1", "-t", "1s", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["tenant", "rolling"])
def test_a_lane_is_replayed_without_a_network_to_the_same_outcomes(
    fresh_agent, tmp_path, kind
) -> None:
    file, only = tmp_path / "outcomes.json", ("--kernel", "6.12", "--seed", "77")
    settings = ("--tags", kind, "-u", "1", "-t", "6s", "--outcomes", str(file), *only)
    done = _headless(fresh_agent, *settings)
    assert done.returncode == 0, done.stderr
    live = json.loads(file.read_text())["outcomes"]
    calls = str(sum(outcome["count"] for outcome in live))
    replay = [sys.executable, "-m", "loadtest.replay", "--kind", kind, "--kernel", "6.12", "--json"]
    replay += ["--seed", "77", "--memory-max", "8M", "--node-ram", "16G", "--messages", "100000"]
    replayed = subprocess.run(
        [*replay, "--calls", calls], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["outcomes"] == live


def test_step_to_failure_says_at_how_many_users_each_model_broke(agents) -> None:
    done = _headless(
        agents,
        *("--load-shape", "step-to-failure", "--shape-steps", "3", "--tags", "inventory"),
        *("-u", "9", "-r", "9", "-t", "4s", "--kernel", "5.10,6.12:nobpf"),
    )
    assert re.search(r"^5\.10 broke at \d+ users$", done.stdout, re.MULTILINE), done.stderr
    assert "6.12:nobpf did not break up to 9 users" in done.stdout


@pytest.fixture
def cluster(agents) -> Iterator[str]:
    """A Locust master with its page and two workers."""
    page, port = _free_port(), _free_port()
    shared = ["--bpfleet-agents", agents, "--bpfleet-coordinator", "", "--memory-max", "8M"]
    shared += ["--memlock", "default"]
    web = ("--web-host", "127.0.0.1", "--web-port", str(page))
    bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", str(port))
    commands = [_command("--master", *web, *bind, "--weights", "fleet=0", *shared)]
    commands += [_command("--worker", "--master-port", str(port), *shared)] * 2
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(command, cwd=ROOT, **quiet) for command in commands]
    try:
        yield f"http://127.0.0.1:{page}"
    finally:
        for process in reversed(started):
            _stop(process)


def _get(url: str):
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _worker_count(page: str) -> int:
    text = _get(f"{page}/stats/requests")
    return len(json.loads(text).get("workers", [])) if text else 0


def _eperm_lines(page: str) -> list[str]:
    lines = _get(f"{page}/models.csv").splitlines()
    return [
        line for line in lines if line.startswith("5.10,map_create,EPERM,RLIMIT_MEMLOCK_EXCEEDED,")
    ]


def _told(page: str) -> dict:
    return json.loads(_get(f"{page}/models.json"))


def _start(page: str, **fields) -> dict:
    form = {
        "user_count": 12,
        "spawn_rate": 12,
        "shape_class": "Default",
        "run_time": "10m",
        **fields,
    }
    data = urllib.parse.urlencode(form, doseq=True).encode()
    with urllib.request.urlopen(f"{page}/swarm", data=data, timeout=120) as answer:
        return json.loads(answer.read())


async def _look_at_the_page(cluster: str) -> None:
    """bpfleet's page and the tab in Locust's own, drawn by a real browser where there is one."""
    if CHROMIUM is None:
        return
    async with Browser() as page:
        await page.open(f"{cluster}/models")
        await page.until(f"document.querySelectorAll('#bars .bar').length === {len(MODELS)}")
        heads = await page.value(
            "[...document.querySelectorAll('#models thead th')].map(h => h.textContent)"
        )
        assert heads == ["", *MODELS]
        await page.until("document.querySelectorAll('#rate polyline').length > 1")
        await page.until("document.querySelectorAll('#bad polyline').length > 1")
        assert "Threshold passed: 5.10" in await page.value(
            "document.querySelector('#passed').textContent"
        )
        await page.open(f"{cluster}/")
        assert (
            await page.value("document.querySelector('#bpfleet-link').getAttribute('href')")
            == "/models"
        )
        tab = "[...document.querySelectorAll('[role=tab]')].find(t => t.textContent === 'Models')"
        await page.until(f"{tab} !== undefined")
        await page.value(f"{tab}.click()")
        await page.until("document.body.innerText.includes('6.12:nobpf')")
        await page.until("!document.querySelector('#bpfleet-charts').hidden")
        assert page.errors == []


def test_a_distributed_run_from_the_page_shows_the_models_side_by_side(cluster) -> None:
    _until(lambda: _worker_count(cluster) == 2, "two workers connected")
    refused = _start(cluster, fail_if="lots")
    assert refused["success"] is False
    assert refused["message"].startswith("--fail-if 'lots': use MODEL:ERRNO>SHARE")
    kinds = ["ElementUser", "TenantUser", "InventoryUser"]
    chosen = {"user_classes": kinds, "shape_class": "steady", "fail_if": "5.10:EPERM>0"}
    assert _start(cluster, **chosen)["success"] is True

    def _all_models():
        rows = json.loads(_get(f"{cluster}/models.json"))["models"]
        return {r["model"]: r for r in rows} if len(rows) == len(MODELS) else None

    rows = _until(_all_models, "outcomes of all models")
    assert all(row["transport_failures"] == 0 for row in rows.values())
    stats = json.loads(_get(f"{cluster}/stats/requests"))
    (extended,) = stats["extended_stats"]
    assert {row["model"] for row in extended["data"]} == set(MODELS)
    assert all(re.fullmatch(r"[\d,]+", row["calls"]) for row in extended["data"])
    _until(lambda: len(_told(cluster)["history"]["seconds"]) > 2, "a history")
    _until(lambda: _eperm_lines(cluster), "an EPERM under 5.10")
    urllib.request.urlopen(f"{cluster}/stop", data=b"", timeout=120).close()
    assert "<h1>Models side by side</h1>" in _get(f"{cluster}/models")
    asyncio.run(_look_at_the_page(cluster))
    lines = _get(f"{cluster}/models.csv").splitlines()
    assert lines[0] == "model,call,errno,reason,count"
    assert len(_eperm_lines(cluster)) == 1
