"""Export to Ray Serve: a Serve configuration, and the environment that Ray starts under."""

from __future__ import annotations

import math
from typing import Any

from reports import words
from reports.export.carried import Carried, Export, Missing, Part, host_missing
from reports.export.proven import Proven
from reports.export.yaml_text import to_yaml
from serving.ray_host.settings import HEALTH_CHECK_S, LOGGING

HOST, PORT = "127.0.0.1", 8000
FRONT = "tonnage-front"
_QUIET = dict(LOGGING)

APP = '''"""Ray Serve applications of this export; serve.yaml names them."""

from pathlib import Path

from serving.ray_host.exported import front_application, model_application

model = model_application(Path(__file__).resolve().parent)
front = front_application(Path(__file__).resolve().parent)
'''

_START = """#!/bin/sh
# Starts Ray and these applications on this machine, until interrupted. On a cluster that runs,
# started with the variables of ray.env on every node: RAY_ADDRESS=auto ./start.sh
set -eu
cd "$(dirname "$0")"
set -a
. ./ray.env
set +a
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec serve run serve.yaml --app-dir "$PWD" --address "${RAY_ADDRESS:-local}"
"""


def rayserve(proven: Proven) -> Export:
    """``serve.yaml`` with the module it names, the environment, and how to start them."""
    header = (
        f"{proven.demand.title}: {words.demand(proven.demand)}",
        "Start it with ./start.sh, which sets the environment of ray.env first: Ray reads it",
        "when it is imported, and replicas inherit it. What is not carried: NOT_CARRIED.md",
    )
    config = serve_config(proven, host=HOST, actor={"num_cpus": proven.size.vcpus})
    return Export(
        files={
            "serve.yaml": to_yaml(config, comment=header),
            "tonnage_app.py": APP,
            "ray.env": ray_env(proven),
            "start.sh": _START,
            "deployment.json": proven.deployment.model_dump_json(indent=1) + "\n",
        },
        parts={
            Part.MODEL: Carried("model/, checked against deployment.json when it is loaded"),
            Part.VERSIONS: Missing("Ray Serve runs what is installed; install these versions"),
            Part.THREADS: Carried("deployment.json"),
            Part.REPLICAS: Carried(_replicas_where(proven)),
            Part.CPU: Missing(
                "num_cpus is a figure for Ray's scheduler and limits nothing: replicas take "
                f"what they find. Give each {_cpu_words(proven)} by a container of its own "
                "(--to k8s or compose), or 'tonnage serve' on this host"
            ),
            Part.MEMORY: Missing("Ray enforces none; a container does"),
            Part.QUEUE: Carried("serve.yaml, max_ongoing_requests and max_queued_requests"),
            Part.SERVE_SETTINGS: Carried("ray.env"),
            Part.NICENESS: Carried("ray.env, RAY_worker_niceness"),
            Part.ROUTER: Carried("ray.env, RAY_SERVE_ENABLE_HA_PROXY; the version is Ray's own"),
            Part.SEPARATION: Missing(
                "ingress, Ray's own processes and replicas share all CPUs; leave some beyond "
                "those of the replicas, or pin them with taskset"
            ),
            Part.ACCESS: Missing(
                f"the ingress listens on {HOST}, and Ray asks for a token, but HAProxy's metrics "
                "and statistics (ports 9101 and 8404) and Ray's own ports listen on all "
                "interfaces; keep a firewall before them"
            ),
            Part.HOST: host_missing(proven),
        },
    )


def serve_config(proven: Proven, *, host: str, actor: dict[str, Any]) -> dict[str, Any]:
    """Configuration of Serve; ``actor`` is what a replica asks of Ray's scheduler."""
    name = proven.deployment.variant.model_name
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": host, "port": PORT},
        "logging_config": _QUIET,
        "applications": [
            {
                "name": name,
                "route_prefix": f"/v2/models/{name}",
                "import_path": "tonnage_app:model",
                "deployments": [
                    {
                        "name": name,
                        **_scale(proven),
                        # Per deployment: what applies to Serve as a whole reaches no replica.
                        "logging_config": _QUIET,
                        "health_check_period_s": HEALTH_CHECK_S,
                        "ray_actor_options": actor,
                    }
                ],
            },
            {
                "name": FRONT,
                "route_prefix": "/",
                "import_path": "tonnage_app:front",
                "deployments": [
                    {
                        "name": FRONT,
                        "num_replicas": 1,
                        "logging_config": _QUIET,
                        "ray_actor_options": {"num_cpus": 0},
                    }
                ],
            },
        ],
    }


def _scale(proven: Proven) -> dict[str, Any]:
    """Replicas and queue bounds: as measured, or as advised where the load has a course."""
    deployment, advice = proven.deployment, proven.autoscaling
    if advice is None:
        return {
            "num_replicas": deployment.replicas,
            "max_ongoing_requests": deployment.max_ongoing_requests,
            "max_queued_requests": deployment.max_queued_requests,
        }
    return {
        # All that the peak needs at first: when it is deployed, nobody knows the load.
        "autoscaling_config": {
            "initial_replicas": advice.static_replicas,
            **advice.settings.model_dump(),
        },
        "max_ongoing_requests": advice.max_ongoing_requests,
        "max_queued_requests": advice.max_queued_requests,
    }


def ray_env(proven: Proven) -> str:
    """Environment of every process of Ray, as a file that a shell reads."""
    lines = [
        "# What Ray and Serve ran under when the plan was proven; set it before 'ray start' on",
        "# every node. The draining, quarantine and hard-stop times are short for redeployments",
        "# while measuring; no figure depends on them, and Ray's defaults are safer under load.",
        *(f"{name}={value}" for name, value in proven.environment.settings.items()),
        "RAY_AUTH_MODE=token",
        "RAY_USAGE_STATS_ENABLED=0",
    ]
    return "\n".join(lines) + "\n"


def _cpu_words(proven: Proven) -> str:
    if proven.whole_cpus:
        return f"{math.ceil(proven.size.vcpus)} CPU of its own"
    return f"{proven.size.vcpus:g} CPU"


def _replicas_where(proven: Proven) -> str:
    if proven.autoscaling is None:
        return "serve.yaml, num_replicas"
    return (
        "serve.yaml, autoscaling_config: by simulation, not measured, and so are its queue bounds"
    )
