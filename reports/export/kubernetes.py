"""Export to Kubernetes: a plain Deployment, a KServe InferenceService, a KubeRay RayService."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from planner.sizing import UTILISATION_CAP
from reports import words
from reports.export.carried import Carried, Export, Missing, Part, host_missing
from reports.export.image import FOLDER, PORT, USER, command, dockerfile
from reports.export.proven import Proven
from reports.export.rayserve import APP, serve_config
from reports.export.rayserve import PORT as SERVE_PORT
from reports.export.yaml_text import to_yaml

Document = dict[str, Any]

# The name by which a replica's pod asks Ray to be the only one on it, and the front to be
# on the head: figures for Ray's scheduler, not resources of a machine.
_FRONT_RESOURCE = "tonnage-front"


def kubernetes(proven: Proven) -> Export:
    """Three ways to run the plan, each whole by itself, and two that scale the first."""
    one_of = "Apply ONE of deployment.yaml, kserve.yaml and rayservice.yaml."
    about = (
        f"{proven.demand.title}: {words.demand(proven.demand)}",
        f"A pod is one replica of {proven.size.label}. {one_of}",
        f"Build and push the image first, see Dockerfile. {_cpu_note(proven)}",
        "What is not carried: NOT_CARRIED.md",
    )
    scaler = (f"Scales deployment.yaml between the plan and its max_replicas. {_SCALERS}",)
    files = {
        "deployment.yaml": to_yaml(_deployment(proven), _service(proven), comment=about),
        "hpa.yaml": to_yaml(_hpa(proven), comment=scaler),
        "keda.yaml": to_yaml(_keda(proven), comment=scaler),
        "kserve.yaml": to_yaml(_kserve(proven), comment=about),
        "rayservice.yaml": to_yaml(_rayservice(proven), comment=(*about, _KUBERAY)),
        "Dockerfile": dockerfile(proven),
        "tonnage_app.py": APP,
        "deployment.json": proven.deployment.model_dump_json(indent=1) + "\n",
    }
    return Export(files=files, parts=_parts(proven))


_SCALERS = "Apply ONE of hpa.yaml and keda.yaml."
_KUBERAY = "KubeRay 1.5.1 or newer, for the token."


def _cpu_note(proven: Proven) -> str:
    if proven.whole_cpus:
        return (
            "Whole CPUs in a Guaranteed pod are its own only where the kubelet runs with "
            "cpuManagerPolicy: static."
        )
    return "The fraction of a CPU is a CFS quota, as it was when measured."


def _metadata(proven: Proven, annotations: Mapping[str, str] = {}) -> Document:
    return {
        "name": proven.name,
        "labels": _labels(proven),
        "annotations": {
            "tonnage/model-sha256": proven.deployment.variant.model_sha256,
            "tonnage/study": proven.config_hash,
            **annotations,
        },
    }


def _labels(proven: Proven) -> Document:
    return {"app.kubernetes.io/name": proven.name}


def _resources(proven: Proven) -> Document:
    """Requests equal to limits: a Guaranteed pod of the measured size."""
    size = {
        "cpu": f"{round(1000 * proven.size.vcpus)}m"
        if not proven.whole_cpus
        else f"{proven.size.vcpus:.0f}",
        "memory": f"{round(1024 * proven.size.memory_gib)}Mi",
    }
    return {"requests": size, "limits": size}


def _container(proven: Proven, name: str) -> Document:
    """A container that is one replica without Ray."""
    model = f"/v2/models/{proven.deployment.variant.model_name}/ready"
    return {
        "name": name,
        "image": proven.image,
        "command": command(),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(proven),
        "securityContext": _security(),
        "startupProbe": {
            **_get(model),
            "periodSeconds": 1,
            "failureThreshold": 10 * math.ceil(proven.startup_s + 1),
        },
        "readinessProbe": {**_get(model), "periodSeconds": 2},
        "livenessProbe": {**_get("/v2/health/live"), "periodSeconds": 10},
    }


def _get(path: str) -> Document:
    return {"httpGet": {"path": path, "port": PORT}, "timeoutSeconds": 2}


def _security() -> Document:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def _deployment(proven: Proven) -> Document:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(proven),
        "spec": {
            "replicas": proven.plan.replicas,
            "selector": {"matchLabels": _labels(proven)},
            "template": {
                "metadata": {"labels": _labels(proven)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "containers": [_container(proven, "replica")],
                },
            },
        },
    }


def _service(proven: Proven) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(proven),
        "spec": {
            "type": "ClusterIP",
            "selector": _labels(proven),
            "ports": [{"name": "http", "port": 80, "targetPort": PORT, "protocol": "TCP"}],
        },
    }


def _fewest(proven: Proven) -> int:
    advice = proven.autoscaling
    return proven.plan.replicas if advice is None else advice.settings.min_replicas


def _most(proven: Proven) -> int:
    if proven.autoscaling is not None:
        return proven.autoscaling.settings.max_replicas
    return max(proven.plan.replicas, proven.demand.max_replicas)


def _behaviour(proven: Proven) -> Document:
    """Delays of going up and down, as advised; nothing where the load has no course."""
    advice = proven.autoscaling
    if advice is None:
        return {}
    up, down = advice.settings.upscale_delay_s, advice.settings.downscale_delay_s
    return {
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": round(up)},
            "scaleDown": {"stabilizationWindowSeconds": round(down)},
        }
    }


def _hpa(proven: Proven) -> Document:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(proven),
        "spec": {
            "scaleTargetRef": _target(proven),
            "minReplicas": _fewest(proven),
            "maxReplicas": _most(proven),
            **_behaviour(proven),
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {
                            "type": "Utilization",
                            "averageUtilization": round(100 * UTILISATION_CAP),
                        },
                    },
                }
            ],
        },
    }


def _keda(proven: Proven) -> Document:
    scaling = _behaviour(proven)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _metadata(proven),
        "spec": {
            "scaleTargetRef": _target(proven),
            "minReplicaCount": _fewest(proven),
            "maxReplicaCount": _most(proven),
            **({"advanced": {"horizontalPodAutoscalerConfig": scaling}} if scaling else {}),
            "triggers": [
                {
                    "type": "cpu",
                    "metricType": "Utilization",
                    "metadata": {"value": str(round(100 * UTILISATION_CAP))},
                }
            ],
        },
    }


def _target(proven: Proven) -> Document:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": proven.name}


def _kserve(proven: Proven) -> Document:
    deployment = proven.deployment
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        # Without Knative: its queue proxy would share the pod and its CPU. Newer versions say
        # "Standard" and still take the old word.
        "metadata": _metadata(proven, {"serving.kserve.io/deploymentMode": "RawDeployment"}),
        "spec": {
            "predictor": {
                "minReplicas": _fewest(proven),
                "maxReplicas": _most(proven),
                "scaleMetric": "cpu",
                "scaleTarget": round(100 * UTILISATION_CAP),
                "containerConcurrency": deployment.max_ongoing_requests
                + deployment.max_queued_requests,
                "automountServiceAccountToken": False,
                "containers": [_container(proven, "kserve-container")],
            }
        },
    }


def _rayservice(proven: Proven) -> Document:
    config = serve_config(proven, host="0.0.0.0", actor={"num_cpus": 1})  # noqa: S104 - a pod's own
    # The front answers health checks; it must not take CPU from a replica.
    front = config["applications"][1]["deployments"][0]
    front["ray_actor_options"] = {"num_cpus": 0, "resources": {_FRONT_RESOURCE: 1}}
    ingress = proven.demand.rate_rps * proven.ingress_cpu_ms / 1e3 / UTILISATION_CAP
    head_cpus = max(len(proven.environment.platform_cpus), math.ceil(ingress))
    replicas, scales = proven.plan.replicas, proven.autoscaling is not None
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": _metadata(proven),
        "spec": {
            "serveConfigV2": to_yaml(config),
            "rayClusterConfig": {
                "rayVersion": proven.environment.packages.get("ray", ""),
                "authOptions": {"mode": "token"},
                **({"enableInTreeAutoscaling": True} if scales else {}),
                "headGroupSpec": {
                    "rayStartParams": {
                        "num-cpus": "0",  # no replica beside the ingress
                        "resources": f'"{{\\"{_FRONT_RESOURCE}\\": 1}}"',
                    },
                    "template": _ray_pod(
                        proven, "ray-head", {"requests": {"cpu": str(head_cpus)}}, _HEAD_PORTS
                    ),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "replicas",
                        "replicas": replicas,
                        "minReplicas": _fewest(proven) if scales else replicas,
                        "maxReplicas": _most(proven) if scales else replicas,
                        # One replica a pod, whatever share of a CPU that is.
                        "rayStartParams": {"num-cpus": "1"},
                        "template": _ray_pod(proven, "ray-worker", _resources(proven), ()),
                    }
                ],
            },
        },
    }


_HEAD_PORTS = (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001), ("serve", SERVE_PORT))


def _ray_pod(
    proven: Proven, name: str, resources: Document, ports: tuple[tuple[str, int], ...]
) -> Document:
    settings = {**proven.environment.settings, "RAY_USAGE_STATS_ENABLED": "0"}
    container = {
        "name": name,
        "image": proven.image,
        "workingDir": FOLDER,
        "env": [{"name": key, "value": value} for key, value in settings.items()],
        "resources": resources,
        "securityContext": _security(),
    }
    if ports:
        container["ports"] = [{"name": n, "containerPort": port} for n, port in ports]
    return {
        "metadata": {"labels": _labels(proven)},
        "spec": {"automountServiceAccountToken": False, "containers": [container]},
    }


def _parts(proven: Proven) -> dict[Part, Carried | Missing]:
    cpu: Carried | Missing = Carried("requests equal to limits, a quota with the kubelet's 100 ms")
    if proven.whole_cpus:
        cpu = Missing(
            "requests equal to limits make the pod Guaranteed, but its CPUs are its own only "
            "under the kubelet's static CPU policy, which no manifest can set; without it they "
            "are a quota, whose tail is about twice as long"
        )
    return {
        Part.MODEL: Carried("the image, checked against deployment.json when it is loaded"),
        Part.VERSIONS: Carried("Dockerfile; of Python the minor version only"),
        Part.THREADS: Carried("deployment.json"),
        Part.REPLICAS: Carried(_scaled_where(proven)),
        Part.CPU: cpu,
        Part.MEMORY: Carried("limits of each manifest"),
        Part.QUEUE: Carried(
            "deployment.json (more requests than both bounds are 503); rayservice.yaml"
        ),
        Part.SERVE_SETTINGS: Missing(
            "in force in rayservice.yaml only; under deployment.yaml and kserve.yaml there is no "
            "Ray Serve, the same application runs under uvicorn"
        ),
        Part.NICENESS: Carried("containers start at nice 0; env of rayservice.yaml"),
        Part.ROUTER: Missing(
            "a Service picks a pod per connection, at random, not the one with fewest requests: "
            "put HAProxy or a mesh with least-request balancing before deployment.yaml and "
            "kserve.yaml. rayservice.yaml has Serve's own HAProxy, in the head pod"
        ),
        Part.SEPARATION: Missing(
            "pods share nodes with what else runs there; in rayservice.yaml each replica shares "
            "its pod with a raylet and its agents, which had CPUs of their own, and the head's "
            "memory was not measured, so it has no limit. Kubelet and system pods take their "
            "part of a node, too: the plan counts replicas only"
        ),
        Part.ACCESS: Missing(
            "containers listen on their pod's address; restrict who may connect with a "
            "NetworkPolicy. Ray asks for a token (authOptions)"
        ),
        Part.HOST: host_missing(proven),
    }


def _scaled_where(proven: Proven) -> str:
    if proven.autoscaling is None:
        return "replicas of each manifest; the scalers never go below them"
    return (
        "replicas of each manifest; the scalers go between the advised bounds. That was "
        "simulated for Ray Serve, as rayservice.yaml has it; by CPU, as hpa.yaml, keda.yaml and "
        "kserve.yaml scale, it was not"
    )
