"""What a coordinator shows of the fleet: while it leads, and not after."""

from prometheus_client import generate_latest
from small_fleet import SmallFleet

from bpfleet.coordinator.metrics import CoordinatorMetrics
from bpfleet.coordinator.watch import FleetEventLog
from bpfleet.fleet.leases import Leases


def shown(metrics: CoordinatorMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def observed() -> CoordinatorMetrics:
    small = SmallFleet()
    small.node("a")
    small.node("b")
    small.lose("b")
    small.create("web", 3)
    metrics, leases = CoordinatorMetrics(), Leases(1_000)
    leases.grant("agent-a", "1", 0)
    metrics.leads(True)
    metrics.observe(small.state, leases, FleetEventLog())
    return metrics


def test_a_coordinator_that_no_longer_leads_says_nothing_of_the_fleet() -> None:
    metrics = observed()
    told = shown(metrics)
    assert 'bpfleet_coordinator_nodes{state="not_ready"} 1.0' in told
    assert "bpfleet_coordinator_replicas{phase=" in told
    assert "bpfleet_coordinator_leases 1.0" in told
    metrics.leads(False)
    told = shown(metrics)
    assert "bpfleet_coordinator_leading 0.0" in told
    assert "bpfleet_coordinator_nodes{" not in told
    assert "bpfleet_coordinator_replicas{" not in told
    assert "bpfleet_coordinator_leases 0.0" in told
