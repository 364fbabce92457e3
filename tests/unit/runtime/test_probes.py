"""What libraries believe about a kernel, and what they do about the limit."""

import pytest

from bpfleet.abi.bpf import Capability
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.runtime.probes import LIBRARIES, prepare_memlock
from tests.kernels import ALL, boot

CAPS = frozenset({Capability.BPF, Capability.NET_ADMIN, Capability.PERFMON})


def agent(profile: str, *, may_raise: bool) -> tuple[Kernel, Task]:
    caps = CAPS | ({Capability.SYS_RESOURCE} if may_raise else frozenset())
    kernel = Kernel(profile_named(profile))
    return kernel, kernel.spawn(uid=1000, caps=caps, memlock=(64 << 10, 64 << 10))


@pytest.mark.parametrize("library", ["libbpf", "cilium/ebpf", "bpftool"])
@pytest.mark.parametrize("profile", ALL)
def test_probes_tell_the_model_and_leave_nothing_behind(profile: str, library: str) -> None:
    kernel, task = agent(profile, may_raise=True)
    found = prepare_memlock(kernel, task, library)
    assert found.believes == ("rlimit" if profile_named(profile).is_rlimit else "memcg")
    assert found.bump == ("done" if profile_named(profile).is_rlimit else "skipped")
    assert found.answer == "ok"
    limit = RLIM_INFINITY if profile_named(profile).is_rlimit else 64 << 10
    assert task.memlock_soft_bytes == task.memlock_hard_bytes == limit
    kernel.run_deferred()
    assert not task.fds
    assert not kernel.bpf.maps()
    assert not kernel.bpf.progs()


def test_a_backported_helper_deceives_libbpf_alone() -> None:
    believed = {}
    for library in ("libbpf", "cilium/ebpf", "bpftool"):
        kernel, task = agent("5.10:backport", may_raise=True)
        believed[library] = prepare_memlock(kernel, task, library).believes
    assert believed == {"libbpf": "memcg", "cilium/ebpf": "rlimit", "bpftool": "rlimit"}


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_where_the_limit_may_not_be_raised_some_give_up(library: str) -> None:
    kernel, task = agent("5.10", may_raise=False)
    found = prepare_memlock(kernel, task, library)
    vital = {"cilium/ebpf", "unconditional"}
    assert found.answer == ("EPERM" if library in vital else "ok")
    assert found.bump == ("skipped" if library == "libbpf 0.6" else "EPERM")
    assert task.memlock_soft_bytes == 64 << 10


def test_asking_first_spares_the_newer_libraries_on_newer_kernels() -> None:
    for library, answer in (("cilium/ebpf", "ok"), ("unconditional", "EPERM")):
        kernel, task = agent("6.12", may_raise=False)
        assert prepare_memlock(kernel, task, library).answer == answer


def test_unknown_libraries_are_named_errors() -> None:
    kernel, task = boot("6.12")
    with pytest.raises(KeyError):
        prepare_memlock(kernel, task, "aya")
