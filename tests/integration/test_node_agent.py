"""A node agent on loopback: one call is one system call, refusals are rich, stopped nodes stay stopped."""

import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from node_agents import connected, running, until

from bpfleet.abi.bpf import F_NO_PREALLOC
from bpfleet.abi.errno import Errno
from bpfleet.client.session import CallError, Session, Verdict
from bpfleet.v1 import bpf_pb2, bpf_service_pb2, node_service_pb2, process_service_pb2

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/limit.py"


@pytest.fixture
def agent_and_client():
    with connected() as pair:
        yield pair


@pytest.fixture
def client(agent_and_client):
    return agent_and_client[1]


@pytest.fixture
def node(client):
    return client.node("a1-00001")


@pytest.fixture
def process(node):
    node.create_cgroup("/app", {"memory.max": "16M"})
    return node.create_process(cgroup="/app")


def small_hash(process, **changes):
    wanted = {"key_size": 4, "value_size": 8, "max_entries": 64, "name": "flows"}
    return process.create_map("hash", **{**wanted, **changes})


# -- maps ------------------------------------------------------------------------------------------------------------


def test_elements_are_stored_read_and_removed(process):
    flows = small_hash(process)
    flows.update(b"\1\0\0\0", b"12345678")
    assert flows.lookup(b"\1\0\0\0") == b"12345678"
    flows.delete(b"\1\0\0\0")
    with pytest.raises(Verdict) as caught:
        flows.lookup(b"\1\0\0\0")
    verdict = caught.value
    assert (verdict.errno, verdict.reason) == (Errno.ENOENT, "KEY_NOT_FOUND")
    assert (verdict.code, verdict.call) == (grpc.StatusCode.NOT_FOUND, "BPF_MAP_LOOKUP_ELEM")


def test_a_receipt_tells_charge_estimate_payer_and_limit(process):
    receipt = small_hash(process).receipt
    assert receipt.model == bpf_pb2.ACCOUNTING_MODEL_MEMCG
    assert receipt.charged_to == "/app"
    assert receipt.limit_bytes == 16 << 20
    assert 0 < receipt.charged_bytes <= receipt.usage_bytes_after
    assert receipt.estimate_bytes > 0


def test_closing_a_map_has_a_receipt_of_its_own(process):
    kept = small_hash(process)
    closed = small_hash(process)
    kept.update(b"\1\0\0\0", b"12345678")
    receipt = process.close_file(closed.fd)
    assert receipt.charged_to == "/app"
    assert receipt.charged_bytes < 0
    assert receipt.estimate_bytes == 0


def test_a_memory_limit_is_enomem_here_and_the_reason_names_it(node):
    node.create_cgroup("/tight", {"memory.max": "64K"})
    process = node.create_process(cgroup="/tight")
    with pytest.raises(Verdict) as caught:
        small_hash(process, max_entries=100_000)
    verdict = caught.value
    assert (verdict.errno, verdict.reason) == (Errno.ENOMEM, "MEMCG_LIMIT_EXCEEDED")
    assert verdict.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert verdict.facts["limitBytes"] == str(64 << 10)
    assert verdict.facts["cgroup"] == "/tight"


def test_on_an_rlimit_kernel_the_same_want_of_memory_is_eperm_and_the_reason_tells_why():
    with connected(profile="5.10") as (_, client):
        process = client.node("a1-00001").create_process(
            uid=1000, capabilities=["CAP_BPF"], memlock_bytes=64 << 10
        )
        with pytest.raises(Verdict) as caught:
            small_hash(process, max_entries=100_000)
    verdict = caught.value
    assert (verdict.errno, verdict.reason) == (Errno.EPERM, "RLIMIT_MEMLOCK_EXCEEDED")
    assert verdict.code is grpc.StatusCode.PERMISSION_DENIED
    assert (verdict.facts["uid"], verdict.facts["limitBytes"]) == ("1000", str(64 << 10))


def test_a_batch_reports_how_far_it_came(process):
    flows = small_hash(process, max_entries=4)
    keys = b"".join(number.to_bytes(4, "little") for number in range(6))
    answer = flows.update_batch(keys, bytes(8 * 6), 6)
    assert (answer.element_count, answer.errno, answer.reason) == (4, Errno.E2BIG, "MAP_FULL")
    assert len(flows.lookup_batch(100).keys) == 4 * 4
    assert flows.delete_batch(keys[:8], 2).element_count == 2
    with pytest.raises(Verdict) as caught:
        flows.delete_batch(keys[:4], 1)
    assert caught.value.errno is Errno.ENOENT


