"""Text that tools read and print: fdinfo, bpftool."""

import json

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType, ProgType
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.fdinfo import fdinfo_text
from bpfleet.kernel.bpf.program import ProgAttr
from tests.bpftool import map_plain, map_record, prog_plain, prog_record, to_json
from tests.kernels import boot

HASH = MapAttr(MapType.HASH, 8, 16, 65536, map_name="flows")


def _fdinfo(profile, attr=HASH):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, attr).fd
    return fdinfo_text(task.file(fd), kernel.profile)


def test_fdinfo_of_a_map_5_10():
    assert _fdinfo("5.10") == (
        "pos:\t0\nflags:\t02000002\nmnt_id:\t15\n"
        "map_type:\t1\nkey_size:\t8\nvalue_size:\t16\nmax_entries:\t65536\nmap_flags:\t0x0\n"
        "memlock:\t5771264\nmap_id:\t1\nfrozen:\t0\n"
    )


@pytest.mark.parametrize(("profile", "names"), [("5.11", 0), ("6.1", 1), ("6.18", 1)])
def test_fdinfo_from_5_14_on_has_the_inode_before_what_bpf_adds(profile, names):
    lines = _fdinfo(profile).splitlines()
    assert [line.partition(":")[0] for line in lines[:5]] == (
        ["pos", "flags", "mnt_id", *["ino"] * names, "map_type", "key_size"][:5]
    )


@pytest.mark.parametrize(("profile", "memlock"), [("6.1", 1572864), ("6.18", 5768224)])
def test_fdinfo_from_5_16_on_has_map_extra_and_another_memlock(profile, memlock):
    assert _fdinfo(profile).endswith(
        f"map_flags:\t0x0\nmap_extra:\t0x0\nmemlock:\t{memlock}\nmap_id:\t1\nfrozen:\t0\n"
    )


def test_fdinfo_of_a_prog_array_names_its_owner():
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.PROG_ARRAY, 4, 4, 4)).fd
    assert "owner" not in fdinfo_text(task.file(fd), kernel.profile)
    prog = kernel.bpf.prog_load(task, ProgAttr(ProgType.XDP)).fd
    kernel.bpf.map_update_elem(task, fd, bytes(4), prog.to_bytes(4, "little"))
    assert fdinfo_text(task.file(fd), kernel.profile).endswith(
        "owner_prog_type:\t6\nowner_jited:\t1\n"
    )


@pytest.mark.parametrize(("profile", "more"), [("5.10", 0), ("6.12", 2)])
def test_fdinfo_of_a_program(profile, more):
    kernel, task = boot(profile)
    fd = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER, 600)).fd
    lines = fdinfo_text(task.file(fd), kernel.profile).partition("prog_type")[1:]
    lines = "".join(lines).splitlines()
    names = [line.partition(":\t")[0] for line in lines]
    assert names == [
        "prog_type", "prog_jited", "prog_tag", "memlock", "prog_id", "run_time_ns", "run_cnt",
        *["recursion_misses", "verified_insns"][:more],
    ]  # fmt: skip
    assert "memlock:\t8192" in lines
    assert "verified_insns:\t600" in lines or not more


def test_bpftool_map_json_as_on_a_live_6_18():
    kernel, task = boot("6.18")
    kernel.bpf.map_create(task, MapAttr(MapType.HASH, 8, 16, 65536))
    assert to_json([map_record(kernel.bpf.maps()[0], kernel.profile)]) == (
        '[{"id":1,"type":"hash","flags":0,"bytes_key":8,"bytes_value":16,"max_entries":65536,'
        '"bytes_memlock":5768224,"frozen":0}]'
    )


@pytest.mark.parametrize(("profile", "shown"), [("5.10", -4096), ("6.1", 4294967296 - 4096)])
def test_old_bpftool_parses_memlock_with_atoi(profile, shown):
    kernel, task = boot(profile, cpus=4)
    kernel.ram.ram_bytes = 1 << 40
    entries = 50331579 if profile == "5.10" else (1 << 28) - 256
    attr = MapAttr(MapType.HASH, 4, 8, entries, map_flags=F_NO_PREALLOC)
    if profile == "6.1":
        attr = MapAttr(MapType.LPM_TRIE, 8, 8, entries, map_flags=F_NO_PREALLOC)
    kernel.bpf.map_create(task, attr)
    bpf_map = kernel.bpf.maps()[0]
    assert map_record(bpf_map, kernel.profile)["bytes_memlock"] == shown
    assert f"memlock {4294967296 - 4096}B" in map_plain(bpf_map, kernel.profile)


def test_bpftool_map_plain():
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, HASH).fd
    kernel.bpf.obj_pin(task, "flows", fd)
    kernel.bpf.map_freeze(task, fd)
    bpf_map = kernel.bpf.maps()[0]
    assert map_plain(bpf_map, kernel.profile) == (
        "1: hash  name flows  flags 0x0\n"
        "\tkey 8B  value 16B  max_entries 65536  memlock 5768288B\n"
        "\tpinned /sys/fs/bpf/flows\n"
        "\tfrozen"
    )
    record = map_record(bpf_map, kernel.profile, pinned=True)
    assert (record["frozen"], record["pinned"]) == (1, ["/sys/fs/bpf/flows"])


@pytest.mark.parametrize(("profile", "orphaned"), [("5.10", False), ("6.1", False), ("6.12", True)])
def test_bpftool_prog_json(profile, orphaned):
    kernel, task = boot(profile)
    bpf_map = kernel.bpf.map_create(task, HASH).fd
    kernel.advance(5_000_000_000)
    kernel.bpf.prog_load(
        task, ProgAttr(ProgType.XDP, 524, "balancer", map_fds=(bpf_map,), jited_bytes=2673)
    )
    prog = kernel.bpf.progs()[0]
    text = to_json([prog_record(prog, kernel.profile, boot_unix_s=1_700_000_000)])
    (record,) = json.loads(text)
    assert list(record) == [
        "id", "type", "name", "tag", "gpl_compatible", "loaded_at", "uid",
        *(["orphaned"] if orphaned else []),
        "bytes_xlated", "jited", "bytes_jited", "bytes_memlock", "map_ids",
    ]  # fmt: skip
    assert record["bytes_xlated"] == 4192
    assert record["bytes_memlock"] == 8192
    assert record["loaded_at"] == 1_700_000_005
    assert len(record["tag"]) == 16
    assert " " not in text


def test_bpftool_prog_plain():
    kernel, task = boot("6.12", uid=0)
    kernel.bpf.prog_load(task, ProgAttr(ProgType.XDP, 8, "p", jited_bytes=54))
    prog = kernel.bpf.progs()[0]
    assert prog_plain(prog, kernel.profile, loaded_at="2024-01-01T00:00:00+0000") == (
        f"1: xdp  name p  tag {prog.tag}  gpl\n"
        "\tloaded_at 2024-01-01T00:00:00+0000  uid 0\n"
        "\txlated 64B  jited 54B  memlock 4096B"
    )
