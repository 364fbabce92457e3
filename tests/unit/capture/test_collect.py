"""The collector: a script for Python 3.6, which knows every structure a profile needs, and what cgroups are."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from bpfleet.capture import collect
from bpfleet.kernel.profile import StructSizes
from bpfleet.oracle.capture import _RENAMED

SOURCE = Path(collect.__file__)
HEX = "0123456789abcdef" * 4


def test_the_collector_is_grammar_and_library_of_python_3_6() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    result = subprocess.run(
        [vermin, "-t=3.6-", "--violations", SOURCE], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_the_collector_reads_every_structure_a_profile_has() -> None:
    wanted = {each.name for each in fields(StructSizes)} - {
        n for n, real in _RENAMED.items() if real is None
    }
    assert wanted <= set(collect.STRUCTS)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", {"kind": "root"}),
        ("/system.slice/cron.service", {"kind": "unit", "unit": "cron.service"}),
        (f"/system.slice/docker-{HEX}.scope", {"kind": "container", "runtime": "docker", "container_id": HEX}),
        (f"/docker/{HEX}", {"kind": "container", "runtime": "docker"}),
        (f"/machine.slice/libpod-{HEX}.scope", {"kind": "container", "runtime": "podman"}),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod01234567_89ab_cdef_0123_456789abcdef.slice"
            f"/crio-{HEX}.scope",
            {"kind": "pod-container", "runtime": "cri-o", "qos": "besteffort",
             "pod_uid": "01234567-89ab-cdef-0123-456789abcdef"},
        ),
        (
            f"/kubepods/pod01234567-89ab-cdef-0123-456789abcdef/{HEX}",
            {"kind": "pod-container", "qos": "guaranteed", "container_id": HEX},
        ),
        ("/kubepods/burstable/pod01234567-89ab-cdef-0123-456789abcdef", {"kind": "pod", "qos": "burstable"}),
        ("/lxc.payload.web/init.scope", {"kind": "unit"}),
        ("/lxc.payload.web", {"kind": "container", "runtime": "lxc", "name": "web"}),
        ("/some/where", {"kind": "cgroup", "name": "where"}),
    ],
)  # fmt: skip
def test_what_a_cgroup_is_follows_from_its_path(path: str, expected: dict[str, str]) -> None:
    what = collect.identify(path)
    assert {name: what.get(name) for name in expected} == expected


@pytest.mark.parametrize(("text", "count"), [("0-3,8\n", 5), ("0", 1), ("", 0)])
def test_lists_of_cpus_are_counted(text: str, count: int) -> None:
    assert collect._cpus(text) == count


def test_a_machine_without_a_known_number_of_the_call_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collect.platform, "machine", lambda: "vax")
    with pytest.raises(collect.Unavailable, match="vax"):
        collect.Bpf()


def test_bytes_that_are_no_btf_are_refused() -> None:
    with pytest.raises(collect.Unavailable, match="BTF"):
        collect.Btf(b"nonsense" * 10)
