"""Real tools of Debian's libbpf-tools, each in a fresh cgroup: captured, calibrated, and reproduced where they run."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from bpfleet.calibrate.containers import host_input
from bpfleet.calibrate.emulate import emulate_host
from bpfleet.calibrate.verdict import calibrate
from bpfleet.captures.collect import Cgroups, collect
from bpfleet.captures.document import read_document
from bpfleet.cli.captured import own_kernel
from tests.live_host import fresh_cgroup, skip_unless_root_with_bpf

pytestmark = [pytest.mark.live_kernel, pytest.mark.slow]

TOOLS = (
    "bashreadline", "biolatency", "bitesize", "cpudist", "drsnoop", "gethostlatency", "hardirqs", "offcputime",
    "runqlat", "runqslower", "softirqs", "statsnoop", "wakeuptime",
)  # fmt: skip
WITHOUT_INTERVAL = ("bashreadline", "drsnoop", "gethostlatency", "statsnoop")
START_SECONDS = 20.0


def _objects_of(pid: int) -> int:
    found = 0
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found += "bpf_link" in os.readlink(
                f"/proc/{pid}/fd/{name}"
            ) or "perf_event" in os.readlink(f"/proc/{pid}/fd/{name}")
    except OSError:
        return 0
    return found


@contextmanager
def _running(tool: str, cgroup: Path) -> Iterator[int]:
    path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{tool} of libbpf-tools is not installed")
    script = 'echo $$ > "$0"; exec "$@"'
    interval = [] if tool in WITHOUT_INTERVAL else ["600"]
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, str(cgroup / "cgroup.procs"), path, *interval],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while (
            not _objects_of(process.pid) and process.poll() is None and time.monotonic() < deadline
        ):
            os.sched_yield()
        if process.poll() is not None or not _objects_of(process.pid):
            pytest.skip(f"{tool} does not run here")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_real_tool_is_reproduced(tool: str) -> None:
    skip_unless_root_with_bpf()
    with fresh_cgroup(tool) as cgroup, _running(tool, cgroup):
        document = read_document(msgspec.json.encode(collect(count_elements=True)), "here")
    path = str(cgroup).removeprefix(Cgroups().mount)
    found = host_input(document)
    kernel = own_kernel(document, {})
    lines = calibrate(document, found.containers, emulate_host(found, kernel), kernel)
    (line,) = [each for each in lines if each.path == path]
    assert line.exact_maps == line.maps > 0, line.differing
    assert line.verdict == "reproduced", line
