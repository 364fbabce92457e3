"""Starts a coordinator: ``python -m bpfleet.coordinator``."""

import asyncio
import gc
import importlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import click

from bpfleet.coordinator.config import CoordinatorSettings, Timing
from bpfleet.coordinator.fleet_service import FleetServicer
from bpfleet.coordinator.live.server import LivePage
from bpfleet.coordinator.metrics import CoordinatorMetrics
from bpfleet.coordinator.node_client import GrpcAgents
from bpfleet.coordinator.proof import AddressProver
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.coordinator.registry_service import RegistryServicer
from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.coordinator.store.redis import RedisStore
from bpfleet.coordinator.store.redis_url import with_password
from bpfleet.fleet.disruption import EVICTION_RULES
from bpfleet.fleet.prediction import KernelEstimator
from bpfleet.fleet.records import Policy
from bpfleet.fleet.settings import BACK_OFF_MS, FleetSettings
from bpfleet.fleet.store import Store, StoreError, StoreUnavailable
from bpfleet.rpc.addresses import ChannelOptions, parse_address
from bpfleet.rpc.environment import check_environment
from bpfleet.rpc.logs import configure_logging
from bpfleet.rpc.metrics import serve_metrics
from bpfleet.rpc.options import (
    channel_options,
    server_flags,
    server_options,
)
from bpfleet.rpc.server import ListenError, RpcServer, SettingsError, read_secret
from bpfleet.rpc.tokens import Tokens
from bpfleet.rpc.tracing import start_tracing
from bpfleet.v1.fleet_service_pb2_grpc import add_FleetServiceServicer_to_server
from bpfleet.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from bpfleet.version import __version__
from bpfleet.workload.quantity import format_bytes, parse_bytes

SERVICES = ("bpfleet.v1.FleetService", "bpfleet.v1.RegistryService")
_STORE_POLL_SECONDS = 1.0
_log = logging.getLogger("bpfleet.coordinator")
_POSITIVE = (
    "lease",
    "leader_ttl",
    "back_off",
    "back_off_max",
    "eviction_soft_grace_period",
    "eviction_transition",
)
_MIB: Final = 1 << 20
# Seconds.
_NUMBER_MAX = 1_000_000_000

_EXAMPLES = """
\b
Examples:
  python -m bpfleet.coordinator --listen 127.0.0.1:7070
  python -m bpfleet.coordinator --listen 127.0.0.1:7070 --redis redis://127.0.0.1:6379/0
  python -m bpfleet.coordinator --policy kernel-aware --lease 5 --metrics 127.0.0.1:9090
  python -m bpfleet.coordinator --live 127.0.0.1:8080     (then open that address in a browser)
"""


