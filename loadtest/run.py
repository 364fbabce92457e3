"""One load test as the processes of Locust share it: seats and outcomes.

The master (or the only process) finds the nodes and hands out seats; workers ask it for one per user and send what they
counted with each of Locust's reports. OOM kills are counted by the master, once per node, from the event streams of the
nodes in use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import gevent
from gevent.event import AsyncResult
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner
from locust.stats import StatsEntry

from bpfleet.client.bpf import AgentClient
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session, channel_from_environment
from loadtest.history import History
from loadtest.options import LoadOptions
from loadtest.outcomes import OutcomeTable
from loadtest.seats import Seat, Seating, SeatNode

__all__ = ["FLEET", "REQUEST_TYPE", "LoadRun", "run_of"]

FLEET: Final = "fleet"
"""Where a table has models, the control plane: its calls belong to none."""
REQUEST_TYPE: Final = "bpf"
"""Of system calls, in Locust's table."""
_RANKS: Final = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}
_SEAT_ASKED: Final = "bpfleet_seat_asked"
_SEAT_GIVEN: Final = "bpfleet_seat_given"
_SEAT_LEFT: Final = "bpfleet_seat_left"
_REPORT: Final = "bpfleet"
_SEAT_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 1.0
_RUNNING: Final = (STATE_SPAWNING, STATE_RUNNING)
_DISCOVERY_ROUNDS: Final = 5
_log = logging.getLogger("bpfleet.load")


def run_of(environment: Environment) -> LoadRun:
    """The run ``locustfile.py`` attached when Locust started."""
    found: LoadRun = environment.bpfleet_run  # type: ignore[attr-defined]
    return found


