"""Messages as people paste them: the call decides, then the errno, then the numbers; what is unknown stays so."""

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from bpfleet.cli.explain import command
from bpfleet.kernel.views.messages import read_message
from bpfleet.kernel.views.oom_report import read_oom_report

MESSAGES = {
    entry["id"]: entry
    for entry in tomllib.loads(Path(__file__).with_name("messages.toml").read_text())["message"]
}
MORE = tomllib.loads(Path(__file__).with_name("more_messages.toml").read_text())["message"]
# What the answer to each must contain.
SAYS = {
    "M01": ["page size", "65536", "round max_entries up", "EINVAL"],
    "M02": ["bucket", "larger count", "ENOSPC"],
    "M03": ["verifier's log", "6.4", "larger log buffer"],
    "M04": ["too many instructions", "complexity limit", "smaller or simpler"],
    "M05": ["trampolines", "arm64", "kprobe instead of fentry"],
    "M06": ["perf_event_mlock_kb", "CAP_IPC_LOCK"],
    "M07": ["CAP_SYS_RESOURCE", "setrlimit"],
    "M08": ["RLIMIT_MEMLOCK", "CAP_BPF", "seccomp profile"],
    "M09": ["NR_CPUS", "32 KiB"],
    "M10": ["32,768", "ENOMEM"],
    "M11": ["1,062,739,968", "1 %", "BPF is not the reason"],
    "M12": ["perf's own test", "CAP_IPC_LOCK", "65536"],
    "M13": ["bad attributes", "no limit answers EINVAL"],
    "M14": ["verifier"],
    "M15": ["consumer page", "read-only"],
    "M16": ["SELinux", "EACCES"],
    "M17": ["/sys/kernel/security/lockdown"],
    "M18": ["possible CPUs", "EFAULT"],
    "M19": ["nobody", "ENOMEM"],
}


def answer(text: str) -> str:
    return CliRunner().invoke(command, [text], standalone_mode=False).output


@pytest.mark.parametrize("name", SAYS)
def test_a_message_from_the_field_gets_its_cause(name: str) -> None:
    output = answer(MESSAGES[name]["text"])
    assert [words for words in SAYS[name] if words not in output] == []


_AS = re.compile(r"(?P<words>.*) as the (?P<place>first|only)\b.*")


@pytest.mark.parametrize("name", SAYS)
def test_what_may_be_named_is_neither_first_nor_alone(name: str) -> None:
    """`never` may forbid words as the first answer, or as the only one."""
    answers = answer(MESSAGES[name]["text"]).split("\n\n")
    for match in filter(None, map(_AS.fullmatch, MESSAGES[name]["never"])):
        if match["place"] == "first":
            assert match["words"] not in answers[0]
        else:
            assert any(match["words"] not in each for each in answers)


def test_every_message_is_asked_for() -> None:
    assert set(SAYS) == set(MESSAGES)
    assert len(SAYS) == 19


@pytest.mark.parametrize("entry", MORE, ids=lambda entry: entry["source"])
def test_a_text_of_a_public_issue_is_read(entry: dict[str, str]) -> None:
    reading = read_message(entry["text"])
    assert reading.errnos == ({entry["errno"]} if entry["errno"] else frozenset())
    assert {symptom.call for symptom in reading.symptoms} - {"any bpf(2) command"} == {
        entry["call"]
    }


@pytest.mark.parametrize("name", SAYS)
def test_no_wrong_cause_is_named(name: str) -> None:
    output = answer(MESSAGES[name]["text"])
    plain = [words for words in MESSAGES[name]["never"] if _AS.fullmatch(words) is None]
    assert [words for words in plain if words in output] == []
    assert "no cause is known" not in output


