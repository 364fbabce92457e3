"""``bpfleet size`` from the outside."""

import json
from pathlib import Path

import pytest

from bpfleet.cli.main import main


def test_a_map_is_sized_under_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["size", "hash", "--key=8", "--value=16", "--entries=64K", "--cpus=8", "--bytes"]) == 0
    )
    head, *rows, _, known = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["kernel", "estimate", "memlock", "charged", "uncharged"]
    assert [line.split()[0] for line in rows] == ["5.10", "5.11", "6.1", "6.12"]
    assert rows[0].split()[2] == "5,771,264"  # what a real 5.10 with 8 CPUs locks
    assert "6.12: recorded (6.12.107)" in known


def test_json_has_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "size",
        "lpm_trie",
        "--key",
        "24",
        "--value",
        "12",
        "--entries",
        "512000",
        "--flags",
    ]
    assert main([*arguments, "no_prealloc", "--kernel", "6.18", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["6.18"]["element_bytes"] == 144


def test_an_application_is_sized_with_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", "--app", "cilium", "--cpus", "64", "--ram", "256G", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data["kernels"]) == {"5.10", "5.11", "6.1", "6.12"}
    assert data["kernels"]["6.12"]["total"]["maps"] == 30
    assert all(not o["refusal"] for k in data["kernels"].values() for o in k["objects"])


def test_a_listing_is_sized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = tmp_path / "host.json"
    entry = {"id": 1, "type": "hash", "name": "t", "bytes_key": 4, "bytes_value": 8}
    listing.write_text(json.dumps([{**entry, "max_entries": 10240}]))
    assert main(["size", "--inventory", str(listing)]) == 0
    out = capsys.readouterr().out
    assert "t                    hash" in out
    assert "when full" in out


def test_a_refusal_is_shown_in_place_of_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", "ringbuf", "--key", "0", "--value", "0", "--entries", "1000"]) == 1
    assert "EINVAL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of them"),
        (["hash", "--app", "cilium"], "exactly one of them"),
        (["hsah"], "unknown map type 'hsah'; did you mean 'hash'?"),
        (["hash", "--key", "-1"], "'-1': write a number"),
        (["hash", "--flags", "z"], "unknown flag 'z'"),
        (["--app", "nope"], "application = 'nope': unknown"),
        (["--app", "falco", "--option", "x"], "write NAME=N"),
        (["--app", "falco", "--option", "x=1"], "unknown option"),
        (["hash", "--kernel", "9.99"], "9.99"),
        (["hash", "--cpus", "0"], "--cpus"),
    ],
)
def test_bad_arguments_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["size", *arguments]) == 2
    assert message in capsys.readouterr().err
