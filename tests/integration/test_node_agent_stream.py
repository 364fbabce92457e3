"""Batches of system calls over one stream: in order, verdicts in the results, bounded."""

import pytest
from node_agents import connected

from bpfleet.abi.errno import Errno
from bpfleet.client.bpf import SyscallStream
from bpfleet.client.session import CallError
from bpfleet.v1 import bpf_pb2
from bpfleet.v1 import bpf_service_pb2 as pb


@pytest.fixture
def client():
    with connected() as (_, connected_client):
        yield connected_client


@pytest.fixture
def process(client):
    node = client.node("a1-00001")
    node.create_cgroup("/app", {"memory.max": "64M"})
    return node.create_process(cgroup="/app")


@pytest.fixture
def flows(process):
    return process.create_map("hash", key_size=4, value_size=8, max_entries=64, name="flows")


def key(number):
    return number.to_bytes(4, "little")


def update(fd, number, **changes):
    operation = pb.UpdateElementOperation(fd=fd, key=key(number), value=bytes(8), **changes)
    return pb.Syscall(update_element=operation)


def lookup(fd, number):
    return pb.Syscall(lookup_element=pb.LookupElementOperation(fd=fd, key=key(number)))


def execute(client, caller, *calls):
    with SyscallStream(client) as stream:
        return stream.execute(caller, calls)


def test_calls_are_made_in_order_and_a_refusal_stops_nothing(client, process, flows):
    answer = execute(
        client,
        process.caller,
        lookup(flows.fd, 1),
        update(flows.fd, 1),
        lookup(flows.fd, 1),
        update(flows.fd, 1, mode=bpf_pb2.UPDATE_MODE_CREATE),
        pb.Syscall(delete_element=pb.DeleteElementOperation(fd=flows.fd, key=key(1))),
        lookup(flows.fd, 1),
    )
    assert [(r.errno, r.reason) for r in answer.results] == [
        (Errno.ENOENT, "KEY_NOT_FOUND"),
        (0, ""),
        (0, ""),
        (Errno.EEXIST, "KEY_EXISTS"),
        (0, ""),
        (Errno.ENOENT, "KEY_NOT_FOUND"),
    ]
    assert answer.results[2].value == bytes(8)


def test_every_kind_of_call_can_be_made_in_a_batch(client, process):
    spec = bpf_pb2.MapSpec(
        map_type=bpf_pb2.MAP_TYPE_HASH, key_size_bytes=4, value_size_bytes=8, max_entries=16
    )
    program = bpf_pb2.ProgramSpec(program_type=bpf_pb2.PROGRAM_TYPE_XDP, instruction_count=10)
    with SyscallStream(client) as stream:
        created, loaded = stream.execute(
            process.caller, [pb.Syscall(create_map=spec), pb.Syscall(load_program=program)]
        ).results
        fd, prog = created.fd, loaded.fd
        pinned = pb.PinOperation(path="/sys/fs/bpf/a/flows", fd=fd)
        results = stream.execute(
            process.caller,
            [
                update(fd, 1),
                pb.Syscall(get_next_key=pb.GetNextKeyOperation(fd=fd)),
                pb.Syscall(
                    update_batch=pb.UpdateBatchOperation(
                        fd=fd, keys=key(2) + key(3), values=bytes(16), element_count=2
                    )
                ),
                pb.Syscall(lookup_batch=pb.LookupBatchOperation(fd=fd, element_count=10)),
                pb.Syscall(
                    delete_batch=pb.DeleteBatchOperation(fd=fd, keys=key(2), element_count=1)
                ),
                pb.Syscall(lookup_and_delete_element=pb.LookupElementOperation(fd=fd, key=key(3))),
                pb.Syscall(
                    lookup_and_delete_batch=pb.LookupBatchOperation(fd=fd, element_count=10)
                ),
                pb.Syscall(pin_object=pinned),
                pb.Syscall(open_pinned_object=pinned),
                pb.Syscall(unpin_object=pinned),
                pb.Syscall(freeze_map=pb.FileOperation(fd=fd)),
                pb.Syscall(run_program=pb.RunProgramOperation(fd=prog, repeat_count=3)),
                pb.Syscall(allocate_memory=pb.MemoryOperation(size_bytes=8192)),
                pb.Syscall(release_memory=pb.MemoryOperation(size_bytes=4096)),
                pb.Syscall(close_file=pb.FileOperation(fd=prog)),
            ],
        ).results
    # A batch lookup ends with ENOENT once it has seen the whole map, with all elements in the answer.
    errnos = [result.errno for result in results]
    assert errnos == [Errno.ENOENT if position in (3, 6) else 0 for position in range(15)]
    assert (results[1].value, results[2].element_count) == (key(1), 2)
    assert (results[3].element_count, len(results[3].values)) == (3, 24)
    assert results[6].element_count == 1
    assert results[8].fd not in (0, fd)
    kinds = {field.name for field in pb.Syscall.DESCRIPTOR.oneofs_by_name["operation"].fields}
    tested = {
        "update_element", "get_next_key", "update_batch", "lookup_batch", "delete_batch",
        "lookup_and_delete_element", "lookup_and_delete_batch", "pin_object", "open_pinned_object",
        "unpin_object", "freeze_map", "run_program", "allocate_memory", "release_memory",
        "close_file", "create_map", "load_program", "lookup_element", "delete_element",
    }  # fmt: skip
    assert kinds == tested


