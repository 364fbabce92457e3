"""Watching a node's events: from now, from a revision, behind the log, too slow, and until the node is gone."""

import grpc
import pytest
from node_agents import connected

from bpfleet.client.session import CallError
from bpfleet.kernel.events import EventKind
from bpfleet.v1 import node_service_pb2 as pb


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


def write_events(node_agent, count):
    """Lines in the kernel log, a kilobyte each."""
    node = node_agent.agent.find("a1-00001")
    for _ in range(count):
        node.wake().timeline.emit(EventKind.KERNEL_LOG, line="x" * 1000)
    node.touched()


def kinds(events):
    return [event.WhichOneof("detail") for event in events]


def test_a_watch_without_a_start_shows_what_happens_from_now_on(node):
    node.create_cgroup("/before")
    watch = node.watch()
    assert kinds(next(watch).events) == []
    node.create_cgroup("/after")
    (event,) = next(watch).events
    assert event.cgroup_created.cgroup == "/after"


def test_a_watch_resumes_where_another_stopped(node):
    node.create_cgroup("/a")
    node.create_cgroup("/b")
    revision = next(iter(node.list_events())).revision
    watch = node.watch(start_revision=revision + 1)
    next(watch)
    answer = next(watch)
    assert [event.cgroup_created.cgroup for event in answer.events] == ["/b"]
    assert answer.revision == answer.events[-1].revision


def test_a_watch_shows_only_the_kinds_asked_for(node):
    watch = node.watch(kinds=["process_exited"])
    next(watch)
    process = node.create_process(comm="short")
    process.kill()
    (event,) = next(watch).events
    assert (event.process_exited.pid, event.process_exited.comm) == (process.pid, "short")
    with pytest.raises(CallError, match="kinds: 'thunder' is unknown"):
        next(node.watch(kinds=["thunder"]))


@pytest.mark.parametrize("start", [0, -5, 1 << 40])
def test_a_start_that_cannot_be_is_refused(node, start):
    with pytest.raises(CallError, match="start_revision") as caught:
        next(node.watch(start_revision=start))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_start_behind_the_log_is_refused_with_the_oldest_revision(agent_and_client, node):
    agent_and_client[0].inside(lambda node_agent: write_events(node_agent, 1100))
    with pytest.raises(CallError) as caught:
        next(node.watch(start_revision=1))
    refusal = caught.value
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
    oldest = int(refusal.facts["oldestRevision"])
    assert next(node.watch(start_revision=oldest)).revision == oldest - 1
    assert next(iter(node.list_events())).revision == oldest
    with pytest.raises(CallError) as caught:
        list(node.list_events(start_revision=1))
    assert caught.value.reason == "REVISION_COMPACTED"


def test_lists_of_events_have_pages(client, node):
    for number in range(5):
        node.create_cgroup(f"/{number}")
    request = pb.ListEventsRequest(name=node.name, page_size=2)
    pages = list(client.session.pages(client.nodes.ListEvents, request))
    assert [len(page.events) for page in pages] == [2, 2, 1]
    assert [event.revision for page in pages for event in page.events] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_reader_that_is_too_slow_is_sent_away_with_where_it_stopped(agent_and_client):
    """The reader does not read while the node writes many times what its log and the connection can hold."""

    agent, client = agent_and_client
    watch = client.node("a1-00001").watch()
    next(watch)
    for _ in range(200):
        agent.inside(lambda node_agent: write_events(node_agent, 200))
    seen = []
    with pytest.raises(CallError) as caught:
        seen.extend(answer.revision for answer in watch)
    refusal = caught.value
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "WATCH_LAGGED"
    assert int(refusal.facts["nextRevision"]) == seen[-1] + 1


def test_a_watch_tells_of_the_crash_of_its_node(node):
    watch = node.watch(kinds=["node_crashed"])
    next(watch)
    node.inject_fault("crash")
    (event,) = next(watch).events
    assert event.node_crashed.message == "a crash was asked for"


def test_a_watch_ends_with_its_node(node):
    watch = node.watch()
    next(watch)
    node.delete()
    with pytest.raises(CallError) as caught:
        next(watch)
    assert caught.value.reason == "NODE_UNKNOWN"


def test_the_number_of_watches_of_a_node_is_bounded(node):
    watches = [node.watch() for _ in range(64)]
    for watch in watches:
        next(watch)
    with pytest.raises(CallError) as caught:
        next(node.watch())
    assert caught.value.reason == "TOO_MANY_WATCHES"
