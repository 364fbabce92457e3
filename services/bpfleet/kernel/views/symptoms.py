"""Symptoms: what an errno at a call, or a text that users search for, can mean on each generation of kernels."""

import re
from dataclasses import dataclass
from typing import Final

from bpfleet.abi.errno import Errno

__all__ = [
    "GENERATIONS",
    "GENERATION_KERNELS",
    "KILLED",
    "SYMPTOMS",
    "Symptom",
    "symptoms_of_errno",
]

GENERATIONS: Final = ("up to 5.10", "5.11 to 5.19", "6.0 and later")
# The kernel of each generation that its answers are of.
GENERATION_KERNELS: Final = ("5.10", "5.15", "6.12")
SAME: Final = "the same"
NEVER: Final = "does not happen"
KILLED: Final = "SIGKILL"

CREATE: Final = "map_create"
UPDATE: Final = "map_update_elem"
LOOKUP: Final = "map_lookup_elem"
DELETE: Final = "map_delete_elem"
LOOKUP_BATCH: Final = "map_lookup_batch"
UPDATE_BATCH: Final = "map_update_batch"
FREEZE: Final = "map_freeze"
LOAD: Final = "prog_load"
BTF_LOAD: Final = "btf_load"
ATTACH: Final = "attach"
PIN: Final = "obj_pin"
GET: Final = "obj_get"
BY_ID: Final = "next id or descriptor by id"
TEST_RUN: Final = "prog_test_run"
RESERVE: Final = "bpf_ringbuf_reserve"
BPF: Final = "any bpf(2) command"
SETRLIMIT: Final = "setrlimit"
PERF_OPEN: Final = "perf_event_open"
PERF_MMAP: Final = "mmap of a perf buffer"
RING_MMAP: Final = "mmap of a ring buffer"
AF_XDP: Final = "AF_XDP"
IO_URING: Final = "io_uring"
ZEROCOPY: Final = "send with MSG_ZEROCOPY"
MLOCK: Final = "mlock"
SECCOMP: Final = "seccomp"
FAULT: Final = "any page fault"

# A refusal may come from outside the call: these are looked at whatever bpf(2) command the text names.
ANY_COMMAND: Final = frozenset(
    {
        CREATE,
        UPDATE,
        LOOKUP,
        DELETE,
        LOOKUP_BATCH,
        UPDATE_BATCH,
        FREEZE,
        LOAD,
        BTF_LOAD,
        ATTACH,
        PIN,
    }
)


@dataclass(frozen=True, slots=True)
class Symptom:
    """One condition at one call. ``answers`` are by generation, in the order of ``GENERATIONS``.

    ``signs`` are patterns of texts that can mean nothing else at this call; ``hints`` are patterns that make it likely,
    so that it is named first. A symptom that is ``rare`` is only named where one of them is found.
    """

    call: str
    condition: str
    answers: tuple[str, str, str]
    advice: str
    signs: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    rare: bool = False

    def errnos(self) -> frozenset[str]:
        """Errnos named in any of the answers."""
        words = (word.strip(",;.()") for answer in self.answers for word in answer.split())
        return frozenset(word for word in words if word in _ERRNOS)

    def signed(self, text: str) -> bool:
        """Whether one of the signs stands in ``text``, which is in lower case."""
        return any(re.search(sign, text) for sign in self.signs)

    def hinted(self, text: str) -> bool:
        """Whether ``text``, which is in lower case, makes it likely."""
        return any(re.search(hint, text) for hint in self.hints)


_ERRNOS: Final = frozenset({*Errno.__members__, KILLED})


def _always(answer: str) -> tuple[str, str, str]:
    return (answer, SAME, SAME)


