"""How predictions are scored: a perfect one, a bad one, and points that nobody can judge."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from benchmarks import prediction, scale_out
from benchmarks.prediction import CASES, LONGEST_S, UTILISATIONS, measured_until, render
from benchmarks.same_schedule import Window


def point(case: str, utilisation: float, factor: float = 1.0, **changes: Any) -> dict[str, Any]:
    """What a part found, ``factor`` times the measured p99 predicted."""
    found = {
        "case": case,
        "variant": "onnx",
        "batch": 1,
        "utilisation": utilisation,
        "rate_rps": 50.0,
        "service_p50_ms": 10.0,
        "seconds": 60.0,
        "refused_windows": [],
        "floor_p99_ms": 2.0,
        "n": 3000,
        "measured_p99_ms": 40.0,
        "half_width": 0.04,
        "predicted_p99_ms": [36.0 * factor, 40.0 * factor, 44.0 * factor],
        "planner_p99_ms": [36.0, 40.0, 48.0],
        "at_floor": False,
    }
    return found | changes


def all_points(factor: float = 1.0, **changes: Any) -> dict[str, dict[str, Any]]:
    return {
        f"{case.name}_{u}": point(case.name, u, factor, **changes)
        for case, u in product(CASES, UTILISATIONS)
    }


def test_a_perfect_planner_scores_nothing_but_hits() -> None:
    """No error, every interval right, every aim met, and every point in the table."""
    lines = render(all_points())
    assert sum("+0.0%; inside" in line for line in lines) == 16
    assert sum("median 0.0%" in line and line.endswith("met |") for line in lines) == 4
    assert lines[-1].endswith("16 of 16 (100%), met |")
    assert not any("missed" in line for line in lines)


def test_a_bad_planner_is_shown_as_a_miss() -> None:
    """Half of the measured p99: every aim is missed, and says so."""
    lines = render(all_points(0.5))
    assert sum("-50.0%; outside" in line for line in lines) == 16
    assert sum("median 50.0%" in line and "**missed**" in line for line in lines) == 4
    assert "0 of 16 (0%), **missed**" in lines[-1]


def test_one_bad_point_spoils_the_worst_case_only_where_it_has_an_aim() -> None:
    """A third off at one utilisation: missed for a slow model, within the median for credit."""
    found = all_points()
    for case in ("bert", "credit_6000"):
        found[f"{case}_0.8"] = point(case, 0.8, 1.35)
    lines = {
        case.name: next(x for x in render(found) if f"p99, {case.name} |" in x) for case in CASES
    }
    assert "**missed**" in lines["bert"]
    assert "**missed**" not in lines["credit_6000"]


def test_a_floor_excuses_a_small_model_and_no_slow_one() -> None:
    """Points at the floor are labelled; they are left out only where the aim allows it."""
    found = all_points(0.5, at_floor=True)
    lines = render(found)
    assert sum("at the platform's floor (2 ms)" in line for line in lines) == 16
    verdicts = {c.name: next(x for x in lines if f"p99, {c.name} |" in x) for c in CASES}
    assert verdicts["credit_1"].endswith("4 at the platform's floor, met |")
    assert "**missed**" in verdicts["cifar_cnn"]


def test_a_refused_point_is_shown_and_never_counts_as_met() -> None:
    """A point without a valid window has its reason in the table."""
    found = all_points()
    bare = point("bert", 0.3, refused_windows=["noisy_host: others used 9 %"])
    for key in ("measured_p99_ms", "predicted_p99_ms", "planner_p99_ms", "n", "half_width"):
        del bare[key]
    found["bert_0.3"] = bare
    lines = render(found)
    assert any("refused: noisy_host: others used 9 %" in line for line in lines)
    verdict = next(line for line in lines if "p99, bert |" in line)
    assert "3 of 4 points" in verdict
    assert "**missed**" in verdict


def test_a_refused_point_is_a_miss_of_its_interval() -> None:
    """Three of sixteen without a valid window leave 81 %, however good the others are."""
    found = all_points()
    for utilisation in UTILISATIONS[:3]:
        one = point("bert", utilisation, refused_windows=["noisy_host: x"])
        found[f"bert_{utilisation}"] = {k: v for k, v in one.items() if "p99_ms" not in k}
    assert "| 13 of 16 (81%), **missed** |" in render(found)[-1]


def test_no_aim_is_met_before_all_points_are_there() -> None:
    """A point that is not measured yet may be the bad one."""
    found = all_points()
    del found["bert_0.8"]
    lines = render(found)
    assert "15 of 15 (100%), **missed**" in lines[-1]
    assert "**missed**" in next(line for line in lines if "p99, bert |" in line)


def test_a_model_that_is_too_fast_for_its_aim_says_so() -> None:
    """The aim of slow models is for 5 ms and more."""
    lines = render(all_points(service_p50_ms=1.0))
    verdict = next(line for line in lines if "p99, cifar_cnn |" in line)
    assert "service time is below 5 ms" in verdict


def test_measuring_ends_when_the_p99_is_known() -> None:
    """Constant latencies are known at once; two values in one request of fifty never are."""
    steady = Window(np.arange(4000) / 100, np.full(4000, 0.01))
    windows, refused, _ = measured_until(lambda _: (steady, ""), 1e9)
    assert (len(windows), refused) == (1, [])


def test_measuring_gives_up_when_its_time_is_over() -> None:
    """Windows that cannot be believed cost time as well, and leave their reason."""
    windows, refused, _ = measured_until(lambda _: (None, "noisy_host: x"), -10.0)
    assert (windows, refused) == ([], ["noisy_host: x"])


def test_measuring_gives_up_when_nothing_is_believed() -> None:
    """Three windows in a row that are refused are enough, whatever time is left."""
    windows, refused, _ = measured_until(lambda _: (None, "noisy_host: x"), 1e9)
    assert (windows, refused) == ([], ["noisy_host: x"] * 3)


def test_a_shorter_measurement_is_another_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured for less than the longest time never passes for the real thing."""
    usual = {*prediction.parts(), *scale_out.parts()}
    assert len(usual) == len(CASES) * len(UTILISATIONS) + len(scale_out.CASES)
    slow = {name for name in usual if name.startswith(("prediction_cifar", "prediction_bert"))}
    assert all(name.endswith("_45s") == (name not in slow) for name in usual)
    monkeypatch.setenv("TONNAGE_BENCH_POINT_S", "20")
    assert not usual & {*prediction.parts(), *scale_out.parts()}
    monkeypatch.setenv("TONNAGE_BENCH_POINT_S", str(LONGEST_S))
    assert usual & {*prediction.parts(), *scale_out.parts()} == slow


