"""A captured host as an emulated node: captured again it is the same, and a node made from that capture equals it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from node_agents import connected

from bpfleet.abi.bpf import MapType
from bpfleet.captures.charges import payer_rows
from bpfleet.captures.document import Document, read_document, write_document
from bpfleet.cli.captured_node import build_node
from bpfleet.cli.emulated import capture_node
from bpfleet.cli.main import main
from bpfleet.workload.errors import SpecError
from tests.captured_hosts import MIB, host

HOSTS = Path(__file__).parents[1] / "unit" / "captures" / "hosts"


@pytest.fixture
def agent_and_client() -> Iterator[tuple]:
    with connected(profile="6.12") as pair:
        yield pair


@pytest.fixture
def client(agent_and_client):
    return agent_and_client[1]


def golden(kernel: str) -> Document:
    path = HOSTS / f"host-{kernel}.json"
    return read_document(path.read_bytes(), path.name)


def still(document: Document) -> Document:
    """Without the node's name and what CPUs hold charged ahead, which depends on who ran where."""
    cgroups = tuple(
        replace(each, current=0, peak=0, events={}, stat={}) for each in document.cgroups
    )
    return replace(document, host=replace(document.host, name=""), cgroups=cgroups)


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12"])
def test_capture_node_capture_is_an_equal_document(client, kernel: str) -> None:
    assert build_node(client, "one", golden(kernel)) == []
    first = capture_node(client.node("one"))
    assert build_node(client, "two", first) == []
    second = capture_node(client.node("two"))
    assert still(second) == still(first)


def test_a_host_that_swaps_gives_a_node_that_does(client) -> None:
    document = golden("6.12")
    path = next(each.path for each in document.cgroups if each.path != "/" and not each.removed)
    swapping = replace(
        document,
        host=replace(document.host, swap_bytes=1 << 30),
        cgroups=tuple(
            replace(each, swap_max=0) if each.path == path else each for each in document.cgroups
        ),
    )
    assert build_node(client, "one", swapping) == []
    assert "SwapTotal:       1048576 kB" in client.node("one").read_proc("meminfo")
    assert client.node("one").cgroup(path).read("memory.swap.max") == "0\n"
    first = capture_node(client.node("one"))
    assert first.host.swap_bytes == 1 << 30
    assert build_node(client, "two", first) == []
    assert still(capture_node(client.node("two"))) == still(first)


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12"])
def test_the_node_is_like_its_host(client, kernel: str) -> None:
    document = golden(kernel)
    build_node(client, "one", document)
    made = capture_node(client.node("one"))
    names = [each.name for each in document.maps]
    assert [each.name for each in made.maps] == names
    for seen, here in zip(document.maps, made.maps, strict=True):
        shown = (seen.type, seen.key_size, seen.value_size, seen.max_entries, seen.memlock_bytes)
        assert (
            here.type,
            here.key_size,
            here.value_size,
            here.max_entries,
            here.memlock_bytes,
        ) == shown
        assert here.payer.kind == seen.payer.kind
        assert (here.payer.path, here.payer.uid) == (seen.payer.path, seen.payer.uid)
        assert len(here.holders) == len(seen.holders)
        assert len(here.inner) == len(seen.inner)
        assert len(here.pinned) == len(seen.pinned)
        assert (seen.elements or 0) == here.elements or seen.type in (2, 6)
    limits = {each.path: (each.max, each.high) for each in made.cgroups}
    assert all(
        limits[each.path] == (each.max, each.high) for each in document.cgroups if each.path != "/"
    )
    seen_rows = {row.payer: (row.maps, row.programs) for row in payer_rows(document)}
    made_rows = {row.payer: (row.maps, row.programs) for row in payer_rows(made)}
    assert made_rows == seen_rows


