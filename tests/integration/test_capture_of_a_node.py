"""An emulated node as a capture: the same document and the same table of payers as a host gives."""

import json
from collections.abc import Iterator

import pytest
from node_agents import connected

from bpfleet.calibrate.containers import host_input
from bpfleet.calibrate.emulate import emulate_host
from bpfleet.calibrate.verdict import calibrate
from bpfleet.captures.charges import payer_rows
from bpfleet.captures.document import Document, read_document, write_document
from bpfleet.cli.captured import own_kernel
from bpfleet.cli.emulated import capture_node
from bpfleet.cli.main import main


@pytest.fixture
def agent_and_client() -> Iterator[tuple]:
    with connected(profile="6.12") as pair:
        yield pair


@pytest.fixture
def node(agent_and_client):
    node = agent_and_client[1].node("a1-00001")
    for path in ("/system.slice", "/system.slice/agent.service", "/gone"):
        node.create_cgroup(path, {"memory.max": "64M"} if "agent" in path else None)
    process = node.create_process(cgroup="/system.slice/agent.service", comm="agent")
    process.create_map("hash", key_size=8, value_size=16, max_entries=1000, name="flows")
    process.create_map(
        "lru_percpu_hash", key_size=8, value_size=16, max_entries=1000, name="percpu"
    )
    process.allocate(1 << 20)
    maker = node.create_process(cgroup="/gone", comm="maker")
    maker.create_map("array", key_size=4, value_size=8, max_entries=100, name="left").pin(
        "/sys/fs/bpf/left"
    )
    maker.kill()
    node.cgroup("/gone").delete()
    return node


@pytest.fixture
def document(node) -> Document:
    return capture_node(node)


def test_the_document_is_one_like_any_other(document: Document) -> None:
    assert read_document(write_document(document), "f") == document
    assert [each.name for each in document.maps] == ["flows", "percpu", "left"]
    assert document.charges.read


def test_each_payer_has_its_row(document: Document) -> None:
    rows = {row.payer: row for row in payer_rows(document)}
    agent = rows["/system.slice/agent.service"]
    assert (agent.maps, agent.limit, agent.what, agent.how) == (
        2,
        64 << 20,
        "unit agent.service",
        "read",
    )
    assert sum(row.maps for row in rows.values()) == 3


def test_a_captured_node_is_reproduced_by_its_own_kernel(document: Document) -> None:
    found = host_input(document)
    kernel = own_kernel(document, {})
    lines = calibrate(document, found.containers, emulate_host(found, kernel), kernel)
    (agent,) = [line for line in lines if line.container == "agent.service"]
    assert agent.exact_maps == agent.maps == 2


def test_a_second_node_made_from_the_capture_gives_an_equal_document(
    agent_and_client, document: Document
) -> None:
    other = agent_and_client[1].node("a1-00002")
    for cgroup in document.cgroups:
        if cgroup.path != "/":
            other.create_cgroup(
                cgroup.path, {"memory.max": str(cgroup.max)} if cgroup.max else None
            )
    for process in document.processes:
        made = other.create_process(cgroup=process.cgroup, comm=process.comm)
        for each in document.maps:
            if each.payer.path == process.cgroup:
                names = {1: "hash", 10: "lru_percpu_hash"}
                made.create_map(
                    names[each.type],
                    key_size=each.key_size,
                    value_size=each.value_size,
                    max_entries=each.max_entries,
                    name=each.name,
                )
        made.allocate(process.rss_anon)
    again = capture_node(other)
    kept = [each for each in document.maps if each.holders or each.payer.path.startswith("/system")]
    assert [(m.name, m.memlock_bytes, m.payer) for m in again.maps] == [
        (m.name, m.memlock_bytes, m.payer) for m in kept
    ]
    assert [p.rss_anon for p in again.processes] == [p.rss_anon for p in document.processes]


def test_both_commands_ask_a_node(
    agent_and_client, node, capsys: pytest.CaptureFixture[str]
) -> None:
    target = agent_and_client[0].target
    assert main(["capture", "--node", "a1-00001", "--agent", target]) == 0
    assert json.loads(capsys.readouterr().out)["host"]["name"] == "a1-00001"
    assert main(["charges", "--node", "a1-00001", "--agent", target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["what"] == "unit agent.service"


def test_explain_asks_a_node_who_holds_what_a_process_runs_into(
    agent_and_client, node, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = next(each.pid for each in node.list_processes() if each.comm == "agent")
    options = ["--node", "a1-00001", "--agent", agent_and_client[0].target]
    assert main(["explain", *options, "--pid", str(pid)]) == 0
    output = capsys.readouterr().out
    assert f"process {pid} (agent) of uid 0 in /system.slice/agent.service" in output
    assert "largest: " in output
    assert main(["explain", *options, "map create: cannot allocate memory"]) == 0
    assert "memory.max of the container" in capsys.readouterr().out
