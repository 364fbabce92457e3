"""What a replica does to a kernel, and what it makes of the answers."""

import pytest
from msgspec.structs import replace
from sample_replicas import APP, MIB, PROGRAM, SPARSE, TABLE, WRITES, boot, replica

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import PROFILES
from bpfleet.runtime import ReplicaRun
from bpfleet.runtime.maps import pin_path
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Churn, Inventory, MapDeclaration, ReplicaSpec, WorkloadSpec

MODELS = ["5.10", "seed-v5", "5.11", "6.1", "6.12", "6.12:nobpf"]


def started(kernel: Kernel, **fields: object) -> ReplicaRun:
    fields.setdefault("memlock_bytes", RLIM_INFINITY)
    run = ReplicaRun(kernel, replica(**fields))  # type: ignore[arg-type]
    run.start()
    return run


@pytest.mark.parametrize("model", MODELS)
def test_a_start_creates_what_is_declared(model: str) -> None:
    kernel = boot(model)
    run = started(kernel, memory_limit_bytes=64 * MIB)
    assert run.phase is Phase.RUNNING
    assert (run.maps_created, run.programs_loaded) == (1, 1)
    assert [m.name for m in kernel.bpf.maps()] == ["table"]
    assert kernel.read_file("/workloads/web-0", "memory.max") == f"{64 * MIB}\n"
    assert run.task is not None
    assert run.task.rss_bytes == 4 * MIB
    kernel.check()


def test_a_start_below_the_precharge_ends_with_eperm_and_leaves_nothing() -> None:
    kernel = boot("5.10")
    run = started(kernel, memlock_bytes=64 << 10, uid=7, capabilities=None)
    failure = run.failure
    assert run.phase is Phase.FAILED
    assert run.exit_code == 1
    assert failure is not None
    assert (failure.call, failure.object, failure.errno) == ("MAP_CREATE", "table", "EPERM")
    kernel.run_deferred()
    assert kernel.user(7).locked_vm_pages == 0
    assert kernel.tasks() == []


def test_the_true_reason_of_a_memlock_refusal_is_kept() -> None:
    failure = started(boot("5.10"), memlock_bytes=64 << 10).failure
    assert failure is not None
    assert failure.reason == "RLIMIT_MEMLOCK_EXCEEDED"
    assert failure.numbers["limit_bytes"] == 64 << 10


def test_creation_at_the_limit_is_enomem_not_a_kill() -> None:
    kernel = boot("6.12")
    run = started(kernel, inventory=replace(APP, user_memory_bytes=0), memory_limit_bytes=MIB)
    assert run.failure is not None
    assert (run.failure.errno, run.failure.reason) == ("ENOMEM", "MEMCG_LIMIT_EXCEEDED")
    assert not run.failure.oom_killed


def test_a_heap_that_grows_into_the_limit_is_oom_killed_with_exit_code_137() -> None:
    growing = replace(APP, user_memory_bytes=12 * MIB, churn=Churn(start_share=0.5, ramp_steps=4))
    run = started(boot("6.12"), inventory=growing, memory_limit_bytes=10 * MIB)
    assert run.phase is Phase.RUNNING
    for _ in range(4):
        run.step()
    assert run.phase is Phase.FAILED
    assert run.exit_code == 137
    assert run.failure is not None
    assert run.failure.oom_killed
    assert run.failure.call == "page fault"


def test_the_same_heap_lives_on_where_bpf_memory_is_not_charged() -> None:
    growing = replace(APP, user_memory_bytes=9 * MIB, churn=Churn(start_share=0.5, ramp_steps=4))
    fates = {}
    for model in ("5.10", "6.12", "6.12:nobpf"):
        run = started(boot(model), inventory=growing, memory_limit_bytes=10 * MIB)
        for _ in range(4):
            run.step()
        fates[model] = run.phase
    assert fates == {
        "5.10": Phase.RUNNING,
        "6.12": Phase.FAILED,
        "6.12:nobpf": Phase.RUNNING,
    }


def test_updates_refused_at_the_limit_are_counted_and_survived() -> None:
    app = Inventory(name="cache", maps=(SPARSE,), user_memory_bytes=MIB, churn=WRITES)
    run = started(boot("6.12"), inventory=app, memory_limit_bytes=3 * MIB)
    for _ in range(5):
        run.step()
    assert run.settle()
    assert run.outcomes["MAP_UPDATE_ELEM", "ENOMEM", "MEMCG_LIMIT_EXCEEDED"] > 0


def test_kernels_that_force_element_charges_overshoot_the_limit_instead() -> None:
    kernel = boot("5.11")
    app = Inventory(name="cache", maps=(SPARSE,), user_memory_bytes=MIB, churn=WRITES)
    run = started(kernel, inventory=app, memory_limit_bytes=3 * MIB)
    for _ in range(5):
        run.step()
    assert run.settle()
    assert not any(errno == "ENOMEM" for _, errno, _ in run.outcomes)
    assert kernel.cgroup(run.cgroup).memcg.usage_bytes > 3 * MIB


