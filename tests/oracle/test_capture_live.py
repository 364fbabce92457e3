"""A capture of this machine: maps in fresh cgroups, pins without a holder, a removed cgroup; every payer is right."""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from node_agents import connected

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.calibrate.containers import host_input
from bpfleet.calibrate.emulate import emulate_host
from bpfleet.calibrate.verdict import calibrate
from bpfleet.captures import collect as script
from bpfleet.captures.charges import payer_rows
from bpfleet.captures.collect import collect
from bpfleet.captures.document import Document, Map, read_document
from bpfleet.cli import listing
from bpfleet.cli.captured import own_kernel
from bpfleet.cli.captured_node import build_node
from bpfleet.cli.emulated import capture_node
from bpfleet.cli.main import main
from bpfleet.kernel import PROFILES, KernelError
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from tests.live_host import (
    bpffs,
    create_map,
    fresh_cgroup,
    limit_memory,
    load_program,
    pin,
    process_in,
    skip_unless_root_with_bpf,
    update,
)

pytestmark = [pytest.mark.live_kernel, pytest.mark.slow]

# Names of this run's own: others may be at work on the same kernel.
TAG = f"t{os.getpid() % 100_000}_"
TYPES = (
    (MapType.HASH, 8, 16, 1000, 0),
    (MapType.HASH, 8, 16, 100, F_NO_PREALLOC),
    (MapType.ARRAY, 4, 64, 1000, 0),
    (MapType.PERCPU_ARRAY, 4, 64, 100, 0),
    (MapType.PERCPU_HASH, 8, 8, 1000, 0),
    (MapType.LRU_HASH, 8, 8, 1000, 0),
    (MapType.LPM_TRIE, 8, 8, 100, F_NO_PREALLOC),
    (MapType.RINGBUF, 0, 0, 65536, 0),
    (MapType.QUEUE, 0, 8, 100, 0),
    (MapType.STACK_TRACE, 4, 80, 100, 0),
    (MapType.PERF_EVENT_ARRAY, 4, 4, 2, 0),
)


LIMITS = (64 << 20, 32 << 20, 16 << 20)


def _ten(prefix: str) -> None:
    for number, (kind, key, value, entries, flags) in enumerate(TYPES):
        fd = create_map(kind, key, value, entries, flags, f"{prefix}{number}")
        if kind is MapType.HASH:
            for key_number in range(7):
                update(fd, key_number.to_bytes(8, "little"), bytes(16))


def _many() -> None:
    _ten(TAG)
    inner = create_map(MapType.ARRAY, 4, 8, 1, 0, f"{TAG}inner")
    outer = create_map(MapType.ARRAY_OF_MAPS, 4, 4, 3, 0, f"{TAG}outer", inner)
    update(outer, bytes(4), inner.to_bytes(4, "little"))
    load_program()


def _pin(name: str, pins: Path) -> None:
    pin(create_map(MapType.HASH, 8, 8, 500, 0, name), pins / name)


def _locked() -> None:
    area = mmap.mmap(-1, 1 << 20)
    area[:] = bytes(1 << 20)
    libc = ctypes.CDLL(None, use_errno=True)
    assert (
        libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), 1 << 20) == 0
    )
    globals()["_area"] = area


@pytest.fixture(scope="module")
def state() -> Iterator[SimpleNamespace]:
    skip_unless_root_with_bpf()
    with ExitStack() as stack:
        groups = [stack.enter_context(fresh_cgroup(name)) for name in ("many", "pinner", "gone")]
        more = [stack.enter_context(fresh_cgroup(name)) for name in ("second", "third")]
        for group, limit in zip((groups[0], *more), LIMITS, strict=True):
            limit_memory(group, limit)
        pins = stack.enter_context(bpffs())
        stack.enter_context(process_in(groups[0], _many))
        for number, group in enumerate(more):
            stack.enter_context(process_in(group, partial(_ten, f"{TAG}m{number}_")))
        locker = stack.enter_context(process_in(groups[0], _locked))
        for group, name in zip(groups[1:], (f"{TAG}pinned", f"{TAG}gone"), strict=True):
            with process_in(group, partial(_pin, name, pins)):
                pass
        groups[2].rmdir()
        document = read_document(msgspec.json.encode(collect(count_elements=True)), "here")
        yield SimpleNamespace(document=document, groups=groups, more=more, pins=pins, locker=locker)


