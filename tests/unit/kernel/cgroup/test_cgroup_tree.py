"""Directories and what their memcgs cost; the rules of the tree itself are in the transcripts and the model."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import PROFILES
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, MEMCG, boot, read_pages, refused


@pytest.mark.parametrize(
    ("name", "errno"), [("a\nb", Errno.EINVAL), (".", Errno.EEXIST), ("..", Errno.EEXIST)]
)
def test_some_names_are_not_usable(name: str, errno: Errno) -> None:
    kernel, _ = boot("6.12")
    with refused(errno):
        kernel.mkdir(f"/b/{name}")


def test_a_path_and_not_a_name_has_a_length() -> None:
    kernel, _ = boot("6.12")
    kernel.mkdir("/b/" + "x" * 256)  # seen on 5.10, 6.1 and 6.12
    kernel.mkdir("/b/" + "y" * 4078)
    with refused(Errno.ENAMETOOLONG):
        kernel.mkdir("/b/" + "y" * 4079)
    with refused(Errno.ENAMETOOLONG):
        kernel.mkdir("/b/" + "é" * 2040)


@pytest.mark.parametrize("path", ["a", "", "a/b"])
def test_paths_are_absolute(path: str) -> None:
    kernel, _ = boot("6.12")
    before = kernel.list_cgroups()
    with refused(Errno.EINVAL):
        kernel.cgroup(path)
    with refused(Errno.EINVAL):
        kernel.mkdir(path)
    assert kernel.list_cgroups() == before


@pytest.mark.parametrize("path", ["/a/", "//a", "/a//"])
def test_extra_slashes_do_not_matter(path: str) -> None:
    kernel, _ = boot("6.12")
    assert kernel.cgroup(path).path == "/a"


def test_directories_nest_as_deep_as_a_path_is_long() -> None:
    kernel, _ = boot("6.12")
    path = "/b"
    for _ in range(1_200):
        path += "/d"
        kernel.mkdir(path)
    task = kernel.spawn(cgroup=path)
    kernel.touch(task.pid, 1 << 20)
    assert kernel.list_cgroups()[-1] == path
    assert "populated 1\n" in kernel.read_file("/b", "cgroup.events")
    assert "nr_descendants 1200\n" in kernel.read_file("/b", "cgroup.stat")
    kernel.check()
    kernel.write_file("/b", "memory.max", "64K")
    assert not task.alive
    kernel.check()


def test_the_root_cannot_be_made_or_removed() -> None:
    kernel, _ = boot("6.12")
    with refused(Errno.EEXIST):
        kernel.mkdir("/")
    with refused(Errno.EBUSY):
        kernel.rmdir("/")


@pytest.mark.parametrize("profile", MEMCG)
def test_a_memcgs_own_structures_are_charged_to_its_parent(profile: str) -> None:
    kernel, _ = boot(profile, cgroup="/")
    limits = PROFILES[profile]
    kernel.mkdir("/a/child")
    lines = [line for line in kernel.ledger() if line.owner.startswith("cgroup")]
    assert {line.cgroup for line in lines} == {"/a"}
    own = sum(limits.memcg_slab_bytes)
    assert sum(line.bytes for line in lines if line.kind == "slab") >= own
    kernel.rmdir("/a/child")
    kernel.run_deferred()
    assert not [line for line in kernel.ledger() if line.owner.startswith("cgroup")]


def test_a_memcg_that_does_not_fit_its_parents_limit_is_not_made() -> None:
    kernel, _ = boot("6.12", cgroup="/")
    kernel.write_file("/a", "memory.max", "0")
    with refused(Errno.ENOMEM):
        kernel.mkdir("/a/child")
    assert kernel.list_cgroups() == ["/", "/a", "/b"]
    assert kernel.memory.charged_bytes_total == 0
    kernel.check()


def test_enabling_memory_gives_all_children_memcgs_or_none() -> None:
    kernel, _ = boot("6.12", cgroup="/")
    kernel.mkdir("/a/one", delegate=False)
    kernel.mkdir("/a/two", delegate=False)
    kernel.write_file("/a", "memory.max", "16k")  # the first memcg fits, the second does not
    with refused(Errno.ENOMEM):
        kernel.write_file("/a", "cgroup.subtree_control", "+memory")
    assert not kernel.cgroup("/a").subtree_memory
    assert not kernel.cgroup("/a/one").has_memory
    kernel.run_deferred()
    assert kernel.memory.charged_bytes_total == 0
    kernel.write_file("/a", "memory.max", "max")
    kernel.write_file("/a", "cgroup.subtree_control", "+memory")
    assert kernel.cgroup("/a/one").has_memory
    assert kernel.cgroup("/a/two").has_memory
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_pages_of_a_removed_cgroup_keep_it_and_its_parents_dying(profile: str) -> None:
    kernel, _ = boot(profile, cgroup="/")
    kernel.mkdir("/a/b")
    task = kernel.spawn(cgroup="/a/b")
    read_pages(kernel, task.pid, "/file", 1 << 20)
    kernel.exit(task.pid)
    kernel.rmdir("/a/b")
    assert "nr_dying_descendants 1\n" in kernel.read_file("/a", "cgroup.stat")
    kernel.rmdir("/a")
    assert "nr_dying_descendants 2\n" in kernel.read_file("/", "cgroup.stat")
    kernel.check()
    kernel.reclaimer.reclaim(kernel.controller.root, 1 << 20)
    assert "nr_dying_descendants 0\n" in kernel.read_file("/", "cgroup.stat")
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize(("profile", "zombies"), [("5.11", 1), ("6.1", 0), ("6.12", 0)])
def test_a_pinned_map_keeps_a_removed_cgroup_dying_on_5_11_alone(
    profile: str, zombies: int
) -> None:
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 64)).fd
    kernel.bpf.obj_pin(task, "pin", fd)
    kernel.exit(task.pid)
    kernel.rmdir("/a")
    kernel.run_deferred()
    assert f"nr_dying_descendants {zombies}\n" in kernel.read_file("/", "cgroup.stat")


def test_a_new_cgroup_under_an_old_name_starts_afresh() -> None:
    kernel, task = boot("6.12")
    kernel.write_file("/a", "memory.max", "64M")
    kernel.touch(task.pid, 1 << 20)
    kernel.exit(task.pid)
    old = kernel.cgroup("/a").id
    kernel.rmdir("/a")
    kernel.mkdir("/a")
    assert kernel.cgroup("/a").id > old
    assert kernel.read_file("/a", "memory.max") == "max\n"
    assert kernel.read_file("/a", "memory.current") == "0\n"
    assert "pgfault 0\n" in kernel.read_file("/a", "memory.stat")
