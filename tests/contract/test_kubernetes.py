"""The Kubernetes manifests: the schemas of Kubernetes, and our policies, on the base and on every overlay."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bpfleet.cli.compare import command as compare_command

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
        if container["name"] not in WITHOUT_PROBES:
            # On a busy node an answer takes longer than the second that is the default.
            assert container["startupProbe"]["timeoutSeconds"] >= 10
            assert container["startupProbe"]["failureThreshold"] >= 30
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
    single = {d["metadata"]["name"] for d in workloads if d["spec"].get("replicas") == 1}
    assert single == {"redis", "locust"}


def test_replicated_services_have_a_disruption_budget() -> None:
    budgets = {d["metadata"]["name"] for d in _of_kind("PodDisruptionBudget")}
    assert budgets == {"coordinator", "agent", "redis"}


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


def test_nobody_but_the_autoscaler_says_how_many_workers_there_are() -> None:
    """A number in the file would put the workers back to it whenever the file is applied again."""
    (scaler,) = _of_kind("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    (deployment,) = [d for d in BASE if _identity(d) == (target["kind"], target["name"])]
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("document", ALL)
def test_every_port_says_its_protocol(document) -> None:
    """Kubernetes adds what is left out, and whoever compares (GitOps) sees a difference for ever."""
    ports = list(_ports(document))
    assert all(port.get("protocol") in ("TCP", "UDP") for port in ports), ports


def _ports(document: Document) -> list[dict[str, Any]]:
    spec = document.get("spec", {})
    found = list(spec.get("ports", ())) if document["kind"] == "Service" else []
    if document["kind"] in ("StatefulSet", "Deployment"):
        for container in spec["template"]["spec"]["containers"]:
            found += container.get("ports", ())
    if document["kind"] == "NetworkPolicy":
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            found += rule["ports"]
    return found


# -- as kustomize renders it


def _kustomize() -> list[str] | None:
    """The command that renders: kustomize itself, or the one within kubectl (from 1.21 with components)."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        told = subprocess.run(
            ["kubectl", "version", "--client"], capture_output=True, text=True, check=False
        )
        if "Kustomize Version: v5" in told.stdout:
            return ["kubectl", "kustomize"]
    return None


KUSTOMIZE = _kustomize()
needs_kustomize = pytest.mark.skipif(
    KUSTOMIZE is None, reason="neither kustomize nor a kubectl with kustomize 5 to render with"
)
COMPONENTS = ("tls", "cert-manager", "prometheus-operator", "quota")


def _rendered(folder: Path) -> list[Document]:
    assert KUSTOMIZE is not None, "asked by needs_kustomize"
    done = subprocess.run(
        [*KUSTOMIZE, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture
def overlay(tmp_path):
    """Renders an overlay of our own, with components, as somebody would write one."""
    shutil.copytree(ROOT, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "overlays" / "own"
    folder.mkdir()

    def render(base: str, *components: str) -> list[Document]:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"../{base}"],
            "components": [f"../../components/{name}" for name in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _rendered(folder)

    return render


@needs_kustomize
@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_renders_what_the_patches_promise(name) -> None:
    rendered = {_identity(d): d for d in _rendered(ROOT / name)}
    expected = {_identity(d): d for d in _documents(name)}
    assert set(rendered) == set(expected)
    for identity, document in rendered.items():
        if identity[0] in ("StatefulSet", "Deployment"):
            assert _requests(document) == _requests(expected[identity]), identity


def _requests(document: Document) -> dict[str, Any]:
    containers = document["spec"]["template"]["spec"]["containers"]
    return {c["name"]: c["resources"]["requests"] for c in containers}


def _millis(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * 1000


def _sum_of_requests(documents: list[Document]) -> tuple[int, int]:
    """Thousandths of a CPU and bytes that all pods ask for, with as many as an autoscaler may make."""
    scaled = {
        d["spec"]["scaleTargetRef"]["name"]: d["spec"]["maxReplicas"]
        for d in documents
        if d["kind"] == "HorizontalPodAutoscaler"
    }
    cpu = memory = 0
    for document in documents:
        if document["kind"] not in ("StatefulSet", "Deployment"):
            continue
        name = document["metadata"]["name"]
        pods = scaled.get(name) or document["spec"]["replicas"]
        for requests in _requests(document).values():
            cpu += pods * _millis(requests["cpu"])
            memory += pods * _bytes(requests["memory"])
    return cpu, memory


@needs_kustomize
def test_the_small_overlay_fits_two_cores_beside_the_system() -> None:
    """kind's own pods ask for 0.95 of a core; with ours at their most it is less than two."""
    cpu, memory = _sum_of_requests(_rendered(ROOT / "overlays" / "small"))
    assert cpu <= 1000
    assert memory <= 2 << 30


@needs_kustomize
@pytest.mark.parametrize("base", ["small", "large"])
def test_with_all_components_it_still_renders_and_is_valid(overlay, base) -> None:
    documents = overlay(base, *COMPONENTS)
    kinds = {document["kind"] for document in documents}
    assert {"Certificate", "Issuer", "PodMonitor", "PrometheusRule", "LimitRange"} <= kinds
    for document in documents:
        if (
            "." not in document["apiVersion"].partition("/")[0]
            or "k8s.io" in document["apiVersion"]
        ):
            version = kubernetes_validate.latest_version()
            kubernetes_validate.validate(document, version, strict=True)


@needs_kustomize
def test_with_tls_every_role_shows_a_certificate_of_its_own_and_only_the_tokens_it_needs(
    overlay,
) -> None:
    documents = {_identity(d): d for d in overlay("small", "tls", "cert-manager")}
    made = {d["spec"]["secretName"] for (kind, _), d in documents.items() if kind == "Certificate"}
    tokens = {}
    for (kind, name), document in documents.items():
        if kind not in ("StatefulSet", "Deployment"):
            continue
        pod = document["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["tls"]["secret"]["secretName"] in made, name
        items = volumes.get("tokens", {"secret": {"items": []}})["secret"]["items"]
        tokens[name] = {item["key"] for item in items}
        for container in pod["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert "grpc" not in container.get(probe, {}), "the kubelet speaks no TLS"
            environment = {v["name"]: v.get("value", "") for v in container.get("env", ())}
            for variable, value in environment.items():
                if variable.endswith("_TOKEN_FILE"):
                    assert value.rpartition("/")[2] in tokens[name], (name, variable)
    assert tokens == {
        "redis": set(),
        "coordinator": {"operator", "user", "agent"},
        "agent": {"user", "agent"},
        "locust": {"user"},
        "locust-worker": {"user"},
    }


def test_the_alerts_of_the_operator_are_those_of_the_file() -> None:
    (rule,) = _load(ROOT / "components" / "prometheus-operator" / "rules.yaml")
    alerts = yaml.safe_load((ROOT.parent / "alerts.yml").read_text())
    assert rule["spec"] == alerts


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


def test_the_jobs_of_a_comparison_run_the_commands_they_say_and_are_restricted() -> None:
    documents = _load(ROOT / "compare-job.yaml")
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    jobs = [document for document in documents if document["kind"] == "Job"]
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        words = " ".join([*container.get("command", ()), *container["args"]])
        options = {word for word in words.replace("'", " ").split() if word.startswith("--")}
        known = {text for param in compare_command.params for text in param.opts}
        assert options <= known
    shards, _ = jobs
    assert f"/{shards['spec']['completions']} " in words_of(shards)


def words_of(job) -> str:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return " ".join(container["args"])