_CREATE_SYMPTOMS: Final = (
    Symptom(
        CREATE,
        "the user's locked memory and the map's estimate are over RLIMIT_MEMLOCK",
        ("EPERM", NEVER, NEVER),
        "raise the soft limit (LimitMEMLOCK=, ulimit -l, prlimit); capabilities do not help",
    ),
    Symptom(
        CREATE,
        "CAP_BPF (or the type's own capability) is missing, or unprivileged_bpf_disabled is set",
        _always("EPERM"),
        "give the capability; no memory limit is involved, though libraries print the same text as for memory",
    ),
    Symptom(
        CREATE,
        "a ring buffer's max_entries is not a power of two and a multiple of the host's page size",
        _always("EINVAL"),
        "round max_entries up to the page size of the host (16 or 64 KiB on some arm64 kernels); no limit and no"
        " capability is involved",
        signs=(
            r"multiple of (the )?page",
            r"page size \d+",
            r"ring ?(buf|buffer|map)?.*(page[- ]align|power of (2|two))",
            r"max_entries.*(page size|power of (2|two))",
        ),
        hints=(r"ring",),
        rare=True,
    ),
    Symptom(
        CREATE,
        "bad attributes: max_entries, key or value size 0 or not what the type asks for, flags this type or this"
        " kernel does not know, a type it does not have, a ring buffer's size no power of two and"
        " multiple of the page"
        " size; no limit answers EINVAL, but for device maps up to 5.10",
        _always("EINVAL"),
        "compare the attributes with the type's rules (strace -e bpf shows them); an older kernel"
        " may lack type or flag",
    ),
    Symptom(
        CREATE,
        "a device map's table is over RLIMIT_MEMLOCK: this type turns every refused charge into EINVAL",
        ("EINVAL", NEVER, NEVER),
        "raise the soft limit of the process",
        hints=(r"\bdev_?map|\bxdp_?redirect|redirect_map",),
        rare=True,
    ),
    Symptom(
        CREATE,
        "keys or values are over the type's limit: a per-CPU value over 32 KiB (PCPU_MIN_UNIT_SIZE), a key over 512"
        " bytes of stack, an element over what kmalloc gives",
        _always("E2BIG"),
        "make key or value smaller, or use a plain array with one element per CPU; no memory limit is involved",
    ),
    Symptom(
        CREATE,
        "a cpumap's max_entries is over the kernel's NR_CPUS",
        _always("E2BIG"),
        "use at most the number of possible CPUs (/sys/devices/system/cpu/possible)",
        hints=(r"\bcpu_?map",),
    ),
    Symptom(
        CREATE,
        "a per-CPU value over 32,768 bytes: the per-CPU allocator has no larger unit",
        ("ENOMEM (E2BIG where the kernel checks it first)", "ENOMEM or E2BIG", "E2BIG"),
        "values of at most 32,768 bytes, or a plain array with one element per CPU; no limit helps,"
        " memory is not short",
        hints=(r"per-?_?cpu", r"_heap\b|\bheap_"),
    ),
    Symptom(
        CREATE,
        "the estimate is 4 GiB less 4 KiB or more",
        ("E2BIG", NEVER, NEVER),
        "no limit helps: make the map smaller, or split it",
    ),
    Symptom(
        CREATE,
        "memory.max of the container is reached (array, hash, LRU, ring buffer, stack map)",
        ("no effect", "ENOMEM, 18 max events, no kill", "ENOMEM, 18 max events, no kill"),
        "raise memory.max: the whole preallocated map is charged to the creator's container",
    ),
    Symptom(
        CREATE,
        "per-CPU values of a preallocated map are over memory.max",
        ("no effect", "ENOMEM, or SIGKILL for small values", "passes: they are charged to nobody"),
        "from 6.0 on only the node's memory limits them",
    ),
    Symptom(
        CREATE,
        "the host has no memory, or no vmalloc or per-CPU area, for a map of this size",
        _always("ENOMEM"),
        "compare possible CPUs x value size x max_entries with the host's memory; dmesg names a failed allocation",
    ),
    Symptom(
        CREATE,
        "an LSM refuses it (SELinux: bpf { map_create }; AppArmor; a BPF LSM program)",
        _always("EACCES"),
        "look for the denial in the audit log (ausearch -m avc) and allow it; no limit is involved",
    ),
    Symptom(
        CREATE,
        "the map's BTF holds what this type or kernel does not support (spin lock, timer, kptr), or the type is one"
        " that the kernel was built without",
        _always("ENOTSUPP"),
        "use a type or kernel that supports it; no limit is involved",
    ),
)

