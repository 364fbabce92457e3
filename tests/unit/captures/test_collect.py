"""The collector: a script for Python 3.6, which knows every structure a profile needs, and what cgroups are."""

import ast
import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from bpfleet.captures import collect
from bpfleet.captures.document import read_document
from bpfleet.kernel.profile import StructSizes
from bpfleet.oracle.capture import _RENAMED

SOURCE = Path(collect.__file__)
AF_XDP, SOL_XDP, XDP_UMEM_REG, UMEM_BYTES = 44, 283, 4, 1 << 20
HEX = "0123456789abcdef" * 4


def test_the_collector_is_grammar_and_library_of_python_3_6() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    result = subprocess.run(
        [vermin, "-t=3.6-", "--violations", SOURCE], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def interpreters() -> list[str]:
    """Every Python 3.6 and later that is installed here, Debian's own first."""
    names = [f"python3.{minor}" for minor in range(6, 20)]
    found = [Path("/usr/bin", name) for name in names]
    found += [Path(folder, name) for name in names for folder in os.get_exec_path()]
    versions = Path(os.environ.get("PYENV_ROOT", "/nowhere"), "versions")
    found += [path for name in names for path in versions.glob(f"3.*/bin/{name}")]
    real = [path for path in found if path.is_file() and "shims" not in path.parts]
    return list(dict.fromkeys(str(path) for path in real))


@pytest.mark.parametrize("python", interpreters() or [sys.executable])
def test_the_script_runs_on_every_interpreter_that_is_here(python: str) -> None:
    source = SOURCE.read_bytes()
    helped = subprocess.run(
        [python, "-I", "-", "--help"], input=source, capture_output=True, check=True
    )
    assert b"--count-elements" in helped.stdout
    result = subprocess.run(
        [python, "-I", "-W", "error", "-", "--no-bpf"],
        input=source,
        capture_output=True,
        check=False,
    )
    if result.returncode:  # not root, or bpf(2) is not allowed: one line that says so
        assert result.stderr.startswith(b"capture: ")
        assert result.stderr.count(b"\n") == 1
    else:
        assert read_document(result.stdout, python).charges.why_not == "left out by --no-bpf"


def test_umems_of_af_xdp_sockets_are_seen() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    area = mmap.mmap(-1, UMEM_BYTES)
    with socket.socket(AF_XDP, socket.SOCK_RAW) as xsk:
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        registration = struct.pack("<QQIII4x", address, UMEM_BYTES, 4096, 0, 0)
        xsk.setsockopt(SOL_XDP, XDP_UMEM_REG, registration)
        (mine,) = [
            each
            for each in collect.collect(use_bpf=False)["processes"]
            if each["pid"] == os.getpid()
        ]
    (locker,) = mine["lockers"]
    assert (locker["kind"], locker["descriptors"]) == ("af_xdp", 1)
    assert locker["mapped_bytes"] in (
        0,
        UMEM_BYTES,
    )  # where the kernel has no sock_diag for AF_XDP: 0


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
