"""Request bodies made of real rows, with the answers that are expected to them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from serving.records import Deployment
from serving.rows import Rows, count_rows, row_bytes, take
from serving.runtimes import load_runtime
from serving.v2 import decode_response, encode_request, encode_tensors

# Enough different bodies that no cache learns them, few enough to build in a moment.
_BODIES_BYTES = 16 << 20
_MOST_BODIES = 256
_FEWEST_BODIES = 4
_ANSWERING_S = 4.0


@dataclass(frozen=True)
class Payloads:
    """Bodies; of each the expected outputs by name where they are known, and the class.

    ``header_lengths`` are the lengths of V2 heads; 0 for a body that is none. Classes count
    from 0; they are what a run's mix, or its trace's batch sizes, gives weights to.
    """

    bodies: Sequence[bytes]
    header_lengths: Sequence[int]
    expected: Sequence[Mapping[str, np.ndarray]]
    classes: np.ndarray

    @classmethod
    def plain(cls, bodies: Sequence[bytes], header_lengths: Sequence[int] | None = None) -> Self:
        """Bodies of one class, of whose answers nothing is known."""
        heads = header_lengths or [0] * len(bodies)
        return cls(bodies, heads, [{}] * len(bodies), np.zeros(len(bodies), dtype=np.int64))

    def save(self, path: Path) -> None:
        """Write as an uncompressed ``.npz`` (no pickle; strings travel in the form of V2)."""
        answers, heads = [], []
        for outputs in self.expected:
            answer, head = encode_tensors({}, "outputs", outputs, dict.fromkeys(outputs, True))
            answers.append(answer if outputs else b"")
            heads.append(head or len(answer))
        arrays = {**_joined("bodies", self.bodies), **_joined("answers", answers)}
        arrays["heads"] = np.array(self.header_lengths, dtype=np.int64)
        arrays["answer_heads"] = np.array(heads, dtype=np.int64)
        np.savez(path, **arrays, classes=self.classes)  # type: ignore[arg-type] # as in samples

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            answers = zip(_split("answers", stored), stored["answer_heads"].tolist(), strict=True)
            expected = [decode_response(answer, head) if answer else {} for answer, head in answers]
            bodies = _split("bodies", stored)
            return cls(bodies, stored["heads"].tolist(), expected, stored["classes"])

    @classmethod
    def join(cls, parts: Sequence[Payloads]) -> Self:
        """Several payloads as the classes 0, 1, ... of one."""
        return cls(
            [body for part in parts for body in part.bodies],
            [length for part in parts for length in part.header_lengths],
            [outputs for part in parts for outputs in part.expected],
            np.repeat(np.arange(len(parts)), [len(part.bodies) for part in parts]),
        )


def make_payloads(deployment: Deployment, rows: Rows, batch: int, seed: int) -> Payloads:
    """Draw batches from ``rows`` (arrays with a common first axis), seeded; one class.

    The expected answers come from the same file run in this process, batch by batch:
    dynamic quantization chooses its scales per call, so a row's answer depends on the
    rows it travels with.
    """
    runtime = load_runtime(deployment.variant, deployment.threads)
    outputs = [spec.name for spec in runtime.outputs]
    inputs: list[dict[str, np.ndarray]] = []
    expected: list[dict[str, np.ndarray]] = []
    enough = time.monotonic() + _ANSWERING_S
    for one in _batches(rows, batch, seed, batched=deployment.variant.batched):
        if len(inputs) >= _FEWEST_BODIES and time.monotonic() > enough:
            break  # a slow model is not asked hundreds of times before it is measured
        inputs.append(one)
        expected.append(dict(runtime.predict(one)))
    return replace(encode_payloads(inputs, outputs), expected=expected)


def foreign_payloads(rows: Rows, batch: int, seed: int, *, batched: bool = True) -> Payloads:
    """Bodies drawn from ``rows``; nothing is known of the right answers."""
    return encode_payloads(list(_batches(rows, batch, seed, batched=batched)))


def encode_payloads(
    inputs: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str] = ()
) -> Payloads:
    """A V2 body for each of ``inputs``; asks for ``outputs``, or else for all."""
    encoded = [encode_request(one, outputs) for one in inputs]
    return Payloads.plain(
        [body for body, _ in encoded], [head or len(body) for body, head in encoded]
    )


def count_of_bodies(rows: Rows, batch: int) -> int:
    """How many different bodies to make of batches of ``rows``."""
    size = max(1, row_bytes(rows) * batch)
    return int(np.clip(_BODIES_BYTES // size, _FEWEST_BODIES, _MOST_BODIES))


def _batches(
    rows: Rows, batch: int, seed: int, *, batched: bool
) -> Iterator[dict[str, np.ndarray]]:
    total = count_rows(rows)
    draw = np.random.default_rng(seed)
    for _ in range(count_of_bodies(rows, batch)):
        yield take(rows, draw.integers(0, total, batch), batched=batched)


def _joined(name: str, parts: Sequence[bytes]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(b"".join(parts), dtype=np.uint8),
        f"{name}_lengths": np.array([len(part) for part in parts], dtype=np.int64),
    }


def _split(name: str, stored: Mapping[str, np.ndarray]) -> list[bytes]:
    lengths = stored[f"{name}_lengths"]
    raw = stored[name].tobytes()
    return [raw[e - n : e] for e, n in zip(np.cumsum(lengths), lengths, strict=True)]
