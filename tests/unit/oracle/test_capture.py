"""Reading BTF and turning it into a profile file."""

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from bpfleet.abi.bpf import MapType
from bpfleet.cli.main import cli
from bpfleet.kernel import PROFILES
from bpfleet.kernel.profile import Memlock, kernel_of, nearest_profile
from bpfleet.kernel.profile_file import profile_from_toml
from bpfleet.oracle.capture import capture
from bpfleet.oracle.vmlinux_btf import BtfError, read_btf
from bpfleet.runtime.profiles import profile_from

HOST_BTF = Path("/sys/kernel/btf/vmlinux")


class Blob:
    """Builds a BTF blob, one type after the other."""

    def __init__(self):
        self.types, self.text = b"", b"\0"

    def name(self, text):
        at = len(self.text)
        self.text += text.encode() + b"\0"
        return at

    def add(self, name, kind, size, vlen=0, tail=b""):
        at = self.name(name) if name else 0
        self.types += struct.pack("<III", at, kind << 24 | vlen, size) + tail

    def integer(self, name="int", size=4):
        self.add(name, 1, size, tail=struct.pack("<I", size * 8))

    def array(self, length):
        self.add("", 3, 0, tail=struct.pack("<III", 1, 1, length))

    def struct(self, name, size, **members):
        tail = b"".join(
            struct.pack("<III", self.name(member), type_id, 0)
            for member, type_id in members.items()
        )
        self.add(name, 4, size, len(members), tail)

    def enum(self, *names):
        tail = b"".join(struct.pack("<Ii", self.name(name), at) for at, name in enumerate(names))
        self.add("e", 6, 4, len(names), tail)

    def done(self, magic=0xEB9F, version=1):
        header = struct.pack(
            "<HBBIIIII", magic, version, 0, 24, 0, len(self.types), len(self.types), len(self.text)
        )
        return header + self.types + self.text


def _kernel():
    blob = Blob()
    blob.integer()
    blob.array(7)
    blob.struct("bpf_map", 296, objcg=1, map_extra=1, record=1)
    blob.struct("bpf_htab", 1000, map=1, ma=1)
    blob.struct("memcg_stock_pcp", 112, cached=2)
    blob.struct("bpf_map_ops", 400, map_mem_usage=1)
    blob.struct("file", 184, f_mode=1)
    blob.enum("BPF_MAP_TYPE_UNSPEC", "BPF_MAP_TYPE_HASH", "BPF_MAP_TYPE_ARRAY")
    return blob.done()


def test_structs_members_and_enumerators_are_read():
    btf = read_btf(_kernel())
    assert btf.structs["bpf_htab"].size_bytes == 1000
    assert btf.structs["memcg_stock_pcp"].members == {"cached": 7}
    assert btf.has_member("bpf_map", "objcg")
    assert not btf.has_member("bpf_map", "memcg")
    assert not btf.has_member("nothing", "objcg")
    assert btf.enumerators["BPF_MAP_TYPE_ARRAY"] == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too few"),
        (Blob().done(magic=0x9FEB), "magic"),
        (Blob().done(version=2), "version"),
        (_kernel()[:-10], "cut"),
        (Blob().done()[:24] + b"", "cut"),
    ],
)
def test_what_is_not_btf_is_refused_in_words(data, words):
    with pytest.raises(BtfError, match=words):
        read_btf(data)


def test_an_unknown_kind_is_refused():
    blob = Blob()
    blob.add("x", 25, 0)
    with pytest.raises(BtfError, match="type 1 is of unknown kind 25"):
        read_btf(blob.done())


def test_a_capture_takes_sizes_and_evidence_and_reads_back():
    text = capture(_kernel(), "6.13.2-test", name="box")
    profile = profile_from_toml(text)
    base = PROFILES["6.12"]
    assert profile.name == "6.12@box"
    assert profile.release == "6.13.2-test"
    assert profile.structs.bpf_htab == 1000
    assert profile.structs.file == 192  # in cache lines
    assert profile.structs.bpf_array == base.structs.bpf_array
    assert profile.memcg_stock_slots == 7
    assert not profile.hash_has_map_locked
    assert profile.memlock is Memlock.USAGE
    assert sorted(each.name for each in profile.map_types) == ["ARRAY", "HASH"]
    assert "bpf_htab = 1000  # BTF, struct bpf_htab" in text
    assert "hash_has_map_locked = false  # BTF, no member bpf_htab.map_locked" in text
    assert kernel_of(profile.name) is base