def test_pins_outlive_their_process(process, node):
    flows = small_hash(process)
    flows.pin("/sys/fs/bpf/app/flows")
    map_id = flows.map_id
    process.kill()
    node.run_deferred()
    assert [found.map_id for found in node.list_maps()] == [map_id]
    heir = node.create_process()
    assert heir.open_pinned("/sys/fs/bpf/app/flows") > 0


def test_lists_of_maps_tell_what_each_costs(process, node):
    small_hash(process)
    process.create_map("array", key_size=4, value_size=8, max_entries=1, name="config")
    flows, config = node.list_maps()
    assert (flows.spec.map_name, config.spec.map_name) == ("flows", "config")
    assert flows.name == f"nodes/a1-00001/maps/{flows.map_id}"
    assert flows.charged_bytes > config.charged_bytes > 0
    assert flows.charged_to == "/app"


def test_walking_ids_needs_a_privilege_that_the_emulators_own_view_does_not(client, node, process):
    small_hash(process)
    stranger = node.create_process(uid=1000, capabilities=["CAP_BPF"])
    request = bpf_service_pb2.ListMapsRequest(caller=stranger.caller)
    with pytest.raises(Verdict) as caught:
        client.session.call(client.bpf.ListMaps, request)
    assert (caught.value.errno, caught.value.reason) == (Errno.EPERM, "CAPABILITY_MISSING")


def test_programs_are_loaded_listed_and_run_in_interrupt_context(process, node, client):
    flows = small_hash(process, map_flags=F_NO_PREALLOC)
    update = bpf_pb2.ProgramOperation(kind=bpf_pb2.ProgramOperation.KIND_UPDATE, value=bytes(8))
    loaded = process.load_program("xdp", 100, maps=[flows], operations=[update], name="count")
    (found,) = node.list_programs()
    assert (found.program_id, found.program_name) == (loaded.program_id, "count")
    assert list(found.map_ids) == [flows.map_id]
    request = bpf_service_pb2.RunProgramRequest(
        caller=process.caller, fd=loaded.fd, repeat_count=5, in_interrupt=True
    )
    answer = client.session.call(client.bpf.RunProgram, request)
    assert (answer.run_count, answer.failed_operation_count) == (5, 0)
    assert flows.info().element_count == 5


def test_a_program_cannot_be_asked_to_run_for_ever(process, client):
    loaded = process.load_program("xdp", 100)
    request = bpf_service_pb2.RunProgramRequest(
        caller=process.caller, fd=loaded.fd, repeat_count=1 << 40
    )
    with pytest.raises(CallError, match="repeat_count"):
        client.session.call(client.bpf.RunProgram, request)


# -- processes and cgroups -------------------------------------------------------------------------------------------


def test_control_files_have_the_text_of_linux(node):
    cgroup = node.create_cgroup("/app", {"memory.max": "1M"})
    assert cgroup.read("memory.max") == "1048576\n"
    assert cgroup.info().limits.max_bytes == 1 << 20
    assert not node.create_cgroup("/free").info().limits.HasField("max_bytes")
    with pytest.raises(Verdict) as caught:
        cgroup.write("memory.max", "plenty")
    assert caught.value.errno is Errno.EINVAL


def test_page_faults_at_the_limit_kill_the_process_and_the_caller_learns_it(node):
    cgroup = node.create_cgroup("/app", {"memory.max": "1M"})
    process = node.create_process(cgroup="/app", comm="hog")
    with pytest.raises(Verdict) as caught:
        process.allocate(2 << 20)
    assert caught.value.reason == "CALLER_KILLED"
    assert cgroup.info().events.oom_kill_count == 1
    with pytest.raises(Verdict) as caught:
        process.info()
    assert caught.value.errno is Errno.ESRCH


def test_a_process_says_who_it_is(node):
    process = node.create_process(uid=1000, capabilities=["CAP_BPF", "PERFMON"], memlock_bytes=4096)
    info = process.info()
    assert list(info.credentials.capabilities) == ["CAP_BPF", "CAP_PERFMON"]
    assert (info.memlock.soft.bytes, info.memlock.hard.bytes) == (4096, 4096)
    with pytest.raises(Verdict) as caught:
        process.create_map("array", key_size=4, value_size=8, max_entries=0)
    assert caught.value.errno is Errno.EINVAL


