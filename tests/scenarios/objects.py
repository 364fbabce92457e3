"""Commands of the transcripts on programs, attachments, local storage and what tools print of objects."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bpfleet.abi.bpf import F_NO_PREALLOC, AttachType, ProgType, map_type_from_name
from bpfleet.kernel import Kernel
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.bpf.fdinfo import fdinfo_text
from bpfleet.kernel.bpf.prog import RunResult
from bpfleet.kernel.bpf.program import ProgAttr, ProgOp
from bpfleet.kernel.proc.task import Task
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import Stage
from tests.bpftool import map_record, prog_record, to_json

Options = dict[str, str]


class ObjectCommands:
    """A part of the interpreter; descriptors are named per process, as for maps."""

    stage: Stage

    @property
    def kernel(self) -> Kernel:
        """The kernel that was started last."""
        return self.stage.kernel

    def task(self, name: str) -> Task:
        """The process called ``name``."""
        return self.stage.actor(name).task

    def fd(self, process: str, name: str) -> int:
        """The descriptor a process has under a name."""
        return self.stage.actor(process).fd(name)

    @contextmanager
    def directory(self, task: Task, cgroup: str | None) -> Iterator[int | None]:
        """A descriptor of a cgroup for the time of a call; None for none."""
        if cgroup is None:
            yield None
            return
        fd = verbs.OPEN_CGROUP(self.kernel, task, self.kernel.cgroup(cgroup))
        try:
            yield fd
        finally:
            if task.alive:
                verbs.CLOSE(self.kernel, task.pid, fd)

    def do_prog(self, plain: Sequence[str], options: Options) -> None:
        """prog PROCESS NAME type=T [insns=N] [maps=A,B] [does=update,delete]: the operations are on the first map."""
        held = [name for name in options.get("maps", "").split(",") if name]
        does = [op for op in options.get("does", "").split(",") if op]
        attr = ProgAttr(
            ProgType[options["type"].upper()],
            insn_cnt=int(options.get("insns", "2")),
            prog_name=plain[1],
            map_fds=tuple(self.fd(plain[0], name) for name in held),
            ops=tuple(ProgOp(op) for op in does),
        )
        self.stage.actor(plain[0]).fds[plain[1]] = verbs.PROG_LOAD(
            self.kernel, self.task(plain[0]), attr
        ).fd

    def do_storage(self, plain: Sequence[str], options: Options) -> None:
        """storage PROCESS NAME type=task_storage value=N, with the BTF such a map needs."""
        task, value = self.task(plain[0]), int(options["value"])
        types = (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, value))
        btf = verbs.BTF_LOAD(self.kernel, task, types)
        attr = MapAttr(
            map_type_from_name(options["type"]), 4, value, map_flags=F_NO_PREALLOC, btf_fd=btf,
            btf_key_type_id=1, btf_value_type_id=2, map_name=plain[1],
        )  # fmt: skip
        self.stage.actor(plain[0]).fds[plain[1]] = verbs.MAP_CREATE(self.kernel, task, attr).fd
        verbs.CLOSE(self.kernel, task.pid, btf)

    def do_store(self, plain: Sequence[str], options: Options) -> None:
        """store PROCESS NAME OTHER: an update of task storage for another process, through a pidfd."""
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        pidfd = verbs.PIDFD_OPEN(self.kernel, task, self.task(plain[2]))
        value = bytes(self.kernel.bpf.map_info(task, fd).value_size)
        try:
            verbs.MAP_UPDATE_ELEM(self.kernel, task, fd, pidfd.to_bytes(4, "little"), value)
        finally:
            verbs.CLOSE(self.kernel, task.pid, pidfd)

    def do_attach(self, plain: Sequence[str], options: Options) -> None:
        """attach PROCESS PROG CGROUP cgroup_inet_ingress"""
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        with self.directory(task, plain[2]) as directory:
            assert directory is not None
            verbs.PROG_ATTACH(self.kernel, task, directory, fd, AttachType[plain[3].upper()])

    def do_detach(self, plain: Sequence[str], options: Options) -> None:
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        with self.directory(task, plain[2]) as directory:
            assert directory is not None
            verbs.PROG_DETACH(self.kernel, task, directory, fd, AttachType[plain[3].upper()])

    def do_hook(self, plain: Sequence[str], options: Options) -> None:
        """hook PROCESS PROG NAME: the link's descriptor has the hook's name."""
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        self.stage.actor(plain[0]).fds[plain[2]] = verbs.OPEN_HOOK(self.kernel, task, plain[2], fd)

    def do_fire(self, plain: Sequence[str], options: Options) -> str:
        return _ran(self.kernel.bpf.fire(plain[0], self.task(plain[1]), int(plain[2])))

    def do_test_run(self, plain: Sequence[str], options: Options) -> str:
        """test-run PROCESS PROG TIMES [interrupt]"""
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        interrupt = "interrupt" in plain
        return _ran(
            verbs.PROG_TEST_RUN(self.kernel, task, fd, repeat=int(plain[2]), in_interrupt=interrupt)
        )

    def do_fdinfo(self, plain: Sequence[str], options: Options) -> str:
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        return fdinfo_text(task.file(fd), self.kernel.profile)

    def do_bpftool(self, plain: Sequence[str], options: Options) -> str:
        """bpftool map | bpftool prog, as with -j -f."""
        profile = self.kernel.profile
        if plain[0] == "map":
            return to_json([map_record(m, profile, pinned=True) for m in self.kernel.bpf.maps()])
        return to_json([prog_record(p, profile, pinned=True) for p in self.kernel.bpf.progs()])


def _ran(result: RunResult) -> str:
    failed = f", {result.failed_ops} operations failed, errno {result.errno}"
    return f"{result.runs} runs" + (failed if result.failed_ops else "")


__all__ = ["ObjectCommands"]
