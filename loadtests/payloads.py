"""Request bodies made of real rows, with the answers that are expected to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """Bodies in V2 binary form; of each the expected outputs by name, and the class.

    ``expected`` is empty for a body of which nothing is known. Classes count from 0; they
    are what a run's mix, or its trace's batch sizes, gives weights to.
    """

    bodies: list[bytes]
    header_lengths: list[int]
    expected: list[dict[str, np.ndarray]]
    classes: np.ndarray

    def save(self, path: Path) -> None:
        """Write as an uncompressed ``.npz`` (no pickle)."""
        arrays: dict[str, np.ndarray] = {
            f"expected/{index}/{name}": values
            for index, outputs in enumerate(self.expected)
            for name, values in outputs.items()
        }
        joined = np.frombuffer(b"".join(self.bodies), dtype=np.uint8)
        lengths = np.array([len(body) for body in self.bodies])
        arrays.update(bodies=joined, lengths=lengths, heads=np.array(self.header_lengths))
        np.savez(path, **arrays, classes=self.classes)  # type: ignore[arg-type] # as in samples

    @classmethod
    def load(cls, path: Path) -> Payloads:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            ends = np.cumsum(stored["lengths"])
            raw = stored["bodies"].tobytes()
            bodies = [raw[e - n : e] for e, n in zip(ends, stored["lengths"], strict=True)]
            expected: list[dict[str, np.ndarray]] = [{} for _ in bodies]
            for key in stored:
                kind, _, rest = key.partition("/")
                if kind == "expected":
                    index, _, name = rest.partition("/")
                    expected[int(index)][name] = stored[key]
            return cls(bodies, stored["heads"].tolist(), expected, stored["classes"])

    @classmethod
    def join(cls, parts: Sequence[Payloads]) -> Payloads:
        """Several payloads as the classes 0, 1, ... of one."""
        return cls(
            [body for part in parts for body in part.bodies],
            [length for part in parts for length in part.header_lengths],
            [outputs for part in parts for outputs in part.expected],
            np.repeat(np.arange(len(parts)), [len(part.bodies) for part in parts]),
        )


def make_payloads(
    deployment: Deployment, rows: Mapping[str, np.ndarray], batch: int, seed: int
) -> Payloads:
    """Draw batches from ``rows`` (arrays with a common first axis), seeded; one class.

    The expected answers come from the same file run in this process, batch by batch:
    dynamic quantization chooses its scales per call, so a row's answer depends on the
    rows it travels with.
    """
    runtime = load_runtime(deployment.variant, deployment.threads)
    outputs = [spec.name for spec in runtime.outputs]
    inputs = list(_batches(rows, batch, seed))
    made = encode_payloads(inputs, outputs)
    return replace(made, expected=[dict(runtime.predict(one)) for one in inputs])


def foreign_payloads(rows: Mapping[str, np.ndarray], batch: int, seed: int) -> Payloads:
    """Bodies drawn from ``rows``; nothing is known of the right answers."""
    return encode_payloads(list(_batches(rows, batch, seed)))


def encode_payloads(
    inputs: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str] = ()
) -> Payloads:
    """A body for each of ``inputs``, all of one class; asks for ``outputs``, or else for all."""
    encoded = [encode_request(one, outputs) for one in inputs]
    return Payloads(
        [body for body, _ in encoded],
        [head or len(body) for body, head in encoded],
        [{} for _ in encoded],
        np.zeros(len(encoded), dtype=np.int64),
    )


def _batches(
    rows: Mapping[str, np.ndarray], batch: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    total = len(next(iter(rows.values())))
    draw = np.random.default_rng(seed)
    for _ in range(count_of_bodies(rows, batch)):
        chosen = draw.integers(0, total, batch)
        yield {name: np.ascontiguousarray(values[chosen]) for name, values in rows.items()}


def count_of_bodies(rows: Mapping[str, np.ndarray], batch: int) -> int:
    """How many different bodies to make of batches of ``rows``."""
    row_bytes = sum(values[:1].nbytes for values in rows.values())
    return int(np.clip(_BODIES_BYTES // (row_bytes * batch), _FEWEST_BODIES, _MOST_BODIES))
