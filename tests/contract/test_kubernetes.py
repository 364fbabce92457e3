"""The Kubernetes manifests: the schemas of Kubernetes, and our policies, on the base and on every overlay."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("base", "overlays/small", "overlays/large")
ROLES = {"redis", "coordinator", "agent", "locust", "locust-worker"}
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
# A worker listens to nobody, so there is nothing to ask.
WITHOUT_PROBES = {"locust-worker"}

Document = dict[str, Any]


def _load(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _identity(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def _merged(base: Any, patch: Any) -> Any:
    """Strategic merge as far as our patches need it: mappings by key, containers by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {
            **base,
            **{
                key: _merged(base[key], value) if key in base else value
                for key, value in patch.items()
            },
        }
    if isinstance(base, list) and base and isinstance(base[0], dict) and "name" in base[0]:
        changes = {item["name"]: item for item in patch}
        assert set(changes) <= {item["name"] for item in base}, "a patch adds nothing to lists"
        return [_merged(item, changes.get(item["name"], {})) for item in base]
    return patch


def _documents(overlay: str) -> list[Document]:
    base = _load(ROOT / "base" / "kustomization.yaml")[0]
    found = {_identity(d): d for name in base["resources"] for d in _load(ROOT / "base" / name)}
    if overlay != "base":
        (kustomization,) = _load(ROOT / overlay / "kustomization.yaml")
        assert kustomization["resources"] == ["../../base"]
        for entry in kustomization["patches"]:
            for patch in _load(ROOT / overlay / entry["path"]):
                target = _identity(patch)
                assert target in found, f"{overlay}: the patch of {target} has no target"
                found[target] = _merged(found[target], patch)
    return list(found.values())


ALL = [
    pytest.param(document, id=f"{overlay}:{'/'.join(_identity(document))}")
    for overlay in OVERLAYS
    for document in _documents(overlay)
]
WORKLOADS = [p for p in ALL if p.values[0]["kind"] in ("StatefulSet", "Deployment")]
BASE = _documents("base")


def _of_kind(kind: str) -> list[Document]:
    return [document for document in BASE if document["kind"] == kind]


@pytest.mark.parametrize("document", ALL)
def test_the_schema_of_kubernetes_accepts_it(document) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("document", WORKLOADS)
def test_it_passes_the_restricted_pod_security_standard(document) -> None:
    pod = document["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for volume in pod.get("volumes", ()):
        assert set(volume) - {"name"} <= RESTRICTED_VOLUMES
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "procMount", "runAsUser"} & set(context)
        assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("document", WORKLOADS)