_ELEMENT_SYMPTOMS: Final = (
    Symptom(
        UPDATE,
        "a hash, queue or stack map is full; an array index is beyond max_entries; a trie is full",
        _always("E2BIG; ENOSPC for a trie"),
        "raise max_entries or delete entries; no memory limit is involved",
        signs=(r"key too big for map",),
    ),
    Symptom(
        UPDATE,
        "memory.max is reached, in a map without preallocation",
        (
            "passes: the whole map was charged at creation",
            "passes, beyond the limit, without an event",
            "ENOMEM, without an event",
        ),
        "raise memory.max of the creator's container, or preallocate; the next page fault there may be killed",
    ),
    Symptom(
        UPDATE,
        "the CPU's list of free elements is empty and its refill comes late",
        (NEVER, NEVER, "ENOMEM, with memory free everywhere"),
        "retry, insert in smaller batches, or preallocate",
    ),
    Symptom(
        UPDATE,
        "an LRU map has no node to evict",
        _always("ENOMEM"),
        "use a larger map: very small LRU maps on many CPUs run out of nodes",
    ),
    Symptom(
        UPDATE,
        "the caller's buffer is too small: a value of a per-CPU map is possible CPUs x round_up(value size, 8) bytes",
        _always("EFAULT"),
        "size the buffer by possible CPUs (/sys/devices/system/cpu/possible), not by online ones",
    ),
    Symptom(
        UPDATE,
        "the map is frozen, or was made read-only for user space (BPF_F_RDONLY)",
        _always("EPERM"),
        "write before the freeze; .rodata maps are frozen at load. No memory limit is involved",
    ),
    Symptom(
        UPDATE,
        "the key is there already and BPF_NOEXIST was asked for, or the type has fixed elements",
        _always("EEXIST"),
        "update with BPF_ANY",
    ),
    Symptom(
        UPDATE,
        "the key is not there and BPF_EXIST was asked for",
        _always("ENOENT"),
        "update with BPF_ANY",
    ),
    Symptom(
        UPDATE,
        "bad flags, or a value the type does not take (a descriptor of another kind of map or program)",
        _always("EINVAL"),
        "check flags and what the descriptor in the value refers to: an inner map must be like the template",
    ),
    Symptom(
        UPDATE,
        "a program is at work in the same bucket, or the map is being frozen",
        _always("EBUSY"),
        "retry",
    ),
    Symptom(
        UPDATE,
        "user space cannot write this type of map",
        _always("ENOTSUPP or EOPNOTSUPP"),
        "use the call the type has instead",
    ),
    Symptom(
        LOOKUP,
        "the key is not there; in a map of maps or programs the slot is empty",
        _always("ENOENT"),
        "an ordinary answer: no limit is involved",
    ),
    Symptom(
        LOOKUP,
        "the caller's buffer is too small: a value of a per-CPU map is possible CPUs x round_up(value size, 8) bytes",
        _always("EFAULT"),
        "size the buffer by possible CPUs (/sys/devices/system/cpu/possible), not by online ones",
    ),
    Symptom(
        LOOKUP,
        "the map was made write-only for user space (BPF_F_WRONLY)",
        _always("EPERM"),
        "open it without the flag",
    ),
    Symptom(
        LOOKUP,
        "user space cannot read this type of map",
        _always("EOPNOTSUPP or ENOTSUPP"),
        "ring buffers and perf event arrays are read through mmap, not by key",
    ),
    Symptom(
        DELETE,
        "the key is not there",
        _always("ENOENT"),
        "an ordinary answer: no limit is involved",
    ),
    Symptom(
        DELETE,
        "elements of an array cannot be deleted",
        _always("EINVAL"),
        "write zeros instead",
    ),
    Symptom(
        DELETE,
        "the map is frozen, or was made read-only for user space (BPF_F_RDONLY)",
        _always("EPERM"),
        "delete before the freeze",
    ),
    Symptom(
        LOOKUP_BATCH,
        "one hash bucket holds more elements than the room left in the caller's batch; the map need not be full",
        _always("ENOSPC"),
        "retry with a larger count (up to the map's size): there is nothing to enlarge in the map",
    ),
    Symptom(
        LOOKUP_BATCH,
        "the end of the map is reached; the count that comes back is valid",
        _always("ENOENT"),
        "an ordinary answer: take the elements and stop",
    ),
    Symptom(
        LOOKUP_BATCH,
        "this type of map has no batch commands on this kernel",
        _always("ENOTSUPP"),
        "go key by key; neither a limit nor the JIT is involved",
    ),
    Symptom(
        LOOKUP_BATCH,
        "a buffer is too small: values of per-CPU maps take possible CPUs x round_up(value size, 8) bytes each",
        _always("EFAULT"),
        "size the buffers by count and possible CPUs",
    ),
    Symptom(
        LOOKUP_BATCH,
        "flags or count are not what the command takes, or it needs a newer kernel (5.6 and later)",
        _always("EINVAL"),
        "go key by key on older kernels",
    ),
    Symptom(
        LOOKUP_BATCH,
        "the kernel has no memory for its copy of the keys of one batch",
        _always("ENOMEM"),
        "use a smaller count",
    ),
    Symptom(
        UPDATE_BATCH,
        "the map becomes full within the batch; count says how many elements went in",
        _always("E2BIG; ENOSPC for a trie"),
        "enlarge the map or make room in it; no memory limit is involved",
    ),
    Symptom(
        UPDATE_BATCH,
        "this type of map has no batch commands on this kernel",
        _always("ENOTSUPP"),
        "go key by key; neither a limit nor the JIT is involved",
    ),
    Symptom(
        UPDATE_BATCH,
        "memory.max of the creator's container is reached, or the list of free elements is empty",
        ("passes: the whole map was charged at creation", "passes, beyond the limit", "ENOMEM"),
        "raise memory.max of the creator's container, use smaller batches, or preallocate",
    ),
    Symptom(
        UPDATE_BATCH,
        "a buffer is too small: values of per-CPU maps take possible CPUs x round_up(value size, 8) bytes each",
        _always("EFAULT"),
        "size the buffers by count and possible CPUs",
    ),
    Symptom(
        UPDATE_BATCH,
        "flags or count are not what the command takes, or it needs a newer kernel (5.6 and later)",
        _always("EINVAL"),
        "go key by key on older kernels",
    ),
    Symptom(
        FREEZE,
        "the map is mapped writable, or is being written",
        _always("EBUSY"),
        "unmap it before the freeze",
    ),
    Symptom(
        FREEZE, "CAP_BPF is missing, or the map is open read-only", _always("EPERM"), "give it"
    ),
    Symptom(
        FREEZE,
        "this type cannot be frozen (struct_ops, values with timers or kptrs)",
        _always("ENOTSUPP"),
        "leave it unfrozen",
    ),
)