def of(document: Document, name: str) -> Map:
    (found,) = [each for each in document.maps if each.name == name]
    return found


def path(group: Path) -> str:
    return str(group).removeprefix(script.Cgroups().mount)


def test_payers_are_read_not_guessed(state: SimpleNamespace) -> None:
    assert state.document.charges.read, state.document.charges.why_not
    for number in range(len(TYPES)):
        payer = of(state.document, f"{TAG}{number}").payer
        assert (payer.kind, payer.path, payer.read) == ("cgroup", path(state.groups[0]), True)


def test_three_cgroups_have_their_maps_and_limits(state: SimpleNamespace) -> None:
    cgroups = {each.path: each for each in state.document.cgroups}
    groups = (state.groups[0], *state.more)
    assert tuple(cgroups[path(group)].max for group in groups) == LIMITS
    for number, group in enumerate(state.more):
        mine = [m for m in state.document.maps if m.name.startswith(f"{TAG}m{number}_")]
        assert len(mine) == len(TYPES)
        assert {m.payer.path for m in mine} == {path(group)}
    (second,) = [row for row in payer_rows(state.document) if row.payer == path(state.more[0])]
    assert (second.maps, second.limit, second.how) == (len(TYPES), LIMITS[1], "read")


def test_the_same_maps_on_an_emulated_node_give_the_same_table(state: SimpleNamespace) -> None:
    """`charges` of this host beside `charges --node`: the node's from its ledger."""
    with connected(profile="6.12") as (_, client):
        assert build_node(client, "here", state.document) == []
        node = capture_node(client.node("here"))
    groups = [path(group) for group in (state.groups[0], *state.more, state.groups[1])]
    seen = {row.payer: row for row in payer_rows(state.document)}
    here = {row.payer: row for row in payer_rows(node)}
    for group in groups:
        live, emulated = seen[group], here[group]
        assert (emulated.maps, emulated.programs) == (live.maps, live.programs)
        assert emulated.limit == live.limit
        shown = [sorted((o.type, o.name, o.bytes) for o in row.objects if o.kind == "map")
                 for row in (emulated, live)]  # fmt: skip
        assert shown[0] == shown[1]


def test_explain_here_says_who_holds_the_counter_of_a_process(
    state: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "--here", "--pid", str(state.locker)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"process {state.locker} (")
    assert path(state.groups[0]) in output
    assert f"{len(TYPES) + 2} maps and 1 programs" in output
    assert main(["explain", "--here", "map create: cannot allocate memory"]) == 0
    assert "memory.max of the container" in capsys.readouterr().out
    assert main(["explain", "--here", "--pid", "4194304"]) == 0
    assert "holds no BPF object and no locked memory" in capsys.readouterr().out


