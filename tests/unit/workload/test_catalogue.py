"""The catalogue sizes applications as they size themselves, and its totals are the published ones."""

import pytest

from bpfleet.abi.bpf import ProgType
from bpfleet.workload.catalogue import applications, default_options, inventory_for
from bpfleet.workload.errors import SpecError
from bpfleet.workload.sizing import resolve_numbers
from bpfleet.workload.spec import Inventory, NodeShape, ProgramDeclaration

SMALL = NodeShape(possible_cpus=4, ram_bytes=8 << 30)
LARGE = NodeShape(possible_cpus=128, ram_bytes=2 << 40)


def entries_of(application: str, name: str, shape: NodeShape, **options: int) -> int:
    inventory = inventory_for(application, shape, options)
    return next(m.max_entries for m in inventory.maps if m.name == name)


@pytest.mark.parametrize("application", applications())
@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_every_application_can_be_sized_and_names_its_source(
    application: str, shape: NodeShape
) -> None:
    inventory = inventory_for(application, shape)
    assert inventory.title
    assert inventory.source
    assert inventory.user_memory_bytes > 0
    assert inventory.maps
    assert inventory.programs


@pytest.mark.parametrize("application", applications())
def test_programs_use_maps_that_exist(application: str) -> None:
    inventory = inventory_for(application, SMALL)
    names = {m.name for m in inventory.maps}
    assert all(names.issuperset(p.map_names) for p in inventory.programs)


@pytest.mark.parametrize(
    ("ram_gib", "ratio_per_million", "conntrack", "any_protocol"),
    [
        (16, 2500, 151_765, 75_882),
        (30, 2500, 284_560, 142_280),
        (240, 2500, 2_276_484, 1_138_242),
        (360, 2500, 3_414_726, 1_707_363),
        (3, 51_000, 580_503, 290_251),
        (1, 2500, 131_072, 65_536),
        (64_000, 2500, 16_777_216, 16_777_216),
    ],
)
def test_cilium_sizes_its_tables_by_ram(
    ram_gib: int, ratio_per_million: int, conntrack: int, any_protocol: int
) -> None:
    shape = NodeShape(possible_cpus=8, ram_bytes=ram_gib << 30)
    option = {"ratio_per_million": ratio_per_million}
    assert entries_of("cilium", "cilium_ct4_glob", shape, **option) == conntrack
    assert entries_of("cilium", "cilium_ct_any4_", shape, **option) == any_protocol


def test_falco_has_one_buffer_for_two_cpus_by_default() -> None:
    assert entries_of("falco", "ringbuf_maps", LARGE) == 64
    assert entries_of("falco", "ringbuf_maps", LARGE, cpus_for_each_buffer=1) == 128


def test_the_profiler_ring_is_a_power_of_two_of_the_sampling_rate() -> None:
    shape = NodeShape(possible_cpus=16, ram_bytes=8 << 30)
    assert entries_of("otel-profiler", "trace_events", shape) == 8 << 20


def test_katran_splits_its_connections_over_the_cpus() -> None:
    inner = inventory_for("katran", NodeShape(possible_cpus=16, ram_bytes=8 << 30)).maps[2].inner
    assert inner is not None
    assert inner.max_entries == 500_000


def test_options_multiply_maps() -> None:
    ten = inventory_for("aws-network-policy-agent", SMALL, {"pods": 10})
    none = inventory_for("aws-network-policy-agent", SMALL, {"pods": 0})
    assert ten.map_count == 62
    assert none.map_count == 2


def test_a_program_that_uses_an_undeclared_map_is_refused() -> None:
    program = ProgramDeclaration(
        name="p", prog_type=ProgType.XDP, insn_cnt=2, map_names=("absent",)
    )
    with pytest.raises(SpecError, match=r"programs\[0\]\.map_names = 'absent': no such map"):
        Inventory(name="x", programs=(program,))


def test_options_have_defaults() -> None:
    assert default_options("falco") == {"buffer_bytes": 8 << 20, "cpus_for_each_buffer": 2}


@pytest.mark.parametrize(
    ("application", "options", "message"),
    [
        ("no-such-app", {}, "application = 'no-such-app': unknown; use one of aws-network-policy"),
        ("falco", {"pods": 3}, r"options\.pods = 3: unknown option; use one of buffer_bytes"),
        ("falco", {"buffer_bytes": -1}, "not a count"),
        ("cilium", {"endpoints": 1 << 40}, "out of range"),
    ],
)
def test_unknown_applications_and_options_are_named(
    application: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        inventory_for(application, SMALL, options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rule": "magic"}, "unknown sizing rule; use one of cilium_dynamic, cpus"),
        ({"rule": "per_cpus"}, "wrong parameters; use cpus_each"),
        ({"rule": "per_cpus", "cpus_each": "pods"}, "unknown option; use one of size"),
        ("pods", "unknown option; use one of size"),
    ],
)
def test_a_wrong_rule_is_named(value: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolve_numbers({"max_entries": value}, SMALL, {"size": 1}, "f.toml")
