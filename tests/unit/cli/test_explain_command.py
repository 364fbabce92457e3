import json

import pytest
from click.testing import CliRunner, Result

from bpfleet.abi.bpf import ALL_CAPABILITIES, MapType
from bpfleet.cli.explain import command
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import PROFILES


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "map create: operation not permitted (MEMLOCK may be too low, consider ...)",
            "RLIMIT_MEMLOCK",
        ),
        (
            "libbpf: permission error while running as root; try raising 'ulimit -l'?",
            "RLIMIT_MEMLOCK",
        ),
        (
            "map connection_protocol: map create: cannot allocate memory",
            "memory.max of the container",
        ),
        ("update failed: key too big for map: argument list too long", "is full"),
        ("error loading seccomp filter: errno 524", "bpf_jit_limit"),
        ("Memory cgroup out of memory: Killed process 7 (x)", "cannot be reclaimed"),
        ("failed to load program: -12", "memory.max of the loader's container"),
        ("libbpf: bpf_create_map(m): Operation not permitted(-1)", "RLIMIT_MEMLOCK"),
        ("failed to set RLIMIT_MEMLOCK: operation not permitted", "CAP_SYS_RESOURCE"),
    ],
)
def test_a_message_from_the_field_is_recognised(message: str, expected: str) -> None:
    result = run(message)
    assert result.return_value == 0
    assert expected in result.output


def test_every_answer_says_of_which_kernels_it_is_and_how_sure_that_is() -> None:
    sure = "6.12: recorded (6.12.107)"
    for words in (["--errno", "ENOMEM"], ["ENOMEM (MEMCG_LIMIT_EXCEEDED): no room"]):
        assert sure in run(*words).output.splitlines()[-1]
        first = json.loads(run("--json", *words).output)[0]
        assert first["kernels"]["6.12"] == "recorded (6.12.107)"


def test_a_refusal_as_bpfleet_prints_it_is_explained_with_its_numbers() -> None:
    printed = (
        "bpfleet: BPF_MAP_CREATE: ENOMEM (MEMCG_LIMIT_EXCEEDED): memory.max of /team is 4194304 bytes,"
        " 4190208 are in use and 8192 more were asked for"
    )
    lines = run(printed).output.splitlines()
    assert lines[0] == "ENOMEM: the memory cgroup limit of /team is reached"
    assert "4190208 are in use, 8192 more" in lines[1]
    assert (
        "elsewhere: would have passed up to 5.10: BPF memory is not charged to cgroups there"
        in lines
    )
    (data,) = json.loads(run("--json", printed).output)
    assert (data["numbers"]["limit_bytes"], data["numbers"]["cgroup"]) == ("4194304", "/team")


def test_a_printed_memlock_refusal_says_from_when_it_would_have_passed() -> None:
    kernel = Kernel(PROFILES["5.10"])
    task = kernel.spawn(uid=1000, caps=ALL_CAPABILITIES, memlock=(4096, 4096))
    with pytest.raises(KernelError) as caught:
        kernel.bpf.map_create(
            task, MapAttr(MapType.ARRAY, key_size=4, value_size=8, max_entries=4096)
        )
    output = run(str(caught.value)).output
    assert "uid 1000 holds 0 locked pages" in output
    assert "would have passed on 5.11 and later" in output


@pytest.mark.parametrize("text", ["ENOMEM (NOT_A_REASON): x", "EWHAT (MAP_FULL): x"])
def test_what_only_looks_printed_is_no_refusal(text: str) -> None:
    assert "limit of" not in run(text).output


def test_a_memlock_text_may_also_be_a_missing_capability() -> None:
    assert "CAP_BPF" in run("MEMLOCK may be too low").output


def test_an_errno_is_explained_at_one_call() -> None:
    result = run("--errno", "e2big", "--call", "map_update_elem", "--json")
    assert [entry["call"] for entry in json.loads(result.output)] == ["map_update_elem"]


def test_an_unknown_message_says_so_and_exits_with_1() -> None:
    assert run("segmentation fault").return_value == 1


@pytest.mark.parametrize("arguments", [(), ("text", "--errno", "EPERM"), ("x", "--call", "fork")])
def test_bad_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(command, list(arguments)).exit_code == 2


def test_a_refusal_as_the_client_example_prints_it_is_read_by_its_reason() -> None:
    said = run("BPF_MAP_UPDATE_ELEM: ENOMEM (12), because MEMCG_LIMIT_EXCEEDED").output
    assert said == run("ENOMEM (MEMCG_LIMIT_EXCEEDED)").output
    assert "free elements" not in said
