"""The process that holds Ray: starts it, deploys what it is told, and ends with it.

The only module of Tonnage that imports ray at run time. It reads JSON lines from
stdin and answers each with one on stdout; :class:`serving.ray_host.client.RayHost` is
the other side. Started through the supervisor, never by hand.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from serving.ray_host.settings import GRACEFUL_LOOP_S, GRACEFUL_S, HEALTH_CHECK_S, LOGGING

# Set per deployment: what serve.start() is given does not reach the replicas, and an
# access log costs a fifth of a small model's throughput.
_QUIET: dict[str, Any] = dict(LOGGING)


def _start(settings: dict[str, Any]) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    ray.init(
        address="local",
        num_cpus=64,  # logical only: instances are enforced by the kernel, not by Ray
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=settings["folder"],
        object_store_memory=80 << 20,
        log_to_driver=False,
        namespace="tonnage",
        configure_logging=False,
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host="127.0.0.1", port=settings["http_port"]),
        logging_config=LoggingConfig(**_QUIET),
    )


def _deploy(message: dict[str, Any]) -> dict[str, Any]:
    from ray import serve

    from serving.ray_host.replica import ModelReplica

    started = time.monotonic()
    deployment = serve.deployment(
        name=message["name"],
        num_replicas=message["replicas"],
        max_ongoing_requests=message["max_ongoing_requests"],
        max_queued_requests=message["max_queued_requests"],
        graceful_shutdown_timeout_s=GRACEFUL_S,
        graceful_shutdown_wait_loop_s=GRACEFUL_LOOP_S,
        health_check_period_s=HEALTH_CHECK_S,
        logging_config=_QUIET,
        ray_actor_options={
            "num_cpus": 0,
            "runtime_env": {"py_executable": message["py_executable"]},
        },
    )(serve.ingress()(ModelReplica))
    serve.run(
        deployment.bind(
            message["variant"],
            message["threads"],
            message["cell_id"],
            message["reports"],
            message["max_batch"],
            message["batch_wait_ms"],
        ),
        name=message["name"],
        route_prefix=f"/v2/models/{message['name']}",
    )
    return {"seconds": time.monotonic() - started}


def _front(message: dict[str, Any]) -> dict[str, Any]:
    from ray import serve

    from serving.ray_host.replica import FRONT_NAME, FrontReplica

    deployment = serve.deployment(
        name=FRONT_NAME,
        max_ongoing_requests=64,
        max_queued_requests=64,
        graceful_shutdown_timeout_s=1.0,
        logging_config=_QUIET,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress()(FrontReplica))
    serve.run(deployment.bind(message["models"]), name=FRONT_NAME, route_prefix="/")
    return {}


def _delete(message: dict[str, Any]) -> dict[str, Any]:
    from ray import serve

    serve.delete(message["name"])
    return {}


_COMMANDS = {"deploy": _deploy, "front": _front, "delete": _delete}


def _explain(error: BaseException) -> dict[str, str]:
    """The line that says why, and of what kind it is.

    A replica's own exception, where Serve's status quotes one.
    """
    from ray import serve

    messages = [str(error)]
    for application in serve.status().applications.values():
        messages += [deployment.message for deployment in application.deployments.values()]
    lines = [line.strip() for text in messages for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        # "serving.errors.BadInput: ..." ends the traceback that the status carries.
        name, _, reason = line.partition(": ")
        if name.startswith("serving.errors."):
            return {"error": reason, "kind": name.rpartition(".")[2]}
    return {"error": lines[0][:400] if lines else type(error).__name__}


def main() -> None:
    """Start Ray, then serve commands until stdin ends."""
    settings = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print belongs into the log, not between replies
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _start(settings)
        print(json.dumps({"ready": True}), file=replies)
        for line in sys.stdin:
            message = json.loads(line)
            try:
                reply = _COMMANDS[message["op"]](message)
            except Exception as error:  # everything Serve raises becomes a reply
                sys.stderr.write(f"{error}\n")
                reply = _explain(error)
            print(json.dumps(reply), file=replies)
    except Exception as error:  # starting failed: say so as the first reply
        sys.stderr.write(f"{error}\n")
        print(json.dumps({"error": str(error).splitlines()[0]}), file=replies)
    finally:
        import ray

        ray.shutdown()


if __name__ == "__main__":
    main()
