"""Sharing a core: at which rate as many replicas as it holds are held against a single one."""

from __future__ import annotations

from collections.abc import Iterable

from loadtests.records import Measurement
from serving.records import Deployment


def sharing_rate(
    measurements: Iterable[Measurement], deployment: Deployment, batch: int, length: int | None
) -> float | None:
    """Requests per second of all its replicas, each asked as often as one by itself was at most.

    That is the highest rate of the valid open-loop runs of one such replica; None without any.
    """
    alone = deployment.model_copy(update={"replicas": 1})
    rates = [
        m.run.rate_rps
        for m in measurements
        if m.role == "cell"
        and m.valid
        and m.run.mode == "open"
        and m.run.rate_rps is not None
        and (m.run.batch, m.run.length) == (batch, length)
        and m.deployment == alone
    ]
    return deployment.replicas * max(rates) if rates else None
