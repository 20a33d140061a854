"""Tables about the ground the measurements stand on: the platform's floor, and drift."""

from __future__ import annotations

from loadtests.records import Measurement
from reports import formatting as f
from reports.bundle import Bundle
from reports.served_tables import basis, load_in_words, over, quantiles_ms
from reports.table import Table


def drift(bundle: Bundle) -> Table:
    """Repeats of the reference cell along the study, each against the first."""
    first: dict[tuple[object, ...], Measurement] = {}
    rows = []
    for m in _in_order(bundle, "reference"):
        start = first.setdefault((*m.key, m.run.mode, m.run.users, m.run.rate_rps), m)
        p50 = quantiles_ms(m.due_to_done)[0]
        rows.append(
            (
                f"{m.deployment.label}, batch {f.count(m.run.batch)}, {load_in_words(m)}",
                f.count(m.sequence),
                f.number(m.completed_rps),
                f.ratio(over(m.completed_rps, start.completed_rps), 2),
                f.number(p50),
                f.ratio(over(p50, quantiles_ms(start.due_to_done)[0]), 2),
                basis(m),
            )
        )
    return Table(
        name="drift",
        title="Drift: the same cell again along the study",
        header=("Reference", "Place", "req/s", "vs first", "p50 (ms)", "vs first ", "Basis"),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 6),
        notes=("Place is the position in the study's order of runs.",),
    )


def floors(bundle: Bundle) -> Table:
    """What the platform itself costs: a replica that answers without a model."""
    rows = []
    for m in _in_order(bundle, "floor"):
        shown = quantiles_ms(m.due_to_done) if m.valid else (None, None, None)
        rows.append(
            (
                m.deployment.instance.label,
                f.count(m.run.batch),
                load_in_words(m),
                f.number(m.completed_rps if m.valid else None),
                *(f.number(value) for value in shown),
                basis(m),
            )
        )
    return Table(
        name="floor",
        title="The platform's floor: no model behind the same path",
        header=(
            "Instance",
            "Batch",
            "Load",
            "Completed (req/s)",
            "p50 (ms)",
            "p95 (ms)",
            "p99 (ms)",
            "Basis",
        ),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 2, 7),
    )


def _in_order(bundle: Bundle, role: str) -> list[Measurement]:
    return sorted((m for m in bundle.measurements if m.role == role), key=lambda m: m.sequence)