def test_locked_memory_of_io_uring_shares_the_users_counter(node, client):
    process = node.create_process(uid=1000, memlock_bytes=64 << 10)
    request = process_service_pb2.LockMemoryRequest(
        caller=process.caller, size_bytes=40 << 10, kind=process_service_pb2.LOCK_KIND_IO_URING
    )
    answer = client.session.call(client.processes.LockMemory, request)
    assert answer.process.locked_bytes == 40 << 10
    with pytest.raises(Verdict) as caught:
        client.session.call(client.processes.LockMemory, request)
    assert caught.value.reason == "RLIMIT_MEMLOCK_EXCEEDED"
    process.close_file(answer.fd)
    assert process.info().locked_bytes == 0


def test_proc_files_are_those_of_the_process_and_of_the_node(node):
    process = node.create_process(memlock_bytes=8 << 20)
    assert "Max locked memory         8388608" in node.read_proc("limits", process.pid)
    assert node.read_proc("meminfo").startswith("MemTotal:")
    with pytest.raises(Verdict):
        node.read_proc("kcore")


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_nodes_are_created_listed_and_deleted(client):
    client.create_node("extra", profile="5.10", ram_bytes=1 << 30, possible_cpus=2, seed=7)
    assert [each.name for each in client.list_nodes()] == [
        "nodes/a1-00001", "nodes/a1-00002", "nodes/extra",
    ]  # fmt: skip
    info = client.node("extra").info()
    assert (info.spec.profile, info.spec.seed) == ("5.10", 7)
    assert info.kernel.model == bpf_pb2.ACCOUNTING_MODEL_RLIMIT
    client.node("extra").delete()
    with pytest.raises(CallError) as caught:
        client.node("extra").info()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "NODE_UNKNOWN")


def test_a_node_that_exists_is_not_created_twice(client):
    with pytest.raises(CallError) as caught:
        client.create_node("a1-00001")
    assert (caught.value.code, caught.value.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "NODE_EXISTS",
    )


def test_verdicts_and_charges_show_in_the_status_of_the_node(process, node):
    small_hash(process)
    with pytest.raises(Verdict):
        small_hash(process, max_entries=0)
    status = node.info().status
    assert (status.map_count, status.process_count) == (1, 1)
    assert status.verdicts["EINVAL"] == 1
    assert status.bpf_charged_bytes > 0


def test_time_passes_only_when_it_is_told_to(node):
    before = node.info().status.clock_ns
    assert node.info().status.clock_ns == before
    assert node.advance(5_000_000_000) == before + 5_000_000_000


def test_the_ledger_adds_up_to_what_is_charged(process, node):
    small_hash(process)
    process.allocate(1 << 20)
    lines = [line for line in node.ledger() if line.cgroup == "/app"]
    assert sum(line.size_bytes for line in lines) <= node.cgroup("/app").info().usage.current_bytes
    assert any(line.owner.startswith("map ") for line in lines)


def test_a_map_that_only_a_pin_keeps_is_an_orphan(process, node):
    flows = small_hash(process)
    flows.pin("/sys/fs/bpf/app/flows")
    assert list(node.orphans()) == []
    process.kill()
    node.run_deferred()
    (orphan,) = node.orphans()
    assert (orphan.map_id, orphan.map_name, orphan.charged_to) == (flows.map_id, "flows", "/app")
    assert orphan.charged_bytes > 0


def test_each_tool_tells_its_own_number_of_the_same_cgroup(process, node):
    small_hash(process)
    process.allocate(1 << 20)
    views = {(view.tool, view.field): view.size_bytes for view in node.tool_views("/app")}
    current = node.cgroup("/app").info().usage.current_bytes
    assert current in views.values()
    assert len({tool for tool, _ in views}) >= 4
    with pytest.raises(Verdict) as caught:
        node.tool_views("/nowhere")
    assert caught.value.errno is Errno.ENOENT


def test_an_injected_fault_strikes_once(process, node):
    node.inject_fault("vmalloc")
    with pytest.raises(Verdict) as caught:
        small_hash(process, max_entries=8192)
    assert (caught.value.errno, caught.value.reason) == (Errno.ENOMEM, "FAULT_INJECTED")
    small_hash(process, max_entries=8192)
    with pytest.raises(CallError, match=r"kind: .*crash, none"):
        node.inject_fault("floppy")