def test_points_that_share_a_profile_say_so() -> None:
    """Sixteen points of four profiles are not sixteen independent ones."""
    found = all_points()
    for one in found.values():
        one["profile_shared"] = one["case"].startswith("credit")
    assert "; points of credit_6000 and of credit_1 share a profile" in render(found)[-1]
    assert "share a profile" not in render(all_points())[-1]


def scaled(throughput: float, p99: float, faults: tuple[str, ...] = ()) -> dict[str, Any]:
    rows = [
        {
            "replicas": k,
            "carried_rps": 50.0 * k,
            "predicted_rps": 50.0 * k * throughput,
            "rate_rps": 30.0 * k,
            "n": 900,
            "measured_p99_ms": 80.0,
            "half_width": 0.1,
            "predicted_p99_ms": [70 * p99, 80 * p99, 90 * p99],
            "faults": list(faults),
        }
        for k in (1, 2)
    ]
    return {"workload": "made", "variant": "x", "batch": 1, "size": "sim-0.5 (quota)", "rows": rows}


def test_scaling_out_is_held_against_both_aims() -> None:
    """A perfect prediction meets both; 10 % of throughput or a fault miss theirs."""
    perfect = scale_out.render({"a": scaled(1, 1)})
    assert [line.endswith(", met |") for line in perfect[-2:]] == [True, True]
    slow = scale_out.render({"a": scaled(1.1, 1)})
    assert [line.endswith(", met |") for line in slow[-2:]] == [False, True]
    refused = scale_out.render({"a": scaled(1, 1, ("noisy_host: x",))})
    assert [line.endswith(", met |") for line in refused[-2:]] == [True, False]
    assert "p99 refused: noisy_host: x" in refused[0]
