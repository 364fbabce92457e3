"""Orders to an agent and what it answers: the coordinator's records, and messages of RuntimeService."""

from collections.abc import Mapping
from typing import Final

from bpfleet.fleet.commands import ReplicaNews
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.records import Replica, Workload
from bpfleet.rpc.replicas import news_record
from bpfleet.rpc.workloads import spec_message
from bpfleet.v1 import runtime_service_pb2, workload_pb2
from bpfleet.workload.phase import Phase

__all__ = ["last_command", "news_of", "order_messages"]

# Half of what a server takes; and what an order is besides its spec, at most.
_MESSAGE_BYTES_MAX: Final = 8 << 20
_ORDER_BYTES: Final = 512


def order_messages(
    orders: Orders, workloads: Mapping[str, Workload], epoch: int
) -> tuple[runtime_service_pb2.StopReplicasRequest, runtime_service_pb2.RunReplicasRequest]:
    """The two requests of one batch of orders, numbered one after the other.

    A replica whose workload has changed since is left out: what it should run is decided but not stored. So is what
    would make the message larger than an agent takes; it is ordered again later.
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
        leader_epoch=epoch, sequence=last_command(orders.sequence)
    )
    # A spec may be long, and most replicas of a batch share it: it is made once, and copied.
    specs: dict[str, workload_pb2.WorkloadSpec] = {}
    size_bytes = 0
    for replica in orders.runs:
        if not _agrees(replica, workloads):
            continue
        spec = specs.get(replica.workload)
        if spec is None:
            spec = specs[replica.workload] = _spec_to_run(workloads[replica.workload])
        size_bytes += spec.ByteSize() + _ORDER_BYTES
        if size_bytes > _MESSAGE_BYTES_MAX and runs.replicas:
            break
        runs.replicas.add(
            workload=spec, serial=replica.serial, attempt=replica.attempt, node=replica.node
        )
    return stops, runs


def last_command(sequence: int) -> int:
    """The higher of the numbers that the two requests of a batch of orders carry."""
    return 2 * sequence + 1


def _agrees(replica: Replica, workloads: Mapping[str, Workload]) -> bool:
    workload = workloads.get(replica.workload)
    return workload is not None and workload.generation == replica.generation


def _spec_to_run(workload: Workload) -> workload_pb2.WorkloadSpec:
    """What an agent needs of a spec: where replicas may go is decided."""
    message = spec_message(workload.spec)
    for field in ("node_selector", "tolerations", "spread", "scheduling"):
        message.ClearField(field)
    return message


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
