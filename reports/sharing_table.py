"""Table of what it costs replicas to share a core, each size against one replica by itself."""

from __future__ import annotations

from loadtests.records import Measurement
from planner.shared_core import SharedCore
from reports import formatting as f
from reports.bundle import Bundle
from reports.served_tables import basis
from reports.table import Mark, Table, marked


def sharing(bundle: Bundle) -> Table:
    """One row a run of replicas that fill a core together; empty where there was none."""
    found = {
        (p.variant.name, p.instance.label, p.threads): p.sharing
        for p in bundle.profiles
        if p.sharing is not None
    }
    alone = {m.id: m.replica_cpu_ms for m in bundle.measurements}
    rows = []
    for m in sorted(bundle.measurements, key=lambda m: (*m.key, m.sequence)):
        if m.role != "sharing":
            continue
        told = found.get(m.key[:3])
        other = dict(told.runs).get(m.id) if told else None
        rows.append(
            (
                m.deployment.variant.name,
                f"{m.deployment.replicas} x {m.deployment.instance.label}",
                f.count(m.run.batch),
                f.number(m.offered_rps),
                f.number(m.replica_cpu_ms if other else None),
                f.number(alone.get(other or "")),
                _times(told if other else None),
                _basis(m) if other else basis(m),
            )
        )
    return Table(
        name="sharing",
        title="Served: what sharing a core costs",
        header=(
            "Variant",
            "Replicas on a core",
            "Batch",
            "Rate (req/s)",
            "CPU/request (ms)",
            "CPU/request alone (ms)",
            "Work (times)",
            "Basis",
        ),
        rows=tuple(rows),
        mark=None,
        text_columns=(0, 1, 7),
        notes=(
            "Each replica is asked as often as the single one it is held against.",
            "Work: CPU time of a request in company against alone, what replicas do unasked taken "
            "off, weighed against what is usual elsewhere (1.06); 90% range. Plans count with it.",
        ),
    )


def _basis(m: Measurement) -> str:
    """Of a run that counts: its CPU time does, too, where it fell behind."""
    if m.valid:
        return basis(m)
    return marked(f"n = {f.count(m.ok)}; fell behind, its CPU time counts", Mark.MEASURED)


def _times(told: SharedCore | None) -> str:
    if told is None:
        return f.NOTHING
    return f"{told.mid:.2f} ({told.low:.2f} to {told.high:.2f})"
