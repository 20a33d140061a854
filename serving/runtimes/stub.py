"""A model whose service time is known by construction, for tests, floors and dry runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from serving.errors import BadInput
from serving.records import TensorSpec

_BLOCK = bytes(1 << 15)


class StubRuntime:
    """A model whose service time is known by construction; computes nothing else.

    The file is JSON: ``{"busy_ms": 5.0, "distribution": "constant"|"exponential",
    "features": 4, "seed": 0, "wrong_share": 0.0}``. It burns CPU (not sleeps), so quotas bite,
    and answers the row sums, so that answers can be checked; ``wrong_share`` of the calls
    answer wrongly, so that the checking can be. ``busy_ms`` 0 is the no-op server.
    """

    def __init__(self, path: Path, threads: int) -> None:
        del threads
        try:
            settings = json.loads(path.read_text())
            self._busy_s = float(settings.get("busy_ms", 0.0)) / 1e3
            self._exponential = {"constant": False, "exponential": True}[
                settings.get("distribution", "constant")
            ]
            self._wrong_share = float(settings.get("wrong_share", 0.0))
            features = int(settings.get("features", 4))
            self._draw = np.random.default_rng(int(settings.get("seed", 0)))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"{path}: not a stub model file ({error!r})") from None
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="features", datatype="FP32", shape=(-1, features)),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="sums", datatype="FP32", shape=(-1, 1)),
        )

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Row sums, after burning the drawn service time on the CPU."""
        busy = self._draw.exponential(self._busy_s) if self._exponential else self._busy_s
        until = time.thread_time() + busy
        while time.thread_time() < until:
            hashlib.sha256(_BLOCK)  # as real runtimes do, it lets go of the interpreter lock
        sums = inputs["features"].sum(axis=1, keepdims=True, dtype=np.float32)
        if self._wrong_share and self._draw.random() < self._wrong_share:
            sums = sums + np.float32(1)
        return {"sums": sums}
