"""The two deployments that Ray Serve runs: a model replica and the front.

Classes here import no ray at module level, so that tests use them without it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from serving.app import FrontApp, ModelApp
from serving.audit import ReplicaReport, report_name
from serving.compute_threads import compute_threads, import_library, process_age_s, thread_ids
from serving.records import TensorSpec, Variant
from serving.runtimes import load_runtime
from serving.v2 import dtype_of

FRONT_NAME = "tonnage-front"


class ModelReplica:
    """One replica of one model. Loads inside its instance, warms up, reports, then serves.

    ``reports`` is the folder in which the host that audits it looks; an export has none.
    """

    def __init__(
        self,
        variant_json: str,
        threads: int,
        cell_id: str,
        reports: str | None = None,
        max_batch: int = 1,
        batch_wait_ms: float = 0.0,
    ) -> None:
        variant = Variant.model_validate_json(variant_json)
        import_library(variant.runtime)
        worker_start_s = process_age_s()
        earlier = thread_ids()
        started = time.perf_counter()
        runtime = load_runtime(variant, threads)
        self._app = ModelApp(runtime, variant, cell_id, max_batch, batch_wait_ms / 1e3)
        try:
            self._app.warm_up({spec.name: zeros(spec) for spec in runtime.inputs})
        except Exception as error:  # a free dimension need not take the size of one
            # Not fatal: the first requests of a measurement warm the model as well.
            logging.getLogger("ray.serve").info("not warmed with zeros: %s", error)
        report = ReplicaReport(
            worker_start_s=worker_start_s,
            model_load_s=time.perf_counter() - started,
            earlier_threads=tuple(sorted(earlier)),
            compute_threads=compute_threads(variant.runtime, earlier),
        )
        if reports is not None:
            path = Path(reports) / report_name(os.getpid())
            path.write_text(report.model_dump_json())

    def __serve_build_asgi_app__(self) -> ModelApp:
        """Called by Serve once the replica is constructed."""
        return self._app


class FrontReplica:
    """Answers for the server as a whole; knows the models from Serve's own status."""

    def __init__(self, models: dict[str, str]) -> None:
        self._applications = models
        self._known: set[str] = set()
        self._asked = 0.0

    def __serve_build_asgi_app__(self) -> FrontApp:
        """Called by Serve once the replica is constructed."""
        return FrontApp(tuple(self._applications), self._ready)

    async def _ready(self) -> set[str]:
        # The controller is asked at most twice a second, however often health is.
        if time.monotonic() - self._asked > 0.5:
            self._asked = time.monotonic()
            running = await asyncio.get_running_loop().run_in_executor(None, _running)
            self._known = {
                m for m, application in self._applications.items() if application in running
            }
        return self._known


def _running() -> set[str]:
    from ray import serve

    status: Any = serve.status()
    return {name for name, app in status.applications.items() if app.status == "RUNNING"}


def zeros(spec: TensorSpec) -> np.ndarray:
    """A tensor of zeros that fits ``spec``, with 1 for every free dimension."""
    shape = tuple(1 if d == -1 else d for d in spec.shape)
    return np.full(shape, b"" if spec.datatype == "BYTES" else 0, dtype=dtype_of(spec.datatype))
