"""The document a capture is: what runs BPF on one host, who holds it, who pays, and the limits it runs under.

``schema`` is its version: a reader takes its own and says so of any other. Fields it does not know it passes over, for
a newer collector may see more. All sizes are bytes; a limit of null is none.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from bpfleet.workload.errors import SpecError

__all__ = [
    "SCHEMA",
    "BtfFacts",
    "BtfObject",
    "Cgroup",
    "ChargesRead",
    "Document",
    "Host",
    "Link",
    "Locker",
    "Map",
    "Others",
    "Payer",
    "Process",
    "Program",
    "User",
    "document_schema",
    "is_document",
    "read_document",
    "write_document",
]

SCHEMA: Final = "bpfleet.capture/1"
TEXT_LENGTH_MAX: Final = 256 << 20

Count = Annotated[int, Meta(ge=0)]
# What a cgroup is, from its path: kind, name and what its kind tells.
Plain = Any


class _Part(Struct, frozen=True, kw_only=True):
    """Base of the parts of a document."""


class Host(_Part, frozen=True, kw_only=True):
    """The machine and its kernel. ``slabs`` are sizes of objects of the caches that processes use."""

    name: str
    release: str
    machine: str
    possible_cpus: Annotated[int, Meta(ge=1, le=8192)]
    ram_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)]
    kernel_version: str = ""
    distribution: Mapping[str, str] = field(default_factory=dict)
    page_size: Annotated[int, Meta(ge=4096, le=1 << 20)] = 4096
    online_cpus: Count = 0
    available_bytes: Count = 0
    percpu_bytes: Count = 0
    swap_bytes: Count = 0
    cgroup_version: Annotated[int, Meta(ge=0, le=2)] = 2
    cgroup_mounts: tuple[str, ...] = ()
    boot_options: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    slabs: Mapping[str, Count] = field(default_factory=dict)
    lockdown: str = ""


class BtfFacts(_Part, frozen=True, kw_only=True):
    """What the kernel's BTF tells: sizes of structures, members that are there (with their length), map types."""

    structs: Mapping[str, Count] = field(default_factory=dict)
    members: Mapping[str, Count] = field(default_factory=dict)
    map_types: tuple[str, ...] = ()


class ChargesRead(_Part, frozen=True, kw_only=True):
    """Whether payers were read from the kernel, on which path, or why not."""

    read: bool = False
    how: str = ""
    why_not: str = ""


class Payer(_Part, frozen=True, kw_only=True):
    """Who pays for a map or program: ``cgroup``, ``user``, ``root`` (nobody in particular) or ``unknown``.

    ``read`` is from the kernel; otherwise it was deduced from who holds the object.
    """

    kind: str
    read: bool = False
    path: str = ""
    cgroup_id: Count = 0
    name: str = ""
    uid: Count = 0
    removed: bool = False


class Map(_Part, frozen=True, kw_only=True):
    """One BPF map. ``type`` is the kernel's number; ``elements`` is null where they were not counted."""

    id: Count
    type: Count
    key_size: Count
    value_size: Count
    max_entries: Count
    name: str = ""
    flags: Count = 0
    extra: Count = 0
    memlock_bytes: Count = 0
    frozen: bool = False
    btf_id: Count = 0
    btf_key_type_id: Count = 0
    btf_value_type_id: Count = 0
    btf_vmlinux_value_type_id: Count = 0
    ifindex: Count = 0
    owner_prog_type: Count | None = None
    owner_jited: bool = False
    pinned: tuple[str, ...] = ()
    holders: tuple[Count, ...] = ()
    inner: tuple[Count, ...] = ()
    elements: Count | None = None
    payer: Payer = Payer(kind="unknown")


class Program(_Part, frozen=True, kw_only=True):
    """One BPF program. ``lines`` of debug information and ``functions`` are null where they were not told."""

    id: Count
    type: Count
    insn_cnt: Count
    name: str = ""
    tag: str = ""
    uid: Count = 0
    jited_bytes: Count = 0
    memlock_bytes: Count = 0
    verified_insns: Count = 0
    functions: Count | None = None
    lines: Count | None = None
    btf_id: Count = 0
    attach_btf_id: Count = 0
    maps: tuple[Count, ...] = ()
    pinned: tuple[str, ...] = ()
    holders: tuple[Count, ...] = ()
    payer: Payer = Payer(kind="unknown")


class Link(_Part, frozen=True, kw_only=True):
    """One link: what a program is attached by."""

    id: Count
    type: Count
    program: Count
    attach_type: Count | None = None
    pinned: tuple[str, ...] = ()


class BtfObject(_Part, frozen=True, kw_only=True):
    """One BTF object; ``kernel`` ones belong to the kernel and its modules."""

    id: Count
    bytes: Count
    kernel: bool = False


