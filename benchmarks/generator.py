"""The generator against known truth: dispatch lag, an independent queue, and wrk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.servers import noop_server, synthetic_server
from benchmarks.wrk import wrk
from loadtests.fleet import Fleet
from loadtests.http_call import v2_call
from loadtests.judge import endpoint_faults
from loadtests.payloads import encode_payloads, foreign_payloads
from loadtests.records import LoadRun
from loadtests.summary import LoadResult
from serving import host_facts
from serving.placement import divide
from serving.records import Endpoint

Result = dict[str, Any]
REPEATS = 5
RATES = (1000, 2500, 4000)
PACED_RATES = (100, 1000, 2000)
LAG_S = 6.0
UTILISATIONS = (0.3, 0.5, 0.7)
SERVICE_MS = 80.0  # of which the way there and back, a millisecond at these rates, is little
ORACLE_S = 8.0
ORACLE_RUNS = 10
QUANTILES = (0.5, 0.95, 0.99)
BODIES = 512
WRK_MS = 4.0
WRK_CONNECTIONS = (1, 4, 16)
WRK_S = 5.0


def lag(repeat: int) -> Result:
    """One alternation: every rate, and one paced user beside it, on the same no-op server.

    The user is paced at the same rate where one connection carries that, and at a tenth of it:
    between two requests far apart the server's core falls asleep, and waking it takes longer
    than answering.
    """
    rows = {"features": np.zeros((256, 4), np.float32)}
    found = {}
    with _on(noop_server) as (fleet, endpoint):
        stored = fleet.store("rows", foreign_payloads(rows, 1, 0))
        for rate in PACED_RATES:
            paced = LoadRun(mode="paced", batch=1, duration_s=LAG_S, rate_rps=rate)
            found[f"paced-{rate}"] = _latency(fleet.run(paced, endpoint, stored))
        for rate in RATES:
            run = LoadRun(
                mode="open", batch=1, duration_s=LAG_S, rate_rps=rate, seed=100 * repeat + rate
            )
            result = fleet.run(run, endpoint, stored)
            found[str(rate)] = {
                **_latency(result),
                "offered": result.offered,
                "answered": result.ok,
                "worker_busy": result.busiest_worker,
                "faults": [fault.code for fault in endpoint_faults(run, result)],
            }
    return found


def _latency(result: LoadResult) -> Result:
    return {
        f"{name}_{point}_ms": 1e3 * histogram.quantile_s(q)
        for name, histogram in (("lag", result.dispatch_lag), ("server", result.sent_to_done))
        for point, q in (("p50", 0.5), ("p99", 0.99))
    }


def oracle(kind: str, utilisation: float) -> Result:
    """Ten seeded runs of one law at one utilisation against a recursion of our own.

    The recursion is Lindley's, request by request, over the due times of the run and the
    service times that its requests carried; it shares no code with the product.
    """
    rows = []
    with _on(synthetic_server) as (fleet, endpoint):
        for number in range(ORACLE_RUNS):
            seed = 1000 * number + round(100 * utilisation)
            rows.append(_against_recursion(fleet, endpoint, kind, utilisation, seed))
    within = [all(abs(error) <= 0.05 for error in row["error"]) for row in rows]
    return {"runs": rows, "within": sum(within), "of": len(rows)}


def _against_recursion(
    fleet: Fleet, endpoint: Endpoint, kind: str, utilisation: float, seed: int
) -> Result:
    service_ms = draw_service_ms(kind, seed)
    payloads = encode_payloads([{"service_ms": value.reshape(1, 1)} for value in service_ms])
    run = LoadRun(
        mode="open",
        batch=1,
        duration_s=ORACLE_S,
        rate_rps=1e3 * utilisation / SERVICE_MS,
        seed=seed,
    )
    result = fleet.run(run, endpoint, fleet.store("rows", payloads))
    samples = result.samples
    expected = lindley(samples.due_s.tolist(), (service_ms[samples.body] / 1e3).tolist())
    cut = int(np.searchsorted(samples.due_s, result.steady_from_s))
    truth = [quantile(expected[cut:], q) for q in QUANTILES]
    got = [result.due_to_done.quantile_s(q) for q in QUANTILES]
    return {
        "seed": seed,
        "n": len(expected) - cut,
        "expected_ms": [1e3 * value for value in truth],
        "measured_ms": [1e3 * value for value in got],
        "error": [g / t - 1 for g, t in zip(got, truth, strict=True)],
        "faults": [fault.code for fault in endpoint_faults(run, result)],
    }


def draw_service_ms(kind: str, seed: int) -> np.ndarray:
    """Service times in ms with mean 80: constant, exponential, or 1 in 10 nine times as long."""
    draw = np.random.default_rng([seed, 9])
    if kind == "constant":
        return np.full(BODIES, SERVICE_MS, np.float32)
    if kind == "exponential":
        return draw.exponential(SERVICE_MS, BODIES).astype(np.float32)
    long = draw.random(BODIES) < 0.1
    return np.where(long, 5 * SERVICE_MS, SERVICE_MS * 5 / 9).astype(np.float32)


def lindley(due_s: list[float], service_s: list[float]) -> list[float]:
    """Time in system of each request at one server, first come, first served."""
    free_at, times = 0.0, []
    for due, service in zip(due_s, service_s, strict=True):
        free_at = max(due, free_at) + service
        times.append(free_at - due)
    return times


def quantile(values: list[float], q: float) -> float:
    """The value of rank ceil(q n)."""
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]


def against_wrk() -> Result:
    """Closed loop on the same server with the same connections, in alternation."""
    found: Result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = encode_payloads([{"service_ms": np.array([[WRK_MS]], np.float32)}])
        with _on(synthetic_server) as (fleet, endpoint):
            stored = fleet.store("rows", body)
            for connections in WRK_CONNECTIONS:
                pairs = []
                for _ in range(REPEATS):
                    run = LoadRun(mode="closed", batch=1, duration_s=WRK_S, users=connections)
                    ours = fleet.run(run, endpoint, stored)
                    theirs = wrk(
                        endpoint.url + v2_call(endpoint).path,
                        body.bodies[0],
                        body.header_lengths[0],
                        connections=connections,
                        seconds=WRK_S,
                        cpu=platform_cpu(),
                        folder=folder,
                    )
                    pairs.append(
                        {
                            "rps": ours.ok / ours.elapsed_s,
                            "p50_ms": 1e3 * ours.sent_to_done.quantile_s(0.5),
                            "wrk_rps": theirs["rps"],
                            "wrk_p50_ms": theirs["p50_ms"],
                        }
                    )
                found[str(connections)] = {
                    "pairs": pairs,
                    "throughput_ratio": median(p["rps"] / p["wrk_rps"] for p in pairs),
                    "p50_ratio": median(p["p50_ms"] / p["wrk_p50_ms"] for p in pairs),
                }
    return found


def platform_cpu() -> int:
    """The CPU that carries the generator; the servers get another."""
    return divide(host_facts.physical_cores()).platform_cpus[0]


@contextmanager
def _on(server: Callable[..., Any]) -> Iterator[tuple[Fleet, Endpoint]]:
    placement = divide(host_facts.physical_cores())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = (folder,) if server is noop_server else ()
        with (
            server(*arguments, placement.replica_cpus[-1]) as endpoint,
            Fleet(folder / "locust.log", cpus=placement.platform_cpus[:1]) as fleet,
        ):
            yield fleet, endpoint


def parts() -> dict[str, Callable[[], Result]]:
    """Every part by name, in the order they are measured."""
    made: dict[str, Callable[[], Result]] = {}
    for repeat in range(REPEATS):
        made[f"lag-{repeat}"] = lambda repeat=repeat: lag(repeat)
    made["wrk"] = against_wrk
    for kind in ("constant", "exponential", "bimodal"):
        for utilisation in UTILISATIONS:
            made[f"oracle-{kind}-{utilisation}"] = lambda k=kind, u=utilisation: oracle(k, u)
    return made


def render(results: dict[str, Any]) -> list[str]:
    """Rows of the table of aims and figures, as Markdown."""
    lags = [results[f"lag-{repeat}"] for repeat in range(REPEATS)]
    lines = []
    limits = {"1000": "at most 0.5 ms", "2500": "at most 1.5 ms", "4000": "no collapse"}
    for rate, aim in limits.items():
        values = [one[rate]["lag_p99_ms"] for one in lags]
        lines.append(f"| dispatch lag p99 at {rate} req/s | {aim} | {_spread(values, 'ms')} |")
        for paced in PACED_RATES:
            ratio = [
                one[rate]["server_p50_ms"] / one[f"paced-{paced}"]["server_p50_ms"] for one in lags
            ]
            aim = "within 10 %" if (rate, paced) in (("1000", 1000), ("2500", 2000)) else "-"
            lines.append(
                f"| sent-to-done p50 at {rate} req/s over one user paced at {paced:,} | {aim} "
                f"| {_spread(ratio, 'x')} |"
            )
        answered = [one[rate]["answered"] / one[rate]["offered"] for one in lags]
        lines.append(f"| answered at {rate} req/s | all | {min(answered):.2%} |")
    for connections, row in results["wrk"].items():
        lines.append(
            f"| closed loop against wrk, {connections} connection(s): throughput; p50 "
            f"| within 10 %; within 15 % | {row['throughput_ratio']:.3f}x; "
            f"{row['p50_ratio']:.3f}x |"
        )
    for name, row in results.items():
        if name.startswith("oracle-"):
            _, kind, utilisation = name.split("-")
            worst = max(abs(error) for run in row["runs"] for error in run["error"])
            lines.append(
                f"| {kind} service at utilisation {utilisation}: runs with p50, p95 and p99 "
                f"within 5 % of Lindley's recursion | at least 9 of 10 | {row['within']} of "
                f"{row['of']} (worst {worst:.1%}) |"
            )
    return lines


def _spread(values: list[float], unit: str) -> str:
    return f"{median(values):.2f} {unit} ({min(values):.2f}-{max(values):.2f})"