_PROGRAM_SYMPTOMS: Final = (
    Symptom(
        LOAD,
        "the program's pages are over RLIMIT_MEMLOCK, before the verifier looks at it",
        ("EPERM; ENOMEM when it grows while being rewritten", NEVER, NEVER),
        "raise the soft limit; a failing two-instruction program is the usual sign",
        signs=(r"couldn't load trivial bpf program",),
    ),
    Symptom(
        LOAD,
        "a capability is missing: CAP_BPF, with CAP_PERFMON for tracing or CAP_NET_ADMIN for network programs (before"
        " 5.8 CAP_SYS_ADMIN), in the initial user namespace",
        _always("EPERM"),
        "give the capabilities of the program's type",
    ),
    Symptom(
        LOAD,
        "too many instructions (over 4,096 before 5.2 or without CAP_BPF), or the verifier gave up at its complexity"
        " limit of 1,000,000 instructions looked at",
        _always("E2BIG"),
        "make the program smaller or simpler, split it by tail calls, or use a newer kernel; maps and memory are not"
        " involved",
        signs=(
            r"program (is )?too large",
            r"prog section '[^']*' rejected: argument list too long",
        ),
    ),
    Symptom(
        LOAD,
        "the verifier's log does not fit the caller's log buffer",
        (
            "ENOSPC",
            "ENOSPC",
            "ENOSPC up to 6.3; from 6.4 on the log rotates and this needs BPF_LOG_FIXED",
        ),
        "give a larger log buffer, or load without one; no map is involved",
    ),
    Symptom(
        LOAD,
        "the verifier refuses the program; its log, above this line, says at which instruction and why",
        _always("EACCES or EINVAL"),
        "read the last lines of the verifier's log; no limit is involved",
    ),
    Symptom(
        LOAD,
        "an LSM refuses it (SELinux: bpf { prog_load }), told by an audit record and an empty verifier log",
        _always("EACCES"),
        "allow it in the policy; no limit is involved",
    ),
    Symptom(
        LOAD,
        "the kernel does not know the program type, a helper, an attribute or the function to attach to",
        _always("EINVAL"),
        "compare with the kernel's version and configuration; strip what it does not know",
    ),
    Symptom(
        LOAD,
        "the function or type named in the program is not in the kernel's BTF, or the kernel has none",
        _always("ESRCH or ENOENT"),
        "check that /sys/kernel/btf/vmlinux exists and has the name",
    ),
    Symptom(
        LOAD,
        "memory.max is reached",
        (
            "no effect",
            "SIGKILL of a process there; passes where nobody may be killed (up to 5.15)",
            "SIGKILL of a process there; ENOMEM, from 6.9 EINVAL, where nobody may be killed",
        ),
        "raise memory.max of the loader's container",
    ),
    Symptom(
        LOAD,
        "memory.max is reached while the program is verified: from 6.17 on its loader is charged what verifying takes,"
        " from 7.1 on several times as much, and gets it back at the end",
        ("no effect", "no effect up to 6.16", "SIGKILL of a process there from 6.17 on"),
        "raise memory.max of the loader's container by what the largest program takes (`bpfleet size`, while loading)",
        signs=(r"oom.{0,80}bpf_check|bpf_check.{0,80}oom|copy_verifier_state|do_check_common",),
    ),
    Symptom(
        LOAD,
        "net.core.bpf_jit_limit is used up and the loader has no CAP_BPF; with CAP_BPF the kernel's area for code"
        " (x86-64: some 1 GiB for modules and JIT together) is full",
        ("runs interpreted; 524 (ENOTSUPP) where the JIT is obligatory", SAME, SAME),
        "find what leaks programs (seccomp filters of short-lived containers, pins); the limit is the host's",
        signs=(r"jit_limit",),
    ),
    Symptom(
        LOAD,
        "a signal arrived while the verifier was at work, or a text section is being patched",
        _always("EAGAIN"),
        "retry, as libbpf does five times",
    ),
    Symptom(
        LOAD,
        "the verifier itself failed on the program, or a pointer in the attributes is bad",
        _always("EFAULT"),
        "look into dmesg for a verifier bug, and at the attributes",
    ),
    Symptom(
        BTF_LOAD,
        "CAP_BPF is missing",
        _always("EPERM"),
        "give CAP_BPF; RLIMIT_MEMLOCK does not count BTF",
    ),
    Symptom(
        BTF_LOAD,
        "the kernel's checker refuses the BTF, or does not know one of its kinds",
        _always("EINVAL or EACCES"),
        "ask for its log; an older kernel needs the BTF sanitised, as libbpf does, or load without BTF",
    ),
    Symptom(
        BTF_LOAD,
        "the log of the BTF checker does not fit the caller's log buffer",
        _always("ENOSPC"),
        "give a larger log buffer, or none",
    ),
    Symptom(
        BTF_LOAD,
        "the BTF is over the kernel's limit of 16 MiB",
        _always("E2BIG"),
        "strip types that are not needed",
    ),
    Symptom(
        BTF_LOAD,
        "the host has no memory for the types; BTF is charged to no cgroup, its descriptor alone is",
        _always("ENOMEM"),
        "look at the host's memory in dmesg; a container at its memory.max fails for its descriptor",
    ),
    Symptom(
        BTF_LOAD,
        "the kernel has no BTF (/sys/kernel/btf/vmlinux), or not the type that is asked for",
        _always("ENOENT or ESRCH"),
        "use a kernel with CONFIG_DEBUG_INFO_BTF, or bring BTF along (BTFHub)",
        signs=(
            r"(valid|no|missing|without) (kernel |vmlinux )?btf\b|btf is (required|missing|not)",
        ),
    ),
    Symptom(
        ATTACH,
        "fentry, fexit, LSM and struct_ops need BPF trampolines, which this architecture or kernel lacks (arm64 has"
        " them from 6.0 on, with direct calls from 6.4 on); found at attach, not at load",
        _always("ENOTSUPP or EOPNOTSUPP"),
        "use a kprobe instead of fentry, or a newer kernel; no JIT budget is involved",
    ),
    Symptom(
        ATTACH,
        "the hook is taken: another program of an exclusive kind, or a function that ftrace or a livepatch holds",
        _always("EBUSY or EEXIST"),
        "detach the other program, or replace it",
        signs=(r"already attached",),
    ),
    Symptom(
        ATTACH,
        "the function, tracepoint, interface or cgroup is not there (inlined, renamed, or not traceable)",
        _always("ENOENT, ENODEV or EINVAL"),
        "look for the name in available_filter_functions or in the kernel's BTF",
        signs=(r"entry may not exist",),
    ),
    Symptom(
        ATTACH,
        "a capability is missing (CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN), or"
        " kernel.perf_event_paranoid forbids it",
        _always("EPERM or EACCES"),
        "give the capability; RLIMIT_MEMLOCK is not involved",
    ),
    Symptom(
        ATTACH,
        "too many programs on one hook (64 a cgroup or a trampoline of 38)",
        _always("E2BIG"),
        "detach some, or combine them",
    ),
    Symptom(
        ATTACH,
        "the network driver cannot run XDP natively with this MTU, queue or feature",
        _always("EOPNOTSUPP or EINVAL"),
        "attach in generic mode, or change MTU or queues",
        hints=(r"\bxdp\b",),
        rare=True,
        signs=(r"xdp in native mode|native xdp",),
    ),
    Symptom(
        PIN,
        "the path is not in a BPF filesystem, or its directory does not admit the caller",
        _always("EPERM or EACCES"),
        "mount bpffs there (mount -t bpf) and check its mode; no limit is involved",
        signs=(r"not on a bpf filesystem|not a bpf filesystem|not on bpffs",),
    ),
    Symptom(
        PIN,
        "something is pinned at that path already",
        _always("EEXIST"),
        "open it (OBJ_GET) or remove it first",
    ),
    Symptom(
        PIN,
        "the directory is not there",
        _always("ENOENT"),
        "make it; in a container, mount the host's bpffs",
    ),
    Symptom(
        PIN,
        "the path or the descriptor cannot be pinned: dots in the name, or not an object of bpf(2)",
        _always("EINVAL or EPERM"),
        "choose a name without dots",
    ),
)

