"""A small cluster as kubectl prints it, made by hand: two old nodes with cilium and falco, one new with cilium."""

from typing import Any

OBJECT = dict[str, Any]


def node(name: str, kernel: str, *, cpu: str = "16", memory: str = "65806244Ki") -> OBJECT:
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "status": {
            "capacity": {"cpu": cpu, "memory": memory},
            "allocatable": {"cpu": cpu, "memory": "60Gi"},
            "nodeInfo": {"kernelVersion": kernel},
        },
    }


def pod(
    name: str,
    on: str,
    image: str,
    *,
    container: str,
    owner: str,
    limit: str | None = None,
    **more: Any,
) -> OBJECT:
    resources = {} if limit is None else {"limits": {"memory": limit}}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "ownerReferences": [{"kind": "DaemonSet", "name": owner}],
        },
        "spec": {
            "nodeName": on,
            "containers": [{"name": container, "image": image, "resources": resources, **more}],
        },
        "status": {"phase": "Running"},
    }


def cluster() -> OBJECT:
    cilium = "quay.io/cilium/cilium:v1.17.2"
    falco = "docker.io/falcosecurity/falco:0.40.0"
    return {
        "kind": "List",
        "items": [
            node("a", "5.10.0-28-amd64"),
            node("b", "5.10.0-28-amd64"),
            node("c", "6.12.10"),
            *(
                pod(
                    f"cilium-{on}",
                    on,
                    cilium,
                    container="cilium-agent",
                    owner="cilium",
                    limit="1Gi",
                )
                for on in "abc"
            ),
            *(
                pod(f"falco-{on}", on, falco, container="falco", owner="falco", limit="320M")
                for on in "ab"
            ),
            pod("web-1", "a", "nginx:1.27", container="nginx", owner="web"),
        ],
    }
