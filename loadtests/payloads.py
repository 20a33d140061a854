"""Request bodies made of real rows, with the answers that are expected to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.records import Deployment
from serving.runtimes import load_runtime
from serving.v2 import encode_request

# Enough different bodies that no cache learns them, few enough to build in a moment.
_BODIES_BYTES = 16 << 20
_MOST_BODIES = 256
_FEWEST_BODIES = 4


@dataclass(frozen=True)
class Payloads:
    """Bodies in V2 binary form, and per body the expected outputs by name."""

    bodies: list[bytes]
    header_lengths: list[int]
    expected: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write as an uncompressed ``.npz`` (no pickle)."""
        arrays = {f"expected/{name}": values for name, values in self.expected.items()}
        joined = np.frombuffer(b"".join(self.bodies), dtype=np.uint8)
        lengths = np.array([len(body) for body in self.bodies])
        arrays.update(bodies=joined, lengths=lengths, heads=np.array(self.header_lengths))
        np.savez(path, **arrays)  # type: ignore[arg-type] # numpy's stub misreads keywords

    @classmethod
    def load(cls, path: Path) -> Payloads:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            ends = np.cumsum(stored["lengths"])
            raw = stored["bodies"].tobytes()
            bodies = [raw[e - n : e] for e, n in zip(ends, stored["lengths"], strict=True)]
            expected = {k.partition("/")[2]: stored[k] for k in stored if k.startswith("expected/")}
            return cls(bodies, stored["heads"].tolist(), expected)


def make_payloads(
    deployment: Deployment, rows: Mapping[str, np.ndarray], batch: int, seed: int
) -> Payloads:
    """Draw batches from ``rows`` (arrays with a common first axis), seeded.

    The expected answers come from the same file run in this process, batch by batch:
    dynamic quantization chooses its scales per call, so a row's answer depends on the
    rows it travels with.
    """
    total = len(next(iter(rows.values())))
    draw = np.random.default_rng(seed)
    runtime = load_runtime(deployment.variant, deployment.threads)
    outputs = [spec.name for spec in runtime.outputs]
    bodies, heads = [], []
    expected: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for _ in range(count_of_bodies(rows, batch)):
        chosen = draw.integers(0, total, batch)
        inputs = {name: np.ascontiguousarray(values[chosen]) for name, values in rows.items()}
        body, head = encode_request(inputs, outputs)
        bodies.append(body)
        heads.append(head or len(body))
        for name, values in runtime.predict(inputs).items():
            expected[name].append(values)
    return Payloads(bodies, heads, {name: np.stack(parts) for name, parts in expected.items()})


def count_of_bodies(rows: Mapping[str, np.ndarray], batch: int) -> int:
    """How many different bodies to make of batches of ``rows``."""
    row_bytes = sum(values[:1].nbytes for values in rows.values())
    return int(np.clip(_BODIES_BYTES // (row_bytes * batch), _FEWEST_BODIES, _MOST_BODIES))
