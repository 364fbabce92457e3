"""``python -m bpfleet.node_agent`` as a program: settings, one clear line for what is wrong, a graceful end."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner
from node_agents import until

from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import Session
from bpfleet.node_agent.__main__ import main

PROGRAM = [sys.executable, "-m", "bpfleet.node_agent"]


def run(*arguments):
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=240, check=False
    )


class Program:
    """A running agent program; ``line`` is the one in which it says that it serves."""

    def __init__(self, *arguments, environment=None):
        self.process = subprocess.Popen(
            [*PROGRAM, "--listen", "127.0.0.1:0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.line = next(line for line in self.process.stderr if "event=serving" in line)
        self.target = f"127.0.0.1:{re.search(r' port=([0-9]+)', self.line)[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.stderr.close()
        self.process.wait(240)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gracefully(number):
    with Program("--nodes", "3", "--agent-id", "edge", "--kernel", "5.10") as program:
        with Session(program.target) as session:
            nodes = list(AgentClient(session).list_nodes())
            assert [node.name for node in nodes] == [f"nodes/edge-0000{n}" for n in (1, 2, 3)]
            assert {node.spec.profile for node in nodes} == {"5.10"}
            assert [node.spec.seed for node in nodes] == [2, 3, 4]
        program.process.send_signal(number)
        rest = program.process.stderr.read()
        assert program.process.wait(240) == 0
        assert "event=stopping" in rest
        assert "Traceback" not in rest


@pytest.mark.slow
def test_a_setting_carries_the_text_of_a_profile_file(monkeypatch):
    text = 'name = "host"\nrelease = "6.12.9"\nbase = "6.12"\n'
    monkeypatch.setenv("BPFLEET_KERNEL", text)
    with Program("--nodes", "1") as program, Session(program.target) as session:
        (node,) = AgentClient(session).list_nodes()
    assert (node.spec.profile, node.kernel.release) == ("host", "6.12.9")


@pytest.mark.slow
def test_the_environment_sets_what_flags_do_not(monkeypatch):
    monkeypatch.setenv("BPFLEET_KERNEL", "6.1")
    monkeypatch.setenv("BPFLEET_NODE_RAM", "2G")
    monkeypatch.setenv("BPFLEET_NODE_SWAP", "1G")
    monkeypatch.setenv("BPFLEET_NODES", "7")
    with Program("--nodes", "1", "--metrics", f"127.0.0.1:{free_port()}") as program:
        assert "profile=6.1 nodes=1 " in program.line
        with Session(program.target) as session:
            (node,) = AgentClient(session).list_nodes()
        assert node.spec.ram_bytes == 2 << 30
        assert node.spec.swap_bytes == 1 << 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=240) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_metrics_are_served_where_asked():
    port = free_port()
    with Program("--nodes", "2", "--metrics", f"127.0.0.1:{port}"):
        wanted = 'bpfleet_nodes{phase="running",profile="6.12"} 2.0'
        until(lambda: wanted in scrape(port), "the nodes show in the metrics")


@pytest.mark.slow
def test_a_used_port_is_one_line_and_exit_status_1():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--listen", f"127.0.0.1:{port}", "--nodes", "100")
    assert done.returncode == 1
    assert done.stderr == (
        f"bpfleet: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "stop what listens there or choose another port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kernel", "7.99"], "unknown kernel '7.99'; nearest is 7.3"),
        (["--node-ram", "lots"], "'lots': not a size"),
        (["--node-ram", "1K"], "--node-ram: 1024 bytes is out of range; use 64M to 16T"),
        (["--nodes", "-1"], "'--nodes': -1 is not in the range"),
        (["--listen", "7071"], "'7071' is not an address; write host:port"),
        (["--coordinator", "here"], "'here' is not an address; write host:port"),
        (["--agent-id", "a b"], "--agent-id: 'a b-00000' is not a name"),
        (["--tls-cert", "cert.pem"], "TLS needs both a certificate and a key"),
        (["--token-file", "/nonexistent"], "cannot read /nonexistent: No such file or directory"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_settings_that_cannot_be_are_named_and_exit_status_2(arguments, sentence):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_the_help_has_examples():
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "python -m bpfleet.node_agent --kernel 5.10 --nodes 1" in done.stdout
