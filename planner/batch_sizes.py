"""Batch sizes never measured: those of them that a law from the measured ones reaches.

See :mod:`planner.request_sizes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner import request_sizes
from planner.records import PredictedProfile, ServiceProfile
from planner.request_sizes import ROWS, predict_request


def predict_batches(profiles: Iterable[ServiceProfile], batch: int) -> list[PredictedProfile]:
    """Profiles at ``batch`` of all cells (variant, size, threads) that a law reaches it from.

    Where it was measured there is none, nor is one made from what was predicted itself.
    """
    cells: dict[tuple[str, str, int], list[ServiceProfile]] = {}
    for p in profiles:
        if not isinstance(p, PredictedProfile):
            cells.setdefault((p.variant.name, p.instance.label, p.threads), []).append(p)
    return [
        predict_batch(tuple(sorted(cell, key=lambda p: p.batch)), batch)
        for _, cell in sorted(cells.items(), key=lambda item: item[0])
        if batch not in {p.batch for p in cell} and not out_of_reach([p.batch for p in cell], batch)
    ]


def out_of_reach(measured: Sequence[int], batch: int) -> str:
    """Why no law from the ``measured`` batch sizes (one or more) says ``batch``; "" if one does."""
    return request_sizes.out_of_reach(ROWS, measured, batch)


def predict_batch(measured: tuple[ServiceProfile, ...], batch: int) -> PredictedProfile:
    """Profile at ``batch`` from those of one variant, size and threads, sorted by their batch."""
    return predict_request(ROWS, measured, batch)
