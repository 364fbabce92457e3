"""``kubectl get pods,nodes -A -o json`` as a scenario: node pools as they are, and the pods whose images are known.

Pods stay on the nodes they are on. Nodes are one pool where kernel, CPUs, memory and the known pods on them are the
same. Quantities are Kubernetes' own: ``512M`` is 512,000,000 bytes there. Pure.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from bpfleet.abi.bpf import Capability
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.plain import json_value
from bpfleet.workload.catalogue import application_of_image, default_options
from bpfleet.workload.errors import SpecError
from bpfleet.workload.scenario import NodeGroup, Scenario
from bpfleet.workload.spec import (
    LabelOperator,
    Requirement,
    Scheduling,
    Toleration,
    WorkloadSpec,
)

__all__ = ["Cluster", "Pod", "quantity", "read_cluster", "scenario_of"]

# JSON values of any type.
Plain = Any

_QUANTITY: Final = re.compile(
    r"([+-]?[0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3}|[a-zA-Z]{0,2})"
)
_FACTORS: Final[Mapping[str, Decimal]] = {
    "n": Decimal(1) / 10**9,
    "u": Decimal(1) / 10**6,
    "m": Decimal(1) / 10**3,
    "": Decimal(1),
    **{unit: Decimal(10) ** (3 * n) for n, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** n for n, unit in enumerate("KMGTPE", 1)},
}
_NAME: Final = re.compile(r"[^a-z0-9.-]+")
_NAME_LENGTH_MAX: Final = 50
_FORM: Final = "use the output of kubectl get pods,nodes -A -o json"
# Bytes a quantity may come to: what placement can hold.
_BYTES_MAX: Final = 1 << 50


class Node(Struct, frozen=True, kw_only=True):
    """A node of the cluster, bytes."""

    name: str
    kernel: str
    cpus: int
    ram_bytes: int
    allocatable_bytes: int


class Pod(Struct, frozen=True, kw_only=True):
    """One container of a running pod. ``owner`` is what made the pod, without the hash of a ReplicaSet."""

    namespace: str
    name: str
    owner: str
    container: str
    image: str
    node: str
    limit_bytes: int | None
    request_bytes: int
    uid: int
    capabilities: frozenset[Capability] | None

    @property
    def workload(self) -> tuple[str, str, str]:
        """What it is one replica of."""
        return self.namespace, self.owner, self.container


class Cluster(Struct, frozen=True):
    """What kubectl told: nodes and the containers of the pods that run on them."""

    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]

    @property
    def unmatched(self) -> dict[str, int]:
        """How many containers each image has that is in no catalogue, most first."""
        images = Counter(
            pod.image for pod in self.pods if application_of_image(pod.image, pod.container) is None
        )
        return dict(sorted(images.items(), key=lambda item: (-item[1], item[0])))


def quantity(text: object) -> Decimal:
    """A quantity of Kubernetes. Raises ``ValueError``.

    >>> quantity("512M"), quantity("1Gi"), quantity("100m"), quantity(2), quantity("1e3")
    (Decimal('512000000'), Decimal('1073741824'), Decimal('0.100'), Decimal('2'), Decimal('1E+3'))
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("not a Kubernetes quantity; write 512Mi, 1G or 100m")
    number, unit = match.groups()
    if unit[:1] in ("e", "E") and len(unit) > 1:
        return Decimal(number + unit)
    if unit not in _FACTORS:
        raise ValueError(f"unknown unit {unit!r}; write 512Mi, 1G or 100m")
    return Decimal(number) * _FACTORS[unit]


# -- reading


def read_cluster(texts: Iterable[tuple[str, str | bytes]]) -> Cluster:
    """The nodes and running pods in files of kubectl, each given as its name and its text.

    Raises ``SpecError`` naming file, object and value.
    """
    nodes: dict[str, Node] = {}
    pods: list[Pod] = []
    for source, text in texts:
        for position, item in enumerate(_items(source, text)):
            where = f"items[{position}]"
            kind = _text(item, "kind", source, where)
            if kind == "Node":
                node = _node(item, source, where)
                nodes[node.name] = node
            elif kind == "Pod":
                pods += _pods(item, source, where)
    if not nodes:
        raise SpecError("kubectl", "", None, "no node in it", _FORM)
    return Cluster(tuple(nodes.values()), tuple(pod for pod in pods if pod.node in nodes))


