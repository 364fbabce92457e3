"""Restarts: when, in which cgroup, and what pinned maps do to the next start."""

from msgspec.structs import replace
from sample_replicas import APP, MIB, TABLE, boot, replica

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.kernel import Kernel
from bpfleet.runtime.supervisor import KUBELET_BACK_OFF, Supervisor
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import RestartPolicy


def failing(kernel: Kernel, **fields: object) -> Supervisor:
    """A replica whose map never fits its memlock limit."""
    fields.setdefault("memlock_bytes", 4096)
    return Supervisor(kernel, replica(**fields))  # type: ignore[arg-type]


def test_a_failed_start_is_repeated_with_growing_pauses_up_to_five_minutes() -> None:
    kernel = boot("5.10")
    supervisor = failing(kernel)
    pauses = []
    for _ in range(8):
        supervisor.start()
        assert supervisor.restart_at_ns is not None
        pauses.append(supervisor.restart_at_ns - kernel.now_ns)
        kernel.advance(pauses[-1])
    assert pauses == [min(KUBELET_BACK_OFF.first << n, KUBELET_BACK_OFF.longest) for n in range(8)]
    assert supervisor.status().phase is Phase.BACK_OFF
    assert supervisor.starts == 8
    assert supervisor.refused() == {"MAP_CREATE EPERM RLIMIT_MEMLOCK_EXCEEDED": 8}


def test_nothing_happens_before_the_pause_is_over() -> None:
    kernel = boot("5.10")
    supervisor = failing(kernel)
    supervisor.start()
    kernel.advance(KUBELET_BACK_OFF.first - 1)
    supervisor.start()
    assert supervisor.starts == 1


def test_a_replica_that_must_not_restart_stays_failed() -> None:
    kernel = boot("5.10")
    supervisor = failing(kernel, restart_policy=RestartPolicy.NEVER)
    supervisor.start()
    assert supervisor.status().phase is Phase.FAILED
    assert not supervisor.due


def test_a_long_run_forgets_earlier_failures() -> None:
    kernel = boot("6.12")
    supervisor = Supervisor(kernel, replica())
    for _ in range(3):
        supervisor.start()
        assert supervisor.run is not None
        assert supervisor.run.task is not None
        kernel.advance(601_000_000_000)
        kernel.kill(supervisor.run.task.pid)
        assert not supervisor.settle()
        assert supervisor.restart_at_ns == kernel.now_ns + KUBELET_BACK_OFF.first
        kernel.advance(KUBELET_BACK_OFF.first)
    assert supervisor.starts == 3


def test_counters_run_over_all_attempts() -> None:
    kernel = boot("6.12")
    supervisor = Supervisor(kernel, replica())
    for _ in range(2):
        supervisor.start()
        assert supervisor.run is not None
        supervisor.run.step()
        supervisor.rollout()
    status = supervisor.status()
    assert (status.maps_created, status.programs_loaded, status.operations) == (2, 2, 200)


def test_after_a_rollout_the_new_cgroup_does_not_pay_for_pinned_maps() -> None:
    kernel = boot("6.12")
    app = replace(APP, maps=(replace(TABLE, pinned=True),), user_memory_bytes=0)
    supervisor = Supervisor(kernel, replica(app))
    supervisor.start()
    first = kernel.cgroup("/workloads/web-0").memcg.usage_bytes
    supervisor.rollout()
    supervisor.start()
    assert supervisor.run is not None
    assert supervisor.run.cgroup == "/workloads/web-0-r1"
    assert first > MIB
    assert kernel.cgroup("/workloads/web-0-r1").memcg.usage_bytes < MIB
    assert kernel.cgroup("/workloads").memcg.usage_bytes > MIB
    assert supervisor.first_start == "ok"
    assert dict(supervisor.later_starts) == {"ok": 1}


def test_a_restart_after_a_crash_stays_in_its_cgroup() -> None:
    kernel = boot("5.10")
    supervisor = failing(kernel)
    supervisor.start()
    kernel.advance(KUBELET_BACK_OFF.first)
    run = supervisor.begin()
    assert run.cgroup == "/workloads/web-0"


def test_stop_is_final() -> None:
    kernel = boot("6.12")
    supervisor = Supervisor(kernel, replica(memlock_bytes=RLIM_INFINITY))
    supervisor.start()
    supervisor.stop()
    kernel.run_deferred()
    assert supervisor.status().phase is Phase.STOPPED
    assert not supervisor.due
    assert kernel.tasks() == []
    assert kernel.bpf.maps() == []
