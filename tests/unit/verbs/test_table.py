"""The table of verbs against what could drift from it: bpf(2), the protobuf files, the services, the client."""

import ast
import inspect

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from bpfleet.abi.bpf import Cmd
from bpfleet.client import bpf as client
from bpfleet.node_agent.syscalls import served_arms
from bpfleet.rpc.errors import call_name
from bpfleet.v1 import bpf_service_pb2, cgroup_service_pb2, process_service_pb2
from bpfleet.verbs.table import BPF, BY_ARM, CALLS, VERBS

SERVICES = (
    bpf_service_pb2.DESCRIPTOR.services_by_name["BpfService"],
    process_service_pb2.DESCRIPTOR.services_by_name["ProcessService"],
    cgroup_service_pb2.DESCRIPTOR.services_by_name["CgroupService"],
)
# RPCs that show what the emulator knows, and the stream, which carries verbs.
NO_VERBS = {"GetProcess", "ListProcesses", "GetCgroup", "ListCgroups", "ExecuteSyscalls"}
# Commands that programs make where nobody serves them, as `close_create` of a recording or a loader's BTF.
NOT_SERVED = {
    *("btf_load", "mmap", "munmap", "exit", "setresuid", "capset", "dup", "epoll", "mmap_perf"),
    "register_umem",
}


def rpcs(service: ServiceDescriptor) -> set[str]:
    return {method.name for method in service.methods}


def test_every_rpc_is_a_verb_or_a_view() -> None:
    served = set().union(*map(rpcs, SERVICES))
    assert set(CALLS) == served - NO_VERBS


def test_every_field_of_a_syscall_is_a_verb_and_is_served() -> None:
    fields = bpf_service_pb2.Syscall.DESCRIPTOR.oneofs_by_name["operation"].fields
    assert set(BY_ARM) == {field.name for field in fields} == served_arms()


def test_a_verb_of_the_stream_is_also_a_unary_call_of_the_same_name() -> None:
    for arm, verb in BY_ARM.items():
        (rpc,) = verb.rpcs
        assert arm == "".join(f"_{c.lower()}" if c.isupper() else c for c in rpc).lstrip("_")


def test_every_command_of_bpf_is_a_verb_under_its_own_name() -> None:
    commands = {verb.call: verb for verb in VERBS if verb.call.startswith("BPF_")}
    assert set(commands) == {f"BPF_{cmd.name}" for cmd in Cmd}
    for call, verb in commands.items():
        assert verb.part is BPF
        assert verb.name == call.removeprefix("BPF_").lower()


def test_what_nobody_serves_is_known() -> None:
    assert {verb.name for verb in VERBS if not verb.rpcs} == NOT_SERVED


def test_errors_name_the_call_of_the_table() -> None:
    assert call_name("/bpfleet.v1.BpfService/CreateMap") == "BPF_MAP_CREATE"
    assert {rpc: call_name(f"/a/{rpc}") for rpc in CALLS} == CALLS


@pytest.mark.parametrize("verb", VERBS, ids=repr)
def test_arguments_and_answers_are_typed(verb) -> None:
    assert all(argument.kind is not inspect.Parameter.empty for argument in verb.arguments)
    assert verb.answers is not inspect.Signature.empty


def test_the_client_repeats_what_changes_nothing_and_what_carries_a_request_id() -> None:
    """Reads the client's source: which RPC each call makes, and whether it may be repeated."""
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(client)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "call"
    ]
    repeated = {_rpc(call): any(k.arg == "repeatable" for k in call.keywords) for call in calls}
    assert len(calls) > 20
    reading = {rpc for verb in VERBS if verb.reads for rpc in verb.rpcs}
    for rpc, may in repeated.items():
        if rpc in CALLS:
            assert may == (rpc in reading or _has_request_id(rpc)), rpc


def _rpc(call: ast.Call) -> str:
    method = call.args[0]
    assert isinstance(method, ast.Attribute)
    return method.attr


def _has_request_id(rpc: str) -> bool:
    for service in SERVICES:
        if rpc in service.methods_by_name:
            return "request_id" in service.methods_by_name[rpc].input_type.fields_by_name
    raise AssertionError(rpc)
