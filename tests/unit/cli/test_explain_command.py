import json

import pytest
from click.testing import CliRunner, Result

from bpfleet.cli.explain import command


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
    ],
)
def test_a_message_from_the_field_is_recognised(message: str, expected: str) -> None:
    result = run(message)
    assert result.return_value == 0
    assert expected in result.output


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
