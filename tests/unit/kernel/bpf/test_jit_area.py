"""Room for machine code: what CAP_BPF passes, and what it does not."""

from dataclasses import replace

import pytest

from bpfleet.abi.bpf import ProgType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import Kernel, KernelError, Reason, profile_named
from bpfleet.kernel.bpf.jit_area import PACK_BYTES, JitArea
from bpfleet.kernel.bpf.program import ProgAttr

AREA_BYTES = 1_056_964_608  # MODULES_END - MODULES_VADDR with KASLR
UNLIMITED = (RLIM_INFINITY, RLIM_INFINITY)


def _host(*, jit_always_on: bool) -> Kernel:
    profile = replace(profile_named("6.12"), bpf_jit_always_on=jit_always_on)
    return Kernel(profile, possible_cpus=2, ram_bytes=64 << 30)


def _leak(kernel: Kernel, code_bytes: int, count: int) -> int:
    """Loads and pins programs until one is refused or no longer compiled; returns how many were compiled."""
    task = kernel.spawn(memlock=UNLIMITED)
    attr = ProgAttr(ProgType.SCHED_CLS, insn_cnt=2, jited_bytes=code_bytes)
    for number in range(count):
        fd = kernel.bpf.prog_load(task, attr)
        kernel.bpf.obj_pin(task, f"/sys/fs/bpf/p{number}", fd)
        kernel.close(task.pid, fd)
        if not kernel.bpf.progs()[-1].jited:
            return number
    return count


@pytest.mark.slow
def test_some_77_000_programs_of_a_cilium_agent_fill_the_area() -> None:
    """80,000 pinned programs of 13,629 bytes: 153 images a pack, of which 503 fit."""
    kernel = _host(jit_always_on=False)
    area = JitArea(AREA_BYTES, packed=True)
    size = kernel.bpf.programs.jit.image_bytes(13_629)
    images = 0
    while area.take([size]):
        images += 1
    assert images == 503 * (PACK_BYTES // size) == 76_959


def test_a_capable_loader_passes_the_limit_and_not_the_area() -> None:
    kernel = _host(jit_always_on=True)
    with pytest.raises(KernelError) as refused:
        _leak(kernel, 1_000_000, 2000)
    assert refused.value.errno is Errno.ENOTSUPP
    assert refused.value.reason is Reason.JIT_AREA_FULL
    assert refused.value.numbers["limit_bytes"] == AREA_BYTES
    loaded = len(kernel.bpf.progs())
    assert loaded == 2 * (AREA_BYTES // (PACK_BYTES + 4096)) > 528_482_304 // 1_000_000
    kernel.check()


def test_with_an_interpreter_the_rest_runs_interpreted() -> None:
    assert _leak(_host(jit_always_on=False), 1_000_000, 2000) == 1006


def test_what_is_released_makes_room() -> None:
    area = JitArea(2 * (PACK_BYTES + 4096), packed=True)
    first = area.take([PACK_BYTES // 2] * 4)
    assert len(first) == 4
    assert area.take([64]) == ()
    area.give(first[1:3])
    assert len(area.take([PACK_BYTES // 2] * 2)) == 2
    assert area.take([PACK_BYTES // 2] * 3) == ()
    area.give(first[:1])
    assert len(area.take([64])) == 1


def test_before_5_18_every_image_has_pages_of_its_own() -> None:
    area = JitArea(5 * 8192, packed=False)
    assert len(area.take([4096] * 5)) == 5
    assert area.take([4096]) == ()


def test_what_a_load_returns_is_the_descriptor() -> None:
    kernel = _host(jit_always_on=False)
    task = kernel.spawn()
    made = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER))
    assert made == made.fd
    assert made.id == kernel.bpf.progs()[-1].id
    kernel.close(task.pid, made)
