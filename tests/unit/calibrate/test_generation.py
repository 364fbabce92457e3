"""Memlock values of a listing tell the kernel, the CPUs, and structures of another build."""

from pathlib import Path

import pytest

from bpfleet.calibrate.generation import best_matches, likely_cpus, match_kernels
from bpfleet.captures.listings import read_listing

CASES = Path(__file__).parents[1] / "captures" / "listings"


@pytest.mark.parametrize(
    ("name", "kernels", "cpus"),
    [
        ("listing-2cpus.json", ["5.11", "5.15", "6.1"], 2),
        ("listing-5.10-192cpus.json", ["5.4", "5.10"], 192),
    ],
)
def test_a_listing_tells_kernel_and_cpus(name: str, kernels: list[str], cpus: int) -> None:
    matches = best_matches(read_listing((CASES / name).read_text(), name, name="x").seen)
    assert [match.profile for match in matches] == kernels
    assert all(match.is_exact for match in matches)
    assert likely_cpus(matches) == cpus


def test_another_builds_structures_shift_every_map_of_a_type_alike() -> None:
    text = (CASES / "listing-plain-f.txt").read_text()
    matches = match_kernels(read_listing(text, "f", name="x").seen)
    best = matches[0]
    assert best.cpus == (16, 16)
    assert best.off == {"hash": 64}


def test_without_memlock_values_nothing_is_told() -> None:
    text = (CASES / "programs-only.json").read_text()
    assert match_kernels(read_listing(text, "f", name="x").seen) == ()
