"""Profiles of a mix of batch sizes, made from those of each size alone.

A request has batch b with probability w(b), independently of the others. So

- the time for which one keeps its replica is a mixture, with the weights w, of what each
  batch takes (:mod:`planner.occupancy`); what waking an idle replica adds is the mean of theirs;
- the mean occupancy is the weighted mean, and its inverse the capacity: 1 / X = sum w(b) / X(b).
  The ends of its interval come from all low ends, and from all high ends, at once;
- a quantile is over all requests, whatever their batch, which is what a simulation of the
  mixture gives.

Two things are taken on the safe side, as one number stands for all batches: what the round
trip adds outside of a replica is that of the batch of which it is most, and what measured runs
exceeded their prediction by is, at each utilisation, that of the batch of which it is most.
Open-loop runs of the mix itself, which a confirmation makes, teach a mixture what they teach a
profile: a bound of the capacity, and those of one replica by how much they exceeded theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from loadtests.arrivals import Mix, alike
from loadtests.histogram import Histogram
from loadtests.records import Measurement
from planner.candidates import size_name
from planner.curve import QUANTILES, curve, predictor
from planner.measuring import MEASURE_IT, measure_command
from planner.occupancy import occupancy
from planner.profile import Refusal, cpu_bound_rps, points_of, told_by
from planner.records import Candidate, Curve, Demand, Interval, MeasuredPoint, ServiceProfile
from planner.surface import HIGHEST_UTILISATION
from serving.records import InstanceType

MOST_COUNTS = 20_000
"""Of a mixed histogram: more would only take longer."""

_PLACES = (np.arange(400) + 0.5) / 400


class MixedProfile(ServiceProfile):
    """The profile of a mix of batch sizes; ``batch`` is the largest of them.

    Nothing of it was measured as it is, but where runs of it came later. ``service`` is the time
    for which a request that follows another keeps its replica, and what waking it takes is in
    ``first_cpu_ms`` as it would be seen there. ``measured_points`` are where runs of the mix would
    lie if they exceeded their prediction by as much as the worst of its parts, and those that came
    later.
    """

    mix: Mix


def mixed(
    mix: Mix,
    parts: Mapping[int, ServiceProfile],
    seed: int,
    runs: Sequence[Measurement] = (),
) -> MixedProfile:
    """One profile of ``mix`` from those of its batches, all of one deployment size.

    ``runs`` are open-loop runs of the mix on that size.
    """
    profiles = [parts[batch] for batch in mix.batches]
    weights = np.array(mix.weights) / sum(mix.weights)
    found = [occupancy(p, *p.service.values(), p.capacity_rps) for p in profiles]
    # No part may seem to have been seen more often than it was.
    seen = min(o.counts.sum() / w for o, w in zip(found, weights, strict=True))
    total = min(float(seen), MOST_COUNTS)
    counts = [_scaled(o.counts, w * total) for o, w in zip(found, weights, strict=True)]
    busy = Histogram.counted(np.concatenate([o.busy_s for o in found]), np.concatenate(counts))
    waking_s = float(
        np.dot(weights, [np.average(o.first_s - o.busy_s, weights=o.counts) for o in found])
    )
    longest = np.max([o.beyond_at(_PLACES) for o in found], axis=0)
    largest = max(profiles, key=lambda p: p.batch)

    def mean(name: str) -> float:
        return float(np.dot(weights, [getattr(p, name) for p in profiles]))

    startups = [p.startup_s for p in profiles if p.startup_s is not None]
    summed = _harmonic(weights, [p.capacity_rps for p in profiles])
    told = told_by(runs)
    capacity = min([summed, *map(cpu_bound_rps, told)])
    less = capacity / summed
    granted = min((o.quota for o in found if o.quota is not None), default=1.0)
    figures = dict(largest) | {
        "service": busy,
        "overhead_ms": mean("overhead_ms"),
        "cpu_ms": mean("cpu_ms"),
        "capacity_rps": capacity,
        "capacity_interval": Interval(
            low=less * _harmonic(weights, [p.capacity_interval.low for p in profiles]),
            mid=capacity,
            high=less * _harmonic(weights, [p.capacity_interval.high for p in profiles]),
        ),
        "ingress_cpu_ms": mean("ingress_cpu_ms"),
        "peak_memory_bytes": max(p.peak_memory_bytes for p in profiles),
        "startup_s": max(startups, default=None),
        "measured_points": (),
        "measurement_ids": tuple(i for p in profiles for i in p.measurement_ids),
        # The histogram's own mean, so that nothing is hidden between the two.
        "saturated_rps": granted / (busy.mean_s() * (1 + 1e-9)),
        "first_cpu_ms": 1e3 * (largest.threads * busy.mean_s() + waking_s),
        "idle_cores": max(p.idle_cores for p in profiles),
        "beyond": Histogram.of(longest + waking_s),
        "mix": mix,
    }
    bare = MixedProfile.model_validate(figures)
    points = (*_points(bare, profiles, seed), *points_of(told, capacity))
    if not points:
        return bare
    made = bare.model_copy(update={"measured_points": points})
    # Points change what is added to a simulation, not the simulation.
    simulated = predictor(bare, seed).surface(1)
    predictor(made, seed).know(simulated.model_copy(update={"profile": made.content_hash()}))
    return made


def mixed_of(demand: Demand, profiles: Sequence[ServiceProfile], seed: int) -> list[MixedProfile]:
    """The demand's mix on every size of which each batch was measured at its length, by size."""
    if demand.mix is None:
        return []
    there = [p for p in profiles if p.length == demand.length]
    cells = _parts(there, demand.mix)
    whole = [parts for parts in cells.values() if len(parts) == len(demand.mix.batches)]
    return [mixed(demand.mix, parts, seed) for parts in whole]