@pytest.mark.parametrize(
    ("text", "call", "errno"),
    [
        ("bpf_map_update_elem failed: err=28", "map_update_elem", "ENOSPC"),
        ("bpf_map_update_batch failed: -524", "map_update_batch", "ENOTSUPP"),
        ("map batch lookup: not supported (524)", "map_lookup_batch", "ENOTSUPP"),
        ("attach: -ENOTSUPP", "attach", "ENOTSUPP"),
        ("bpf(BPF_PROG_LOAD): errno 524", "prog_load", "ENOTSUPP"),
        ("io_uring_setup failed: err=-12", "io_uring", "ENOMEM"),
        ("xsk_umem__create failed: err=105", "AF_XDP", "ENOBUFS"),
        ("sendmsg MSG_ZEROCOPY: No buffer space available", "send with MSG_ZEROCOPY", "ENOBUFS"),
        ("pin map to /sys/fs/bpf/foo: operation not permitted", "obj_pin", "EPERM"),
        ("cannot load BTF: BPF_BTF_LOAD: operation not permitted", "btf_load", "EPERM"),
        ("libbpf: failed to mmap perf buffer on cpu #0: Operation not permitted", "mmap of a perf buffer", "EPERM"),
        ("failed to load program: creating map events: operation not permitted", "map_create", "EPERM"),
        ("error loading seccomp filter: errno 524", "seccomp", "ENOTSUPP"),
        ("bpf(BPF_MAP_CREATE, {...}) = -1 E2BIG (Argument list too long)", "map_create", "E2BIG"),
        ("failed to mmap with 1 (Operation not permitted)", "mmap of a perf buffer", "EPERM"),
        ("Error: can't get next map: Operation not permitted", "next id or descriptor by id", "EPERM"),
        ("Error: bpf obj get(/sys/fs/bpf/x): No such file or directory", "obj_get", "ENOENT"),
        ("LPM trie insert: no space left on device", "map_update_elem", "ENOSPC"),
        ("The BPF_PROG_TEST_RUN failed: -22", "prog_test_run", "EINVAL"),
    ],
)  # fmt: skip
def test_call_and_errno_are_read_in_every_spelling(text: str, call: str, errno: str) -> None:
    reading = read_message(text)
    assert (reading.calls, reading.errnos) == ({call}, {errno})
    assert reading.symptoms


def test_minus_one_of_a_c_function_is_no_errno_beside_another() -> None:
    assert read_message("bpf_map_create() ret=-1 errno=12").errnos == {"ENOMEM"}


@pytest.mark.parametrize(
    "text",
    [
        "open /etc/foo: permission denied",
        "write /var/log/x: no space left on device",
        "mmap: Cannot allocate memory",
        "bpf: invalid argument",
        "connection refused",
    ],
)
def test_what_could_be_anything_stays_not_known_with_what_to_look_at_next(text: str) -> None:
    output = answer(text)
    assert output.startswith("no cause is known")
    assert "next: find the call that failed" in output


def test_an_oom_report_full_of_kernel_memory_points_to_maps() -> None:
    output = answer(
        "memory: usage 524288kB, limit 524288kB, failcnt 9 Memory cgroup stats for /a: anon 20971520 file 0"
        " kernel 513802240 kernel_stack 65536 pagetables 131072 percpu 209715200 vmalloc 268435456 slab 1048576"
        " oom-kill:constraint=CONSTRAINT_MEMCG Memory cgroup out of memory: Killed process 9 (agent)"
    )
    assert "bpfleet charges" in output
    assert "of /a is reached; process 9 (agent) was killed" in output
    assert "479,199,232" in output


def test_an_oom_report_full_of_stacks_does_not_blame_maps() -> None:
    report = read_oom_report(
        "memory: usage 1000kB, limit 1000kB Memory cgroup out of memory: Killed process 1"
        " anon 100000 kernel 900000 kernel_stack 800000 percpu 10 vmalloc 10 slab 10"
    )
    assert report is not None
    assert "look there, not at maps" in report.lines()[-1]


def test_the_hosts_own_shortage_is_told_from_a_cgroups() -> None:
    output = answer("oom-kill:constraint=CONSTRAINT_NONE Out of memory: Killed process 7 (x)")
    assert "the host itself" in output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "libbpf: failed to load object 'x': BTF is required, but is missing or corrupted",
            "CONFIG_DEBUG_INFO_BTF",
        ),
        ("Consider increasing /proc/sys/kernel/perf_event_mlock_kb", "CAP_IPC_LOCK"),
        ("bpf_jit_limit exceeded: -524", "leaks programs"),
        ("failed to pin program: path is not on a bpf filesystem", "mount bpffs"),
        ("ringbuf reserve failed", "reader is too slow"),
    ],
)
def test_a_sign_is_enough_without_an_errno(text: str, words: str) -> None:
    assert words in answer(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Memory cgroup out of memory: Killed process 7 (x) anon-rss:900000kB, file-rss:0kB", "read the lines above"),
        ("Out of memory: Killed process 7 (x) total-vm:9kB, anon-rss:900000kB, file-rss:0kB", "/proc/meminfo"),
    ],
)  # fmt: skip
def test_a_report_without_the_cgroups_numbers_blames_nobody(text: str, words: str) -> None:
    output = answer(text)
    assert words in output
    assert "BPF is not the reason" not in output
