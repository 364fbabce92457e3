"""Orders to an agent and what it answers: the coordinator's records, and messages of RuntimeService."""

from collections.abc import Mapping

from bpfleet.fleet.commands import ReplicaNews
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.records import Replica, Workload
from bpfleet.rpc.replicas import news_record
from bpfleet.rpc.workloads import (
    replica_order_message,
)
from bpfleet.v1 import runtime_service_pb2
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import ReplicaOrder

__all__ = ["last_command", "news_of", "order_messages"]


def order_messages(
    orders: Orders, workloads: Mapping[str, Workload], epoch: int
) -> tuple[runtime_service_pb2.StopReplicasRequest, runtime_service_pb2.RunReplicasRequest]:
    """The two requests of one batch of orders, numbered one after the other.

    A replica whose workload has changed since is left out: what it should run is decided but not stored.
    """
    stops = runtime_service_pb2.StopReplicasRequest(
        replicas=[
            runtime_service_pb2.ReplicaKey(node=node, replica=replica)
            for node, replica in orders.stops
        ],
        leader_epoch=epoch,
        sequence=last_command(orders.sequence) - 1,
    )
    runs = runtime_service_pb2.RunReplicasRequest(
        replicas=[
            replica_order_message(_order(replica, workloads[replica.workload]))
            for replica in orders.runs
            if _agrees(replica, workloads)
        ],
        leader_epoch=epoch,
        sequence=last_command(orders.sequence),
    )
    return stops, runs


def last_command(sequence: int) -> int:
    """The higher of the numbers that the two requests of a batch of orders carry."""
    return 2 * sequence + 1


def _agrees(replica: Replica, workloads: Mapping[str, Workload]) -> bool:
    workload = workloads.get(replica.workload)
    return workload is not None and workload.generation == replica.generation


def _order(replica: Replica, workload: Workload) -> ReplicaOrder:
    return ReplicaOrder(
        workload=workload.spec,
        serial=replica.serial,
        attempt=replica.attempt,
        node=replica.node,
    )


def news_of(
    orders: Orders, answer: runtime_service_pb2.RunReplicasResponse
) -> list[tuple[str, ReplicaNews]]:
    """What the answer says about the replicas that were ordered to run."""
    ordered = {replica.name: replica for replica in orders.runs}
    news = [(status.node, news_record(status)) for status in answer.statuses]
    for refused in answer.refused_replicas:
        replica = ordered.get(refused.replica)
        if replica is not None:
            told = ReplicaNews(
                replica=replica.name,
                attempt=replica.attempt,
                phase=Phase.FAILED,
                reason=refused.reason,
                message=refused.message,
            )
            news.append((replica.node, told))
    return news
