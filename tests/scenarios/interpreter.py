"""The language of the transcripts: one command a line, its answer as text; invariants are checked after each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Final

from bpfleet.abi.bpf import (
    ALL_CAPABILITIES,
    Capability,
    capabilities_of,
    map_type_from_name,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel import Kernel, KernelError, Reason, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.command import Cost, cost_on
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.proc.task import Task
from bpfleet.runtime.probes import prepare_memlock
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import KILLED, Run, Stage, answer_of, numbered_key, run_of
from bpfleet.workload.quantity import parse_bytes, parse_limit
from tests.kernels import read_pages, write_tmpfs
from tests.scenarios.objects import ObjectCommands

NS_PER_S: Final = 1_000_000_000
Options = dict[str, str]


class Interpreter(ObjectCommands):
    """One kernel and the processes of a transcript, by name. ``kernel`` starts a new one."""

    def __init__(self) -> None:
        self.stage = Stage(Kernel(profile_named("6.12")))
        self.last_error: KernelError | None = None
        self.last_cost: Cost | None = None
        self.log_read = 0

    def run(self, line: str) -> str:
        """Carries one command out and returns what it answered."""
        words = line.split()
        plain = [w for w in words[1:] if "=" not in w or w.startswith("/")]
        options = dict(w.split("=", 1) for w in words[1:] if "=" in w and not w.startswith("/"))
        command = getattr(self, "do_" + words[0].replace("-", "_"), None)
        assert command is not None, f"unknown command {words[0]!r}"
        answer = answer_of(lambda: command(plain, options))
        self.kernel.check()
        if answer.refusal is None:
            return str("ok" if answer.value is None else answer.value).rstrip("\n")
        self.last_error = error = answer.refusal
        return KILLED if answer.word == KILLED else f"{answer.word} {error.reason}: {error.detail}"

    # -- node --------------------------------------------------------------------------------------------------------

    def do_kernel(self, plain: Sequence[str], options: Options) -> str:
        kernel = Kernel(
            profile_named(plain[0]),
            ram_bytes=parse_bytes(options.get("ram", "8G")),
            swap_bytes=parse_bytes(options.get("swap", "0")),
            possible_cpus=int(options.get("cpus", "2")),
        )
        self.stage, self.log_read = Stage(kernel), 0
        return f"{self.kernel.profile.release} booted"

    def do_settle(self, plain: Sequence[str], options: Options) -> str:
        self.kernel.run_deferred()
        self.kernel.controller.drain_stocks()
        return "ok"

    def do_clock(self, plain: Sequence[str], options: Options) -> str:
        return f"{self.kernel.now_ns / NS_PER_S:.3f} s"

    def do_advance(self, plain: Sequence[str], options: Options) -> None:
        self.kernel.advance(int(float(plain[0]) * NS_PER_S))

    def do_fault(self, plain: Sequence[str], options: Options) -> None:
        self.kernel.inject_fault(plain[0], int(plain[1]) if len(plain) > 1 else 1)

    def do_clear_faults(self, plain: Sequence[str], options: Options) -> None:
        self.kernel.clear_faults()

    def do_node(self, plain: Sequence[str], options: Options) -> str:
        ram = self.kernel.ram
        state = f"crashed: {self.kernel.crashed}" if self.kernel.crashed else "running"
        return f"{state}, {ram.used_bytes // PAGE_SIZE} of {ram.ram_bytes // PAGE_SIZE} pages used"

    # -- cgroups -----------------------------------------------------------------------------------------------------

    def do_mkdir(self, plain: Sequence[str], options: Options) -> None:
        for path in plain:
            verbs.MKDIR(
                self.kernel, path, delegate="raw" not in options, cpu=int(options.get("cpu", 0))
            )

    def do_rmdir(self, plain: Sequence[str], options: Options) -> None:
        verbs.RMDIR(self.kernel, plain[0])

    def do_read(self, plain: Sequence[str], options: Options) -> str:
        return verbs.READ_FILE(self.kernel, plain[0], plain[1])

    def do_write(self, plain: Sequence[str], options: Options) -> str:
        words = [*plain[2:], *(f"{name}={value}" for name, value in options.items())]
        text = " ".join(words).replace("\\n", "\n").replace("\\s", " ")
        return f"{verbs.WRITE_FILE(self.kernel, plain[0], plain[1], text)} bytes"

    def do_ls(self, plain: Sequence[str], options: Options) -> str:
        return " ".join(self.kernel.list_files(plain[0]))

    def do_usage(self, plain: Sequence[str], options: Options) -> str:
        self.do_settle((), {})
        lines = []
        for path in plain:
            memcg = self.kernel.cgroup(path).memcg
            counted = {k: v for k, v in memcg.events.items() if v}
            events = " ".join(f"{name} {count}" for name, count in counted.items())
            lines.append(f"{path} {memcg.usage_bytes}" + (f" ({events})" if events else ""))
        return "\n".join(lines)

    # -- processes ---------------------------------------------------------------------------------------------------

    def do_spawn(self, plain: Sequence[str], options: Options) -> None:
        memlock = options.get("memlock")
        task = verbs.SPAWN(
            self.kernel,
            uid=int(options.get("uid", "0")),
            caps=_caps(options.get("caps")),
            memlock=None if memlock is None else (parse_limit(memlock),) * 2,
            cgroup=options.get("cgroup", "/"),
            oom_score_adj=int(options.get("adj", "0")),
            comm=plain[0],
            cpu=int(options.get("cpu", "0")),
        )
        self.stage.enter(plain[0], task)
        if "rss" in options:
            verbs.TOUCH(self.kernel, task.pid, parse_bytes(options["rss"]))

    def do_touch(self, plain: Sequence[str], options: Options) -> None:
        verbs.TOUCH(
            self.kernel, self.task(plain[0]).pid, parse_bytes(plain[1]), shared="shared" in plain
        )

    def do_release(self, plain: Sequence[str], options: Options) -> str:
        return f"{verbs.RELEASE(self.kernel, self.task(plain[0]).pid, parse_bytes(plain[1]))} bytes"

    def do_file(self, plain: Sequence[str], options: Options) -> str:
        size = parse_bytes(plain[2])
        return f"{read_pages(self.kernel, self.task(plain[0]).pid, plain[1], size)} bytes read"

    def do_tmpfs(self, plain: Sequence[str], options: Options) -> str:
        size = parse_bytes(plain[2])
        return f"{write_tmpfs(self.kernel, self.task(plain[0]).pid, plain[1], size)} bytes"

    def do_rm_tmpfs(self, plain: Sequence[str], options: Options) -> None:
        if not self.kernel.page_cache.unlink_tmpfs(plain[0]):
            raise KernelError(Errno.ENOENT, Reason.NO_SUCH_OBJECT, f"no tmpfs file {plain[0]!r}")

    def do_exit(self, plain: Sequence[str], options: Options) -> None:
        verbs.EXIT(self.kernel, self.task(plain[0]).pid)

    def do_kill(self, plain: Sequence[str], options: Options) -> None:
        verbs.KILL(self.kernel, self.task(plain[0]).pid)

    def do_move(self, plain: Sequence[str], options: Options) -> None:
        verbs.WRITE_FILE(self.kernel, plain[1], "cgroup.procs", str(self.task(plain[0]).pid))

    def do_alive(self, plain: Sequence[str], options: Options) -> str:
        return " ".join(n for n, actor in self.stage.actors.items() if actor.task.alive) or "nobody"

    def do_proc(self, plain: Sequence[str], options: Options) -> str:
        if plain[0] == "meminfo":
            return verbs.READ_PROC(self.kernel, None, "meminfo")
        return verbs.READ_PROC(self.kernel, self.task(plain[0]).pid, plain[1])

    def do_prlimit(self, plain: Sequence[str], options: Options) -> None:
        soft = parse_limit(plain[2])
        hard = parse_limit(plain[3]) if len(plain) > 3 else soft
        verbs.PRLIMIT(self.kernel, self.task(plain[0]).pid, plain[1], soft, hard)

    def do_setresuid(self, plain: Sequence[str], options: Options) -> None:
        ids = {name: int(value) for name, value in options.items()}
        verbs.SETRESUID(
            self.kernel, self.task(plain[0]).pid, ruid=ids.get("ruid"), euid=ids.get("euid")
        )

    def do_capset(self, plain: Sequence[str], options: Options) -> None:
        verbs.CAPSET(self.kernel, self.task(plain[0]).pid, _caps(plain[1]) or frozenset())

    def do_prepare(self, plain: Sequence[str], options: Options) -> str:
        done = prepare_memlock(self.kernel, self.task(plain[0]), " ".join(plain[1:]))
        return f"believes {done.believes}, bump {done.bump}, {done.answer}"

    # -- other holders of locked memory ------------------------------------------------------------------------------

    def do_perf(self, plain: Sequence[str], options: Options) -> None:
        task = self.task(plain[0])
        fd = verbs.PERF_EVENT_OPEN(self.kernel, task)
        verbs.MMAP_PERF(self.kernel, task, fd, int(plain[1]))

    def do_umem(self, plain: Sequence[str], options: Options) -> None:
        task = self.task(plain[0])
        fd = verbs.SOCKET(self.kernel, task, "xsk")
        verbs.XDP_UMEM_REG(self.kernel, task, fd, parse_bytes(plain[1]))

    def do_io_uring(self, plain: Sequence[str], options: Options) -> None:
        task = self.task(plain[0])
        fd = verbs.IO_URING_SETUP(self.kernel, task, 8)
        huge = int(options.get("huge", "0"))
        verbs.IO_URING_REGISTER(self.kernel, task, fd, parse_bytes(plain[1]), huge_pages=huge)

    def do_mlock(self, plain: Sequence[str], options: Options) -> None:
        verbs.MLOCK(self.kernel, self.task(plain[0]), parse_bytes(plain[1]))

    def do_shm_lock(self, plain: Sequence[str], options: Options) -> None:
        verbs.SHM_LOCK(self.kernel, self.task(plain[0]), parse_bytes(plain[1]))

    def do_user(self, plain: Sequence[str], options: Options) -> str:
        self.kernel.run_deferred()
        user = self.kernel.user(int(plain[0]))
        held = ", ".join(f"{what} {pages}" for what, pages in sorted(user.holders.items()))
        return f"{user.locked_vm_pages} pages" + (f": {held}" if held else "")

    # -- bpf ---------------------------------------------------------------------------------------------------------

    def do_create(self, plain: Sequence[str], options: Options) -> str:
        task, name = self.task(plain[0]), plain[1]
        attr = MapAttr(
            map_type_from_name(options["type"]),
            key_size=int(options.get("key", "0")),
            value_size=int(options.get("value", "0")),
            max_entries=parse_bytes(options["entries"]),
            map_flags=int(options.get("flags", "0"), 0),
            map_name=name[:15],
        )

        def call() -> None:
            with self.directory(task, options.get("memcg")) as memcg_fd:
                made = verbs.MAP_CREATE(self.kernel, task, replace(attr, memcg_fd=memcg_fd))
            self.stage.actor(plain[0]).fds[name] = made.fd
            self.last_cost = made.cost

        return self._times(int(options.get("count", "1")), call, "created")

    def _times(self, count: int, call: Callable[[], object], what: str) -> str:
        """A command alone answers as ever; one made ``count`` times says how often it was done."""
        if count == 1:
            call()
            return "ok"
        return self._counted(run_of(repeat(call, count)), what)

    def _counted(self, run: Run, what: str) -> str:
        if run.refusal is None:
            return f"{run.done} {what}"
        self.last_error = run.refusal
        return f"{run.done} {what}, then {run.word}"

    def do_fill(self, plain: Sequence[str], options: Options) -> str:
        return self._each(plain, options, self._update)

    def do_drain(self, plain: Sequence[str], options: Options) -> str:
        return self._each(plain, options, self._delete)

    def _each(
        self, plain: Sequence[str], options: Options, call: Callable[[Task, int, bytes], None]
    ) -> str:
        task, fd = self.task(plain[0]), self.fd(plain[0], plain[1])
        info = self.kernel.bpf.map_info(task, fd)
        start, count = int(options.get("start", "0")), int(plain[2])
        keys = (
            numbered_key(info.map_type, info.key_size, number)
            for number in range(start, start + count)
        )
        return self._counted(run_of(partial(call, task, fd, key) for key in keys), "done")

    def _update(self, task: Task, fd: int, key: bytes) -> None:
        size = self.kernel.bpf.map_info(task, fd).value_size
        charged_bytes = verbs.MAP_UPDATE_ELEM(self.kernel, task, fd, key, bytes(size))
        self.last_cost = cost_on(task, fd, charged_bytes)

    def _delete(self, task: Task, fd: int, key: bytes) -> None:
        charged_bytes = verbs.MAP_DELETE_ELEM(self.kernel, task, fd, key)
        self.last_cost = cost_on(task, fd, charged_bytes)

    def do_load(self, plain: Sequence[str], options: Options) -> str:
        task = self.task(plain[0])
        attr = ProgAttr(1, insn_cnt=int(options.get("insns", "2")))

        def call() -> None:
            self.last_cost = verbs.PROG_LOAD(self.kernel, task, attr).cost

        return self._times(int(options.get("count", "1")), call, "loaded")

    def do_pin(self, plain: Sequence[str], options: Options) -> None:
        fd = self.fd(plain[0], plain[1])
        verbs.OBJ_PIN(self.kernel, self.task(plain[0]), f"/sys/fs/bpf/{plain[1]}", fd)

    def do_open(self, plain: Sequence[str], options: Options) -> None:
        task = self.task(plain[0])
        self.stage.actor(plain[0]).fds[plain[1]] = verbs.OBJ_GET(
            self.kernel, task, f"/sys/fs/bpf/{plain[1]}"
        )

    def do_pass(self, plain: Sequence[str], options: Options) -> None:
        """SCM_RIGHTS: the second process gets the first one's descriptor."""
        fd = self.fd(plain[0], plain[2])
        self.stage.actor(plain[1]).fds[plain[2]] = verbs.DUP(
            self.kernel, self.task(plain[0]), fd, self.task(plain[1])
        )

    def do_unpin(self, plain: Sequence[str], options: Options) -> None:
        self.stage.unlink(f"/sys/fs/bpf/{plain[0]}").check()

    def do_close(self, plain: Sequence[str], options: Options) -> None:
        fd = self.stage.actor(plain[0]).fds.pop(plain[1])
        verbs.CLOSE(self.kernel, self.task(plain[0]).pid, fd)

    # -- views -------------------------------------------------------------------------------------------------------

    def do_receipt(self, plain: Sequence[str], options: Options) -> str:
        assert self.last_cost is not None, "nothing changed yet"
        receipt = self.kernel.receipt(self.last_cost)
        return (
            f"estimate {receipt.estimate_bytes}, charged {receipt.charged_bytes} to {receipt.charged_to},"
            f" now {receipt.usage_bytes} of {receipt.limit_bytes or 'unlimited'}"
        )

    def do_ledger(self, plain: Sequence[str], options: Options) -> str:
        below = plain[0] if plain else "/"
        return "\n".join(
            f"{line.cgroup} {line.owner}: {line.kind} {line.bytes}"
            for line in self.kernel.ledger()
            if line.cgroup == below or line.cgroup.startswith(below.rstrip("/") + "/")
        )

    def do_orphans(self, plain: Sequence[str], options: Options) -> str:
        return (
            "\n".join(
                f"map {o.map_id} {o.name}: {o.why}, created in {o.created_in}, charged to {o.charged_to},"
                f" {o.charged_bytes} bytes"
                for o in self.kernel.orphans()
            )
            or "none"
        )

    def do_explain(self, plain: Sequence[str], options: Options) -> str:
        assert self.last_error is not None, "nothing was refused yet"
        return "\n".join(self.kernel.explain(self.last_error).lines())

    def do_log(self, plain: Sequence[str], options: Options) -> str:
        """Kernel log lines since the last time."""
        events = self.kernel.events.since(self.log_read, limit=100_000)
        self.log_read = self.kernel.events.revision
        lines = [str(e.fields["line"]) for e in events if e.kind is EventKind.KERNEL_LOG]
        return "\n".join(lines) or "nothing"

    def do_last_kill(self, plain: Sequence[str], options: Options) -> str:
        kills = [
            e for e in self.kernel.events.since(0, limit=100_000) if e.kind is EventKind.OOM_KILL
        ]
        return "\n".join(f"{name}: {value}" for name, value in kills[-1].fields.items())

    def do_tools(self, plain: Sequence[str], options: Options) -> str:
        self.do_settle((), {})
        return "\n".join(
            f"{view.tool} {view.field}: {view.bytes} ({view.counts})"
            for view in self.kernel.tool_views(plain[0])
        )


def _caps(names: str | None) -> frozenset[Capability] | None:
    if names is None:
        return None
    if names == "all":
        return ALL_CAPABILITIES
    return capabilities_of(name for name in names.split(",") if name != "none")


__all__ = ["Interpreter"]