_OTHER_SYMPTOMS: Final = (
    Symptom(
        GET,
        "nothing is pinned at that path, in the mount of bpffs that this process sees",
        _always("ENOENT"),
        "look whether the agent pinned it and whether bpffs is mounted into the container",
    ),
    Symptom(
        GET,
        "the file's mode, or the access that is asked for, does not admit the caller",
        _always("EPERM or EACCES"),
        "open it read-only, or change the mode of the pin",
    ),
    Symptom(
        BY_ID,
        "CAP_SYS_ADMIN is missing: going through the ids of all objects is for the administrator",
        _always("EPERM"),
        "run it as root of the host; no memory limit is involved",
    ),
    Symptom(
        BY_ID,
        "the object is gone: it was freed between its listing and this call, or the list is at its end",
        _always("ENOENT"),
        "an ordinary answer: go on with the next",
    ),
    Symptom(
        TEST_RUN,
        "data, context or flags are not what this program type takes, such as a packet of less than 14 bytes",
        _always("EINVAL"),
        "compare with the kernel's selftests for the type",
    ),
    Symptom(
        TEST_RUN,
        "programs of this type cannot be run by hand on this kernel",
        _always("ENOTSUPP or EOPNOTSUPP"),
        "attach it instead",
    ),
    Symptom(
        RESERVE,
        "the ring buffer is full since its reader is too slow, or the record is larger than the buffer",
        _always("NULL, within the program"),
        "read faster, or enlarge the buffer to a larger power of two; events are lost, nothing fails to load",
        signs=(r"ringbuf_?(reserve|output)|ring ?buf\w* reserve",),
        rare=True,
    ),
    Symptom(
        BPF,
        "the descriptor is closed, or belongs to an object of another kind",
        _always("EBADF"),
        "check the life of the descriptor in the program; no limit is involved",
    ),
    Symptom(
        BPF,
        "a container runtime's seccomp profile refuses bpf(2) although the container has CAP_BPF (Docker's default"
        " profile let it through for CAP_SYS_ADMIN only)",
        _always("EPERM, with some profiles ENOSYS"),
        "add bpf to the seccomp profile; the sign: every bpf command fails, BPF_MAP_GET_NEXT_ID too,"
        " and neither a limit"
        " nor a capability changes it",
        hints=(r"seccomp",),
    ),
    Symptom(
        BPF,
        "kernel lockdown (Secure Boot) restricts BPF, kprobes or reading kernel memory",
        _always("EPERM"),
        "read /sys/kernel/security/lockdown; sign what must run, or boot without lockdown: neither"
        " limit nor capability"
        " helps",
        signs=(r"lockdown|secure ?boot",),
        rare=True,
    ),
    Symptom(
        BPF,
        "the kernel was built without CONFIG_BPF_SYSCALL, or a filter hides the call",
        _always("ENOSYS"),
        "use another kernel or filter",
    ),
    Symptom(
        BPF,
        "the process has no descriptor left (RLIMIT_NOFILE), or the host has none",
        _always("EMFILE or ENFILE"),
        "raise LimitNOFILE= or close descriptors; memory is not involved",
    ),
    Symptom(
        SETRLIMIT,
        "the hard limit is raised without CAP_SYS_RESOURCE in the initial user namespace",
        ("EPERM", "EPERM, though nothing needs it", "EPERM, though nothing needs it"),
        "give CAP_SYS_RESOURCE, or let the agent ask first whether the kernel needs it (BPF does not from 5.11 on)",
    ),
    Symptom(
        SETRLIMIT,
        "the soft limit is over the hard limit, or the number is no resource",
        _always("EINVAL"),
        "set both limits",
    ),
    Symptom(
        PERF_OPEN,
        "kernel.perf_event_paranoid, a missing CAP_PERFMON, an LSM or a seccomp profile forbids the event",
        _always("EPERM or EACCES"),
        "give CAP_PERFMON (before 5.8 CAP_SYS_ADMIN), or lower kernel.perf_event_paranoid; no memory"
        " limit is involved",
    ),
    Symptom(
        PERF_OPEN,
        "the event, the CPU or the process is not there, or the hardware has no counter for it",
        _always("ENOENT, EINVAL, ENODEV, ESRCH or EOPNOTSUPP"),
        "check that the CPU is online and that the (virtual) machine has the counter",
    ),
    Symptom(
        PERF_OPEN,
        "the process has no descriptor left: a perf buffer takes one for each CPU",
        _always("EMFILE or ENFILE"),
        "raise RLIMIT_NOFILE",
    ),
    Symptom(
        PERF_OPEN,
        "all breakpoint or counter slots are taken",
        _always("ENOSPC or EBUSY"),
        "close other events; no map is involved",
    ),
    Symptom(
        PERF_MMAP,
        "kernel.perf_event_mlock_kb for each CPU of the user is used up, and RLIMIT_MEMLOCK does not allow the rest",
        _always("EPERM"),
        "give CAP_IPC_LOCK, which lifts it, raise RLIMIT_MEMLOCK or kernel.perf_event_mlock_kb, or"
        " use smaller buffers;"
        " the same on every kernel",
        signs=(r"perf_event_mlock_kb",),
    ),
    Symptom(
        PERF_MMAP,
        "the buffer is not one page and a power of two of pages",
        _always("EINVAL"),
        "use 1 + 2^n pages of the host's page size",
    ),
    Symptom(
        PERF_MMAP,
        "the kernel has no memory for the buffer's pages",
        _always("ENOMEM"),
        "use smaller buffers: it is allocated for each CPU",
    ),
    Symptom(
        RING_MMAP,
        "only the consumer page of a ring buffer may be mapped writable",
        _always("EPERM"),
        "map one page read-write and the rest, producer page and data, read-only; no limit and no"
        " capability is involved",
    ),
    Symptom(
        RING_MMAP,
        "offset or length is not what the map has: pages of the host, and twice the data",
        _always("EINVAL"),
        "use the host's page size and page + 2 x max_entries bytes",
    ),
    Symptom(
        AF_XDP,
        "pages of umems of this user are over RLIMIT_MEMLOCK",
        _always("ENOBUFS"),
        "give CAP_IPC_LOCK, which lifts it, or raise RLIMIT_MEMLOCK, or use a smaller umem; the same on every kernel",
    ),
    Symptom(
        AF_XDP,
        "CAP_NET_RAW is missing",
        _always("EPERM"),
        "give CAP_NET_RAW; RLIMIT_MEMLOCK answers ENOBUFS here",
    ),
    Symptom(
        AF_XDP,
        "the pages of the umem or its rings cannot be allocated or pinned",
        _always("ENOMEM or EFAULT"),
        "use a smaller umem of memory that is mapped",
    ),
    Symptom(
        AF_XDP,
        "chunk size, headroom, alignment or ring sizes are not what the kernel takes (powers of two;"
        " 2,048 to a page)",
        _always("EINVAL"),
        "correct the sizes",
    ),
    Symptom(
        AF_XDP,
        "queue taken, or the driver has no zero-copy mode",
        _always("EBUSY or EOPNOTSUPP"),
        "use another queue, or copy mode",
    ),
    Symptom(
        IO_URING,
        "rings (up to 5.11) or registered buffers of this user are over RLIMIT_MEMLOCK",
        _always("ENOMEM"),
        "give CAP_IPC_LOCK, which lifts it, or raise RLIMIT_MEMLOCK, or use fewer entries or smaller buffers",
    ),
    Symptom(
        IO_URING,
        "kernel.io_uring_disabled, a seccomp profile or an LSM forbids io_uring",
        _always("EPERM or ENOSYS"),
        "allow it there; RLIMIT_MEMLOCK answers ENOMEM here",
    ),
    Symptom(
        IO_URING,
        "a buffer is not mapped, or the attributes are wrong",
        _always("EFAULT or EINVAL"),
        "correct the call",
    ),
    Symptom(
        ZEROCOPY,
        "net.core.optmem_max of the socket is used up, or the pages in flight are over RLIMIT_MEMLOCK",
        _always("ENOBUFS"),
        "read completions from the error queue, send by copying, raise net.core.optmem_max or RLIMIT_MEMLOCK, or give"
        " CAP_IPC_LOCK, which lifts the latter",
    ),
    Symptom(
        MLOCK,
        "the process's own locked memory is over RLIMIT_MEMLOCK; it is not the counter of BPF",
        _always("ENOMEM or EAGAIN; EPERM with a limit of 0"),
        "give CAP_IPC_LOCK, which lifts it, or raise RLIMIT_MEMLOCK",
    ),
    Symptom(
        SECCOMP,
        "net.core.bpf_jit_limit is used up: seccomp filters are programs too, and a kernel that must JIT refuses",
        _always("ENOTSUPP (524)"),
        "find what leaks programs (seccomp filters of short-lived containers); the limit is the host's",
    ),
    Symptom(
        SECCOMP,
        "neither no_new_privs nor CAP_SYS_ADMIN",
        _always("EACCES"),
        "set no_new_privs first",
    ),
    Symptom(
        SECCOMP,
        "a bad filter, or too large a chain of filters",
        _always("EINVAL, ENOMEM"),
        "check the profile; filters of a process add up to 32,768 instructions",
    ),
    Symptom(
        FAULT,
        "memory.max is reached and a process of that cgroup touches memory",
        ("SIGKILL, for user memory alone", "SIGKILL", "SIGKILL"),
        "compare anonymous with kernel memory in the kernel's report (dmesg): maps count, from 5.11 on, and cannot be"
        " reclaimed",
        signs=(r"oom-?killed", r"exit (code|status):? 137"),
    ),
)

SYMPTOMS: Final = _CREATE_SYMPTOMS + _ELEMENT_SYMPTOMS + _PROGRAM_SYMPTOMS + _OTHER_SYMPTOMS


def symptoms_of_errno(errno: str, call: str = "") -> list[Symptom]:
    """What an errno (``EPERM``, ``12``, ``-ENOTSUPP``, ``SIGKILL``) can mean, at one call or anywhere."""
    wanted = errno.strip().lstrip("-").upper()
    if wanted.isdecimal() and int(wanted) in set(Errno):
        wanted = Errno(int(wanted)).name
    return [s for s in SYMPTOMS if not s.rare and wanted in s.errnos() and call in ("", s.call)]
