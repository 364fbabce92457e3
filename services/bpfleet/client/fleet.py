"""Handles for what a coordinator knows: workloads, nodes, decisions, events."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import grpc

from bpfleet.client.session import Session, new_request_id, raise_typed
from bpfleet.rpc import names
from bpfleet.rpc.revision import highest_revision, revision_metadata
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import fleet_service_pb2_grpc, workload_pb2

__all__ = ["FleetClient", "SeenRevision"]


class SeenRevision(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """The highest revision that coordinators told this client, carried with every call.

    Clients that turn from one coordinator to another share one, and never go back in time.
    """

    def __init__(self) -> None:
        self.revision = 0

    # Any: grpc's interceptors are typed for one pair of messages.
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Adds the revision, and takes the answer's."""
        call = continuation(self._with_revision(details), request)
        self.revision = max(self.revision, highest_revision(call.trailing_metadata()))
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Adds the revision."""
        return continuation(self._with_revision(details), request)

    def _with_revision(self, details: Any) -> Any:
        metadata = [*(details.metadata or ()), *revision_metadata(self.revision)]
        return _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )


class _Details(NamedTuple):
    """What a call is made with, as grpc names it."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any  # grpc.Compression or None


class FleetClient:
    """Calls to a coordinator. Writes carry a request id, so they may be repeated after a lost answer.

    ``seen`` is shared by clients that must not go back in time from one to the next.
    """

    def __init__(self, session: Session, seen: SeenRevision | None = None) -> None:
        self.session: Final = session
        self.seen: Final = seen or SeenRevision()
        channel = grpc.intercept_channel(session.channel, self.seen)
        self.stub: Final = fleet_service_pb2_grpc.FleetServiceStub(channel)

    # -- workloads

    def create_workload(self, spec: workload_pb2.WorkloadSpec) -> pb.Workload:
        """Creates the workload ``spec.name`` and places what fits."""
        request = pb.CreateWorkloadRequest(spec=spec, request_id=new_request_id())
        return self.session.call(self.stub.CreateWorkload, request, repeatable=True).workload

    def workload(self, workload: str) -> pb.Workload:
        """One workload with its replicas."""
        request = pb.GetWorkloadRequest(
            name=names.workload_name(names.workload_id(workload)), page_size=1000
        )
        first, *others = self.session.pages(self.stub.GetWorkload, request)
        for page in others:
            first.workload.replicas.extend(page.workload.replicas)
        return first.workload

    def list_workloads(self, *, filter: str = "", order_by: str = "") -> Iterator[pb.Workload]:
        """The workloads that pass the filter, by name or by ``order_by``."""
        request = pb.ListWorkloadsRequest(page_size=1000, filter=filter, order_by=order_by)
        for page in self.session.pages(self.stub.ListWorkloads, request):
            yield from page.workloads

    def scale_workload(self, workload: str, replicas: int) -> pb.Workload:
        """Changes the number of replicas."""
        request = pb.UpdateWorkloadRequest(
            name=names.workload_name(names.workload_id(workload)),
            replicas=replicas,
            request_id=new_request_id(),
        )
        return self.session.call(self.stub.UpdateWorkload, request, repeatable=True).workload

    def update_workload(
        self, spec: workload_pb2.WorkloadSpec, *, expected_revision: int = 0
    ) -> pb.Workload:
        """Rolls out a new spec of ``spec.name``; fails where its revision is not ``expected_revision`` (0: any)."""
        request = pb.UpdateWorkloadRequest(
            name=names.workload_name(names.workload_id(spec.name)),
            spec=spec,
            expected_revision=expected_revision,
            request_id=new_request_id(),
        )
        return self.session.call(self.stub.UpdateWorkload, request, repeatable=True).workload

    def delete_workload(self, workload: str) -> None:
        """Stops all replicas and forgets the workload."""
        request = pb.DeleteWorkloadRequest(
            name=names.workload_name(names.workload_id(workload)), request_id=new_request_id()
        )
        self.session.call(self.stub.DeleteWorkload, request, repeatable=True)

    def explain(
        self,
        workload: str,
        *,
        policy: pb.PlacementPolicy.ValueType = pb.PLACEMENT_POLICY_UNSPECIFIED,
    ) -> Iterator[pb.ExplainPlacementResponse]:
        """Where the next replica would go and why, page by page: every node's score or reason."""
        request = pb.ExplainPlacementRequest(
            name=names.workload_name(names.workload_id(workload)), policy=policy, page_size=1000
        )
        return self.session.pages(self.stub.ExplainPlacement, request)

    # -- nodes

    def node(self, node: str) -> pb.FleetNode:
        """One node with its replicas."""
        request = pb.GetFleetNodeRequest(name=names.node_name(names.node_id(node)), page_size=1000)
        first, *others = self.session.pages(self.stub.GetFleetNode, request)
        for page in others:
            first.node.replicas.extend(page.node.replicas)
        return first.node

    def list_nodes(self, *, filter: str = "", order_by: str = "") -> Iterator[pb.FleetNode]:
        """The nodes that pass the filter, by name or by ``order_by``."""
        request = pb.ListFleetNodesRequest(page_size=1000, filter=filter, order_by=order_by)
        for page in self.session.pages(self.stub.ListFleetNodes, request):
            yield from page.nodes

    def cordon(self, node: str) -> pb.FleetNode:
        """Places nothing new on a node."""
        request = pb.CordonNodeRequest(
            name=names.node_name(names.node_id(node)), request_id=new_request_id()
        )
        return self.session.call(self.stub.CordonNode, request, repeatable=True).node

    def uncordon(self, node: str) -> pb.FleetNode:
        """Allows placing on a node again, and ends a drain."""
        request = pb.UncordonNodeRequest(
            name=names.node_name(names.node_id(node)), request_id=new_request_id()
        )
        return self.session.call(self.stub.UncordonNode, request, repeatable=True).node

    def drain(self, node: str) -> pb.DrainNodeResponse:
        """Moves the replicas of a node away."""
        request = pb.DrainNodeRequest(
            name=names.node_name(names.node_id(node)), request_id=new_request_id()
        )
        return self.session.call(self.stub.DrainNode, request, repeatable=True)

    def label(
        self,
        node: str,
        labels: Mapping[str, str] | None = None,
        *,
        removed: Iterable[str] = (),
        overwrite: bool = False,
    ) -> pb.FleetNode:
        """Sets and removes labels; what is set or removed wins over what the agent announces."""
        request = pb.LabelNodeRequest(
            name=names.node_name(names.node_id(node)),
            labels=labels,
            removed_labels=removed,
            overwrite=overwrite,
            request_id=new_request_id(),
        )
        return self.session.call(self.stub.LabelNode, request, repeatable=True).node

    def taint(
        self,
        node: str,
        taints: Iterable[workload_pb2.Taint] = (),
        *,
        removed: Iterable[workload_pb2.Taint] = (),
        overwrite: bool = False,
    ) -> pb.FleetNode:
        """Sets and removes taints; a removed one without an effect means all of its key."""
        request = pb.TaintNodeRequest(
            name=names.node_name(names.node_id(node)),
            taints=taints,
            removed_taints=removed,
            overwrite=overwrite,
            request_id=new_request_id(),
        )
        return self.session.call(self.stub.TaintNode, request, repeatable=True).node

    def remove_node(self, node: str, *, force: bool = False) -> None:
        """Forgets a node."""
        request = pb.RemoveNodeRequest(name=names.node_name(names.node_id(node)), force=force)
        self.session.call(self.stub.RemoveNode, request)

    # -- the whole

    def status(self) -> pb.GetFleetStatusResponse:
        """The fleet in numbers."""
        return self.session.call(
            self.stub.GetFleetStatus, pb.GetFleetStatusRequest(), repeatable=True
        )

    def list_events(
        self, *, after_revision: int = 0, workload: str = "", node: str = ""
    ) -> Iterator[pb.FleetEvent]:
        """Past events, oldest first."""
        request = pb.ListFleetEventsRequest(
            after_revision=after_revision, workload=workload, node=node, page_size=1000
        )
        for page in self.session.pages(self.stub.ListFleetEvents, request):
            yield from page.events

    def watch(
        self, start_revision: int | None = None, *, workload: str = "", node: str = ""
    ) -> Generator[pb.WatchFleetResponse]:
        """Events as they happen. Raises ``CallError``; to resume, start at the last revision plus 1."""
        request = pb.WatchFleetRequest(start_revision=start_revision, workload=workload, node=node)
        try:
            yield from self.stub.WatchFleet(request)
        except grpc.RpcError as error:
            raise_typed(error)
