"""Every option has its variable, and a variable that nobody reads is refused by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bpfleet.coordinator.__main__ import main as coordinator
from bpfleet.node_agent.__main__ import main as agent
from bpfleet.rpc.environment import OTHERS, check_environment, variables_of
from bpfleet.rpc.settings_error import SettingsError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("command", [agent, coordinator], ids=["agent", "coordinator"])
def test_every_option_has_its_variable(command):
    without = [
        option.name
        for option in command.params
        if isinstance(option, click.Option)
        and not option.envvar
        and option.name not in ("version", "help")
    ]
    assert not without
    names = [each.name for each in variables_of(command)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("BPFLEET_LEADER_TTI", "BPFLEET_LEADER_TTL"), ("BPFLEET_NODE", "BPFLEET_NODES"), ("BPFLEET_QQQQ", "")],
)  # fmt: skip
def test_a_variable_that_nobody_reads_is_refused_and_the_right_one_named(name, meant):
    with pytest.raises(SettingsError, match=name) as caught:
        check_environment({name: "1", "PATH": "/bin"}, [agent, coordinator])
    assert meant in str(caught.value)


def test_variables_of_others_are_let_through():
    check_environment(dict.fromkeys(OTHERS, ""), [agent, coordinator])


@pytest.mark.slow
@pytest.mark.parametrize("module", ["bpfleet.node_agent", "bpfleet.coordinator"])
def test_a_server_with_a_misspelt_variable_does_not_start(module):
    command = [sys.executable, "-m", module, "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        command,
        env={**os.environ, "BPFLEET_LEADER_TL": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "BPFLEET_LEADER_TL" in done.stderr
    assert "BPFLEET_LEADER_TTL is meant?" in done.stderr


def test_deployments_set_no_variable_that_nobody_reads():
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.y*ml")]
    files.append(ROOT / "deploy" / "Dockerfile")
    text = "\n".join(path.read_text() for path in files)
    found = set(re.findall(r"BPFLEET_[A-Z_]+[A-Z]", text))
    assert len(found) > 20
    check_environment(dict.fromkeys(found, ""), [agent, coordinator])


def test_what_a_program_knows_itself_needs_no_other_program():
    def commands():
        yield agent
        raise AssertionError("the coordinator's code would be loaded into every agent")

    check_environment({"BPFLEET_KERNEL": "6.12", "HOME": "/"}, commands())
