"""Tables about the ground the measurements stand on: the platform's floor, and drift."""

from __future__ import annotations

from loadtests.ceiling import HIGHEST_SHARE, ceilings
from loadtests.records import FaultCode, Measurement
from reports import formatting as f
from reports.bundle import Bundle
from reports.served_tables import basis, last_rung_in_words, load_in_words, over, quantiles_ms
from reports.table import Table


def drift(bundle: Bundle) -> Table:
    """Repeats of the reference cell along the study, each against the first."""
    first: dict[tuple[object, ...], Measurement] = {}
    rows = []
    for m in _in_order(bundle, "reference"):
        # Drift is what this table is to show, so it is no reason to hide the figures.
        believed = all(fault.code == FaultCode.DRIFT for fault in m.faults)
        shown: tuple[str, ...] = (f.NOTHING,) * 4
        if believed:
            run = m.run
            same = (*m.key, run.length, run.mode, run.users, run.rate_rps)
            start = first.setdefault(same, m)
            p50, p50_then = (quantiles_ms(x.due_to_done)[0] for x in (m, start))
            shown = (
                f.number(m.completed_rps),
                f.ratio(over(m.completed_rps, start.completed_rps), 2),
                f.number(p50),
                f.ratio(over(p50, p50_then), 2),
            )
        rows.append(
            (
                f"{m.deployment.label}, batch {f.count(m.run.batch)}, {load_in_words(m)}",
                f.count(m.sequence),
                *shown,
                basis(m),
            )
        )
    return Table(
        name="drift",
        title="Drift: the same cell again along the study",
        header=(
            "Reference",
            "Place",
            "Rate (req/s)",
            "Rate vs first",
            "p50 (ms)",
            "p50 vs first",
            "Basis",
        ),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 6),
        notes=("Place is the position in the study's order of runs.",),
    )


def floors(bundle: Bundle) -> Table:
    """Cost of the platform itself: a replica that answers without a model, size by size."""
    rows = []
    found = _in_order(bundle, "floor")
    found.sort(key=lambda m: (m.run.batch, m.deployment.instance.vcpus, m.deployment.instance.name))
    for m in found:
        shown = quantiles_ms(m.due_to_done) if m.valid else (None, None, None)
        rows.append(
            (
                m.deployment.instance.label,
                f.count(m.run.batch),
                last_rung_in_words(m),
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
        notes=tuple(
            f"Batch {f.count(batch)}: generator and ingress carry {ceiling}; above "
            f"{f.percent(HIGHEST_SHARE)} of that nothing is believed."
            for batch, ceiling in sorted(ceilings(bundle.measurements).items())
        ),
    )


def _in_order(bundle: Bundle, role: str) -> list[Measurement]:
    return sorted((m for m in bundle.measurements if m.role == role), key=lambda m: m.sequence)