def test_inner_maps_are_created_and_held_by_the_outer_one() -> None:
    outer = MapDeclaration(
        name="outer",
        map_type=MapType.ARRAY_OF_MAPS,
        key_size=4,
        value_size=4,
        max_entries=8,
        inner=TABLE,
        inner_count=3,
    )
    kernel = boot("6.12")
    run = started(kernel, inventory=Inventory(name="app", maps=(outer,)))
    kernel.run_deferred()
    assert run.maps_created == 4
    assert sorted(m.name for m in kernel.bpf.maps()) == ["outer", "table", "table", "table"]
    run.stop()
    kernel.run_deferred()
    assert kernel.bpf.maps() == []


def test_declared_elements_are_inserted_and_a_frozen_map_is_frozen() -> None:
    filled = replace(TABLE, fill_entries=5, frozen=True, churn_weight=0)
    kernel = boot("6.12")
    started(kernel, inventory=Inventory(name="app", maps=(filled,)))
    (bpf_map,) = kernel.bpf.maps()
    assert bpf_map.entries() == 5
    assert bpf_map.frozen


def test_pinned_maps_are_found_again_by_the_next_attempt() -> None:
    app = replace(APP, maps=(replace(TABLE, pinned=True),))
    kernel = boot("6.12")
    first = started(kernel, inventory=app)
    first.stop()
    kernel.run_deferred()
    second = started(kernel, inventory=app)
    assert second.phase is Phase.RUNNING
    assert second.maps_created == 0
    assert len(kernel.bpf.maps()) == 1


def test_a_process_killed_from_outside_is_noticed_and_is_no_oom_kill() -> None:
    kernel = boot("6.12")
    run = started(kernel)
    assert run.task is not None
    kernel.kill(run.task.pid)
    assert not run.settle()
    assert run.exit_code == 137
    assert run.failure is not None
    assert not run.failure.oom_killed


def test_extra_maps_of_churn_are_bounded() -> None:
    churn = Churn(
        lookups=0, updates=0, deletes=0, creates=1, operations_per_step=30, extra_maps_max=2
    )
    kernel = boot("6.12")
    run = started(kernel, inventory=replace(APP, churn=churn))
    run.step()
    kernel.run_deferred()
    assert run.maps_created == 31
    assert len(kernel.bpf.maps()) == 3


@pytest.mark.parametrize("batch_size", [1, 8])
def test_models_without_refusals_end_with_the_same_elements(batch_size: int) -> None:
    churn = Churn(operations_per_step=300, batch_size=batch_size)
    entries = set()
    for model in MODELS:
        kernel = boot(model)
        run = started(kernel, inventory=replace(APP, churn=churn))
        run.step()
        assert all(errno == "ENOENT" for _, errno, _ in run.outcomes)
        entries.add(kernel.bpf.maps()[0].entries())
    assert len(entries) == 1


def test_programs_that_need_an_attach_type_get_one() -> None:
    program = replace(PROGRAM, prog_type=ProgType.CGROUP_SOCK_ADDR)
    run = started(boot("6.12"), inventory=replace(APP, programs=(program,)))
    assert run.failure is None


def test_copies_of_a_program_use_copies_of_a_map_in_turn() -> None:
    """One program may use 64 maps at most; an agent with a hundred pods has a program and maps for each."""
    app = Inventory(
        name="agent",
        maps=(replace(TABLE, max_entries=8, count=100),),
        programs=(replace(PROGRAM, count=100),),
    )
    kernel = boot("6.12")
    run = started(kernel, inventory=app)
    assert run.phase is Phase.RUNNING
    assert {tuple(m.id for m in prog.maps) for prog in kernel.bpf.progs()} == {
        (m.id,) for m in kernel.bpf.maps()
    }


def test_names_with_dots_pin_and_share_no_path() -> None:
    names = ["a.b", "a_b", "a%2eb", "a/b", "a"]
    paths = {
        pin_path(replica, name, ordinal, kind=kind)
        for replica in names
        for name in ("m", "m.x", "m_x", "1")
        for ordinal in (0, 1, 2)
        for kind in ("", "prog:")
    }
    assert len(paths) == len(names) * 4 * 3 * 2
    assert not [path for path in paths if "." in path]


def test_a_workload_with_dots_in_its_names_starts_and_finds_its_pins_again() -> None:
    pinned = MapDeclaration(
        name="app.rodata",
        map_type=MapType.ARRAY,
        key_size=4,
        value_size=8,
        max_entries=1,
        pinned=True,
    )
    inventory = Inventory(name="dotted", maps=(pinned,))
    workload = WorkloadSpec(name="app-1.2", inventory=inventory)
    spec = ReplicaSpec(workload=workload, serial=0, inventory=inventory, cgroup="/a")
    kernel = Kernel(PROFILES["6.12"])
    for _ in range(2):
        run = ReplicaRun(kernel, spec)
        run.start()
        assert run.failure is None
        run.stop()
    assert [each.name for each in kernel.bpf.maps()] == ["app.rodata"]