def _items(source: str, text: str | bytes) -> Sequence[Mapping[str, Plain]]:
    try:
        data = json_value(text)
    except ValueError as error:
        raise SpecError(source, "", None, str(error), _FORM) from None
    items = data.get("items") if isinstance(data, Mapping) else None
    if items is None and isinstance(data, Mapping) and data.get("kind") in ("Node", "Pod"):
        items = [data]
    if not isinstance(items, list) or not all(isinstance(each, Mapping) for each in items):
        raise SpecError(source, "items", None, "not a list of objects", _FORM)
    return items


def _node(item: Mapping[str, Plain], source: str, where: str) -> Node:
    status = _table(item, "status", source, where)
    capacity = _table(status, "capacity", source, f"{where}.status")
    allocatable = status.get("allocatable", capacity)
    info = _table(status, "nodeInfo", source, f"{where}.status")
    ram = _bytes(capacity.get("memory"), source, f"{where}.status.capacity.memory")
    return Node(
        name=_text(_table(item, "metadata", source, where), "name", source, f"{where}.metadata"),
        kernel=_text(info, "kernelVersion", source, f"{where}.status.nodeInfo"),
        cpus=max(1, int(_number(capacity.get("cpu"), source, f"{where}.status.capacity.cpu"))),
        ram_bytes=ram,
        allocatable_bytes=min(
            ram,
            _bytes(allocatable.get("memory", ram), source, f"{where}.status.allocatable.memory"),
        ),
    )


def _pods(item: Mapping[str, Plain], source: str, where: str) -> Iterator[Pod]:
    metadata = _table(item, "metadata", source, where)
    spec = _table(item, "spec", source, where)
    if item.get("status", {}).get("phase", "Running") != "Running" or not spec.get("nodeName"):
        return
    for position, container in enumerate(spec.get("containers") or ()):
        at = f"{where}.spec.containers[{position}]"
        resources = container.get("resources") or {}
        limit = (resources.get("limits") or {}).get("memory")
        request = (resources.get("requests") or {}).get("memory", limit or 0)
        yield Pod(
            namespace=str(metadata.get("namespace", "default")),
            name=str(metadata.get("name", "")),
            owner=_owner(metadata),
            container=_text(container, "name", source, at),
            image=_text(container, "image", source, at),
            node=str(spec["nodeName"]),
            limit_bytes=None
            if limit is None
            else _bytes(limit, source, f"{at}.resources.limits.memory"),
            request_bytes=_bytes(request, source, f"{at}.resources.requests.memory"),
            uid=_uid(spec, container),
            capabilities=_capabilities(container),
        )


def _owner(metadata: Mapping[str, Plain]) -> str:
    owner = next(iter(metadata.get("ownerReferences") or ()), None)
    if owner is None:
        return str(metadata.get("name", "pod"))
    name = str(owner.get("name", ""))
    hash_label = (metadata.get("labels") or {}).get("pod-template-hash")
    return name.removesuffix(f"-{hash_label}") if owner.get("kind") == "ReplicaSet" else name


def _uid(spec: Mapping[str, Plain], container: Mapping[str, Plain]) -> int:
    for context in (container.get("securityContext"), spec.get("securityContext")):
        uid = (context or {}).get("runAsUser")
        if isinstance(uid, int) and not isinstance(uid, bool):
            return uid
    return 0


def _capabilities(container: Mapping[str, Plain]) -> frozenset[Capability] | None:
    """Those that matter here, of the ones it adds; all (None) where it is privileged or adds none of them."""
    context = container.get("securityContext") or {}
    added = {
        str(each).upper().removeprefix("CAP_")
        for each in (context.get("capabilities") or {}).get("add") or ()
    }
    if context.get("privileged") or "ALL" in added:
        return None
    found = frozenset(each for each in Capability if each.name in added)
    return found if found & {Capability.BPF, Capability.SYS_ADMIN} else None


def _table(data: Mapping[str, Plain], name: str, source: str, where: str) -> Mapping[str, Plain]:
    value = data.get(name)
    if not isinstance(value, Mapping):
        raise SpecError(source, f"{where}.{name}", value, "not a table", _FORM)
    return value


