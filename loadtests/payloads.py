"""Request bodies made of real rows, with the answers that are expected to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serving.records import Deployment
from serving.rows import row_bytes, take
from serving.runtimes import load_runtime
from serving.v2 import decode_response, encode_request, encode_tensors

# Enough different bodies that no cache learns them, few enough to build in a moment.
_BODIES_BYTES = 16 << 20
_MOST_BODIES = 256
_FEWEST_BODIES = 4


@dataclass(frozen=True)
class Payloads:
    """Bodies, and for each one the expected outputs by name where they are known.

    ``header_lengths`` are the lengths of V2 heads; 0 for a body that is none.
    """

    bodies: Sequence[bytes]
    header_lengths: Sequence[int]
    expected: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write as an uncompressed ``.npz`` (no pickle; strings travel in the form of V2)."""
        answers, heads = [], []
        for index in range(len(self.bodies) if self.expected else 0):
            outputs = {name: values[index] for name, values in self.expected.items()}
            answer, head = encode_tensors({}, "outputs", outputs, dict.fromkeys(outputs, True))
            answers.append(answer)
            heads.append(head or len(answer))
        arrays = {**_joined("bodies", self.bodies), **_joined("answers", answers)}
        arrays["heads"] = np.array(self.header_lengths)
        arrays["answer_heads"] = np.array(heads, dtype=np.int64)
        np.savez(path, **arrays)  # type: ignore[arg-type] # numpy's stub misreads keywords

    @classmethod
    def load(cls, path: Path) -> Payloads:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            bodies = _split("bodies", stored)
            expected: dict[str, list[np.ndarray]] = {}
            for answer, head in zip(_split("answers", stored), stored["answer_heads"], strict=True):
                for name, values in decode_response(answer, int(head)).items():
                    expected.setdefault(name, []).append(values)
            return cls(bodies, stored["heads"].tolist(), expected)


def _joined(name: str, parts: Iterable[bytes]) -> dict[str, np.ndarray]:
    kept = list(parts)
    return {
        name: np.frombuffer(b"".join(kept), dtype=np.uint8),
        f"{name}_lengths": np.array([len(part) for part in kept], dtype=np.int64),
    }


def _split(name: str, stored: Mapping[str, np.ndarray]) -> list[bytes]:
    lengths = stored[f"{name}_lengths"]
    raw = stored[name].tobytes()
    return [raw[e - n : e] for e, n in zip(np.cumsum(lengths), lengths, strict=True)]


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
        inputs = take(rows, chosen, batched=deployment.variant.batched)
        body, head = encode_request(inputs, outputs)
        bodies.append(body)
        heads.append(head or len(body))
        for name, values in runtime.predict(inputs).items():
            expected[name].append(values)
    return Payloads(bodies, heads, expected)


def count_of_bodies(rows: Mapping[str, np.ndarray], batch: int) -> int:
    """How many different bodies to make of batches of ``rows``."""
    size = row_bytes(rows) * batch
    return int(np.clip(_BODIES_BYTES // max(1, size), _FEWEST_BODIES, _MOST_BODIES))
