"""From one replica to as many as this host holds: throughput and p99 against prediction.

The profile is that of one replica, and says what sharing a core costs it, which a cell of its own
measured. From these follows what so many replicas should carry, as in a plan. What they do carry
shows under a little more than that, arriving at random as the load does that is planned for: a
closed loop, whose requests share wake-ups, gets up to a tenth more. Much more would be refused, and
refusing costs CPU. Their p99 is simulated on the very schedule that they were measured with. Where
points are measured for less than usual, see :mod:`benchmarks.prediction`, so are these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.grid_records import behind
from benchmarks.live import SEED, Live, built, held, host_size, kept, live, profile_of, within
from benchmarks.prediction import LONGEST_S, USUAL_S, longest_s, met, suffix
from benchmarks.same_schedule import Window, half_width, measured_ms, predicted_ms
from planner.sharing import capacity
from serving.records import Deployment

Result = dict[str, Any]
UTILISATION = 0.6
OVERLOAD = 1.15
"""Times the predicted throughput: in a run of seconds no queue fills."""

CARRIED_S, CARRIED_SHARE = 30.0, 0.25
"""So long is a run for throughput; at most this share of the longest that a point is measured."""

P99_S, P99_SHARE = 300.0, 4 / 3
"""So long is a run for a p99; at most so many times as long as a point is measured. Ten seconds
would know one to 50 %."""

TRIES = 3
BESIDE_S = 540.0
"""What all that is no open-loop run may take, and these when they are made again."""

AIM_THROUGHPUT, AIM_P99 = 0.08, 0.20


@dataclass(frozen=True)
class Case:
    """A model at a batch size on one size of replica."""

    workload: str
    variant: str
    batch: int
    size: str

    @property
    def name(self) -> str:
        """What its part is called."""
        return f"scale_out_{self.workload}_{self.size}"


CASES = (
    Case("cifar_cnn", "onnx", 64, "sim-0.5"),
    Case("cifar_cnn", "onnx", 64, "sim-0.25"),
    Case("credit", "onnx_fp32", 6000, "sim-0.5"),
    Case("credit", "onnx_fp32", 6000, "sim-0.25"),
)


def scaled(case: Case, most_s: float) -> Result:
    """Profile one replica, then measure every number of them."""
    carried_s, p99_s = min(CARRIED_S, CARRIED_SHARE * most_s), min(P99_S, P99_SHARE * most_s)
    variant = built(case.workload, (case.variant,))[case.variant]
    size = host_size(case.size)
    one = Deployment(variant=variant, instance=size, threads=1)
    rows = []
    platform = live if most_s >= LONGEST_S else kept
    with within(most_s + BESIDE_S), platform() as bench:
        bench.floor(one, case.batch, ladder_only=True)
        cell = bench.cell(one, case.batch)
        profile = profile_of([*cell, *bench.sharing(cell)])
        for replicas in range(1, held(size, bench.replica_cpus) + 1):
            deployment = one.model_copy(update={"replicas": replicas})
            carries = replicas * capacity(profile, replicas).mid
            carried = _carried(bench, deployment, case.batch, OVERLOAD * carries, carried_s)
            rate = float(f"{UTILISATION * carries:.4g}")
            for attempt in range(TRIES):
                seed = 100 * SEED + 10 * replicas + attempt
                made, result = bench.drive(deployment, case.batch, rate, p99_s, seed)
                believed = made.valid or behind(made)
                if believed:
                    break
            samples = result.samples
            window = Window(samples.due_s, samples.latency_s, result.steady_from_s, seed)
            rows.append(
                {
                    "replicas": replicas,
                    "carried_rps": carried,
                    "predicted_rps": carries,
                    "rate_rps": rate,
                    "seed": seed,
                    "seconds": p99_s,
                    "n": int(window.steady.sum()),
                    "measured_p99_ms": measured_ms([window]),
                    "half_width": half_width([window]),
                    "predicted_p99_ms": list(
                        predicted_ms(profile, [window], replicas=replicas, seed=SEED)
                    ),
                    "faults": [] if believed else [f"{f.code}: {f.detail}" for f in made.faults],
                }
            )
    return {
        "workload": case.workload,
        "variant": case.variant,
        "batch": case.batch,
        "size": size.label,
        "profile": profile.model_dump(mode="json"),
        "rows": rows,
    }


def _carried(
    bench: Live, deployment: Deployment, batch: int, rate_rps: float, seconds: float
) -> float | None:
    """Requests answered per second while more arrive than can be; None: no run is believed."""
    rate = float(f"{rate_rps:.4g}")
    for attempt in range(TRIES):
        seed = 100 * SEED + 50 + 10 * deployment.replicas + attempt
        made, _ = bench.drive(deployment, batch, rate, seconds, seed)
        if made.valid or behind(made):
            return made.completed_rps
    return None


def parts() -> dict[str, Callable[[], Result]]:
    """One part a case; those with shorter runs than usual are parts of their own."""
    most_s = longest_s(USUAL_S)
    return {f"{case.name}{suffix(most_s)}": partial(scaled, case, most_s) for case in CASES}


def errors(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Relative errors of the predicted throughput and p99; None where it was not measured."""
    carried = row["carried_rps"]
    throughput = row["predicted_rps"] / carried - 1 if carried else None
    p99 = None if row["faults"] else row["predicted_p99_ms"][1] / row["measured_p99_ms"] - 1
    return throughput, p99


def render(results: Mapping[str, Any]) -> list[str]:
    """Rows of the table of aims and figures: every number of replicas, then the aims."""
    lines, found = [], []
    for one in results.values():
        for row in one["rows"]:
            found.append(errors(row))
            lines.append(_row(one, row))
    aims = (("throughput", AIM_THROUGHPUT), ("p99", AIM_P99))
    for (what, aim), every in zip(aims, zip(*found, strict=True), strict=False):
        known = [abs(off) for off in every if off is not None]
        within = sum(off <= aim for off in known)
        worst = f"worst {max(known):.1%}" if known else "none measured"
        lines.append(
            f"| {what} of 1 to all replicas that the host holds, against prediction "
            f"| within {aim:.0%} | {within} of {len(every)} ({worst}), "
            f"{met(within == len(every))} |"
        )
    return lines


def _row(one: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    throughput, p99 = errors(row)
    head = (
        f"| {row['replicas']} x {one['size']}, {one['workload']} {one['variant']} at batch "
        f"{one['batch']:,}: throughput; p99 at {row['rate_rps']:.4g} req/s "
        f"| within {AIM_THROUGHPUT:.0%}; within {AIM_P99:.0%} |"
    )
    if throughput is None:
        first = "throughput refused"
    else:
        first = (
            f"predicted {row['predicted_rps']:.4g} req/s, carried {row['carried_rps']:.4g}: "
            f"{throughput:+.1%}"
        )
    low, mid, high = row["predicted_p99_ms"]
    if p99 is None:
        second = f"p99 refused: {row['faults'][0]}"
    else:
        second = (
            f"predicted {mid:.3g} ms ({low:.3g}-{high:.3g}), measured "
            f"{row['measured_p99_ms']:.3g} ms +- {row['half_width']:.0%}: {p99:+.1%}"
        )
    return f"{head} {first}; {second} |"