def test_it_writes_nowhere_but_where_a_volume_is(document) -> None:
    pod = document["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    volumes |= {c["metadata"]["name"] for c in document["spec"].get("volumeClaimTemplates", ())}
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


@pytest.mark.parametrize("document", WORKLOADS)
def test_it_has_probes_requests_and_a_memory_limit(document) -> None:
    for container in document["spec"]["template"]["spec"]["containers"]:
        probes = {"livenessProbe", "readinessProbe"} & set(container)
        assert len(probes) == (0 if container["name"] in WITHOUT_PROBES else 2)
        resources = container["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        assert _bytes(resources["requests"]["memory"]) <= _bytes(resources["limits"]["memory"])


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) << {"Mi": 20, "Gi": 30}[quantity[-2:]]


@pytest.mark.parametrize("document", WORKLOADS)
def test_it_gets_no_token_of_the_cluster_and_holds_no_secret(document) -> None:
    pod = document["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        for variable in container.get("env", ()):
            assert "password" not in variable.get("value", "") or variable["name"].endswith("_FILE")


@pytest.mark.parametrize("document", WORKLOADS)
def test_its_labels_its_selector_and_its_role_agree(document) -> None:
    name = document["metadata"]["name"]
    assert name in ROLES
    expected = {"app.kubernetes.io/name": name}
    assert document["spec"]["selector"]["matchLabels"] == expected
    assert document["spec"]["template"]["metadata"]["labels"].items() >= expected.items()


def test_every_role_is_there_and_only_redis_and_locust_stand_alone() -> None:
    workloads = _of_kind("StatefulSet") + _of_kind("Deployment")
    assert {document["metadata"]["name"] for document in workloads} == ROLES
    single = {d["metadata"]["name"] for d in workloads if d["spec"]["replicas"] == 1}
    assert single == {"redis", "locust"}


def test_replicated_services_have_a_disruption_budget() -> None:
    budgets = {d["metadata"]["name"] for d in _of_kind("PodDisruptionBudget")}
    assert budgets == {"coordinator", "agent"}


def test_everything_is_denied_that_is_not_listed() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in _of_kind("NetworkPolicy")}
    assert set(policies) == ROLES | {"default-deny"}
    default = policies.pop("default-deny")
    assert default["podSelector"] == {}
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default
    for name, policy in policies.items():
        assert policy["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}


def _connections(direction: str, peer: str) -> set[tuple[str, str, int]]:
    """Who may talk to whom on which port, as the ``direction`` rules of the policies say."""
    found = set()
    for policy in _of_kind("NetworkPolicy"):
        owner = policy["metadata"]["name"]
        for rule in policy["spec"].get(direction, ()):
            for other in rule[peer]:
                labels = other.get("podSelector", {}).get("matchLabels")
                for port in rule["ports"] if labels else ():
                    name = labels["app.kubernetes.io/name"]
                    pair = (name, owner) if direction == "ingress" else (owner, name)
                    found.add((*pair, port["port"]))
    return found


def test_what_one_side_may_send_the_other_may_receive() -> None:
    sent, received = _connections("egress", "to"), _connections("ingress", "from")
    assert sent == received
    assert ("coordinator", "redis", 6379) in sent
    assert ("agent", "coordinator", 7070) in sent
    assert ("locust-worker", "redis", 6379) not in sent


def test_services_lead_to_ports_that_containers_name() -> None:
    ports = {
        document["metadata"]["name"]: {
            port["name"]: port["containerPort"]
            for container in document["spec"]["template"]["spec"]["containers"]
            for port in container.get("ports", ())
        }
        for document in _of_kind("StatefulSet") + _of_kind("Deployment")
    }
    for service in _of_kind("Service"):
        offered = ports[service["spec"]["selector"]["app.kubernetes.io/name"]]
        for port in service["spec"]["ports"]:
            assert offered[port["targetPort"]] == port["port"]


def test_every_image_is_pinned_by_the_kustomization() -> None:
    (kustomization,) = _load(ROOT / "base" / "kustomization.yaml")
    pinned = {image["name"]: image["newTag"] for image in kustomization["images"]}
    assert "latest" not in pinned.values()
    used = {
        container["image"].split(":")[0]
        for document in _of_kind("StatefulSet") + _of_kind("Deployment")
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    assert used == set(pinned)


def test_every_file_of_the_base_is_listed() -> None:
    (kustomization,) = _load(ROOT / "base" / "kustomization.yaml")
    files = {path.name for path in (ROOT / "base").iterdir()} - {"kustomization.yaml"}
    assert files == set(kustomization["resources"])


def test_the_autoscaler_never_asks_for_less_than_the_deployment_starts_with() -> None:
    (scaler,) = _of_kind("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    (deployment,) = [d for d in BASE if _identity(d) == (target["kind"], target["name"])]
    assert deployment["spec"]["replicas"] == scaler["spec"]["minReplicas"]


CAPTURE = [
    document
    for name in _load(ROOT / "capture" / "kustomization.yaml")[0]["resources"]
    for document in _load(ROOT / "capture" / name)
]


@pytest.mark.parametrize("document", CAPTURE, ids=lambda document: document["kind"])
def test_the_capture_matches_the_schema_of_kubernetes(document: Document) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_capture_has_named_privileges_and_writes_nothing() -> None:
    (spec,) = [d["spec"]["template"]["spec"] for d in CAPTURE if d["kind"] == "DaemonSet"]
    (collector,) = spec["initContainers"]
    assert "privileged" not in collector["securityContext"]
    assert collector["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert collector["securityContext"]["readOnlyRootFilesystem"]
    assert all(mount["readOnly"] for mount in collector["volumeMounts"])
    assert spec["automountServiceAccountToken"] is False
