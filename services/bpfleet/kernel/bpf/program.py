"""A loaded program: what it is, what it holds, and the map operations it performs [include/linux/bpf.h, bpf_prog_aux].

Neither verifier nor bytecode is emulated: a program is its size, its maps and its operations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, final

from bpfleet.abi.bpf import AttachType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.accounting.base import NO_CHARGE, Charge
from bpfleet.kernel.bpf.complexity import PLAIN, Complexity
from bpfleet.kernel.bpf.jit_area import Image
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memory import Block, Owner
from bpfleet.kernel.proc.task import Task


class HeldMap(Protocol):
    """What a program needs of a map it uses."""

    id: int

    def get(self) -> None: ...
    def put(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ProgOp:
    """One map operation of a program: ``op`` is ``update``, ``lookup`` or ``delete`` on map number ``map`` of its maps.

    ``key`` None stands for a counter that rises with every run, little endian in the map's key size; ``value`` is
    padded with zeros or cut to the map's value size.
    """

    op: str
    map: int = 0
    key: bytes | None = None
    value: bytes = b""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class ProgAttr:
    """Attributes of BPF_PROG_LOAD. ``map_fds`` are the maps its instructions name.

    ``largest_insn_cnt`` is the longest form that the verifier's rewriting goes through, 0 = no growth.
    ``subprog_insns`` are bpf-to-bpf functions, each with an image of its own. ``blinded_insn_cnt`` is the length after
    JIT constant blinding, 0 = none. ``jited_bytes`` 0 means: estimate it. ``complexity`` is what the verifier meets
    in it.
    """

    prog_type: int
    insn_cnt: int = 2
    prog_name: str = ""
    map_fds: tuple[int, ...] = ()
    ops: tuple[ProgOp, ...] = ()
    expected_attach_type: int = 0
    prog_flags: int = 0
    gpl_compatible: bool = True
    largest_insn_cnt: int = 0
    subprog_insns: tuple[int, ...] = ()
    line_info_cnt: int = 0
    blinded_insn_cnt: int = 0
    jited_bytes: int = 0
    complexity: Complexity = field(default=PLAIN, repr=False)


@final
class BpfProg:
    """struct bpf_prog and its aux.

    ``image`` is the instruction memory (``image_pages`` pages), ``blocks`` everything else. ``refs`` counts
    descriptors, pins, attachments and maps that hold it; the last one calls ``on_unreferenced``.
    """

    __slots__ = (
        "attr",
        "blocks",
        "charge",
        "expected_attach_type",
        "id",
        "image",
        "image_pages",
        "jit_images",
        "jited",
        "jited_bytes",
        "loaded_at_ns",
        "maps",
        "on_unreferenced",
        "owner",
        "pinned_paths",
        "prog_type",
        "recursion_misses",
        "refs",
        "run_cnt",
        "run_time_ns",
        "tag",
        "uid",
    )

    def __init__(
        self, attr: ProgAttr, prog_type: ProgType, uid: int, owner: Owner, loaded_at_ns: int
    ) -> None:
        self.attr: Final = attr
        self.prog_type: Final = prog_type
        self.expected_attach_type = attr.expected_attach_type
        self.uid: Final = uid
        self.owner: Final = owner
        self.loaded_at_ns: Final = loaded_at_ns
        self.tag = ""
        self.id = 0
        self.refs = 0
        self.charge: Charge = NO_CHARGE
        self.image: Block | None = None
        self.image_pages = 0
        self.blocks: Final[list[Block]] = []
        self.maps: Final[list[HeldMap]] = []
        self.jited = False
        self.jited_bytes = 0
        self.jit_images: tuple[Image, ...] = ()
        self.run_cnt = 0
        self.run_time_ns = 0
        self.recursion_misses = 0
        self.pinned_paths: tuple[str, ...] = ()
        self.on_unreferenced: Callable[[BpfProg], None] = _ignore

    @property
    def name(self) -> str:
        """The name given at load, at most 15 characters."""
        return self.attr.prog_name

    def get(self) -> None:
        """Takes a reference."""
        self.refs += 1

    def put(self) -> None:
        """Drops one; the last one takes the id away and queues the free [bpf_prog_put]."""
        assert self.refs > 0, self.refs
        self.refs -= 1
        if not self.refs:
            self.on_unreferenced(self)


def _ignore(prog: BpfProg) -> None:
    """Stands in until the program has been published."""


def prog_of(task: Task, fd: int) -> BpfProg:
    """bpf_prog_get. Raises EBADF for a closed descriptor, EINVAL for one of something else."""
    target = task.file(fd).target
    if not isinstance(target, BpfProg):
        raise KernelError(
            Errno.EINVAL, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {fd} is not a program", fd=fd
        )
    return target


def prog_of_type(task: Task, fd: int, prog_type: ProgType) -> BpfProg:
    """bpf_prog_get_type. Raises EBADF, EINVAL."""
    prog = prog_of(task, fd)
    if prog.prog_type is not prog_type:
        raise KernelError(
            Errno.EINVAL,
            Reason.BAD_FILE_DESCRIPTOR,
            f"program {prog.id} is {prog.prog_type.name.lower()}, {prog_type.name.lower()} is needed",
        )
    return prog


def xdp_prog_for(task: Task, fd: int, attach_type: AttachType) -> BpfProg:
    """An XDP program made for a redirect map (BPF_XDP_DEVMAP, BPF_XDP_CPUMAP). Raises EBADF, EINVAL."""
    prog = prog_of_type(task, fd, ProgType.XDP)
    if prog.expected_attach_type != attach_type:
        raise KernelError(
            Errno.EINVAL,
            Reason.BAD_ATTRIBUTE,
            f"program {prog.id} was not loaded for {attach_type.name.lower()}",
        )
    return prog
