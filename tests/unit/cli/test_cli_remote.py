"""The commands that talk to an agent, against a real one on loopback."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
import pytest
from coordinator_process import CoordinatorProcess, Fleet, until
from node_agents import running

from bpfleet.cli.main import cli, main
from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import CallError, Session
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.v1 import fleet_service_pb2, node_service_pb2


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with running(nodes=0) as agent:
        yield agent.target


def bpfleet(*arguments: str) -> int:
    return main(list(arguments))


@pytest.fixture
def node(target: str, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    assert bpfleet("node", "create", "n1", "--agent", target, "--ram", "2G", "--cpus", "2") == 0
    capsys.readouterr()
    yield "n1"
    assert bpfleet("node", "delete", "n1", "--agent", target) == 0


def test_nodes_are_listed_and_shown(
    target: str, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bpfleet("node", "list", "--agent", target) == 0
    assert "6.12" in capsys.readouterr().out
    assert bpfleet("node", "show", node, "--agent", target, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "nodes/n1"
    assert shown["spec"]["ram_bytes"] == 2 << 30


def test_a_node_has_the_swap_it_was_made_with(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bpfleet("node", "create", "n3", "--agent", target, "--swap", "1G") == 0
    assert bpfleet("node", "show", "n3", "--agent", target) == 0
    assert "swap          1 GiB" in capsys.readouterr().out
    assert bpfleet("node", "show", "n3", "--agent", target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["spec"]["swap_bytes"] == 1 << 30
    assert bpfleet("node", "delete", "n3", "--agent", target) == 0


def test_a_cgroup_is_made_limited_read_and_removed(
    target: str, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = ("--agent", target)
    assert bpfleet("cgroup", "create", node, "/team", "--file", "memory.max=64M", *agent) == 0
    capsys.readouterr()
    assert bpfleet("cgroup", "read", node, "/team", "memory.max", *agent) == 0
    assert capsys.readouterr().out == f"{64 << 20}\n"
    assert bpfleet("cgroup", "write", node, "/team", "memory.max", "max", *agent) == 0
    assert bpfleet("cgroup", "list", node, *agent) == 0
    assert "/team" in capsys.readouterr().out
    assert bpfleet("cgroup", "delete", node, "/team", *agent) == 0


def test_maps_are_listed(target: str, node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bpfleet("map", "list", node, "--agent", target, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_process_is_started_creates_a_map_and_is_killed(
    target: str, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = ("--agent", target)
    limit = ("--memlock", "unlimited")
    assert bpfleet("process", "create", node, "--uid", "0", *limit, "--json", *agent) == 0
    pid = str(json.loads(capsys.readouterr().out)["pid"])
    assert bpfleet("map", "create", node, "--pid", pid, "--type", "hash", *agent) == 0
    assert bpfleet("process", "list", node, *agent) == 0
    assert "unlimited" in capsys.readouterr().out.splitlines()[-1]
    assert bpfleet("process", "kill", node, pid, *agent) == 0
    capsys.readouterr()
    assert bpfleet("process", "list", node, "--json", *agent) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_cgroup_whose_file_is_refused_is_not_left_behind(
    target: str, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = ("--agent", target)
    assert bpfleet("cgroup", "create", node, "/t", "--file", "memory.max=some", *agent) == 1
    capsys.readouterr()
    assert bpfleet("cgroup", "list", node, "--json", *agent) == 0
    assert [each["path"] for each in json.loads(capsys.readouterr().out)] == ["/"]


def test_orphans_and_tools_have_tables_and_json(
    target: str, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bpfleet("cgroup", "create", node, "/team", "--agent", target) == 0
    capsys.readouterr()
    assert bpfleet("node", "orphans", node, "--agent", target, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert bpfleet("node", "tools", node, "/team", "--agent", target, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {"bpftool map", "kubectl top", "crictl stats"} <= {view["tool"] for view in told}
    assert bpfleet("node", "tools", node, "/team", "--agent", target) == 0
    assert "memory.current" in capsys.readouterr().out


def test_faults_strike_and_are_taken_back(
    target: str, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bpfleet("process", "create", node, "--json", "--agent", target) == 0
    pid = str(json.loads(capsys.readouterr().out)["pid"])
    create = ("map", "create", node, "--pid", pid, "--type", "array", "--agent", target)
    assert bpfleet("node", "fault", node, "random", "--nth", "1", "--agent", target) == 0
    assert bpfleet(*create) == 1
    assert "FAULT_INJECTED" in capsys.readouterr().err
    assert bpfleet("node", "fault", node, "none", "--agent", target) == 0
    assert bpfleet(*create) == 0


def test_time_passes_when_told(target: str, node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bpfleet("node", "advance", node, "1.5", "--agent", target) == 0
    assert capsys.readouterr().out == "n1: 1.500 s\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("node", "show", "absent"), 1, "absent"),
        (("node", "show", "not a name!"), 2, "not a name!"),
        (("cgroup", "read", "n1", "/absent", "memory.max"), 1, "ENOENT"),
        (("cgroup", "create", "n1", "/x", "--file", "memory.max"), 2, "write FILE=TEXT"),
        (("map", "create", "n1", "--pid", "999999", "--type", "hash"), 1, "ESRCH"),
        (
            ("map", "create", "n1", "--pid", "1", "--type", "hsah"),
            2,
            "unknown map type 'hsah'; did you mean 'hash'?",
        ),
        (("node", "create", "n2", "--ram", "1"), 2, "spec.ram_bytes: 1 is out of range"),
        (("node", "create", "n2", "--swap", "17T"), 2, "spec.swap_bytes: 18691697672192 is out"),
        (("node", "create", "n2", "--ram", "9999999P"), 2, "larger than any memory"),
        (("node", "create", "n2", "--seed", "99999999999999999999"), 2, "--seed: "),
        (("node", "advance", "n1", "nan"), 2, "not a number of seconds"),
        (("node", "fault", "n1", "typo"), 2, "late_refill"),
        (("node", "advance", "n1", "inf"), 2, "SECONDS: "),
        (("process", "create", "n1", "--cgroup", "/absent"), 1, "ENOENT"),
        (("process", "create", "n1", "--uid", "-1"), 2, "--uid: "),
        (("process", "kill", "n1", "999999"), 1, "ESRCH"),
    ],
)
def test_refusals_are_one_line(
    target: str,
    node: str,
    arguments: tuple[str, ...],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bpfleet(*arguments, "--agent", target) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("node", "list", "--agent"),
        ("map", "list", "n", "--agent"),
        ("fleet", "status", "--coordinator"),
    ],
)
@pytest.mark.slow
def test_nobody_there_is_one_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bpfleet(*arguments, "127.0.0.1:1") == 1
    error = capsys.readouterr().err
    assert "answers at 127.0.0.1:1" in error
    assert len(error.splitlines()) == 1


def test_an_address_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert bpfleet("node", "list", "--agent", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_every_help_has_an_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bpfleet(*words, "--help") == 0
    examples = capsys.readouterr().out.partition("Examples:")[2]
    assert f"bpfleet {' '.join(words)}" in examples or "python -m bpfleet." in examples


HOST = 'name = "host"\nrelease = "6.12.9"\nbase = "6.12"\n[structs]\nbpf_array = 512\n[flags]\n'


def test_a_node_boots_the_kernel_of_a_profile_file(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "host.toml").write_text(HOST)
    file = str(tmp_path / "host.toml")
    assert bpfleet("node", "create", "h1", "--agent", target, "--kernel", file, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["spec"]["profile"] == made["kernel"]["profile"] == "host"
    assert made["kernel"]["release"] == "6.12.9"
    assert bpfleet("node", "delete", "h1", "--agent", target) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HOST + "memcg_charge_batch = -1\n", "flags.memcg_charge_batch: -1 is out of range"),
        (HOST.replace("512", "0"), "structs.bpf_array: 0 is not a size"),
        (HOST.replace('"host"', '"' + "h" * 65 + '"'), "use at most 64 printable characters"),
        (HOST.replace('"6.12"', '"9.9"'), "unknown kernel '9.9'"),
        ("a = " + "[" * 20_000, "nested too deep"),
        ("# " + "x" * (64 << 10), "more than 65,536 characters"),
    ],
)
def test_a_bad_profile_file_boots_nothing(target: str, text: str, complaint: str) -> None:
    with (
        Session(target) as session,
        pytest.raises(CallError, match=re.escape(complaint)) as refused,
    ):
        AgentClient(session).create_node("h2", profile_file=text)
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_node_takes_a_profile_by_name_or_as_text_not_both(target: str) -> None:
    spec = node_service_pb2.NodeSpec(
        profile="6.12", profile_file=HOST, ram_bytes=1 << 30, possible_cpus=1
    )
    request = node_service_pb2.CreateNodeRequest(node="h3", spec=spec)
    with Session(target) as session, pytest.raises(CallError, match="either a profile") as refused:
        session.call(AgentClient(session).nodes.CreateNode, request)
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A coordinator and the agent that is registered with it: their addresses."""
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    process.start()
    there = (ChannelOptions(target=process.target),)
    try:
        with running(agent_id="a1", nodes=2, coordinators=there) as agent:
            asyncio.run(_ready(process.target, 2))
            yield process.target, agent.target
    finally:
        process.kill()


