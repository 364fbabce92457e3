"""What people call a kernel, and what it is taken for."""

import pytest

from bpfleet.kernel.profile import PROFILES, nearest_profile, profile_named, says
from bpfleet.kernel.profile.names import DISTRIBUTIONS


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("5.15", "5.15"),
        ("v6.8", "6.8"),
        ("5.15.0-91-generic", "5.15"),
        ("5.11.22", "5.11"),
        ("5.14.0-427.el9", "el9.6"),
        ("5.14.0-427.13.1.el9_4.x86_64", "el9.6"),
        ("5.14-el9", "el9.6"),
        ("4.18.0-553.el8_10.x86_64", "el8.10"),
        ("RHEL9", "el9.6"),
        ("ubuntu-24.04", "6.8"),
        ("al2023", "6.1"),
        ("debian-12", "6.1"),
        ("6.12.107", "6.12"),
        ("6.18", "6.18"),
        ("6.18.3", "6.18.15"),
        ("6.18.20", "6.18.15"),
        ("6.18.99", "6.18"),
        ("debian-13:nobpf", "6.12:nobpf"),
    ],
)
def test_a_name_means_the_kernel_of_its_series_or_distribution(name: str, kernel: str) -> None:
    assert profile_named(name).name == kernel


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("6.10", "6.8"), ("6.13.2", "6.12"), ("9.0", "7.3"), ("4.18.0-240.el8.x86_64", "5.4")],
)
def test_a_series_without_a_build_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"nearest is {nearest},.*profile capture"):
        profile_named(name)
    assert nearest_profile(name).name == nearest


def test_every_distribution_has_a_kernel() -> None:
    assert set(DISTRIBUTIONS.values()) <= set(PROFILES)


def test_what_a_name_was_taken_for_and_how_sure_that_is() -> None:
    assert says("5.15.0-91-generic") == "5.15.0-91-generic: 5.15, recorded (5.15.215)"
    assert says("5.11").startswith("5.11: derived (")