def test_capture_needs_a_kernel_with_bpf():
    blob = Blob()
    blob.integer()
    with pytest.raises(BtfError, match="bpf_map"):
        capture(blob.done(), "6.12.1")
    with pytest.raises(ValueError, match="not a kernel release"):
        capture(_kernel(), "latest")


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("5.4.0", "5.4"),
        ("5.10.9", "5.10"),
        ("6.8.0-45-generic", "6.8"),
        ("6.5.0", "6.1"),
        ("6.17", "6.17"),
        ("7.9.1", "7.3"),
        ("4.18.0-553.el8_10.x86_64", "el8.10"),
        ("5.14.0-427.13.1.el9_4.x86_64", "el9.6"),
        ("6.18.20", "6.18.15"),
    ],
)
def test_the_nearest_known_kernel(release, name):
    assert nearest_profile(release).name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not TOML"),
        ('name = "x"', "base: expected a text"),
        ('name = "x"\nrelease = "1"\nbase = "9.9"', "unknown kernel"),
        ('name = "x"\nrelease = "1"\nbase = "6.12"\nextra = 1', "unknown field 'extra'"),
        (
            'name = "x"\nrelease = "1"\nbase = "6.12"\nmap_types = ["nope"]',
            "'nope' is not a map type",
        ),
        ('name = "x"\nrelease = "1"\nbase = "6.12"\n[structs]\nnope = 1', "structs.nope"),
        ('name = "x"\nrelease = "1"\nbase = "6.12"\n[structs]\nfile = -1', "structs.file: -1"),
        ('name = "x"\nrelease = "1"\nbase = "6.12"\n[flags]\nnope = true', "flags.nope"),
        ('name = "x"\nrelease = "1"\nbase = "6.12"\n[flags]\nmemlock = "x"', "flags.memlock"),
        ('name = "x"\nrelease = "1"\nbase = "6.12"\n[flags]\nlpm_uses_mem_alloc = 1', "like False"),
    ],
)
def test_a_bad_profile_file_names_the_field(tmp_path, text, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        profile_from(str(path))
    assert str(path) in str(caught.value)


def test_names_and_files_are_told_apart(tmp_path):
    assert profile_from("6.12:nobpf").name == "6.12:nobpf"
    with pytest.raises(ValueError, match="No such file"):
        profile_from(str(tmp_path / "none.toml"))
    with pytest.raises(ValueError, match="unknown kernel"):
        profile_from("none")


def test_the_command_writes_what_the_others_read(tmp_path):
    source, target = tmp_path / "vmlinux", tmp_path / "host.toml"
    source.write_bytes(_kernel())
    run = CliRunner().invoke
    arguments = [
        "profile",
        "capture",
        "--btf",
        str(source),
        "--release",
        "6.12.9",
        "-o",
        str(target),
    ]
    assert run(cli, arguments).exit_code == 0
    shown = run(cli, ["profile", "show", str(target)])
    assert "bpf_htab" in shown.output
    assert "1,000" in shown.output
    bad = run(cli, ["profile", "capture", "--btf", str(target)])
    assert bad.exit_code == 2
    assert "magic" in bad.output
    assert "6.18" in run(cli, ["profile", "list"]).output


@pytest.mark.slow
@pytest.mark.skipif(not HOST_BTF.is_file(), reason="this kernel offers no BTF")
def test_this_hosts_own_btf_gives_a_profile():
    text = capture(HOST_BTF.read_bytes(), "6.18.0")
    profile = profile_from_toml(text)
    assert profile.structs.bpf_map > 200
    assert profile.structs.htab_elem == 48
    assert len(profile.map_types) > 20


def _blob(*members, functions=()):
    blob = Blob()
    blob.integer()
    blob.struct("bpf_map", 256, **dict.fromkeys(members, 1))
    blob.enum("BPF_MAP_TYPE_UNSPEC", "BPF_MAP_TYPE_HASH", "BPF_MAP_TYPE_TASK_STORAGE")
    for name in functions:
        blob.add(name, 12, 1)
    return blob.done()


@pytest.mark.parametrize(
    ("release", "member", "base"),
    [
        ("4.18.0-553", "memcg", "el8.10"),
        ("5.4.0-custom", "memcg", "5.11"),
        ("5.10.0-custom", "objcg", "5.11"),
        ("5.10.0-custom", "memory", "5.10"),
        ("4.19.0-custom", "user", "5.4"),
        ("5.15.0-custom", "memory", "5.10"),
        ("5.15.0-custom", "memcg", "5.15"),
    ],
)
def test_what_a_map_holds_decides_before_the_name_of_the_kernel(release, member, base):
    assert profile_from_toml(capture(_blob(member), release)).name == f"{base}@{release}"


def test_a_type_needs_its_allocator_where_functions_are_listed():
    """Headers of distributions name types that their code does not have."""
    known = [
        MapType.TASK_STORAGE in profile_from_toml(capture(blob, "5.15.0")).map_types
        for blob in (
            _blob("memcg"),
            _blob("memcg", functions=["htab_map_alloc"]),
            _blob("memcg", functions=["htab_map_alloc", "task_storage_map_alloc"]),
        )
    ]
    assert known == [True, False, True]
