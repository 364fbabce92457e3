"""Settings of a coordinator: one frozen record, read from flags and the environment in ``__main__`` only."""

from dataclasses import dataclass, field

from bpfleet.coordinator.node_client import AgentChannel
from bpfleet.fleet.settings import FleetSettings
from bpfleet.rpc.addresses import parse_address
from bpfleet.rpc.server import ServerOptions, SettingsError

__all__ = ["CoordinatorSettings", "Timing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Intervals in milliseconds.

    An agent's lease lasts ``lease_ms`` and is to be renewed three times in it. A leader that does not
    renew within ``leader_ttl_ms`` (client-go's) is followed by a standby, which asks every ``leader_poll_ms`` and
    reads the store ahead every ``warm_ms``.
    """

    lease_ms: int = 10_000
    leader_ttl_ms: int = 15_000
    leader_poll_ms: int = 250
    warm_ms: int = 2_000
    tick_ms: int = 200
    repeat_ms: int = 5_000
    store_retry_ms: int = 500

    def __post_init__(self) -> None:
        for name in ("lease_ms", "leader_ttl_ms", "tick_ms"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name}: {getattr(self, name)} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """What a coordinator is started with. ``redis_url`` "" keeps the state in memory."""

    server: ServerOptions
    agent_channel: AgentChannel
    redis_url: str = ""
    redis_wait_seconds: float = 0.0
    redis_replicas: int = 0
    advertise: str = ""
    metrics: str = ""
    live: str = ""
    live_hosts: tuple[str, ...] = ()
    fleet: FleetSettings = field(default_factory=FleetSettings)
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        if self.metrics:
            parse_address(self.metrics)
        if self.live:
            parse_address(self.live)
        if self.advertise:
            parse_address(self.advertise)