def test_every_process_has_its_descriptors(client) -> None:
    document = golden("6.12")
    build_node(client, "one", document)
    made = capture_node(client.node("one"))
    assert [(p.comm, p.uid, p.cgroup, len(p.maps), len(p.programs)) for p in made.processes] == [
        (p.comm, p.uid, p.cgroup, len(p.maps), len(p.programs)) for p in document.processes
    ]
    (agent,) = [each for each in made.processes if each.comm == "agent"]
    assert all(agent.pid in each.holders for each in made.maps if each.id in agent.maps)
    (locker,) = [each for each in made.processes if each.comm == "locker"]
    assert locker.vm_locked >= MIB


def test_what_the_nodes_kernel_refuses_is_said(client) -> None:
    document = host("h", release="6.12.1", profile="6.12")
    odd = replace(document.maps[0], id=7, name="odd", type=999)
    large = replace(document.maps[0], id=8, name="large", max_entries=10_000_000)
    left_out = build_node(client, "one", replace(document, maps=(*document.maps, odd, large)))
    assert left_out[0] == "map odd: type 999 is not known"
    assert left_out[1].startswith("map large: BPF_MAP_CREATE: ENOMEM")
    assert [each.name for each in capture_node(client.node("one")).maps] == ["flows"]


@pytest.mark.parametrize("kind", [MapType.PERCPU_HASH, MapType.LPM_TRIE, MapType.HASH])
def test_a_host_of_one_cpu_has_its_elements(client, kind: MapType) -> None:
    """A per-CPU value is read in whole words, however few CPUs there are."""
    document = host("h", release="6.12.1", profile="6.12", cpus=1)
    flags = 1 if kind is MapType.LPM_TRIE else 0
    seen = replace(document.maps[0], type=kind, flags=flags, key_size=8, value_size=4, elements=300)
    assert build_node(client, "one", replace(document, maps=(seen,))) == []
    assert [each.elements for each in capture_node(client.node("one")).maps] == [300]


def test_odd_paths_and_capabilities_are_made_legal(client) -> None:
    document = host("h", release="6.12.1", profile="6.12", path="/../a b/x")
    odd = replace(document.processes[0], capabilities="none of them")
    assert (
        build_node(client, "one", replace(document, processes=(odd,))) != []
    )  # it may not load programs
    made = capture_node(client.node("one"))
    assert "/up/a_b/x" in [each.path for each in made.cgroups]


def test_a_node_that_cannot_be_made_is_not_left_half_made(client) -> None:
    document = host("h", release="6.12.1", profile="6.12")
    stranger = replace(document.processes[0], uid=4_000_000_000)
    with pytest.raises(SpecError, match="over 2147483647"):
        build_node(client, "half", replace(document, processes=(stranger,)))
    assert "nodes/half" not in [each.name for each in client.list_nodes()]


def test_one_command_makes_the_node(
    agent_and_client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = HOSTS / "host-6.12.json", agent_and_client[0].target
    assert main(["node", "create", "copy", "--capture", str(path), "--agent", target]) == 0
    assert "copy: 6.12@6.12.117+deb12-cloud-amd64, 23 maps, 6 programs, " in capsys.readouterr().out
    again = tmp_path / "again.json"
    assert main(["capture", "--node", "copy", "--agent", target, "-o", str(again)]) == 0
    assert main(["compare", str(again), "--to", "6.18"]) == 0
    output = capsys.readouterr().out
    assert "6 of 6 containers reproduced" in output
    wrong = ["node", "create", "x", "--capture", str(path), "--ram", "1G", "--agent", target]
    assert main(wrong) == 2
    assert "--ram: the capture sets it" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    bad.write_bytes(write_document(host("h"))[:50])
    assert main(["node", "create", "x", "--capture", str(bad), "--agent", target]) == 2


@pytest.mark.parametrize("command", ["charges", "explain"])
def test_a_node_answers_as_its_host_does(
    agent_and_client, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, client = agent_and_client
    build_node(client, "copy", golden("6.12"))
    assert main([command, "--node", "copy", "--agent", agent.target]) == 0
    assert "agent" in capsys.readouterr().out