class Locker(_Part, frozen=True, kw_only=True):
    """What locks memory beside BPF: buffers of perf and io_uring, umems of AF_XDP (0 bytes where not told)."""

    kind: str
    descriptors: Count = 0
    mapped_bytes: Count = 0


class Process(_Part, frozen=True, kw_only=True):
    """A process that holds BPF objects or locked memory. ``memlock`` and ``nofile`` are soft and hard limit.

    ``vmas`` are its mappings, ``writable_vmas`` the private ones it may write, ``mapped_files`` different files among
    them; 0 where they were not counted.
    """

    pid: Count
    comm: str = ""
    uid: Count = 0
    euid: Count = 0
    capabilities: str = "0"
    seccomp: Count = 0
    memlock: tuple[Count | None, Count | None] = (None, None)
    nofile: tuple[Count | None, Count | None] = (None, None)
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    threads: Count = 1
    descriptors: Count = 0
    cgroup: str = ""
    maps: tuple[Count, ...] = ()
    programs: tuple[Count, ...] = ()
    links: tuple[Count, ...] = ()
    btfs: tuple[Count, ...] = ()
    rss_anon: Count = 0
    rss_file: Count = 0
    rss_shmem: Count = 0
    vm_locked: Count = 0
    vm_pinned: Count = 0
    vm_pte: Count = 0
    vmas: Count = 0
    writable_vmas: Count = 0
    mapped_files: Count = 0
    lockers: tuple[Locker, ...] = ()


class Others(_Part, frozen=True, kw_only=True):
    """Processes of a cgroup that hold nothing of BPF, summed: their kernel memory is the cgroup's as well."""

    processes: Count = 0
    threads: Count = 0
    descriptors: Count = 0
    vm_pte: Count = 0
    vmas: Count = 0
    writable_vmas: Count = 0
    mapped_files: Count = 0


class User(_Part, frozen=True, kw_only=True):
    """One user's counter behind RLIMIT_MEMLOCK, and what his processes pinned and locked, in pages."""

    uid: Count
    locked_pages: Count = 0
    pinned_pages: Count = 0
    mlocked_pages: Count = 0


class Cgroup(_Part, frozen=True, kw_only=True):
    """One cgroup that pays or holds, or an ancestor of one. ``max`` and the others are null where there is no limit.

    ``stat`` is of the cgroup and its ``children``, as the kernel shows it.
    """

    path: str
    id: Count = 0
    version: Count = 2
    what: Mapping[str, Plain] = field(default_factory=dict)
    removed: bool = False
    max: Count | None = None
    high: Count | None = None
    low: Count | None = None
    min: Count | None = None
    current: Count | None = None
    peak: Count | None = None
    kmem: Count | None = None
    swap_max: Count | None = None
    swap_current: Count | None = None
    oom_group: Count | None = None
    children: Count = 0
    others: Others = Others()
    stat: Mapping[str, Count] = field(default_factory=dict)
    events: Mapping[str, Count] = field(default_factory=dict)


class Document(_Part, frozen=True, kw_only=True):
    """One capture. ``notes`` say what could not be read."""

    schema: str
    host: Host
    taken_at: Count = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    charges: ChargesRead = ChargesRead()
    btf: BtfFacts | None = None
    maps: tuple[Map, ...] = ()
    programs: tuple[Program, ...] = ()
    links: tuple[Link, ...] = ()
    btfs: tuple[BtfObject, ...] = ()
    processes: tuple[Process, ...] = ()
    users: tuple[User, ...] = ()
    cgroups: tuple[Cgroup, ...] = ()


_DECODER: Final = msgspec.json.Decoder(Document)
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


def is_document(data: bytes) -> bool:
    """Whether ``data`` means to be a capture rather than a listing, of this or another version."""
    return SCHEMA.partition("/")[0].encode() in data[: 1 << 20] or b'"schema"' in data


def read_document(text: bytes, source: str) -> Document:
    """The document in ``text``; ``source`` is the file's name. Raises ``SpecError`` with one clear line."""
    if len(text) > TEXT_LENGTH_MAX:
        raise SpecError(
            source, "", None, "larger than 256 MiB", "capture again without --count-elements"
        )
    try:
        document = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise SpecError(
            source, place.strip("`.") or "document", None, problem.lower(), "capture it again"
        ) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise SpecError(
            source, "", None, f"not JSON ({error})", "give a file of bpfleet capture"
        ) from None
    if document.schema != SCHEMA:
        raise SpecError(
            source,
            "schema",
            document.schema,
            "not known here",
            f"capture again: this reads {SCHEMA}",
        )
    return document


def write_document(document: Document) -> bytes:
    """``document`` as JSON, always the same for the same document."""
    return _ENCODER.encode(document) + b"\n"


def document_schema() -> Mapping[str, Plain]:
    """JSON Schema of a document."""
    return msgspec.json.schema(Document)
