"""Which predicted curves and measured points a latency plot shows."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.arrivals import alike
from planner.recommend import best_on_host
from planner.records import Curve, MeasuredPoint, Plan, Recommendation
from reports import formatting as f
from reports.bundle import Bundle

_WITHOUT_A_PLAN = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """One predicted curve and the runs that measured the very same deployment."""

    name: str
    curve: Curve
    points: tuple[MeasuredPoint, ...]

    @property
    def measured_range(self) -> str:
        """Where the curve is interpolation, in words."""
        low, high = self.curve.measured_from_rps, self.curve.measured_to_rps
        if self.curve.mix is not None:
            return f"{self.name}: made of runs of each batch size, none of the mix"
        if not high:
            return f"{self.name}: no open-loop run"
        return f"{self.name}: measured from {f.number(low)} to {f.rate(high)}"


def latency_lines(bundle: Bundle, answer: Recommendation) -> tuple[Line, ...]:
    """Curves of the recommended plan and of the best one on the host's own sizes.

    Each is shown as deployed; one replica is shown too, as that is what was measured.
    Without a plan, the first curves of the profile's batch (or mix) and length show what there is.
    """
    wanted_mix, asked = answer.demand.mix, answer.demand.request
    at_batch = [
        c
        for c in bundle.curves
        if (c.batch, c.length) == asked and alike(c.mix, wanted_mix) and c.points
    ]
    plans = [p for p in (answer.best, best_on_host(answer)) if p]
    candidates = [p.candidate for p in (*plans, *answer.alternatives)]
    candidates += [r.candidate for r in answer.rejections]
    sizes = {candidate.size for candidate in candidates}
    wanted = [
        curve
        for plan in plans
        for curve in sorted(at_batch, key=lambda c: c.replicas)
        if _size(curve.instance, sizes) == plan.candidate.size and _shows(curve, plan)
    ]
    chosen = list(dict.fromkeys(wanted)) or at_batch[:_WITHOUT_A_PLAN]
    return tuple(
        Line(name=_name(curve), curve=curve, points=_points(bundle, curve)) for curve in chosen
    )


def _size(label: str, sizes: set[str]) -> str:
    """Turn a curve's label into the size that candidates call it by.

    Of two enforcements of one size, candidates name the unusual one: "sim-1 (quota)" is
    sim-1:quota where there is such a candidate, and else sim-1.
    """
    name, _, enforcement = label.removesuffix(")").partition(" (")
    unusual = f"{name}:{enforcement}"
    return unusual if unusual in sizes else name


def _shows(curve: Curve, plan: Plan) -> bool:
    c = plan.candidate
    same = (curve.variant, curve.threads) == (c.variant, c.threads)
    return same and curve.replicas in {1, plan.replicas}


def _name(curve: Curve) -> str:
    return f.with_threads(f"{curve.replicas} x {curve.instance}, {curve.variant}", curve.threads)


def _points(bundle: Bundle, curve: Curve) -> tuple[MeasuredPoint, ...]:
    """Measured points of one replica: they say nothing about a pool of several, or a mix."""
    if curve.replicas != 1 or curve.mix is not None:
        return ()
    key = (curve.variant, curve.threads, curve.batch, curve.length)
    return tuple(
        point
        for p in bundle.profiles
        if (p.variant.name, p.threads, p.batch, p.length) == key
        and curve.instance in {p.instance.name, p.instance.label}
        for point in p.measured_points
    )