def test_charges_of_this_host_in_every_form(
    state: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = path(state.groups[0])
    assert main(["charges", "--json"]) == 0
    rows = {row["payer"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[group]["maps"] == len(TYPES) + 2
    assert main(["charges", "--openmetrics"]) == 0
    metrics = capsys.readouterr().out
    assert f'payer="{group}"' in metrics
    assert metrics.endswith("# EOF\n")
    shown = []

    def second_look(_: float) -> None:
        shown.append(capsys.readouterr().out)
        if len(shown) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(listing.time, "sleep", second_look)
    assert main(["charges", "--watch", "--objects"]) == 130
    assert all(f"{TAG}outer" in each for each in shown)


def test_compare_without_arguments_offers_this_host_in_one_line(state: SimpleNamespace) -> None:
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bpfleet.cli.main", "compare"],
        stdout=subprocess.DEVNULL,
        stderr=end,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
    )
    os.close(end)
    try:
        text = b""
        while b"\n" not in text:
            text += os.read(terminal, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    line = text.decode().splitlines()[0]
    assert line.startswith("BPF is in use here: bpfleet capture -o here.json && bpfleet compare")


def test_a_pinned_map_whose_maker_has_ended_keeps_its_payer(state: SimpleNamespace) -> None:
    found = of(state.document, f"{TAG}pinned")
    assert found.holders == ()
    assert found.pinned == (str(state.pins / f"{TAG}pinned"),)
    assert found.payer.path == path(state.groups[1])


def test_after_rmdir_the_parent_pays(state: SimpleNamespace) -> None:
    payer = of(state.document, f"{TAG}gone").payer
    assert payer.read
    assert payer.path == path(state.groups[2].parent) or payer.removed or payer.kind == "root"


def test_elements_are_counted_and_inner_maps_known(state: SimpleNamespace) -> None:
    assert of(state.document, f"{TAG}0").elements == 7
    assert of(state.document, f"{TAG}1").elements == 7
    assert of(state.document, f"{TAG}outer").inner == (of(state.document, f"{TAG}inner").id,)


def test_processes_cgroups_and_locked_memory_are_there(state: SimpleNamespace) -> None:
    (locker,) = [each for each in state.document.processes if each.pid == state.locker]
    assert locker.vm_locked >= 1 << 20
    paths = [each.path for each in state.document.cgroups]
    assert path(state.groups[0]) in paths
    assert "/" in paths


def test_the_table_has_one_row_per_payer(state: SimpleNamespace) -> None:
    rows = {row.payer: row for row in payer_rows(state.document)}
    row = rows[path(state.groups[0])]
    assert row.maps == len(TYPES) + 2
    assert row.programs == 1
    expected = sum(
        each.memlock_bytes for each in state.document.maps if each.payer.path == row.payer
    )
    assert row.bytes == expected + sum(
        each.memlock_bytes for each in state.document.programs if each.payer.path == row.payer
    )


def test_without_the_iterator_rows_are_marked_deduced(state: SimpleNamespace) -> None:
    document = read_document(msgspec.json.encode(collect(use_bpf=False)), "here")
    assert (document.charges.read, document.charges.why_not) == (False, "left out by --no-bpf")
    payer = of(document, f"{TAG}0").payer
    assert (payer.path, payer.read) == (path(state.groups[0]), False)
    assert of(document, f"{TAG}pinned").payer.kind == "unknown"


def test_the_one_file_script_gives_the_same_document(state: SimpleNamespace) -> None:
    source = Path(script.__file__).read_bytes()
    result = subprocess.run(
        [sys.executable, "-I", "-", "--no-bpf"],
        input=source,
        capture_output=True,
        check=True,
        cwd="/",
        env={},
    )
    document = read_document(result.stdout, "script")
    mine = [
        {each.id for each in one.maps if each.name.startswith(TAG)}
        for one in (document, state.document)
    ]
    assert mine[0] == mine[1]
    assert len(mine[0]) == 3 * len(TYPES) + 4


def test_calibration_reproduces_what_runs_here(state: SimpleNamespace) -> None:
    found = host_input(state.document)
    kernel = own_kernel(state.document, {})
    outcomes = emulate_host(found, kernel)
    calibrated = calibrate(state.document, found.containers, outcomes, kernel)
    lines = {line.path: line for line in calibrated}
    many, pinner = lines[path(state.groups[0])], lines[path(state.groups[1])]
    assert (many.verdict, many.exact_maps) == ("reproduced", len(TYPES) + 1)
    for group in state.more:
        line = lines[path(group)]
        assert (line.verdict, line.exact_maps) == ("reproduced", len(TYPES))
    assert (pinner.exact_maps, pinner.maps) == (1, 1)


@pytest.mark.parametrize("kernel", ["5.10", "6.12"])
def test_the_answer_is_that_of_the_same_calls_on_the_emulator(
    state: SimpleNamespace, kernel: str
) -> None:
    found = host_input(state.document)
    index = [each.path for each in found.containers].index(path(state.groups[0]))
    outcome = emulate_host(found, PROFILES[kernel])[index]
    emulator = Kernel(
        PROFILES[kernel], ram_bytes=found.ram_bytes, possible_cpus=found.possible_cpus
    )
    limit = found.containers[index].memlock_bytes
    task = emulator.spawn(memlock=(limit, limit))
    answer = "ok"
    try:
        for kind, key, value, entries, flags in TYPES:
            emulator.bpf.map_create(task, MapAttr(kind, key, value, entries, flags))
    except KernelError as error:
        answer = error.errno.name
    assert outcome.start == answer


def test_nothing_is_left_behind(state: SimpleNamespace) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    collect(count_elements=True)
    assert sorted(os.listdir("/proc/self/fd")) == before