class LoadRun:
    """What users of this process need, and what all processes together counted."""

    def __init__(self, environment: Environment) -> None:
        self.environment: Final = environment
        self.outcomes: Final = OutcomeTable()
        self.history: Final = History()
        self.broke_at: dict[str, int] = {}
        self.stepped_to: int | None = None
        self._options: LoadOptions | None = None
        self._runner: Final = environment.runner
        self._seating: Seating | None = None
        self._problem = "no test runs"
        self._begun = False
        self._begun_seconds = 0.0
        self._clients: dict[str, AgentClient] = {}
        self._asked: dict[str, AsyncResult[dict[str, Any]]] = {}
        self._watches: dict[SeatNode, gevent.Greenlet] = {}
        self._listen()

    @property
    def options(self) -> LoadOptions:
        """The settings, read anew for each test: the web page may change them in between."""
        if self._options is None:
            self._options = LoadOptions.parsed(self.environment.parsed_options)
        return self._options

    def coordinator(self, turn: int = 0) -> str | None:
        """A coordinator, in turn: only the one that leads answers. None where none is named."""
        named = self.options.coordinators
        return named[turn % len(named)] if named else None

    def check_options(self) -> None:
        """Raises ``OptionError`` for a setting that cannot be used."""
        _ = self.options

    def passed_thresholds(self) -> list[str]:
        """One line for each threshold of --fail-if and --transport-failures-max that was passed."""
        options, table = self.options, self.outcomes
        nothing = self._begun and not table.models
        lines = (
            [f"nothing was measured: {self._problem or 'no user sent anything'}"] if nothing else []
        )
        for model, errno, share in options.fail_if:
            calls = table.call_count(model)
            if self._begun and not calls:
                lines.append(f"{model}: no call was made under it, so {errno} could not be judged")
            seen = table.errno_count(model, errno) / max(calls, 1)
            if seen > share:
                lines.append(
                    f"{model}: {seen:.2%} of {calls} calls were {errno}, above {share:.2%}"
                )
        if table.transport_failures > options.transport_failures_max:
            lines.append(
                f"{table.transport_failures} transport failures, above "
                f"{options.transport_failures_max}"
            )
        return lines

    def summary(self) -> list[dict[str, Any]]:
        """One row per model, side by side, with the response times Locust keeps: what page and JSON export show."""
        return [{**row, **self._response_times(row["model"])} for row in self.outcomes.summary()]

    def _response_times(self, model: str) -> dict[str, int | None]:
        stats = self.environment.stats
        merged = StatsEntry(stats, model, REQUEST_TYPE)
        for name in self.outcomes.request_names(model):
            entry = stats.entries.get((name, REQUEST_TYPE))
            if entry is not None:
                merged.extend(entry)
        return {
            column: merged.get_response_time_percentile(rank) if merged.num_requests else None
            for column, rank in _RANKS.items()
        }

    def as_data(self) -> dict[str, Any]:
        """Everything that was counted, for the JSON export."""
        names = ("model", "call", "errno", "reason", "count")
        return {
            "seed": self.options.seed,
            "models": self.summary(),
            "outcomes": [dict(zip(names, row, strict=True)) for row in self.outcomes.rows()],
            "broke_at_users": self.broke_at,
        }

    def client(self, agent: str) -> AgentClient:
        """A client of the agent at that address, one connection for all users of this process."""
        if agent not in self._clients:
            self._clients[agent] = AgentClient(Session(channel_from_environment(agent)))
        return self._clients[agent]

    def take_lane(self, kind: str) -> list[Seat]:
        """A seat under every model for one user; none where there is none, and why is in the log."""
        answer = self._ask(kind) if isinstance(self._runner, WorkerRunner) else self._give(kind)
        if "problem" in answer:
            _log.error("no seat for a %s user: %s", kind, answer["problem"])
        return [Seat.from_data(seat) for seat in answer.get("seats", ())]

    def leave_lane(self, kind: str, lane: int) -> None:
        """The next user of this kind may have it."""
        if isinstance(self._runner, WorkerRunner):
            self._runner.send_message(_SEAT_LEFT, {"kind": kind, "lane": lane})
        elif self._seating is not None:
            self._seating.leave(kind, lane)

    def begin(self) -> None:
        """A test starts: find the nodes again and count from nothing."""
        self._begun, self._options = True, None
        self.outcomes.clear()
        self.history.clear()
        self._begun_seconds = time.monotonic()
        self.broke_at, self.stepped_to = {}, None
        self._stop_watches()
        if isinstance(self._runner, WorkerRunner):
            return
        self._seating = None
        self._problem = "the test ended before the nodes were found"
        try:
            nodes = self._find_nodes()
        except CallError as error:
            self._problem = f"cannot list the nodes: {error}"
            return
        if not nodes:
            self._problem = "no agent has a node of a wanted model"
            return
        self._seating, self._problem = Seating(nodes, self.options.seed), ""
        _log.info("%d nodes under %s", len(nodes), ", ".join(self._seating.models))

    def note_history(self) -> None:
        """Remembers what was counted until now, while a test runs."""
        if self._begun and self._runner is not None and self._runner.state in _RUNNING:
            self.history.note(time.monotonic() - self._begun_seconds, self.outcomes)

    def end(self) -> None:
        """A test ended: stop watching, give connections back."""
        self._stop_watches()
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.session.close()

    def _listen(self) -> None:
        events = self.environment.events
        if isinstance(self._runner, WorkerRunner):
            self._runner.register_message(_SEAT_GIVEN, self._on_given)
            events.report_to_master.add_listener(self._on_report)
        if isinstance(self._runner, MasterRunner):
            self._runner.register_message(_SEAT_ASKED, self._on_asked)
            self._runner.register_message(_SEAT_LEFT, self._on_left)
            events.worker_report.add_listener(self._on_worker_report)
        events.reset_stats.add_listener(lambda **_: self.outcomes.clear())

    # -- seats

    def _ask(self, kind: str) -> dict[str, Any]:
        ticket = uuid4().hex
        self._asked[ticket] = AsyncResult()
        assert isinstance(self._runner, WorkerRunner), "only workers ask"
        self._runner.send_message(_SEAT_ASKED, {"kind": kind, "ticket": ticket})
        try:
            answer: dict[str, Any] = self._asked[ticket].get(timeout=_SEAT_SECONDS)
            return answer
        except gevent.Timeout:
            return {"problem": f"the master did not answer within {_SEAT_SECONDS:g} s"}
        finally:
            del self._asked[ticket]

    def _give(self, kind: str) -> dict[str, Any]:
        if self._seating is None:
            return {"problem": self._problem}
        seats = self._seating.take(kind)
        for seat in seats:
            self._watch(seat.node)
        return {"seats": [seat.as_data() for seat in seats]}

    def _on_asked(self, environment: Environment, msg: Any, **rest: Any) -> None:
        answer = {"ticket": msg.data["ticket"], "answer": self._give(msg.data["kind"])}
        assert isinstance(self._runner, MasterRunner), "only the master is asked"
        self._runner.send_message(_SEAT_GIVEN, answer, msg.node_id)

    def _on_given(self, environment: Environment, msg: Any, **rest: Any) -> None:
        if msg.data["ticket"] in self._asked:
            self._asked[msg.data["ticket"]].set(msg.data["answer"])

    def _on_left(self, environment: Environment, msg: Any, **rest: Any) -> None:
        if self._seating is not None:
            self._seating.leave(msg.data["kind"], msg.data["lane"])

    # -- nodes

    def _find_nodes(self) -> list[SeatNode]:
        options = self.options
        found = list(self._of_agents() if options.agents else self._of_coordinator())
        return [p for p in found if not options.models or p.model in options.models]

    def _of_agents(self) -> Iterator[SeatNode]:
        for agent in self.options.agents:
            for node in self.client(agent).list_nodes():
                spec = node.spec
                name = node.name.removeprefix("nodes/")
                yield SeatNode(spec.profile, name, agent, spec.possible_cpus, spec.ram_bytes)

    def _of_coordinator(self) -> list[SeatNode]:
        """From the first coordinator that leads. Raises the last one's ``CallError`` if none does.

        One name may stand for several coordinators: each round connects anew.
        """
        coordinators = self.options.coordinators
        for attempt in range(_DISCOVERY_ROUNDS * len(coordinators)):
            try:
                return _ready_nodes(coordinators[attempt % len(coordinators)])
            except CallError as error:
                problem = error
        if coordinators:
            raise problem
        return []

    # -- outcomes

    def _on_report(self, client_id: str, data: dict[str, Any], **rest: Any) -> None:
        data[_REPORT] = self.outcomes.drain()

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **rest: Any) -> None:
        if _REPORT in data:
            self.outcomes.merge(data[_REPORT])

    def _watch(self, node: SeatNode) -> None:
        if node not in self._watches:
            self._watches[node] = gevent.spawn(self._count_kills, node)

    def _count_kills(self, node: SeatNode) -> None:
        """Follows a node's events; after a failure it goes on where it was."""
        handle = self.client(node.agent).node(node.name)
        next_revision: int | None = None
        while True:
            try:
                for answer in handle.watch(next_revision, kinds=("oom_kill",)):
                    if answer.events:
                        self.outcomes.record_oom_kills(node.model, len(answer.events))
                    next_revision = answer.revision + 1
            except CallError as error:
                # What a compacted log no longer holds cannot be counted: go on from now.
                if error.reason == "REVISION_COMPACTED":
                    next_revision = None
            gevent.sleep(_RETRY_SECONDS)

    def _stop_watches(self) -> None:
        watches, self._watches = self._watches, {}
        gevent.killall(list(watches.values()), block=False)


def _ready_nodes(coordinator: str) -> list[SeatNode]:
    with Session(channel_from_environment(coordinator)) as session:
        nodes = [n for n in FleetClient(session).list_nodes() if n.ready and n.agent_address]
    return [
        SeatNode(
            node.profile,
            node.name.removeprefix("nodes/"),
            node.agent_address,
            node.possible_cpus,
            node.ram_bytes,
        )
        for node in nodes
    ]
