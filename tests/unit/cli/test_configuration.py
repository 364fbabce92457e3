"""The configuration file, completion, man pages, and the program under its other name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bpfleet.cli.main import main
from bpfleet.cli.reference import man_page, pages, variables
from bpfleet.cli.settings import configuration_file, setting

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BPFLEET_CONFIG", raising=False)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_without_a_file_nothing_is_set(capsys):
    assert setting("coordinator") is None
    assert "not there yet" in said(capsys, "config", "view")


def test_what_is_set_is_seen_and_removed_by_an_empty_value(capsys, home):
    said(capsys, "config", "set", "coordinator", "one:7070")
    said(capsys, "--context", "lab", "config", "set", "output", "wide")
    assert configuration_file() == home / "bpfleet" / "config.toml"
    seen = yaml.safe_load(said(capsys, "config", "view", "-o", "yaml"))
    assert seen["contexts"] == {"default": {"coordinator": "one:7070"}, "lab": {"output": "wide"}}
    said(capsys, "config", "set", "coordinator", "")
    assert yaml.safe_load(said(capsys, "config", "view", "-o", "yaml"))["contexts"]["default"] == {}


def test_an_option_wins_over_the_environment_and_that_over_the_file(capsys, monkeypatch):
    said(capsys, "config", "set", "agent", "127.0.0.1:2")
    assert "127.0.0.1:2" in said(capsys, "node", "list", status=1)
    monkeypatch.setenv("BPFLEET_AGENT_ADDRESS", "127.0.0.1:3")
    assert "127.0.0.1:3" in said(capsys, "node", "list", status=1)
    assert "127.0.0.1:1" in said(capsys, "node", "list", "--agent", NOWHERE, status=1)


def test_a_context_counts_by_option_or_as_the_current_one(capsys):
    said(capsys, "config", "set", "agent", "127.0.0.1:2")
    said(capsys, "--context", "lab", "config", "set", "agent", "127.0.0.1:4")
    assert "127.0.0.1:4" in said(capsys, "--context", "lab", "node", "list", status=1)
    assert "127.0.0.1:2" in said(capsys, "node", "list", status=1)
    said(capsys, "config", "use-context", "lab")
    assert "127.0.0.1:4" in said(capsys, "node", "list", status=1)
    assert "did you mean 'lab'?" in said(capsys, "--context", "lba", "node", "list", status=2)
    assert "is the current context" in said(capsys, "config", "delete-context", "lab", status=2)
    said(capsys, "config", "use-context", "default")
    said(capsys, "config", "delete-context", "lab")


def test_the_form_of_listings_can_be_set(capsys):
    said(capsys, "config", "set", "output", "name")
    assert said(capsys, "profile", "list").splitlines()[0] == "el8.10"
    assert said(capsys, "profile", "list", "-o", "table").startswith("name ")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("current =", "Invalid value"),
        ('curent = "x"', "unknown field 'curent'; did you mean 'current'?"),
        ('[contexts.default]\nagnet = "x"', "contexts.default: unknown field 'agnet'"),
        ("[contexts.default]\nagent = 5", "agent = 5: not a text"),
        ('[contexts.default]\noutput = "tabel"', "unknown output 'tabel'; did you mean 'table'?"),
        ("contexts = 5", "contexts: not tables"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(text, complaint, capsys, home):
    path = home / "bpfleet" / "config.toml"
    path.parent.mkdir()
    path.write_text(text)
    (line,) = said(capsys, "node", "list", status=2).splitlines()
    assert line.startswith(f"bpfleet: {path}: ")
    assert complaint in line


def test_a_key_that_is_not_known_is_not_written(capsys, home):
    assert "did you mean 'agent'?" in said(capsys, "config", "set", "agnet", "x", status=2)
    assert "unknown output" in said(capsys, "config", "set", "output", "x", status=2)
    assert not (home / "bpfleet" / "config.toml").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_completion_it_can_read(shell, capsys, tmp_path):
    script = tmp_path / "completion"
    script.write_text(said(capsys, "completion", shell))
    assert "_BPFLEET_COMPLETE" in script.read_text()
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", script], check=True)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("bpfleet comp", ["compare", "completion"]),
        ("bpfleet fleet un", ["uncordon"]),
        ("bpfleet size --kernel 6.12,6.16", ["6.12,6.16"]),
        ("bpfleet size lru_p", ["lru_percpu_hash"]),
        ("bpfleet size --app falc", ["falco"]),
    ],
)
def test_words_are_completed(words, offered):
    environment = {
        **os.environ,
        "_BPFLEET_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bpfleet"], env=environment, capture_output=True, text=True
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == offered


def test_every_command_has_a_man_page_that_man_can_read(tmp_path):
    found = {page.name: man_page(page) for page in pages()}
    assert {"bpfleet", "bpfleet compare", "bpfleet fleet nodes", "bpfleet config set"} <= set(found)
    assert all(".SH SYNOPSIS" in text and text.startswith(".TH ") for text in found.values())
    if shutil.which("man") is not None:
        page = tmp_path / "bpfleet-size.1"
        page.write_text(found["bpfleet size"])
        done = subprocess.run(
            ["man", "--warnings", "-l", page],
            capture_output=True,
            text=True,
            env={**os.environ, "MANPAGER": "cat"},
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_every_variable_of_the_command_line_is_known():
    assert {"BPFLEET_AGENT_ADDRESS", "BPFLEET_COORDINATOR", "BPFLEET_CONTEXT"} <= set(variables())


def test_the_package_can_be_run_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "bpfleet", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("bpfleet, version ")


def test_every_command_has_an_example():
    without = [
        page.name
        for page in pages()
        if not page.name.startswith(("bpfleet agent", "bpfleet coordinator"))
        and not any("Example" in part for part in page.paragraphs)
    ]
    assert without == []
