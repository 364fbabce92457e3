"""A coordinator at work: leads or stands by, commits in groups, ticks, and carries orders to agents.

The only place with clocks and tasks. All decisions are the engine's; this module moves them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar

from bpfleet.coordinator.clock import FleetClock, monotonic_ms, wall_clock_ms
from bpfleet.coordinator.config import Timing
from bpfleet.coordinator.lead import Lead, Patience
from bpfleet.coordinator.metrics import CoordinatorMetrics
from bpfleet.coordinator.node_client import Agents, AgentUnreachable
from bpfleet.coordinator.warm import WarmCopy
from bpfleet.coordinator.watch import FleetEventLog
from bpfleet.fleet.commands import (
    AgentLost,
    Command,
    NodeUsage,
    ReplicaNews,
    ReportNodes,
    Tick,
)
from bpfleet.fleet.dispatch import Dispatch, Orders
from bpfleet.fleet.engine import Commit, GroupCommit
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.leases import Leases
from bpfleet.fleet.placement import Estimator
from bpfleet.fleet.reasons import ControlReason
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.state import FleetState
from bpfleet.fleet.store import (
    Batch,
    Conflict,
    Fenced,
    Store,
    StoreError,
    StoreUnavailable,
)
from bpfleet.rpc.orders import last_command
from bpfleet.rpc.tracing import Origins
from bpfleet.workload.phase import Phase

__all__ = ["Coordinator"]

_log: Final = logging.getLogger(__name__)
_OPEN_TICKETS_MAX: Final = 20_000
_Shown = TypeVar("_Shown")


class Coordinator:
    """One coordinator process. ``identity`` names it in the store and tells others where it is.

    Life: ``run`` until cancelled, then ``close``. Without leadership it only watches who leads.
    """

    def __init__(
        self,
        store: Store,
        agents: Agents,
        *,
        identity: str,
        fleet: FleetSettings,
        timing: Timing,
        estimator: Estimator,
        metrics: CoordinatorMetrics | None = None,
        clock_ms: Callable[[], int] = monotonic_ms,
        wall_ms: Callable[[], int] = wall_clock_ms,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.identity: Final = identity
        self.timing: Final = timing
        self.fleet: Final = fleet
        self.store: Final = store
        self.log: Final = FleetEventLog()
        self.leases: Final = Leases(timing.lease_ms)
        self.metrics: Final = metrics or CoordinatorMetrics()
        self.lead: Final = Lead(
            store, identity=identity, ttl_ms=timing.leader_ttl_ms, clock_ms=clock_ms, sleep=sleep
        )
        self.origins: Final = Origins()
        self.leading = asyncio.Event()
        self._clock_ms: Final = clock_ms
        self._wall_ms: Final = wall_ms
        self._sleep: Final = sleep
        self._fleet_clock: FleetClock | None = None
        self._random: Final = random or Random()
        self._patience: Final = Patience(timing.leader_ttl_ms, self._random)
        self._agents: Final = agents
        self._estimator: Final = estimator
        self._engine: GroupCommit | None = None
        self._dispatch: Dispatch | None = None
        self._orders_given = 0
        self._dirty = asyncio.Event()
        self._orders = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._store_ok = True
        self._warm = WarmCopy()
        self._warm_due_ms = 0
        self._event_count = 0

    # -- what servicers need

    @property
    def state(self) -> FleetState:
        """The fleet. Raises ``FleetError`` (UNAVAILABLE) on a standby.

        What is read here may not be stored yet, and another one may lead: let it out after ``seen``.
        """
        return self._leading_engine().state

    @property
    def epoch(self) -> int:
        """Term of this leader. Raises ``FleetError`` on a standby."""
        return self._leading_engine().epoch

    def now_ms(self) -> int:
        """The fleet's time: what its records carry."""
        return self._fleet_clock.now_ms() if self._fleet_clock is not None else self._wall_ms()

    @property
    def store_available(self) -> bool:
        """Whether the last call to the store succeeded."""
        return self._store_ok

    # The result's type depends on the command.
    async def submit(self, command: Command) -> Any:
        """Carries a command out and returns once it is durable. Raises ``FleetError``."""
        engine = self._leading_engine()
        return await self._durable(engine, *self._decide(engine, command))

    async def show(
        self, command: Command, made: Callable[[], _Shown], seen: int
    ) -> tuple[_Shown, int]:
        """Carries a command out; ``made`` looks at the state as it is then.

        Returns what ``made`` returned, once that is durable, and a revision that has it. So a write waits for one
        batch; a look at the state afterwards may see what waits for the next. Raises ``FleetError``: before anything is
        done where the caller has ``seen`` a later revision elsewhere.
        """
        engine = self._leading_engine()
        self._require(engine, seen)
        answer, at_once = self._decide(engine, command)
        # Nothing else has run since. What is not there any more is said when the command is stored.
        try:
            shown = made()
        except FleetError:
            await self._durable(engine, answer, at_once)
            raise
        await self._durable(engine, answer, at_once)
        return shown, engine.stored_revision

    def _decide(self, engine: GroupCommit, command: Command) -> tuple[asyncio.Future[Any], bool]:
        """Changes the state. Returns the answer to come, and whether it was given without the store."""
        if not self._store_ok:
            raise self._store_away()
        if engine.open_tickets >= _OPEN_TICKETS_MAX:
            text = "too many commands wait for the store; try again"
            raise FleetError(Refused.UNAVAILABLE, ControlReason.BUSY, text, retryAfterMs=1000)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self.metrics.deciding(type(command).__name__):
            at_once = engine.submit(
                command,
                self.now_ms(),
                lambda result: None if answer.done() else answer.set_result(result),
                lambda error: None if answer.done() else answer.set_exception(error),
            )
        self._dirty.set()
        return answer, at_once

    async def _durable(
        self, engine: GroupCommit, answer: asyncio.Future[Any], at_once: bool
    ) -> Any:
        if at_once:
            # What the store did not confirm may come from a state that a new leader has left behind.
            try:
                await self._confirm(engine)
            except FleetError:
                answer.exception()
                raise
        return await answer

    def _require(self, engine: GroupCommit, revision: int) -> int:
        """The stored revision. Raises ``FleetError`` if it is older than ``revision``."""
        reached = engine.stored_revision
        if reached < revision:
            text = f"this coordinator has revision {reached}, the client has seen {revision}"
            raise FleetError(
                Refused.UNAVAILABLE,
                ControlReason.REVISION_BEHIND,
                f"{text}; ask again, or another coordinator",
                revision=reached,
                retryAfterMs=self.timing.leader_poll_ms,
            )
        return reached

    async def seen(self, revision: int = 0) -> int:
        """Returns once all that a reader may have seen by now is stored: the revision it is built on.

        Raises ``FleetError``, also where the reader has seen a later ``revision`` elsewhere.
        """
        engine = self._leading_engine()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        engine.read(
            lambda result: None if answer.done() else answer.set_result(result),
            lambda error: None if answer.done() else answer.set_exception(error),
        )
        self._dirty.set()
        await answer
        await self._confirm(engine)
        return self._require(engine, revision)

    def registered(self, agent: str, incarnation: str, strays: list[tuple[str, str]]) -> int:
        """An agent has registered: grants its lease and renews its orders.

        Returns the number up to which commands given before are void: one that is still on its way
        would start what has moved elsewhere since.
        """
        self._leading_engine()
        if self._dispatch is None:
            raise self._not_leading()
        void = last_command(self._dispatch.given)
        self.leases.grant(agent, incarnation, self._clock_ms())
        self._reset_orders(agent)
        self.stray(agent, strays)
        return void

    def stray(self, agent: str, strays: list[tuple[str, str]]) -> None:
        """Has replicas stopped that nobody knows."""
        if self._dispatch is not None:
            self._dispatch.stray(strays, agent)
            self._orders.set()

    def unregistered(self, agent: str) -> None:
        """An agent has left: its lease ends and it gets no more orders."""
        self.leases.drop(agent)
        if self._dispatch is not None:
            self._dispatch.drop(agent)

    def renew(self, agent: str, incarnation: str) -> None:
        """Renews a lease. Raises ``FleetError`` (LEASE_EXPIRED) if the agent must register."""
        self._leading_engine()
        if not self.leases.renew(agent, incarnation, self._clock_ms()):
            text = f"agent {agent!r} has no lease under this incarnation; register again"
            raise FleetError(Refused.NOT_FOUND, ControlReason.LEASE_EXPIRED, text, agent=agent)

    # -- leading and standing by

    async def run(self) -> None:
        """Leads whenever it can, until cancelled."""
        while not self.lead.given_up:
            try:
                epoch = await self._seek()
                self._store_ok = True
                if epoch is not None:
                    await self._lead(epoch)
                else:
                    await self._keep_warm()
            except StoreError as error:
                self._store_away(error)
            await self._sleep(self.timing.leader_poll_ms / 1000)

    async def close(self) -> None:
        """Gives the lead away and lets go of connections."""
        self.log.close()
        for task in list(self._busy.values()):
            task.cancel()
        with contextlib.suppress(StoreError):
            await self.lead.give_up()
        await self._agents.close()
        await self.store.close()

    async def _seek(self) -> int | None:
        """Asks for the lead, unless it is to be left to others; the term, if this one leads."""
        now_ms = self._clock_ms()
        if self._patience.applies(now_ms):
            seen = await self.lead.look()
            if not self._patience.over(seen, self._clock_ms()):
                return None
        held = await self.lead.acquire()
        return held.epoch if held.holder == self.identity else None

    async def _lead(self, epoch: int) -> None:
        """One term: from loading the state to losing the lead. The lease is kept while the state is being read."""
        began_ms = self._clock_ms()
        self.metrics.term(epoch)
        try:
            await _first_to_end(self.lead.keep(epoch), self._term(epoch))
        except (Fenced, Conflict) as error:
            _log.warning("event=deposed identity=%s reason=%s", self.identity, error)
            if isinstance(error, Fenced):
                now_ms = self._clock_ms()
                self._patience.deposed(now_ms, led_ms=now_ms - began_ms)
                self.lead.lost()
                self.metrics.deposed()
        finally:
            self._step_down()

    async def _term(self, epoch: int) -> None:
        await self._take_over(epoch)
        await _first_to_end(self._commit(), self._tick(), self._deliver())

    async def _keep_warm(self) -> None:
        """Reads ahead what a take-over would have to read, every few seconds."""
        now_ms = self._clock_ms()
        if now_ms >= self._warm_due_ms:
            self._warm_due_ms = now_ms + self.timing.warm_ms
            await self._warm.follow(self.store)

    async def _take_over(self, epoch: int) -> None:
        await self._warm.follow(self.store)
        revision, mark = self._warm.revision, self._warm.mark
        events = list(self._warm.events)
        self._event_count = self._warm.event_count
        state = FleetState(self.fleet, self._estimator)
        state.load(self._warm.take())
        self._fleet_clock = FleetClock(
            self._clock_ms,
            wall_ms=self._wall_ms(),
            stored_ms=events[-1].time_ms if events else 0,
        )
        self._engine = GroupCommit(
            state,
            epoch=epoch,
            revision=revision,
            mark=mark,
            name=f"{self._random.getrandbits(64):x}",
        )
        self.log.restart(events, state.tables.meta.revision)
        self._begin(state)
        _log.info(
            "event=leading identity=%s epoch=%d revision=%d nodes=%d replicas=%d",
            self.identity,
            epoch,
            revision,
            len(state.tables.nodes),
            len(state.tables.replicas),
        )

    def _begin(self, state: FleetState) -> None:
        self._dispatch = Dispatch(
            state.tables.nodes, repeat_ms=self.timing.repeat_ms, given=self._orders_given
        )
        now_ms = self._clock_ms()
        for agent in state.tables.agents.values():
            if agent.alive:
                self.leases.grant(agent.name, agent.incarnation, now_ms)
        for agent_name in state.tables.agents:
            self._reset_orders(agent_name)
        self.metrics.leads(True)
        self.leading.set()

    def _reset_orders(self, agent: str) -> None:
        if self._dispatch is not None:
            self._dispatch.reset(agent, self._leading_engine().stored_replicas(agent))

    def _step_down(self) -> None:
        engine, self._engine = self._engine, None
        self.leading.clear()
        self.metrics.leads(False)
        if self._dispatch is not None:
            self._orders_given = self._dispatch.given
        self._dispatch = None
        for holder in list(self.leases.holders()):
            self.leases.drop(holder)
        for task in list(self._busy.values()):
            task.cancel()
        self._busy.clear()
        self.log.end_watches(self._not_leading())
        if engine is not None:
            engine.failed(self._not_leading())
            # What may have been stored besides is newer than this, and will be read.
            self._warm.fill(
                engine.state.tables.records(),
                revision=engine.revision,
                mark=engine.mark,
                events=self.log.all(),
                event_count=self._event_count,
            )

    # -- group commit

    async def _commit(self) -> None:
        """Stores groups as they form. Returns when the state has to be loaded anew."""
        engine = self._leading_engine()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            batch = engine.seal()
            if batch is None:
                continue
            try:
                with self.metrics.committing(len(batch.puts) + len(batch.removals)):
                    await self.store.save(batch)
            except StoreUnavailable as error:
                engine.failed(self._store_away(error))
                if await self._recover(batch):
                    continue
                return
            self._stored(engine.committed())
            self.metrics.queued(engine.open_tickets)
            if not engine.idle:
                self._dirty.set()

    def _stored(self, commit: Commit) -> None:
        self._event_count += len(commit.events)
        self.metrics.stored(commit)
        self.log.extend(commit.events)
        if self._dispatch is not None and self._dispatch.follow(commit.changes):
            self._orders.set()

    async def _recover(self, batch: Batch) -> bool:
        """Waits for the store; True if the batch was not stored, so that the state still agrees."""
        while True:
            await self._sleep(self.timing.store_retry_ms / 1000)
            try:
                held = await self.lead.acquire()
                if held.holder != self.identity or held.epoch != batch.epoch:
                    raise Fenced(f"{held.holder} leads epoch {held.epoch}")
                revision = await self.store.revision()
            except StoreUnavailable:
                continue
            self._store_ok = True
            self._spare_agents()
            _log.info("event=store_back revision=%d expected=%d", revision, batch.revision - 1)
            return revision == batch.expected_revision

    def _spare_agents(self) -> None:
        """While the store was away nobody could be declared lost, so nobody is for that time."""
        now_ms = self._clock_ms()
        for agent in self._leading_engine().state.tables.agents.values():
            if agent.alive:
                self.leases.grant(agent.name, agent.incarnation, now_ms)

    # -- time and agents

    async def _tick(self) -> None:
        while True:
            await self._sleep(self.timing.tick_ms / 1000)
            if not self._store_ok:
                continue
            with contextlib.suppress(FleetError):
                for agent in self.leases.expired(self._clock_ms()):
                    await self._lose(agent)
                await self.submit(Tick())
            self._orders.set()
            self.metrics.observe(self._leading_engine().state, self.leases, self.log)
            self.metrics.renewed(self.lead)

    async def _lose(self, agent: str) -> None:
        _log.warning("event=lease_expired agent=%s", agent)
        await self.submit(AgentLost(agent))
        self.leases.drop(agent)
        if self._dispatch is not None:
            self._dispatch.drop(agent)

    async def _deliver(self) -> None:
        """Starts a delivery to each agent that has due orders and is not being delivered to."""
        while True:
            await self._orders.wait()
            self._orders.clear()
            dispatch = self._dispatch
            if dispatch is None:
                return
            now_ms = self._clock_ms()
            held = set(self.leases.holders())
            for agent in dispatch.agents():
                if agent in self._busy or agent not in held:
                    continue
                orders = dispatch.take(agent, now_ms)
                if orders is not None:
                    task = asyncio.create_task(self._hand_over(dispatch, orders))
                    self._busy[agent] = task
                    task.add_done_callback(lambda done, agent=agent: self._handed_over(agent, done))  # type: ignore[misc]  # mypy cannot infer the default

    def _handed_over(self, agent: str, task: asyncio.Task[None]) -> None:
        if self._busy.get(agent) is task:
            del self._busy[agent]
        self._orders.set()
        if not task.cancelled() and task.exception() is not None:
            _log.error("event=delivery_failed agent=%s", agent, exc_info=task.exception())

    async def _hand_over(self, dispatch: Dispatch, orders: Orders) -> None:
        engine = self._leading_engine()
        agent = engine.state.tables.agents.get(orders.agent)
        if agent is None:
            return
        try:
            with self.origins.follow("CarryOutOrders", (r.workload for r in orders.runs)):
                news, stopped = await self._agents.carry_out(
                    agent.address, orders, engine.state.tables.workloads, engine.epoch
                )
        except AgentUnreachable as error:
            _log.warning("event=agent_unreachable agent=%s reason=%s", orders.agent, error)
            await self._sleep(self.timing.store_retry_ms / 1000)
            dispatch.retry(orders)
            return
        self.metrics.delivered(orders)
        told = dispatch.stopped(orders.agent, stopped)
        reports = _reports(news, told)
        if reports:
            with contextlib.suppress(FleetError):
                strays = await self.submit(
                    ReportNodes(
                        agent=agent.name,
                        incarnation=agent.incarnation,
                        reports=reports,
                        measured=False,
                    )
                )
                dispatch.stray(strays, agent.name)

    # -- refusals

    def _leading_engine(self) -> GroupCommit:
        if self._engine is None:
            raise self._not_leading()
        return self._engine

    async def _confirm(self, engine: GroupCommit) -> None:
        """Returns where nobody else had written when this was called."""
        try:
            leads = await self.lead.confirm(engine.epoch)
        except StoreError:
            raise self._store_away() from None
        if not leads or engine is not self._engine:
            raise self._not_leading()

    def _not_leading(self) -> FleetError:
        if not self._store_ok:
            return self._store_away()
        leader = self.lead.holder
        if leader == self.identity:
            leader = ""
            text = "this coordinator has yet to hear from the store that it leads; try again"
        elif leader:
            text = f"this coordinator is a standby, {leader} leads; call that one or try again"
        else:
            text = "this coordinator is a standby, nobody leads yet; try again"
        return FleetError(
            Refused.UNAVAILABLE,
            ControlReason.NOT_LEADER,
            text,
            leader=leader,
            retryAfterMs=self.timing.leader_poll_ms,
        )

    def _store_away(self, error: StoreError | None = None) -> FleetError:
        if error is not None and self._store_ok:
            _log.error("event=store_away reason=%s", error)
            self._store_ok = False
        return FleetError(
            Refused.UNAVAILABLE,
            ControlReason.STORE_UNAVAILABLE,
            "the store is unavailable; the change may or may not have been saved; retry with the same request_id",
            retryAfterMs=self.timing.store_retry_ms,
        )


def _reports(
    news: list[tuple[str, ReplicaNews]], stopped: list[tuple[str, str]]
) -> tuple[NodeUsage, ...]:
    by_node: dict[str, list[ReplicaNews]] = {}
    for node, told in news:
        by_node.setdefault(node, []).append(told)
    for node, replica in stopped:
        gone = ReplicaNews(replica=replica, attempt=0, phase=Phase.STOPPED)
        by_node.setdefault(node, []).append(gone)
    return tuple(NodeUsage(node=node, replicas=tuple(told)) for node, told in by_node.items())


async def _first_to_end(*loops: Coroutine[Any, Any, None]) -> None:
    """Runs loops until one ends or fails, then ends the others."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
