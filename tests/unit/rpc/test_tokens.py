"""Roles and their tokens; names that pages answer to."""

import socket
import subprocess
from pathlib import Path

import pytest

from bpfleet.rpc.hosts import is_known_host
from bpfleet.rpc.tokens import Caller, Role, Tokens, agent_token, may_call

TOKENS = Tokens(operator="op", user="us", agent_secret="ag")
FLEET = "/bpfleet.v1.FleetService/"


def who(token, tokens=TOKENS):
    return tokens.caller(f"Bearer {token}")


def test_each_token_stands_for_its_role():
    assert who("op") == Caller(Role.OPERATOR)
    assert who("us") == Caller(Role.USER)
    assert who(agent_token("ag", "a1")) == Caller(Role.AGENT, "a1")
    assert who(agent_token("ag", "a.b-1")) == Caller(Role.AGENT, "a.b-1")


@pytest.mark.parametrize(
    "given",
    ["", "op", "bearer op", "Bearer ", "Bearer ag", "Bearer agent.a1.", "Bearer agent.a1.00", "Bearer agent.",
     b"Bearer \xff", "Bearer \udcff", "Bearer " + agent_token("other", "a1")],
)  # fmt: skip
def test_what_is_no_token_stands_for_nobody(given):
    assert TOKENS.caller(given) is None


def test_a_token_of_one_agent_is_not_made_into_that_of_another():
    own = agent_token("ag", "a1")
    assert who(own.replace("a1", "a2")) is None
    assert agent_token(own, "a1") == own  # an agent may be given its token instead of the secret


def test_without_a_secret_of_their_own_agents_have_tokens_of_the_operators():
    alone = Tokens(operator="op")
    assert who(alone.of_agent("a1"), alone) == Caller(Role.AGENT, "a1")
    assert "op" not in alone.of_agent("a1")


def test_an_agent_takes_its_own_token_and_none_of_other_agents():
    there = Tokens(operator="op", agent_secret="ag", own_agent="a1")
    assert who(agent_token("ag", "a1"), there) == Caller(Role.AGENT, "a1")
    assert who(agent_token("ag", "a2"), there) is None


@pytest.mark.parametrize(
    ("role", "method", "allowed"),
    [
        (Role.USER, FLEET + "CreateWorkload", True),
        (Role.USER, FLEET + "DrainNode", False),
        (Role.USER, FLEET + "TaintNode", False),
        (Role.USER, "/bpfleet.v1.RegistryService/RegisterAgent", False),
        (Role.USER, "/bpfleet.v1.RuntimeService/RunReplicas", False),
        (Role.USER, "/bpfleet.v1.RuntimeService/StopReplicas", False),
        (Role.USER, "/bpfleet.v1.RuntimeService/ListReplicas", True),
        (Role.USER, "/bpfleet.v1.BpfService/CreateMap", True),
        (Role.AGENT, "/bpfleet.v1.RegistryService/RegisterAgent", True),
        (Role.AGENT, FLEET + "ListWorkloads", False),
        (Role.AGENT, "/bpfleet.v1.RuntimeService/RunReplicas", False),
        (Role.OPERATOR, FLEET + "DrainNode", True),
        (Role.OPERATOR, "/bpfleet.v1.RegistryService/RegisterAgent", True),
        (Role.USER, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True),
    ],
)
def test_what_each_role_may_call(role, method, allowed):
    assert may_call(Caller(role, "a1" if role is Role.AGENT else ""), method) is allowed


def test_an_agent_is_commanded_by_who_has_its_token():
    run = "/bpfleet.v1.RuntimeService/RunReplicas"
    assert may_call(Caller(Role.AGENT, "a1"), run, own_agent="a1")
    assert not may_call(Caller(Role.AGENT, "a2"), run, own_agent="a1")


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("127.0.0.1:8080", True), ("[::1]:8080", True), ("10.0.0.7", True), ("localhost:8080", True),
        ("LOCALHOST", True), (socket.gethostname(), True), ("fleet.example", True), ("evil.example", False),
        ("127.0.0.1.evil.example", False), ("", False), ("[::1", False), ("localhost.evil.example:8080", False),
    ],
)  # fmt: skip
def test_pages_answer_to_addresses_and_known_names_only(header, known):
    assert is_known_host(header, ["fleet.example"]) is known


def test_the_script_makes_the_token_that_the_program_makes(tmp_path):
    (tmp_path / "token").write_text("op\n")
    script = Path(__file__).resolve().parents[3] / "deploy" / "tls" / "issue.sh"
    command = [script, tmp_path, "--agent-token", "a1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == agent_token("op", "a1")
