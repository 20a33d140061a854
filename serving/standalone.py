"""One replica without Ray, for a container that is itself the instance.

    python -m serving.standalone FOLDER [--host 127.0.0.1] [--port 8080]

FOLDER is what ``tonnage export`` wrote. The same application that Ray Serve runs, under
uvicorn: the container's control group is the enforcement, the balancer before it the
router, and the queue is bounded here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serving.app import FrontApp, ModelApp, Receive, Scope, Send, answer_error
from serving.errors import TonnageError
from serving.exported import read_deployment
from serving.ray_host.replica import zeros
from serving.records import Deployment
from serving.runtimes import load_runtime


class StandaloneApp:
    """Both applications of V2 on one port; more requests than the deployment takes are 503."""

    def __init__(self, deployment: Deployment) -> None:
        variant = deployment.variant
        runtime = load_runtime(variant, deployment.threads)
        self._model = ModelApp(
            runtime,
            variant,
            deployment.cell_id,
            deployment.max_batch,
            deployment.batch_wait_ms / 1e3,
        )
        self._model.warm_up({spec.name: zeros(spec) for spec in runtime.inputs})
        self._name = variant.model_name
        self._front = FrontApp((self._name,), self._ready)
        self._most = deployment.max_ongoing_requests + deployment.max_queued_requests
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        path = scope.get("path", "")
        if path != f"/v2/models/{self._name}" and not path.startswith(f"/v2/models/{self._name}/"):
            await self._front(scope, receive, send)
            return
        if scope["method"] == "POST" and self._inside >= self._most:
            await answer_error(send, 503, f"{self._name}: {self._most} requests are waiting")
            return
        self._inside += 1
        try:
            await self._model(scope, receive, send)
        finally:
            self._inside -= 1

    async def _ready(self) -> set[str]:
        return {self._name}  # loaded and warm before the first connection is taken


def main(arguments: list[str]) -> None:
    """Load, then serve until told to end."""
    parser = argparse.ArgumentParser(prog="python -m serving.standalone")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args(arguments)
    try:
        app = StandaloneApp(read_deployment(given.folder))
    except TonnageError as error:
        sys.stderr.write(f"standalone: {error}\n")
        sys.exit(error.exit_code)
    import uvicorn

    uvicorn.run(app, host=given.host, port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
