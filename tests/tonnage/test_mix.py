"""What a run says of a demand with a mix of batch sizes, beside the claim: all of the planner."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.arrivals import Mix
from loadtests.objective import Slo
from loadtests.schedule import make_schedule
from planner import curve as curve_module
from planner.batch_choice import OF_A_MIX
from planner.claim import Claim
from planner.curve import predict_quantile
from planner.mixture import mixed_of
from planner.records import Bottleneck, ServiceProfile
from planner.surface import Surface
from reports.export.proven import Proven
from reports.gpu_table import reach_table
from reports.lines import latency_lines
from reports.plots import figures
from serving.instances import load_instances
from serving.records import Endpoint
from tonnage.config import load_study
from tonnage.planning import plan, study_demands
from tonnage.reproving import Reproving
from tonnage.run_folder import RunFolder

Runs = Callable[..., RunFolder]
MIX = Mix(batches=(1, 8), weights=(3, 1))


def test_its_curves_are_in_the_report(mixed_run: Runs) -> None:
    """As the mixture predicts it, with no marker of what was measured of one size alone."""
    bundle = mixed_run().bundle()
    answer = bundle.recommendations[0]
    drawn = [line.curve for line in latency_lines(bundle, answer)]
    assert drawn
    assert all(curve.mix == MIX and curve.batch == 8 for curve in drawn)
    assert all((c.measured_from_rps, c.measured_to_rps) == (0, 0) for c in drawn)
    (made,) = mixed_of(answer.demand, bundle.profiles, bundle.info.seed)
    for point in drawn[0].points:
        seen = predict_quantile(made, drawn[0].replicas, point.rate_rps, 0.95, bundle.info.seed)
        assert point.p95_ms == seen
    plot = next(p for p in figures(bundle) if p.group == "latency")
    assert plot.title == "Steady: latency against rate, batch 1 (75%), 8 (25%)"
    assert "made of runs of each batch size, none of the mix" in plot.caption
    assert not any("measured" in trace["name"] for trace in plot.figure["data"] if "name" in trace)


def test_curves_of_one_size_are_none_of_the_mix(mixed_run: Runs) -> None:
    """And the other way round: each demand sees its own alone."""
    bundle = mixed_run().bundle()
    answer = bundle.recommendations[0]
    alone = answer.model_copy(
        update={"demand": answer.demand.model_copy(update={"mix": None, "batch": 8})}
    )
    assert latency_lines(bundle, alone) == ()
    plain = [curve.model_copy(update={"mix": None}) for curve in bundle.curves]
    assert latency_lines(bundle.model_copy(update={"curves": tuple(plain)}), answer) == ()
    assert all("mix" not in curve.model_dump_json() for curve in plain)


def test_how_far_cpus_reach_counts_its_rows(mixed_run: Runs) -> None:
    """The highest rate of the mix, below that of single rows and above that of eights."""
    bundle = mixed_run().bundle()
    (reach,) = bundle.recommendations[0].cpu_reaches
    assert reach.mix == MIX
    assert reach.rows_per_s == pytest.approx(reach.rate_rps * (3 * 1 + 8) / 4)
    capacities = {p.batch: p.capacity_rps for p in bundle.profiles}
    most = bundle.recommendations[0].demand.max_replicas
    assert 0.4 * most * capacities[8] < reach.rate_rps < 0.7 * most * capacities[1]
    row = next(row for row in reach_table(bundle).rows if row[0] == "Steady")
    assert row[2] == "1 (75%), 8 (25%)"


def test_calls_are_not_shared_and_the_rejection_says_so(mixed_run: Runs) -> None:
    """One where fewer vCPUs could do; none where a single one is the plan already."""
    (answer, _) = mixed_run(rate_rps=200).bundle().recommendations
    assert answer.best is not None
    assert answer.best.replicas > 1
    (refused,) = [r for r in answer.rejections if r.candidate.max_batch > 1]
    assert (refused.bottleneck, refused.reason) == (Bottleneck.UNMEASURED, OF_A_MIX)
    assert (refused.candidate.variant, refused.candidate.size) == ("stub", "sim-1")


@pytest.mark.parametrize("size", ["sim-1", "sim-0.5"])
def test_calls_that_would_not_be_tried_are_not_refused(mixed_run: Runs, size: str) -> None:
    """A plan of one machine, and shares of a CPU, of which the law knows no stalls."""
    rate = 100 if size == "sim-0.5" else 20
    (answer, _) = mixed_run(size, rate).bundle().recommendations
    assert answer.best is not None
    assert (answer.best.replicas > 1) == (size == "sim-0.5")
    assert all(r.candidate.max_batch == 1 for r in answer.rejections)


def test_its_export_carries_what_all_batches_need(mixed_run: Runs) -> None:
    """CPU of the ingress is the mean of theirs; the demand is said as it is."""
    folder = mixed_run(prices=True)
    bundle = folder.bundle()
    proven = Proven.of(bundle, "steady", load_instances(folder.path / "instances.toml"))
    ingress = {p.batch: p.ingress_cpu_ms for p in bundle.profiles}
    assert ingress[8] > ingress[1]
    assert proven.ingress_cpu_ms == pytest.approx(0.75 * ingress[1] + 0.25 * ingress[8])
    assert proven.demand.mix == MIX


def test_a_claim_is_put_to_a_server_elsewhere_with_its_mix() -> None:
    """Classes in the mix's order, each of the payload's rows; without a mix one class."""
    mix = Mix(batches=(8, 1), weights=(1, 2))
    claim = Claim.model_construct(
        batch=8, mix=mix, slo=Slo(limit_ms=200), rate_rps=60.0, replicas=1, length=None
    )
    there = Endpoint(url="http://127.0.0.1:9", model_name="m")
    rows = Path("rows.npz")
    load = Reproving(claim=claim, endpoint=there, headers={}, payload=rows)._load(100, 3)
    assert load.classes == ((8, rows), (1, rows))
    assert (load.run.batch, load.run.mix, load.run.rate_rps) == (8, mix, 60)
    schedule = make_schedule(load.run, np.arange(2))
    assert np.mean(schedule.body == 0) == pytest.approx(1 / 3, abs=0.02)
    alone = claim.model_copy(update={"mix": None})
    load = Reproving(claim=alone, endpoint=there, headers={}, payload=rows)._load(100, 3)
    assert (load.classes, load.run.mix) == (((8, rows),), None)


def test_what_the_run_simulated_of_a_mix_is_not_simulated_again(
    mixed_run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning anew makes one surface, on which the mixture's measured points stand."""
    folder = mixed_run()
    study, path = load_study(str(folder.path / "study.toml"))
    demands = [d for d in study_demands(study, path) if d.mix]
    made: list[int] = []
    simulate = curve_module.simulate_surface

    def counted(profile: ServiceProfile, replicas: int, *rest: Any) -> Surface:
        made.append(replicas)
        return simulate(profile, replicas, *rest)

    monkeypatch.setattr(curve_module, "simulate_surface", counted)
    curve_module.predictor.cache_clear()
    _, (answer,), _ = plan(folder, study, path, demands)
    kept = folder.bundle().recommendations[0]
    first, again = (
        re.sub(r"tonnage measure \S+", "", one.model_dump_json()) for one in (kept, answer)
    )
    assert first == again  # but for where the run lies
    assert made == [1]
