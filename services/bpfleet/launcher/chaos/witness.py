"""A client that keeps writing to the coordinators during a chaos run and remembers what it was told."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import grpc

from bpfleet.client.fleet import FleetClient, SeenRevision
from bpfleet.client.session import CallError, Session, channel_from_environment
from bpfleet.launcher.chaos.checks import WAIT_SECONDS_MAX, Acknowledged
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import rlimit_pb2, workload_pb2
from bpfleet.workload.seeding import SplitMix64

__all__ = ["Witness"]

PATIENCE_SECONDS: Final = 2 * WAIT_SECONDS_MAX
WORKLOADS_MAX: Final = 20
REPLICAS_MAX: Final = 4
_CALL_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 0.2
# Stands by, is away, did not answer in time: another coordinator, or the same later, may.
_AGAIN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_APPLICATIONS: Final = ("katran", "bcc-execsnoop", "falco")

# Stubs' methods have no common type of their own.
_MethodOf = Callable[[FleetClient], Any]


class Witness:
    """Creates, scales and deletes workloads from a thread of its own, from ``start`` to ``stop``.

    A write is repeated with its request id, at any coordinator, until one acknowledges it or ``PATIENCE_SECONDS`` are
    over.
    """

    def __init__(self, coordinators: Sequence[str], seed: int, *, pause_seconds: float) -> None:
        self.told: Final = Acknowledged()
        self._coordinators: Final = list(coordinators)
        self._random: Final = SplitMix64(seed)
        self._pause_seconds: Final = pause_seconds
        self._ends: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="witness", daemon=True)
        self._session: Session | None = None
        self._seen: Final = SeenRevision()
        self._turn = 0
        self._made = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> Acknowledged:
        """Finish the write under way; what was told so far is final."""
        self._ends.set()
        self._thread.join(PATIENCE_SECONDS + 5.0)
        return self.told

    def clean_up(self) -> None:
        """Delete what is left of the workloads."""
        for name in [*self.told.replicas, *self.told.unsure]:
            self._write(name, lambda fleet: fleet.stub.DeleteWorkload, _deletion(name))
        if self._session is not None:
            self._session.close()

    def _run(self) -> None:
        while not self._ends.wait(self._pause_seconds):
            self._one_write()

    def _one_write(self) -> None:
        sure = sorted(set(self.told.replicas) - self.told.unsure)
        choice = self._random.below(4)
        if not sure or (choice == 0 and len(sure) < WORKLOADS_MAX):
            self._create()
        elif choice == 1 and len(sure) > 2:
            self._delete(sure[self._random.below(len(sure))])
        else:
            self._scale(sure[self._random.below(len(sure))])

    def _create(self) -> None:
        self._made += 1
        name, replicas = f"witness-{self._made}", 1 + self._random.below(REPLICAS_MAX)
        application = _APPLICATIONS[self._random.below(len(_APPLICATIONS))]
        request = pb.CreateWorkloadRequest(
            request_id=uuid4().hex,
            spec=workload_pb2.WorkloadSpec(
                name=name,
                replicas=replicas,
                application=application,
                memory_request_bytes=32 << 20,
                # Without a limit, so that replicas run under every model.
                memlock=rlimit_pb2.RlimitValue(unlimited=True),
            ),
        )
        if self._write(name, lambda fleet: fleet.stub.CreateWorkload, request):
            self.told.replicas[name] = replicas

    def _scale(self, name: str) -> None:
        replicas = 1 + self._random.below(REPLICAS_MAX)
        request = pb.UpdateWorkloadRequest(
            name=f"workloads/{name}", replicas=replicas, request_id=uuid4().hex
        )
        if self._write(name, lambda fleet: fleet.stub.UpdateWorkload, request):
            self.told.replicas[name] = replicas

    def _delete(self, name: str) -> None:
        if self._write(name, lambda fleet: fleet.stub.DeleteWorkload, _deletion(name)):
            self.told.replicas.pop(name, None)
            self.told.deleted.add(name)

    def _write(self, name: str, method_of: _MethodOf, request: Any) -> bool:
        """True once it was acknowledged. Without an answer nobody can know: ``name`` is unsure."""
        began = time.monotonic()
        give_up_at = began + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            try:
                session = self._connected()
                session.call(method_of(FleetClient(session, self._seen)), request)
            except CallError as error:
                if error.code not in _AGAIN:
                    break
                self._turn_to_the_next()
            else:
                self.told.writes += 1
                self._note_wait(began)
                return True
        self.told.unsure.add(name)
        self._note_wait(began)
        return False

    def _note_wait(self, began: float) -> None:
        waited = time.monotonic() - began
        self.told.longest_wait_seconds = max(self.told.longest_wait_seconds, waited)

    def _connected(self) -> Session:
        if self._session is None:
            target = self._coordinators[self._turn % len(self._coordinators)]
            options = channel_from_environment(target)
            self._session = Session(options, deadline_seconds=_CALL_SECONDS)
        return self._session

    def _turn_to_the_next(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._turn += 1
        time.sleep(_RETRY_SECONDS)


def _deletion(name: str) -> pb.DeleteWorkloadRequest:
    return pb.DeleteWorkloadRequest(name=f"workloads/{name}", request_id=uuid4().hex)