def _size(context: click.Context, option: click.Parameter, text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", context, option) from None


@click.command(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", default="127.0.0.1:7070", envvar="BPFLEET_LISTEN", show_default=True)
@click.option(
    "--advertise",
    default="",
    envvar="BPFLEET_ADVERTISE",
    help="host:port others reach this coordinator at; the listen address if not given.",
)
@click.option(
    "--redis",
    "redis_url",
    default="",
    envvar="BPFLEET_REDIS",
    help="redis://host:port/db, redis+sentinel://host:port,host:port/service or redis+cluster://host:port "
    "(rediss: with TLS; valkey means the same); without it the fleet is kept in memory.",
)
@click.option(
    "--redis-replicas",
    type=click.IntRange(0, 16),
    default=0,
    envvar="BPFLEET_REDIS_REPLICAS",
    show_default=True,
    help="Replicas of Redis that must have a change before it is acknowledged (WAIT).",
)
@click.option(
    "--redis-password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="BPFLEET_REDIS_PASSWORD_FILE",
    help="File with the password of the user in the URL.",
)
@click.option(
    "--redis-wait",
    type=click.FloatRange(0, 3600),
    default=0.0,
    envvar="BPFLEET_REDIS_WAIT",
    show_default=True,
    help="Seconds to wait at the start for a Redis that does not answer yet.",
)
@click.option(
    "--policy",
    type=click.Choice([policy.value for policy in Policy]),
    default=Policy.LEAST_ALLOCATED.value,
    envvar="BPFLEET_POLICY",
    show_default=True,
    help="How nodes are ranked.",
)
@click.option(
    "--lease",
    envvar="BPFLEET_LEASE",
    default=10.0,
    show_default=True,
    help="Seconds an agent's lease lasts.",
)
@click.option(
    "--leader-ttl",
    type=click.FloatRange(1.5, 3600),
    default=15.0,
    envvar="BPFLEET_LEADER_TTL",
    show_default=True,
    help="Seconds before a standby replaces a silent leader; one that is stopped by SIGTERM hands over at once.",
)
@click.option(
    "--back-off",
    envvar="BPFLEET_BACK_OFF",
    default=10.0,
    show_default=True,
    help="Seconds before the first restart; doubles.",
)
@click.option(
    "--back-off-max",
    envvar="BPFLEET_BACK_OFF_MAX",
    default=300.0,
    show_default=True,
    help="Seconds it doubles up to.",
)
@click.option(
    "--eviction",
    envvar="BPFLEET_EVICTION",
    type=click.Choice(sorted(EVICTION_RULES)),
    default="kubelet",
    show_default=True,
    help="Who goes first on a node under memory pressure.",
)
@click.option(
    "--eviction-available",
    envvar="BPFLEET_EVICTION_AVAILABLE",
    default="100M",
    show_default=True,
    callback=_size,
    help="Memory a node must have available; with less it is under pressure and evicts (kubelet's evictionHard).",
)
@click.option(
    "--eviction-soft",
    envvar="BPFLEET_EVICTION_SOFT",
    default="0",
    show_default=True,
    callback=_size,
    help="Memory below which it evicts after the grace period (evictionSoft); 0 for none.",
)
@click.option(
    "--eviction-soft-grace-period",
    envvar="BPFLEET_EVICTION_SOFT_GRACE_PERIOD",
    default=90.0,
    show_default=True,
    help="Seconds below it without a break (evictionSoftGracePeriod).",
)
@click.option(
    "--eviction-transition",
    envvar="BPFLEET_EVICTION_TRANSITION",
    default=30.0,
    show_default=True,
    help="Seconds above both until memory pressure is over (evictionPressureTransitionPeriod).",
)
@click.option("--metrics", default="", envvar="BPFLEET_METRICS", help="host:port for /metrics.")
@click.option("--live", default="", envvar="BPFLEET_LIVE", help="host:port for the live page.")
@click.option(
    "--live-host",
    default="",
    envvar="BPFLEET_LIVE_HOST",
    metavar="NAME,...",
    help="Names that the live page and the metrics answer to, besides addresses and this host's own.",
)
@click.version_option(__version__)
@server_flags
# Any: values of many options, named in the decorators above.
def main(**options: Any) -> None:
    """Runs a coordinator of the fleet: FleetService for users, RegistryService for node agents."""
    configure_logging(options["log_level"], options["log_format"])
    # The fleet is a million small records without cycles: looking through all of them often would cost more than
    # everything else, and in pauses that requests have to wait for.
    gc.set_threshold(50_000, 20, 100)
    try:
        check_environment(os.environ, _both())
        start_tracing("coordinator")
        settings = _settings(options)
        asyncio.run(_serve(settings))
    except (SettingsError, ListenError, StoreError, ValueError) as error:
        click.echo(f"bpfleet: {error}", err=True)
        sys.exit(1 if isinstance(error, (ListenError, StoreUnavailable)) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _both() -> Iterator[click.Command]:
    """The commands whose variables may stand in one environment: an agent may run in the same container.

    Most environments have none of those, and a program should not carry the code of both.
    """
    yield main
    yield importlib.import_module("bpfleet.node_agent.__main__").main


def _settings(options: dict[str, Any]) -> CoordinatorSettings:
    for name in _POSITIVE:
        if not 0 < options[name] <= _NUMBER_MAX:
            flag = f"--{name.replace('_', '-')}"
            raise SettingsError(f"{flag}: {options[name]} is not above 0 and at most {_NUMBER_MAX}")
    hard, soft = options["eviction_available"], options["eviction_soft"]
    if hard < _MIB:
        raise SettingsError(
            f"--eviction-available: {hard} bytes is below 1M; write 100M for 100 MiB"
        )
    if soft and soft <= hard:
        raise SettingsError(
            f"--eviction-soft: {format_bytes(soft)} is not above --eviction-available"
            f" ({format_bytes(hard)}); 0 switches it off"
        )
    server = server_options(options["listen"], options)
    return CoordinatorSettings(
        server=server,
        agent_channel=partial(_agent_channel, options, server.tokens),
        redis_url=_redis_url(options),
        redis_wait_seconds=options["redis_wait"],
        redis_replicas=options["redis_replicas"],
        advertise=options["advertise"],
        metrics=options["metrics"],
        live=options["live"],
        live_hosts=tuple(name for name in options["live_host"].split(",") if name),
        fleet=FleetSettings(
            policy=Policy(options["policy"]),
            back_off_ms=replace(
                BACK_OFF_MS,
                first=_ms(options["back_off"]),
                longest=_ms(options["back_off_max"]),
            ),
            eviction=options["eviction"],
            pressure_available_bytes=hard,
            pressure_hold_ms=_ms(options["eviction_transition"]),
            soft_available_bytes=soft,
            soft_grace_ms=_ms(options["eviction_soft_grace_period"]),
        ),
        timing=Timing(lease_ms=_ms(options["lease"]), leader_ttl_ms=_ms(options["leader_ttl"])),
    )


# Any: as in main.
def _agent_channel(
    options: dict[str, Any], tokens: Tokens | None, target: str, agent: str
) -> ChannelOptions:
    """How to call an agent: with the agent's own token, for which it need not be trusted with any other."""
    return channel_options(target, options, None if tokens is None else tokens.of_agent(agent))


def _redis_url(options: dict[str, Any]) -> str:
    url: str = options["redis_url"]
    scheme, _, rest = url.partition("://")
    known = scheme.startswith(("redis", "valkey"))
    if known and ":" in rest.rpartition("@")[0] and _typed("redis_url"):
        text = "a password on the command line is for everybody to see (ps)"
        raise SettingsError(f"--redis: {text}; put it into a file: --redis-password-file")
    if url.startswith(("redis+cluster://", "rediss+cluster://")) and options["redis_replicas"]:
        raise SettingsError("--redis-replicas: a cluster has no WAIT for replicas; leave it out")
    secret = options["redis_password_file"]
    if secret is None or not url:
        return url
    return with_password(url, read_secret(secret).decode().strip())


def _typed(option: str) -> bool:
    """Whether an option was given on the command line, not in the environment."""
    context = click.get_current_context(silent=True)
    given = context.get_parameter_source(option) if context is not None else None
    return given is click.core.ParameterSource.COMMANDLINE


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


async def _serve(settings: CoordinatorSettings) -> None:
    metrics = CoordinatorMetrics()
    if settings.metrics:
        serve_metrics(
            settings.metrics,
            metrics.registry,
            tokens=settings.server.tokens,
            names=settings.live_hosts,
        )
    store = await _open_store(settings)
    address = settings.advertise or settings.server.listen
    coordinator = Coordinator(
        store,
        GrpcAgents(settings.agent_channel, metrics.orders.ended),
        identity=f"{address}#{token_hex(4)}",
        fleet=settings.fleet,
        timing=settings.timing,
        estimator=KernelEstimator(),
        metrics=metrics,
    )
    tokens = settings.server.tokens
    prover = AddressProver(tokens, settings.agent_channel) if tokens is not None else None
    server = RpcServer(
        settings.server,
        [
            partial(add_FleetServiceServicer_to_server, FleetServicer(coordinator)),
            partial(
                add_RegistryServiceServicer_to_server,
                RegistryServicer(coordinator, tokens, prover),
            ),
        ],
        SERVICES,
        ended=metrics.calls.ended,
    )
    page = LivePage(coordinator, settings.agent_channel, tokens=tokens, names=settings.live_hosts)
    if settings.live:
        await page.start(settings.live)
    port = await server.start()
    host, _ = parse_address(settings.server.listen)
    _log.info("event=serving host=%s port=%d store=%s", host, port, store.name)
    work = asyncio.create_task(coordinator.run())
    health = asyncio.create_task(_follow_health(server, coordinator))
    work.add_done_callback(_stop_if_broken)
    try:
        await server.run_until_signal(coordinator.close)
    finally:
        await page.close()
        for task in (work, health):
            task.cancel()
        await asyncio.gather(work, health, return_exceptions=True)


async def _open_store(settings: CoordinatorSettings) -> Store:
    """The store, once it has answered. Raises ``StoreError`` in one sentence."""
    if not settings.redis_url:
        return MemoryStore()
    try:
        store = RedisStore(settings.redis_url, replicas=settings.redis_replicas)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    await _answers(store, settings.redis_wait_seconds)
    try:
        gap = await store.durability_gap()
    except StoreError as error:
        gap = f"unknown: {error}"
    if gap:
        _log.warning("event=not_durable reason=%r", gap)
    return store


async def _answers(store: RedisStore, wait_seconds: float) -> None:
    """Returns once the store answers. Raises ``StoreError`` where it does not in time, at once where it never will."""
    give_up_at = time.monotonic() + wait_seconds
    while True:
        try:
            await store.check()
            return
        except StoreUnavailable as error:
            if time.monotonic() >= give_up_at:
                raise
            _log.warning("event=waiting_for_store reason=%r", str(error))
        await asyncio.sleep(_STORE_POLL_SECONDS)


async def _follow_health(server: RpcServer, coordinator: Coordinator) -> None:
    """The program is healthy when it runs; its services are served by the leader alone."""
    while True:
        for service in SERVICES:
            await server.set_serving(service, coordinator.leading.is_set())
        await server.set_serving("store", coordinator.store_available)
        await asyncio.sleep(0.25)


def _stop_if_broken(task: asyncio.Task[None]) -> None:
    """A coordinator whose work ended by a bug must not go on answering."""
    if not task.cancelled() and task.exception() is not None:
        _log.critical("event=broken", exc_info=task.exception())
        asyncio.get_running_loop().call_soon(sys.exit, 1)


if __name__ == "__main__":
    main(prog_name="python -m bpfleet.coordinator")
