"""Capabilities by name: one spelling rule for files, options, messages and recordings."""

import pytest

from bpfleet.abi.bpf import ALL_CAPABILITIES, Capability, capabilities_of


@pytest.mark.parametrize("name", ["BPF", "bpf", "CAP_BPF", "cap_bpf", "Cap_Bpf"])
def test_any_case_and_the_prefix_is_optional(name: str) -> None:
    assert capabilities_of([name]) == {Capability.BPF}


def test_every_capability_is_found_by_its_own_name() -> None:
    assert capabilities_of(each.name for each in Capability) == ALL_CAPABILITIES


def test_no_name_is_no_capability() -> None:
    assert capabilities_of([]) == frozenset()


@pytest.mark.parametrize("name", ["", "CAP_", "CAP_CAP_BPF", "NET_RAW", " BPF", "39"])
def test_an_unknown_name_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"is unknown; use CAP_NET_ADMIN, .*CAP_BPF") as refused:
        capabilities_of(["BPF", name])
    assert str(refused.value).startswith(repr(name))
