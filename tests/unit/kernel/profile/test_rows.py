"""The rows of flags: complete, in order, and able to say what stable and distribution kernels have."""

from dataclasses import fields, replace
from itertools import pairwise

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.profile import PROFILES, KernelProfile, Memlock, Model, Provenance
from bpfleet.kernel.profile.known import KERNELS
from bpfleet.kernel.profile.rows import OPTIONS, flags, series_of

# What a kernel is, not what it does.
IDENTITY = {"name", "release", "provenance", "source", "structs", "map_types", "prog_types"}
BASE = KERNELS[0]


def computed(version: str, distribution: str = "") -> KernelProfile:
    return replace(BASE, version=version, distribution=distribution, build={}).profile()


def test_every_field_of_a_profile_has_one_row():
    rows = [row.name for row in (*flags(), *OPTIONS)]
    assert sorted(rows) == sorted({field.name for field in fields(KernelProfile)} - IDENTITY)


@pytest.mark.parametrize("flag", list(flags()), ids=lambda flag: flag.name)
def test_changes_stand_in_the_order_of_releases_and_change_something(flag):
    releases = [series_of(change.since) for change in flag.changes if change.since]
    assert releases == sorted(releases)
    values = [flag.old, *(change.new for change in flag.changes)]
    assert all(before != after for before, after in pairwise(values))
    assert all(change.why for change in flag.changes)


def test_kernels_stand_in_the_order_of_their_versions():
    versions = [series_of(kernel.version) for kernel in KERNELS]
    assert versions == sorted(versions)


def test_a_change_reaches_a_stable_series_with_one_of_its_releases():
    assert computed("5.10.82").dying_task_forces
    assert not computed("5.10.83").dying_task_forces
    assert computed("5.11.99").dying_task_forces
    assert not computed("5.16.0").dying_task_forces
    assert computed("6.12.0").lpm_full_checked_first
    assert not computed("6.12.107").lpm_full_checked_first


def test_a_distribution_has_what_it_took_over_and_what_its_base_had():
    old, new = computed("4.18.0", "el8.3"), computed("4.18.0", "el8.10")
    assert (old.model, new.model) == (Model.RLIMIT, Model.MEMCG)
    assert (old.memlock, new.memlock) == (Memlock.CHARGED, Memlock.FOOTPRINT)
    assert (old.memcg_charge_batch, new.memcg_charge_batch) == (32, 64)
    assert MapType.RINGBUF in new.map_types - old.map_types
    assert MapType.TASK_STORAGE not in new.map_types
    nine = computed("5.14.0", "el9.6")
    assert nine.has_cgroup_kill
    assert (nine.memlock, nine.capability_check_central) == (Memlock.USAGE, True)
    assert MapType.ARENA in nine.map_types
    assert MapType.ARENA not in computed("5.14.0", "el9.4").map_types
    assert nine.lpm_ignores_update_flags


def test_what_only_a_distribution_has_reaches_no_other_kernel():
    assert computed("5.14.0", "el9.6").file_vma_slab_bytes == (216, 40)
    assert computed("5.14.0", "el9.4").file_vma_slab_bytes == (200,)
    assert computed("6.12.117").file_vma_slab_bytes == (176, 40)
    assert computed("6.15.0").file_vma_slab_bytes == (192,)


def test_a_distribution_may_lack_what_its_base_had():
    assert computed("5.14.0").hash_lookup_and_delete
    assert not computed("5.14.0", "el9.0").hash_lookup_and_delete
    assert computed("5.14.0", "el9.1").hash_lookup_and_delete


def test_a_profile_says_how_it_is_known():
    derived = [name for name, each in PROFILES.items() if each.provenance is Provenance.DERIVED]
    recorded = [name for name, each in PROFILES.items() if each.provenance is Provenance.RECORDED]
    assert derived == ["seed-v5", "5.11"]
    assert len(recorded) == 18
    assert all(profile.source for profile in PROFILES.values())
