"""What uses memory on a node, looked at again and again, and one map with all that belongs to it."""

import json
from collections.abc import Iterator

import pytest
from node_agents import running

from bpfleet.abi.bpf import MapType
from bpfleet.cli import listing
from bpfleet.cli.main import main
from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import Session
from bpfleet.rpc.addresses import ChannelOptions

HELD, ENTRIES = 3, 12


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """An agent; on its first node a process in /team holds a map that is a quarter full and pinned."""
    with running(nodes=2) as agent:
        with Session(ChannelOptions(target=agent.target)) as session:
            node = AgentClient(session).node("a1-00001")
            node.create_cgroup("/team", {"memory.max": "4194304"})
            process = node.create_process(cgroup="/team", comm="loader")
            made = process.create_map(
                MapType.HASH,
                key_size=4,
                value_size=8,
                max_entries=ENTRIES,
                name="flows",
                map_flags=1,
            )
            for number in range(HELD):
                made.update(number.to_bytes(4, "little"), bytes(8))
            made.pin("/sys/fs/bpf/flows")
            process.load_program("socket_filter", 64, maps=[made], name="reader")
        yield agent.target


def told(capsys: pytest.CaptureFixture[str], target: str, *arguments: str) -> str:
    assert main([*arguments, "--agent", target]) == 0
    return capsys.readouterr().out


def test_a_map_is_shown_with_its_fill_pins_holders_and_programs(target, capsys):
    (map_id,) = told(capsys, target, "map", "list", "a1-00001", "-o", "name").split()
    shown = told(capsys, target, "map", "show", "a1-00001", map_id)
    lines = dict(line.split("  ", 1) for line in shown.splitlines()[1:])
    assert lines["entries"].strip() == "3 of 12, 25 % full"
    assert lines["flags"].strip() == "no_prealloc"
    assert lines["pinned"].strip() == "flows"
    assert lines["held by"].strip().startswith("loader (")
    assert lines["used by"].strip().startswith("reader (")
    assert lines["charged"].strip().endswith(" to /team")
    data = json.loads(told(capsys, target, "map", "show", "a1-00001", map_id, "--json"))
    assert data["full_percent"] == 25
    assert [each["comm"] for each in data["holders"]] == ["loader"]
    assert [each["program_name"] for each in data["programs"]] == ["reader"]


def test_a_map_that_is_not_there_is_a_failure(target, capsys):
    assert main(["map", "show", "a1-00001", "999", "--agent", target]) == 1
    assert "a1-00001 has no map 999" in capsys.readouterr().err


def test_maps_can_be_filtered_by_how_full_they_are(target, capsys):
    full = ("map", "list", "a1-00001", "-o", "name", "--filter")
    assert told(capsys, target, *full, "full>24") != ""
    assert told(capsys, target, *full, "full>25") == ""


def test_nodes_come_by_bpf_memory(target, capsys):
    assert told(capsys, target, "top", "nodes", "--once", "-o", "name").split() == [
        "a1-00001",
        "a1-00002",
    ]
    first, second = json.loads(told(capsys, target, "top", "nodes", "--once", "--json"))
    assert first["bpf_charged_bytes"] > second["bpf_charged_bytes"] == 0
    assert first["bpf_change_bytes_per_second"] is None


def test_cgroups_say_how_full_they_are(target, capsys):
    text = told(capsys, target, "top", "cgroups", "a1-00001", "--once", "--json")
    team = next(each for each in json.loads(text) if each["cgroup"] == "/team")
    assert team["max_bytes"] == 4 << 20
    assert team["full_percent"] == round(100 * team["current_bytes"] / team["max_bytes"], 1)
    assert team["processes"] == 1


def test_rows_are_cut_where_asked(target, capsys):
    text = told(capsys, target, "top", "nodes", "--once", "-o", "name", "--rows", "1")
    assert text.split() == ["a1-00001"]


def test_it_is_refreshed_until_interrupted_and_says_what_changed(target, capsys, monkeypatch):
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(listing.time, "sleep", sleep)
    assert main(["top", "maps", "a1-00001", "--interval", "7", "--agent", target]) == 130
    first, second = capsys.readouterr().out.split("id  ")[1:]
    assert pauses == [7, 7]
    assert "/s" not in first
    assert len(second.splitlines()[1].split()) == len(first.splitlines()[1].split()) + 1