def test_a_call_may_be_made_by_another_process_of_the_node(client, process, flows):
    node = client.node("a1-00001")
    other = node.create_process()
    flows.pin("/sys/fs/bpf/flows")
    fd = other.open_pinned("/sys/fs/bpf/flows")
    by_other = update(fd, 1)
    by_other.pid = other.pid
    by_nobody = update(fd, 1)
    by_nobody.pid = 99_999
    answer = execute(client, process.caller, by_other, by_nobody, lookup(flows.fd, 1))
    assert [r.errno for r in answer.results] == [0, Errno.ESRCH, 0]


def test_the_receipt_sums_up_what_the_batch_cost(client, process):
    spec = bpf_pb2.MapSpec(
        map_type=bpf_pb2.MAP_TYPE_HASH, key_size_bytes=4, value_size_bytes=8, max_entries=64
    )
    single = process.create_map("hash", key_size=4, value_size=8, max_entries=64).receipt
    answer = execute(client, process.caller, *[pb.Syscall(create_map=spec)] * 3)
    assert answer.receipt.charged_bytes == 3 * single.charged_bytes
    assert answer.receipt.estimate_bytes == 3 * single.estimate_bytes
    assert (answer.receipt.charged_to, answer.receipt.limit_bytes) == ("/app", 64 << 20)


def test_a_process_killed_inside_a_batch_is_gone_for_the_rest_of_it(client):
    node = client.node("a1-00001")
    node.create_cgroup("/tight", {"memory.max": "1M"})
    process = node.create_process(cgroup="/tight")
    hog = pb.Syscall(allocate_memory=pb.MemoryOperation(size_bytes=2 << 20))
    answer = execute(client, process.caller, hog, hog)
    assert [(r.errno, r.reason) for r in answer.results] == [
        (Errno.EINTR, "CALLER_KILLED"),
        (Errno.ESRCH, "NO_SUCH_PROCESS"),
    ]


def test_numbers_no_bpf_attr_can_hold_are_marked_as_the_clients_mistake(client, process):
    spec = bpf_pb2.MapSpec(map_type=bpf_pb2.MAP_TYPE_ARRAY, max_entries=-1)
    answer = execute(client, process.caller, pb.Syscall(create_map=spec))
    assert [(r.errno, r.reason) for r in answer.results] == [(Errno.EINVAL, "BAD_REQUEST")]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([pb.Syscall(close_file=pb.FileOperation(fd=3))] * 4097, "BAD_REQUEST"),
        ([pb.Syscall()], "SYSCALL_UNSUPPORTED"),
        ([pb.Syscall(lookup_batch=pb.LookupBatchOperation(element_count=8193))], "BAD_REQUEST"),
        ([pb.Syscall(lookup_batch=pb.LookupBatchOperation(element_count=-1))], "BAD_REQUEST"),
        (
            [pb.Syscall(lookup_batch=pb.LookupBatchOperation(element_count=8192))] * 33,
            "BAD_REQUEST",
        ),
    ],
    ids=["too many", "no operation", "a batch too large", "a negative batch", "too many elements"],
)
def test_a_message_that_asks_too_much_is_refused_before_its_first_call(
    client, process, calls, reason
):
    before = client.node("a1-00001").info().status.clock_ns
    with pytest.raises(CallError) as caught:
        execute(client, process.caller, *calls)
    assert caught.value.reason == reason
    assert client.node("a1-00001").info().status.clock_ns == before


def test_answers_are_bounded_and_the_calls_that_did_not_fit_are_named(client, process):
    client.node("a1-00001").cgroup("/app").write("memory.max", "max")
    large = process.create_map("array", key_size=4, value_size=1 << 20, max_entries=4)
    answer = execute(client, process.caller, *[lookup(large.fd, 0)] * 20)
    done = [r for r in answer.results if not r.errno]
    rest = answer.results[len(done) :]
    assert 10 <= len(done) <= 13
    assert {(r.errno, r.reason) for r in rest} == {(Errno.EAGAIN, "RESPONSE_TOO_LARGE")}


def test_a_batch_lookup_that_would_not_fit_gives_a_part_and_where_to_go_on(client, process):
    client.node("a1-00001").cgroup("/app").write("memory.max", "max")
    large = process.create_map("array", key_size=4, value_size=1 << 20, max_entries=20)
    first = large.lookup_batch(20)
    assert (first.errno, 10 <= first.element_count < 20) == (0, True)
    rest = large.lookup_batch(20, first.out_batch)
    assert first.element_count + rest.element_count == 20


def test_one_message_after_the_other_on_one_stream(client, process, flows):
    with SyscallStream(client) as stream:
        for number in range(50):
            answer = stream.execute(process.caller, [update(flows.fd, number), lookup(flows.fd, 0)])
            assert [r.errno for r in answer.results] == [0, 0]
    assert flows.info().element_count == 50


def test_an_unknown_node_ends_the_stream_with_a_clear_refusal(client):
    with pytest.raises(CallError) as caught:
        execute(client, bpf_pb2.Caller(node="nowhere", pid=1), lookup(3, 1))
    assert caught.value.reason == "NODE_UNKNOWN"