def _text(data: Mapping[str, Plain], name: str, source: str, where: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise SpecError(source, f"{where}.{name}", value, "not text", _FORM)
    return value


def _number(value: Plain, source: str, where: str) -> Decimal:
    try:
        return quantity(value)
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        raise SpecError(source, where, value, problem, remedy) from None


def _bytes(value: Plain, source: str, where: str) -> int:
    number = _number(value, source, where)
    if not 0 <= number <= _BYTES_MAX:
        raise SpecError(source, where, value, "out of range", "use 0 to 1Pi")
    return int(number)


# -- the scenario


def scenario_of(
    cluster: Cluster,
    *,
    options: Mapping[str, Mapping[str, int]],
    heaps: Mapping[tuple[str, str, str], int],
    fill: Mapping[str, Mapping[str, float]],
) -> Scenario:
    """The cluster as a scenario: every known container on the nodes it is on.

    ``options`` are those of applications, ``fill`` the shares their maps are full, by application; ``heaps`` are what
    containers were seen to use, in bytes, by namespace, owner and container. Raises ``SpecError`` where no image is
    known.
    """
    known = [pod for pod in cluster.pods if application_of_image(pod.image, pod.container)]
    if not known:
        raise SpecError(
            "kubectl",
            "",
            None,
            "no container's image is in the catalogue",
            "see bpfleet application list",
        )
    names = _names({pod.workload for pod in known})
    first = {pod.workload: pod for pod in reversed(known)}
    on_node: dict[str, Counter[tuple[str, str, str]]] = {
        node.name: Counter() for node in cluster.nodes
    }
    for pod in known:
        on_node[pod.node][pod.workload] += 1
    pools: dict[tuple[object, ...], list[Node]] = {}
    for node in cluster.nodes:
        key = (node.kernel, node.cpus, node.ram_bytes, node.allocatable_bytes)
        pools.setdefault((*key, tuple(sorted(on_node[node.name].items()))), []).append(node)
    groups, members = [], {}
    for number, nodes in enumerate(pools.values(), 1):
        pool = f"pool-{number}"
        members[pool] = on_node[nodes[0].name]
        groups.append(_group(pool, nodes))
    workloads = [
        spec
        for workload in sorted(first, key=lambda each: names[each])
        for spec in _workloads(first[workload], names[workload], members, options, heaps, fill)
    ]
    return Scenario(
        name="kubernetes",
        title=f"{len(cluster.nodes)} nodes of Kubernetes, {len(known)} of {len(cluster.pods)} containers known",
        steps=20,
        step_ns=5_000_000_000,
        nodes=tuple(groups),
        workloads=tuple(workloads),
    )


def _names(workloads: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """A name for each, the shortest of owner, owner and container, all three that nobody else has."""
    found: dict[tuple[str, str, str], str] = {}
    taken: set[str] = set()
    for namespace, owner, container in sorted(workloads):
        for parts in ((owner,), (owner, container), (namespace, owner, container)):
            name = _slug("-".join(parts))
            if name not in taken:
                break
        else:
            name = _slug(f"{len(taken)}-{name}")
        taken.add(name)
        found[namespace, owner, container] = name
    return found


def _slug(text: str) -> str:
    return _NAME.sub("-", text.lower())[:_NAME_LENGTH_MAX].strip("-.") or "workload"


def _group(pool: str, nodes: Sequence[Node]) -> NodeGroup:
    node = nodes[0]
    return NodeGroup(
        name=pool,
        count=len(nodes),
        kernel=node.kernel,
        possible_cpus=node.cpus,
        ram_bytes=node.ram_bytes,
        reserved_bytes=node.ram_bytes - node.allocatable_bytes,
        labels={"pool": pool},
    )


def _workloads(
    pod: Pod,
    name: str,
    members: Mapping[str, Counter[tuple[str, str, str]]],
    options: Mapping[str, Mapping[str, int]],
    heaps: Mapping[tuple[str, str, str], int],
    fill: Mapping[str, Mapping[str, float]],
) -> Iterator[WorkloadSpec]:
    """One workload per node, and another for every further replica that a node has."""
    application = application_of_image(pod.image, pod.container)
    assert application is not None, "only known images come here"
    allowed = default_options(application)
    for copy in range(max(counts[pod.workload] for counts in members.values())):
        pools = tuple(pool for pool, counts in members.items() if counts[pod.workload] > copy)
        yield WorkloadSpec(
            name=name if not copy else f"{name}-{copy + 1}",
            application=application,
            labels={"namespace": pod.namespace, "owner": pod.owner, "container": pod.container},
            options={key: n for key, n in options.get(application, {}).items() if key in allowed},
            per_node=True,
            uid=pod.uid,
            capabilities=pod.capabilities,
            memory_request_bytes=pod.request_bytes,
            memory_limit_bytes=pod.limit_bytes,
            memlock_bytes=RLIM_INFINITY,
            user_memory_bytes=heaps.get(pod.workload),
            fill=fill.get(application, {}),
            tolerations=(Toleration(),),
            scheduling=Scheduling(required=(Requirement("pool", LabelOperator.IN, pools),)),
        )