def mixed_curve(profile: MixedProfile, replicas: int, seed: int) -> Curve:
    """Latency of a mix against rate; its measured range is empty, as no run was of it."""
    made = curve(profile, replicas, seed)
    unmeasured = {"mix": profile.mix, "measured_from_rps": 0.0, "measured_to_rps": 0.0}
    return made.model_copy(update=unmeasured)


def mixed_profiles(
    demand: Demand,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    instances: Mapping[str, InstanceType],
    seed: int,
    measure_with: str | None = None,
    runs: Sequence[Measurement] = (),
) -> tuple[list[ServiceProfile], list[Refusal]]:
    """What a demand is planned from: its mix of each deployment size, at the demand's batch.

    A size that lacks one of the batches is refused, with the command that measures it;
    ``measure_with`` is that of :func:`planner.measuring.measure_command`; ``runs`` are what was
    measured since, of which those of the mix count. Without a mix, all profiles and refusals as
    they are.
    """
    if demand.mix is None:
        return list(profiles), list(refused)
    batches = demand.mix.batches
    cells = _parts(profiles, demand.mix)
    reasons = {r.key: r.reason for r in refused if r.key[3] in batches}
    for name, label, threads, _ in reasons:
        cells.setdefault((name, label, threads), {})
    made: list[ServiceProfile] = []
    refusals: list[Refusal] = []
    for (name, label, threads), parts in cells.items():
        lacking = next((batch for batch in batches if batch not in parts), None)
        if lacking is None:
            cell = name, label, threads
            made.append(mixed(demand.mix, parts, seed, _runs_of(demand, cell, runs)))
            continue
        reason = reasons.get((name, label, threads, lacking))
        if reason is not None:
            reason += f" (batch {lacking} of the mix)"
        else:
            reason = f"not measured at batch {lacking}, which the mix has"
            size = size_name(label, instances)
            candidate = Candidate(
                variant=name, size=size, threads=threads, instance=size, replicas_per_instance=1
            )
            asked = demand.model_copy(update={"batch": lacking})
            command = measure_command(candidate, asked, measure_with)
            reason += f"{MEASURE_IT}`{command}`"
        whole = (name, label, threads, demand.batch)
        refusals.append(Refusal(whole, reason, demand.length))
    return made, refusals


def _parts(
    profiles: Sequence[ServiceProfile], mix: Mix
) -> dict[tuple[str, str, int], dict[int, ServiceProfile]]:
    """By variant, instance label and threads the profiles of a mix's batch sizes, by these."""
    cells: dict[tuple[str, str, int], dict[int, ServiceProfile]] = {}
    for p in profiles:
        if p.batch in mix.batches:
            key = p.variant.name, p.instance.label, p.threads
            cells.setdefault(key, {})[p.batch] = p
    return cells


def _runs_of(
    demand: Demand, cell: tuple[str, str, int], runs: Sequence[Measurement]
) -> list[Measurement]:
    """The runs of one size that were of the demand's mix and length, one request a call."""
    return [
        m
        for m in runs
        if demand.mix is not None
        and alike(m.run.mix, demand.mix)
        and (m.key[:3], m.run.length, m.deployment.max_batch) == (cell, demand.length, 1)
    ]


def _harmonic(weights: np.ndarray, rates: Sequence[float]) -> float:
    return float(1 / np.dot(weights, 1 / np.array(rates)))


def _scaled(counts: np.ndarray, total: float) -> np.ndarray:
    """Whole counts of about ``total`` in all that keep every quantile; shape as ``counts``."""
    ends = np.round(np.cumsum(counts) * (total / counts.sum())).astype(np.int64)
    return np.diff(ends, prepend=0)


def _points(
    bare: MixedProfile, parts: Sequence[ServiceProfile], seed: int
) -> Iterator[MeasuredPoint]:
    """Where runs of the mix would lie, at each utilisation that a part was measured at."""
    measured = [point for part in parts for point in part.measured_points]
    for place in sorted({min(point.utilisation, HIGHEST_UTILISATION) for point in measured}):
        expected = (predictor(bare, seed).surface(1).at(place, q).high for q in QUANTILES)
        over = (max(predictor(p, seed).shortfall(place, q) for p in parts) for q in QUANTILES)
        p50, p95, p99 = (a + b for a, b in zip(expected, over, strict=True))
        yield MeasuredPoint(
            rate_rps=place * bare.capacity_rps,
            utilisation=place,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            n=min(point.n for point in measured),
        )