async def _ready(target: str, nodes: int) -> None:
    calls = Fleet(target)

    async def look() -> bool:
        status = await calls.first.GetFleetStatus(fleet_service_pb2.GetFleetStatusRequest())
        return status.ready_node_count == nodes

    await until(look)


def test_a_coordinator_says_which_agent_carries_a_node(
    known: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, _ = known
    for command in (("node", "show"), ("map", "list"), ("cgroup", "list"), ("process", "list")):
        assert bpfleet(*command, "a1-00002", "--coordinator", coordinator, "--json") == 0
    assert '"nodes/a1-00002"' in capsys.readouterr().out
    monkeypatch.setenv("BPFLEET_COORDINATOR", coordinator)
    assert bpfleet("node", "show", "a1-00002", "--json") == 0


def test_who_names_the_agent_asks_no_coordinator(
    known: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, agent = known
    monkeypatch.setenv("BPFLEET_COORDINATOR", "127.0.0.1:1")
    assert bpfleet("node", "show", "a1-00001", "--agent", agent, "--json") == 0
    capsys.readouterr()
    both = ("--agent", agent, "--coordinator", coordinator)
    assert bpfleet("node", "show", "a1-00001", *both) == 2
    assert "give --agent or --coordinator, not both" in capsys.readouterr().err


def test_a_coordinator_is_not_passed_over_where_no_node_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bpfleet("top", "nodes", "--once", "--coordinator", "127.0.0.1:1") == 2
    assert "name the agent here with --agent" in capsys.readouterr().err


def test_a_node_nobody_knows_is_one_line(
    known: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator, _ = known
    assert bpfleet("node", "show", "ghost", "--coordinator", coordinator) == 1
    error = capsys.readouterr().err
    assert "node 'ghost' is not in the fleet" in error
    assert len(error.splitlines()) == 1


def test_an_agent_whose_name_is_unknown_here_is_asked_elsewhere(
    known: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator, _ = known
    there = (ChannelOptions(target=coordinator),)
    with running(agent_id="b1", nodes=1, advertise="no-such-host.invalid:7071", coordinators=there):
        asyncio.run(_ready(coordinator, 3))
        assert bpfleet("node", "show", "b1-00001", "--coordinator", coordinator) == 1
    error = capsys.readouterr().err
    assert "no-such-host.invalid:7071, a name that this machine does not know" in error
    assert "docker compose exec" in error
