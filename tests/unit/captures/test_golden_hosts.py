"""Captures of real hosts of 5.10, 6.1 and 6.12 in the same state: payers, processes, and what calibration says.

Taken by the one-file script in guests of Debian's cloud kernels: an agent with a map of twelve types, a map of maps and
a program under 64 MiB, opensnoop in a container of a pod, exitsnoop as a unit, 1 MiB of locked memory, a map of another
user, a pinned map whose maker has ended, and one whose cgroup was removed.
"""

from pathlib import Path

import pytest

from bpfleet.calibrate.containers import host_input
from bpfleet.calibrate.emulate import emulate_host
from bpfleet.calibrate.verdict import Calibration, calibrate
from bpfleet.captures.charges import about_process, payer_rows
from bpfleet.captures.document import Document, read_document, write_document
from bpfleet.cli.captured import own_kernel
from bpfleet.kernel.profile import PROFILES
from bpfleet.report.answer import HostCase, answer_for

HOSTS = sorted(Path(__file__).with_name("hosts").glob("*.json"))
KERNELS = ["5.10", "6.1", "6.12"]
POD = "pod0b5e43a1_9a4e_4a2a_8f53_1f2f3c1a7d11.slice"
KIB = 1 << 10


def of(kernel: str) -> Document:
    (path,) = [each for each in HOSTS if each.stem == f"host-{kernel}"]
    return read_document(path.read_bytes(), path.name)


def calibrated(document: Document) -> dict[str, Calibration]:
    found, kernel = host_input(document), own_kernel(document, {})
    lines = calibrate(document, found.containers, emulate_host(found, kernel), kernel)
    return {line.container: line for line in lines}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_of_a_host_is_found_by_its_release(kernel: str) -> None:
    profile = own_kernel(of(kernel), {})
    assert profile.name.partition("@")[0] == kernel
    assert profile.is_rlimit == (kernel == "5.10")


@pytest.mark.parametrize("kernel", KERNELS)
def test_who_pays_was_read(kernel: str) -> None:
    document = of(kernel)
    assert document.charges.read
    assert document.charges.how == ("user" if kernel == "5.10" else "objcg")
    payers = {each.name: each.payer for each in document.maps}
    assert all(payer.read for payer in payers.values())
    if kernel == "5.10":
        assert (payers["of_1000"].kind, payers["of_1000"].uid) == ("user", 1000)
        assert payers["agent_0"].uid == 0
    else:
        assert payers["agent_0"].path == "/system.slice/agent.service"
        assert payers["left_behind"].path == "/system.slice/pinner.service"
        assert (
            payers["of_the_gone"].path == "/system.slice"
        )  # its cgroup was removed: the parent pays
        assert payers["of_1000"].path == "/user.slice/user-1000.slice"


def test_a_users_counter_is_more_than_his_maps() -> None:
    document = of("5.10")
    rows = {row.payer: row for row in payer_rows(document)}
    root, other = rows["uid 0"], rows["uid 1000"]
    assert (other.maps, other.usage) == (1, 80 * KIB)
    assert root.usage is not None
    assert root.other is not None
    assert root.bytes + root.other == root.usage
    assert root.other == 2 * 4 * KIB  # the iterators that read this, a page each
    # Maps took all that perf_event_mlock_kb allows: perf buffers of two tools went to pinned_vm.
    assert document.users[0].pinned_pages >= 2 * 65


@pytest.mark.parametrize("kernel", KERNELS)
def test_containers_and_units_are_recognised(kernel: str) -> None:
    document = of(kernel)
    what = {each.path.rsplit("/", 1)[-1]: each.what for each in document.cgroups}
    (container,) = [each for each in what.values() if each["kind"] == "pod-container"]
    assert (container["runtime"], container["pod_uid"]) == (
        "containerd",
        "0b5e43a1-9a4e-4a2a-8f53-1f2f3c1a7d11",
    )
    assert what["agent.service"]["unit"] == "agent.service"
    (agent,) = [each for each in document.cgroups if each.path == "/system.slice/agent.service"]
    assert (agent.max, agent.high) == (64 << 20, 48 << 20)


@pytest.mark.parametrize("kernel", KERNELS)
def test_elements_pins_and_locked_memory_are_there(kernel: str) -> None:
    document = of(kernel)
    maps = {each.name: each for each in document.maps}
    assert (maps["agent_0"].elements, maps["agent_1"].elements) == (7, 7)
    assert maps["outer"].inner == (maps["inner"].id,)
    assert maps["left_behind"].pinned == ("/sys/fs/bpf/left_behind",)
    assert maps["left_behind"].holders == ()
    (locker,) = [each for each in document.processes if each.comm == "locker"]
    assert locker.vm_locked >= 1 << 20
    lines = about_process(document, locker.pid)
    assert lines[0].startswith(f"process {locker.pid} (locker) of uid 0 in /system.slice/locker")


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_of_it_is_reproduced(kernel: str) -> None:
    lines = calibrated(of(kernel))
    assert {"agent.service", "exitsnoop.service", "opensnoop", "user-1000.slice"} <= set(lines)
    for line in lines.values():
        assert line.reproduced, line
        assert line.exact_maps == line.maps
        assert abs(line.unexplained_bytes or 0) <= 16 * KIB, line


def test_kernel_memory_of_many_tools_is_explained_to_the_page() -> None:
    """Twenty-three tools of libbpf-tools, each in a cgroup of its own, on one host of 6.1."""
    path = HOSTS[0].with_name("tools-6.1.json")
    lines = calibrated(read_document(path.read_bytes(), path.name))
    assert len(lines) == 23
    for line in lines.values():
        assert (line.verdict, line.exact_maps) == ("reproduced", line.maps), line
        assert abs(line.unexplained_bytes or 0) <= 8 * KIB, line
    close = [line for line in lines.values() if abs(line.unexplained_bytes or 0) < KIB]
    assert len(close) == 22


@pytest.mark.parametrize("target", ["5.10", "6.12", "7.3"])
def test_one_question_about_all_three(target: str) -> None:
    cases = []
    for kernel in KERNELS:
        document = of(kernel)
        found = host_input(document)
        profile = own_kernel(document, {})
        cases.append(
            HostCase(source=kernel, document=document, before=found, after=found, kernel=profile)
        )
    answer = answer_for(cases, [PROFILES[target]])
    agent = next(row for row in answer.rows if row.container == "agent.service")
    assert (agent.hosts, agent.change, agent.reproduced) == (3, "fits", 3)


def test_a_document_is_written_as_it_was_read() -> None:
    for path in HOSTS:
        document = read_document(path.read_bytes(), path.name)
        assert read_document(write_document(document), "again") == document