def test_a_crash_stops_the_node_and_leaves_its_log_and_its_neighbours(client, node, process):
    node.inject_fault("crash")
    with pytest.raises(CallError) as caught:
        small_hash(process)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.reason == "NODE_CRASHED"
    assert node.info().status.phase == node_service_pb2.NODE_PHASE_CRASHED
    assert [e for e in node.list_events() if e.HasField("node_crashed")]
    small_hash(client.node("a1-00002").create_process())


def test_a_broken_invariant_is_internal_and_stops_that_node_only(agent_and_client, process, caplog):
    agent, client = agent_and_client
    node = client.node("a1-00001")
    small_hash(process)

    def falsify(node_agent):
        node_agent.agent.find("a1-00001").wake().user(0).locked_vm_pages += 1

    agent.inside(falsify)
    request = node_service_pb2.CheckInvariantsRequest(name=node.name)
    with pytest.raises(CallError) as caught:
        client.session.call(client.nodes.CheckInvariants, request)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INTERNAL, "NODE_CRASHED")
    assert node.info().status.phase == node_service_pb2.NODE_PHASE_CRASHED
    assert [e for e in node.list_events() if e.HasField("node_crashed")]
    assert "event=node_crashed node=a1-00001" in caplog.text
    other = node_service_pb2.CheckInvariantsRequest(name="nodes/a1-00002")
    client.session.call(client.nodes.CheckInvariants, other)


# -- repeated requests -----------------------------------------------------------------------------------------------


def test_a_repeated_request_id_creates_nothing_twice(client, node, process):
    request = bpf_service_pb2.CreateMapRequest(
        caller=process.caller,
        spec=bpf_pb2.MapSpec(
            map_type=bpf_pb2.MAP_TYPE_ARRAY, key_size_bytes=4, value_size_bytes=8, max_entries=1
        ),
        request_id="once",
    )
    first = client.session.call(client.bpf.CreateMap, request)
    assert client.session.call(client.bpf.CreateMap, request) == first
    assert len(list(node.list_maps())) == 1
    request.spec.max_entries = 2
    with pytest.raises(CallError) as caught:
        client.session.call(client.bpf.CreateMap, request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


# -- the example, the program ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("6.12", "BPF_MAP_UPDATE_ELEM: ENOMEM (12), because MEMCG_LIMIT_EXCEEDED"),
        ("5.10", "BPF_MAP_UPDATE_ELEM: E2BIG (7), because MAP_FULL"),
    ],
)
def test_the_example_script_prints_errno_and_reason(profile, words):
    with running(profile=profile) as agent:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), agent.target],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout


def test_health_checks_are_answered_while_a_long_batch_runs(client, node, process):
    flows = small_hash(process, max_entries=65_536, map_flags=F_NO_PREALLOC)
    node.cgroup("/app").write("memory.max", "max")
    keys = b"".join(number.to_bytes(4, "little") for number in range(8192))
    batch = bpf_service_pb2.UpdateBatchOperation(
        fd=flows.fd, keys=keys, values=bytes(8 * 8192), element_count=8192
    )
    request = bpf_service_pb2.ExecuteSyscallsRequest(
        caller=process.caller, syscalls=[bpf_service_pb2.Syscall(update_batch=batch)] * 32
    )
    answers = client.bpf.ExecuteSyscalls(iter([request]))
    found = []
    reader = threading.Thread(target=lambda: found.append(next(answers)))
    reader.start()
    other = client.node("a1-00002")
    answered = 0
    while reader.is_alive():
        other.info()
        answered += 1
    assert answered > 3
    assert [result.errno for result in found[0].results] == [0] * 32


def test_a_stopping_agent_ends_its_watches_and_refuses_new_calls():
    with running() as agent, Session(agent.target) as session:
        from bpfleet.client.bpf import AgentClient

        watch = AgentClient(session).node("a1-00001").watch()
        assert next(watch).revision == 0
        stopped = threading.Thread(target=lambda: agent.wait(agent.node_agent.stop()))
        stopped.start()
        with pytest.raises(CallError) as caught:
            list(watch)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        stopped.join(20)
        until(lambda: not stopped.is_alive(), "the agent has stopped")
