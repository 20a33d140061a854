"""A p99 predicted from the profile alone, against the p99 measured on the same schedule.

Each point is a deployment of its own: the platform's floor, the profile as the product makes
it, then open-loop windows until the p99's own 95 % interval is within 5 %, or the time is
up: 300 s for models slow enough that the worst error has an aim, 45 s for the others, or
``TONNAGE_BENCH_POINT_S`` for all, 300 at most. A point says how long it was measured. Where that
is less than 300 s, all points of a case are of one deployment and one profile, so that most of
the time is spent on what is predicted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import median
from time import monotonic
from typing import Any

from benchmarks.grid_records import behind
from benchmarks.live import SEED, Live, built, host_size, kept, live, within
from benchmarks.same_schedule import COVERED, Window, half_width, measured_ms, predicted_ms
from loadtests.floor import NEAR, floor_p99_s
from planner.curve import predictor
from serving.records import Deployment

Result = dict[str, Any]
UTILISATIONS = (0.3, 0.5, 0.7, 0.8)
PRECISION = 0.05
LONGEST_S = 300.0
USUAL_S = 45.0
SHORTEST_WINDOW_S, LONGEST_WINDOW_S = 8.0, 60.0
WINDOW_REQUESTS = 3000
SLOW_MS = 5.0
REFUSED_IN_A_ROW = 3
BESIDE_S = 150.0
"""What starting, floor and profile may take, tries included."""

AIM_COVERED = 0.85


@dataclass(frozen=True)
class Case:
    """A model at a batch size, and how wrong the prediction of its p99 may be."""

    name: str
    workload: str
    variant: str
    batch: int
    median_error: float
    worst_error: float | None = None
    slow: bool = False


CASES = (
    Case("cifar_cnn", "cifar_cnn", "onnx", 64, 0.10, 0.25, slow=True),
    Case("bert", "bert", "onnx", 1, 0.10, 0.25, slow=True),
    Case("credit_6000", "credit", "onnx_fp32", 6000, 0.20),
    Case("credit_1", "credit", "onnx_fp32", 1, 0.30),
)


def longest_s(usual_s: float) -> float:
    """The most time that a point is measured for: ``usual_s`` unless the environment has one."""
    return float(os.environ.get("TONNAGE_BENCH_POINT_S", usual_s))


def suffix(most_s: float) -> str:
    """What the names of parts end in whose points are measured for less than the longest."""
    return "" if most_s == LONGEST_S else f"_{most_s:g}s"


def point(case: Case, utilisation: float, most_s: float) -> Result:
    """Profile, measure and predict one case at one utilisation."""
    variant = built(case.workload, (case.variant,))[case.variant]
    deployment = Deployment(variant=variant, instance=host_size("sim-1"), threads=1)
    platform = live if most_s >= LONGEST_S else kept
    with within(most_s + BESIDE_S), platform() as bench:
        profile = bench.profiled(deployment, case.batch)
        rate = float(f"{utilisation * profile.capacity_rps:.4g}")
        window_s = _window_s(rate, most_s)
        floor_s = floor_p99_s(bench.floors, case.batch, rate, deployment.instance.label)
        windows, refused, seconds = measured_until(
            partial(_window, bench, deployment, case.batch, rate, window_s), most_s
        )
    found: Result = {
        "case": case.name,
        "variant": case.variant,
        "batch": case.batch,
        "utilisation": utilisation,
        "rate_rps": rate,
        "service_p50_ms": 1e3 * profile.service.quantile_s(0.5),
        "profile_samples": profile.service.count,
        "seconds": seconds,
        "most_seconds": most_s,
        "profile_shared": most_s < LONGEST_S,
        "refused_windows": refused,
        "floor_p99_ms": None if floor_s is None else 1e3 * floor_s,
        "profile": profile.model_dump(mode="json"),
    }
    if not windows:
        return found
    began = monotonic()
    low, mid, high = predicted_ms(profile, windows, seed=SEED)
    planned = predictor(profile, SEED).latency(1, rate, 0.99)
    truth = measured_ms(windows)
    return found | {
        # From these, the rate and the seeds every schedule can be made again.
        "window_s": window_s,
        "windows": [{"seed": window.seed, "from_s": window.from_s} for window in windows],
        "n": int(sum(window.steady.sum() for window in windows)),
        "measured_p99_ms": truth,
        "half_width": half_width(windows),
        "predicted_p99_ms": [low, mid, high],
        "predicting_s": monotonic() - began,
        "planner_p99_ms": list(planned),
        "at_floor": floor_s is not None and truth <= 1e3 * floor_s * NEAR,
    }


def measured_until(
    window: Callable[[int], tuple[Window | None, str]], most_s: float, precision: float = PRECISION
) -> tuple[list[Window], list[str], float]:
    """Windows until the p99 is known to ``precision``, or the time is up, or none is believed.

    ``window`` makes the one with a number, or says why it cannot be believed. Also returned:
    these reasons, and the seconds it took.
    """
    windows: list[Window] = []
    refused: list[str] = []
    in_a_row = 0
    began = monotonic()
    for number in count():
        made, reason = window(number)
        if made is None:
            refused.append(reason)
        else:
            windows.append(made)
        in_a_row = 0 if made else in_a_row + 1
        if in_a_row == REFUSED_IN_A_ROW:
            break
        spent = monotonic() - began
        if spent * (1 + 1 / (number + 1)) > most_s + SHORTEST_WINDOW_S / 2:  # no room for another
            break
        if made is not None and half_width(windows) <= precision:
            break
    return windows, refused, monotonic() - began


def _window_s(rate_rps: float, most_s: float) -> float:
    wanted = max(SHORTEST_WINDOW_S, WINDOW_REQUESTS / rate_rps)
    return min(wanted, LONGEST_WINDOW_S, most_s)


def _window(
    bench: Live, deployment: Deployment, batch: int, rate_rps: float, seconds: float, number: int
) -> tuple[Window | None, str]:
    seed = 1000 * SEED + number
    made, result = bench.drive(deployment, batch, rate_rps, seconds, seed)
    if not made.valid and not behind(made):  # falling behind is an answer, the worst there is
        return None, f"{made.faults[0].code}: {made.faults[0].detail}"
    samples = result.samples
    return Window(samples.due_s, samples.latency_s, result.steady_from_s, seed), ""


def parts() -> dict[str, Callable[[], Result]]:
    """One part a point; points of another length than usual are parts of their own."""
    return {
        f"prediction_{case.name}_{utilisation}{suffix(most_s)}": partial(
            point, case, utilisation, most_s
        )
        for case in CASES
        for most_s in (longest_s(LONGEST_S if case.slow else USUAL_S),)
        for utilisation in UTILISATIONS
    }


def error(found: Mapping[str, Any]) -> float | None:
    """Relative error of the predicted p99; None where nothing could be measured."""
    if "predicted_p99_ms" not in found:
        return None
    return float(found["predicted_p99_ms"][1] / found["measured_p99_ms"] - 1)


def contained(found: Mapping[str, Any]) -> bool | None:
    """Whether the predictive interval contains the measured p99."""
    if "predicted_p99_ms" not in found:
        return None
    low, _, high = found["predicted_p99_ms"]
    return bool(low <= found["measured_p99_ms"] <= high)


def render(results: Mapping[str, Any]) -> list[str]:
    """Rows of the table of aims and figures: every point, then the aims."""
    found = list(results.values())
    lines = [_row(one) for one in found]
    for case in CASES:
        mine = [one for one in found if one["case"] == case.name]
        if mine:
            lines.append(_case_row(case, mine))
    if found:
        inside = sum(contained(one) is True for one in found)
        share = inside / len(found)
        fine = share >= AIM_COVERED and len(found) == len(CASES) * len(UTILISATIONS)
        sharing = dict.fromkeys(one["case"] for one in found if one.get("profile_shared"))
        shared = f"; points of {' and of '.join(sharing)} share a profile" if sharing else ""
        lines.append(
            f"| p99 within the {COVERED:.0%} predictive interval, all points; a refused one is a "
            f"miss | at least {AIM_COVERED:.0%} "
            f"| {inside} of {len(found)} ({share:.0%}){shared}, {met(fine)} |"
        )
    return lines


def met(reached: bool) -> str:
    """An aim that was reached, or one that was not."""
    return "met" if reached else "**missed**"


def _row(one: Mapping[str, Any]) -> str:
    head = (
        f"| p99 of {one['case']}, {one['variant']} at batch {one['batch']:,}, "
        f"utilisation {one['utilisation']} ({one['rate_rps']:.4g} req/s) | - |"
    )
    off = error(one)
    if off is None:
        return f"{head} refused: {'; '.join(sorted(set(one['refused_windows'])))} |"
    low, mid, high = one["predicted_p99_ms"]
    parts = [
        f"predicted {mid:.3g} ms ({low:.3g}-{high:.3g}), measured {one['measured_p99_ms']:.3g} ms "
        f"+- {one['half_width']:.0%} in {one['seconds']:.0f} s ({one['n']:,} requests): {off:+.1%}",
        "inside" if contained(one) else "outside",
    ]
    planned = one["planner_p99_ms"]
    parts.append(f"a plan counts on at most {planned[2]:.3g} ms")
    if one["at_floor"]:
        parts.append(f"at the platform's floor ({one['floor_p99_ms']:.3g} ms)")
    if one["refused_windows"]:
        parts.append(f"{len(one['refused_windows'])} windows refused")
    return f"{head} {'; '.join(parts)} |"


def _case_row(case: Case, found: Iterable[Mapping[str, Any]]) -> str:
    every = list(found)
    judged = [one for one in every if error(one) is not None]
    above = [one for one in judged if not one["at_floor"]]
    aim = f"median at most {case.median_error:.0%}"
    if case.worst_error is not None:
        aim += f", worst at most {case.worst_error:.0%}"
    else:
        aim += ", or at the platform's floor"
    head = f"| error of the predicted p99, {case.name} | {aim} |"
    notes = [f"{len(judged)} of {len(UTILISATIONS)} points"]
    if len(above) < len(judged):
        notes.append(f"{len(judged) - len(above)} at the platform's floor")
    # A floor excuses a small model, not one that is slow enough to be predicted.
    counted = above if case.worst_error is None else judged
    errors = [abs(off) for one in counted if (off := error(one)) is not None]
    if case.slow and min(one["service_p50_ms"] for one in every) < SLOW_MS:
        notes.append(f"its service time is below {SLOW_MS:g} ms")
    if not errors:
        fine = len(judged) == len(UTILISATIONS)
        return f"{head} {'; '.join(notes)}, {met(fine)} |"
    worst = max(errors)
    fine = median(errors) <= case.median_error and len(judged) == len(UTILISATIONS)
    fine = fine and (case.worst_error is None or worst <= case.worst_error)
    return (
        f"{head} median {median(errors):.1%}, worst {worst:.1%} ({'; '.join(notes)}), {met(fine)} |"
    )
