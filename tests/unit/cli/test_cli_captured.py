"""`bpfleet compare CAPTURES --to K`, `capture` and `charges` as commands."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from bpfleet.captures.document import write_document
from bpfleet.cli.main import main
from tests.captured_hosts import MIB, host


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def captures(tmp_path: Path) -> list[Path]:
    documents = [
        host("big", entries=200_000, limit=8 * MIB, heap=MIB),
        host("small", entries=100),
        host("new", release="6.1.5", profile="6.1"),
    ]
    paths = [tmp_path / f"{document.host.name}.json" for document in documents]
    for path, document in zip(paths, documents, strict=True):
        path.write_bytes(write_document(document))
    return paths


def test_captures_are_answered_with_calibration(
    captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *captures, "--to", "6.12") == 0
    output = capsys.readouterr().out
    assert "3 hosts: 5.10, 6.1 to 6.12" in output
    assert "fails anew" in output
    assert "3 of 3 containers reproduced" in output


def test_a_host_without_bpf_gets_a_sentence_and_no_empty_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(host("bare"), processes=(), maps=(), programs=(), cgroups=())
    path = tmp_path / "bare.json"
    path.write_bytes(write_document(bare))
    assert run("compare", path, "--to", "6.12") == 0
    title, answer, _ = capsys.readouterr().out.splitlines()
    assert title.startswith("1 host: ")
    assert answer == "Nothing in the captures uses BPF: no container has a map or a program."


def test_how_sure_the_answer_is_stands_in_every_form_of_it(
    captures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, text = tmp_path / "answer.html", tmp_path / "answer.md"
    assert run("compare", *captures, "--to", "6.12", "--report", page, "--markdown", text) == 0
    sure = "5.10: recorded (5.10.262); 6.1: recorded (6.1.192); 6.12: recorded (6.12.107)"
    assert capsys.readouterr().out.splitlines()[-1] == sure
    assert sure in page.read_text()
    assert sure in text.read_text()
    assert run("compare", *captures, "--to", "6.12", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kernels"]["6.1"] == "recorded (6.1.192)"
    assert answer["targets"] == {"6.12": "recorded (6.12.107)"}


def test_several_kernels_are_answered_beside_each_other(
    captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *captures, "--kernel", "6.12,6.12:selectable", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["targets"]) == ["6.12", "6.12:selectable"]
    assert {row["target"] for row in answer["rows"]} == {"6.12", "6.12:selectable"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "6.12", "--kernel", "6.12"), "--to, the kernel after the change, or --kernel"),
        (("--kernel", "6.12,6.18", "--patches", "p"), "--patches goes with --to"),
        (("--to", "6.12", "--nodes", "5"), "--nodes is for scenarios, not for captures"),
        (("--to", "6.12", "--seed", "5", "--steps", "3"), "--seed is for scenarios"),
        (("--to", "6.12", "--scenario", "mixed-fleet"), "--scenario is for scenarios"),
    ],
)
def test_options_that_mean_nothing_to_captures_are_refused(
    captures: list[Path],
    options: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("compare", *captures, *options) == 2
    assert words in capsys.readouterr().err


def test_a_pipeline_fails_on_new_failures(captures: list[Path]) -> None:
    assert run("compare", *captures, "--to", "6.12", "--fail-on", "new-failures") == 1
    assert run("compare", captures[1], "--to", "6.12", "--fail-on", "new-failures") == 0


def test_all_outputs_are_written(captures: list[Path], tmp_path: Path) -> None:
    outputs = {form: tmp_path / f"out.{form}" for form in ("csv", "markdown", "report")}
    options = [word for form, path in outputs.items() for word in (f"--{form}", path)]
    assert run("compare", *captures, "--to", "6.12", *options, "--patches", tmp_path / "p") == 0
    assert all("agent.service" in path.read_text() for path in outputs.values())
    drop_in = tmp_path / "p" / "systemd" / "agent.service.d" / "50-bpfleet.conf"
    assert "MemoryMax=" in drop_in.read_text()


def test_grouping_changes_nothing(captures: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", *captures, "--to", "6.12", "--json") == 0
    grouped = json.loads(capsys.readouterr().out)
    assert run("compare", *captures, "--to", "6.12", "--json", "--no-grouping") == 0
    assert json.loads(capsys.readouterr().out) == grouped


def test_a_bad_capture_is_named_and_left_out_when_asked(
    captures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    assert run("compare", *captures, bad, "--to", "6.12") == 2
    assert "bad.json: not JSON" in capsys.readouterr().err
    assert run("compare", *captures, bad, "--to", "6.12", "--skip-bad") == 0
    assert "left out: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "captures need --to"),
        (("--to", "6.12", "--fill", "120%"), "use 0% to 100%"),
        (("--to", "6.12", "--replace", "nobody=x"), "no container is called nobody"),
        (("--to", "6.12", "--replace", "x"), "write CONTAINER=FILE"),
        (("--to", "9.99"), "unknown kernel"),
    ],
)
def test_bad_options_are_one_line(
    options: tuple[str, ...], message: str, captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *captures, *options) == 2
    assert message in capsys.readouterr().err


def test_larger_hosts_and_another_agent_are_asked_about(
    captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--to",
        "6.1",
        "--cpus",
        "128",
        "--fill",
        "10%",
        "--replace",
        f"agent.service={captures[0]}",
    )
    assert run("compare", captures[2], *options, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["need_bytes"] > 16 * MIB


def test_charges_of_a_capture(captures: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("charges", captures[2], "--objects") == 0
    output = capsys.readouterr().out
    assert "/system.slice/agent.service" in output
    assert "flows" in output
    assert run("charges", captures[2], "--openmetrics") == 0
    assert "bpfleet_payer_bpf_bytes" in capsys.readouterr().out
    assert run("charges", captures[2], "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["maps"] == 1


def test_the_script_and_the_schema_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("capture", "--script") == 0
    assert "def collect(" in capsys.readouterr().out
    assert run("capture", "--schema") == 0
    assert "Document" in json.loads(capsys.readouterr().out)["$defs"]


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict]:
    assert run("compare", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)["rows"]


def test_a_host_with_less_memory_runs_out_of_it(
    captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (today,) = rows_of(capsys, captures[2], "--to", "6.12")
    (small,) = rows_of(capsys, captures[2], "--to", "6.12", "--ram", "5M")
    assert today["change"] == "fits"
    assert (small["change"], small["after"]) == ("fails anew", "ENOMEM")
    assert "NODE_OUT_OF_MEMORY" in small["why"]


def test_an_application_of_the_catalogue_is_sized_for_each_host(
    captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--to", "6.12", "--replace", "agent.service=cilium")
    (here,) = rows_of(capsys, captures[2], *options)
    (larger,) = rows_of(capsys, captures[2], *options, "--ram", "256G", "--cpus", "64")
    assert (here["change"], larger["change"]) == ("fails anew", "fails anew")  # 64 MiB are too few
    assert larger["need_bytes"] > 2 * here["need_bytes"] > 0


def test_a_listing_takes_the_place_of_a_containers_maps(
    captures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "listing.json"
    entry = {
        "id": 1,
        "type": "hash",
        "name": "flows",
        "flags": 0,
        "bytes_key": 8,
        "bytes_value": 64,
        "max_entries": 900_000,
        "bytes_memlock": 100_000_000,
    }
    listing.write_text(json.dumps([entry]))
    (row,) = rows_of(capsys, captures[2], "--to", "6.12", "--replace", f"agent.service={listing}")
    assert (row["change"], row["after"]) == ("fails anew", "ENOMEM")


def test_kernel_agent_limits_and_size_may_change_in_one_question(
    captures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--kernel", "6.12,6.12:nobpf,6.12:selectable", "--cpus", "128", "--fill", "80%")
    rows = rows_of(capsys, *captures, *options, "--replace", "agent.service=falco")
    assert [row["target"] for row in rows] == ["6.12", "6.12:nobpf", "6.12:selectable"]
    assert all(row["hosts"] == 3 for row in rows)
