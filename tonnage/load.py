"""What traffic the options of ``tonnage measure`` ask for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.arrivals import (
    Made,
    Mix,
    Poisson,
    Trace,
    mean_rps,
    parse_arrivals,
    peak_rps,
)
from loadtests.fleet import OPEN_LOOP_USERS
from loadtests.objective import CONFIDENCE, Slo, SloVerdict
from loadtests.records import LoadRun
from loadtests.summary import LoadResult
from loadtests.trace_file import DUE, read_trace
from loadtests.verdict import verdict_of
from serving.errors import BadInput

CEILING_RPS_PER_WORKER = 2500.0
"""One worker on one core keeps the p99 of its dispatch lag below 2 ms up to here.

Measured by ``benchmarks/generator.py``: 0.6 ms here, 1 to 3 ms at 4,000 req/s.
"""

_MOST_CLASSES = 256


@dataclass(frozen=True, kw_only=True)
class Load:
    """A run to make, the trace it follows if any, and the objectives to judge it by.

    ``classes`` are the batch size and the file of rows of each class of request; None is
    rows made to fit. ``confidence`` is that of every verdict.
    """

    run: LoadRun
    trace: Trace | None
    slos: tuple[Slo, ...]
    classes: tuple[tuple[int, Path | None], ...]
    confidence: float = CONFIDENCE

    @property
    def cut_requests(self) -> int:
        """How many requests of the trace fall due beyond the run, and are not sent."""
        if self.trace is None:
            return 0
        return len(self.trace.due_s) - self.trace.within(self.run.duration_s)

    def verdicts_of(self, result: LoadResult, replicas: int | None) -> tuple[SloVerdict, ...]:
        """What the run's result says of each objective; see :func:`loadtests.verdict.verdict_of`.

        None of a closed loop, which slows down with its server.
        """
        if self.run.mode != "open":
            return ()
        return tuple(
            verdict_of(result, self.run, slo, replicas=replicas, confidence=self.confidence)
            for slo in self.slos
        )


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options as given, durations already in seconds; ``batch`` None is 1 or the trace's."""

    rate: float | None = None
    users: int | None = None
    arrivals: str | None = None
    trace: Path | None = None
    trace_columns: str | None = None
    time_scale: float | None = None
    batch: str | None = None
    length: int | None = None
    payload: tuple[str, ...] = ()
    duration_s: float = 10.0
    timeout_s: float = 10.0
    workers: int = 1
    seed: int = 0
    p95_ms: float | None = None
    p99_ms: float | None = None
    confidence: float | None = None

    def asked(self) -> list[str]:
        """Which of the ways to say how much load were used."""
        ways = {
            "--rate": self.rate,
            "--users": self.users,
            "--arrivals": self.arrivals,
            "--trace": self.trace,
        }
        return [name for name, value in ways.items() if value is not None]

    def slos(self) -> tuple[Slo, ...]:
        """The objectives asked for."""
        limits = ((0.95, self.p95_ms), (0.99, self.p99_ms))
        return tuple(Slo(quantile=q, limit_ms=limit) for q, limit in limits if limit is not None)


def load_of(options: Options) -> Load:
    """The load that ``options`` ask for. BadInput in one line for whatever cannot be sent."""
    if len(options.asked()) != 1:
        raise BadInput("measure: give one of --rate, --users, --arrivals or --trace")
    for name, value in (("--rate", options.rate), ("--users", options.users)):
        if value is not None and not 0 < value < float("inf"):
            raise BadInput(f"{name}: must be positive")
    _refuse_users(options)
    if options.confidence is not None and not 0.5 < options.confidence < 1:
        raise BadInput(
            f"--confidence {options.confidence:g}: give a share above 0.5 and below 1, such as 0.99"
        )
    trace = _trace(options)
    arrivals = _arrivals(options)
    classes, weights = _classes(options, trace)
    if arrivals is not None or trace is not None:
        _refuse_beyond(trace or arrivals, options)
    mixed = len(classes) > 1 and (
        trace is None or trace.batches is None or len(options.payload) > 1
    )
    run = LoadRun(
        mode="closed" if options.users is not None else "open",
        batch=max(size for size, _ in classes),
        length=options.length,
        duration_s=options.duration_s,
        timeout_s=options.timeout_s,
        users=options.users,
        rate_rps=None if options.users is not None else _mean(trace or arrivals, options),
        arrivals=trace.source if trace else arrivals,
        mix=_mix(classes, weights) if mixed else None,
        workers=options.workers,
        seed=options.seed,
    )
    return Load(
        run=run,
        trace=trace,
        slos=options.slos(),
        classes=classes,
        confidence=options.confidence or CONFIDENCE,
    )


def _trace(options: Options) -> Trace | None:
    if options.trace is None:
        for name, value in (
            ("--time-scale", options.time_scale),
            ("--trace-columns", options.trace_columns),
        ):
            if value is not None:
                raise BadInput(f"{name} belongs to --trace")
        return None
    named = _columns(options.trace_columns or "")
    return read_trace(
        options.trace,
        1.0 if options.time_scale is None else options.time_scale,
        time_column=named.get("due", DUE),
        batch_column=named.get("batch"),
    )


def _columns(text: str) -> dict[str, str]:
    """``due=NAME,batch=NAME``, either of them; a column's own name may have a =."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, _, name = part.partition("=")
        if key.strip() not in ("due", "batch") or not name or key.strip() in found:
            raise BadInput(f"--trace-columns {text}: give due=NAME, batch=NAME, or both")
        found[key.strip()] = name
    return found


def _refuse_users(options: Options) -> None:
    """BadInput for users that the generator cannot have, or for a limit to judge them by."""
    if options.users is None:
        return
    if options.slos():
        raise BadInput(
            "--users: a closed loop slows down with its server, so it cannot be judged by --p95 or "
            "--p99; give --rate instead"
        )
    workers = options.workers
    if options.users % workers:
        raise BadInput(
            f"--users {options.users}: cannot be shared evenly by {workers} workers; give a "
            "multiple of --workers"
        )
    if options.users > OPEN_LOOP_USERS * workers:
        raise BadInput(
            f"--users {options.users}: a worker has {OPEN_LOOP_USERS}; give at most "
            f"{OPEN_LOOP_USERS * workers}, or more --workers"
        )


def _arrivals(options: Options) -> Made | None:
    if options.rate is not None:
        return Poisson(rate_rps=min(options.rate, 1e6))
    if options.arrivals is None:
        return None
    try:
        table = tomllib.loads(f"arrivals = {options.arrivals}")["arrivals"]
    except tomllib.TOMLDecodeError as error:
        table = error
    if not isinstance(table, dict):
        raise BadInput(
            f"--arrivals {options.arrivals}: give a TOML table, such as "
            "'{kind = \"ramp\", from_rps = 10, to_rps = 90}'"
        )
    return parse_arrivals(table, "--arrivals")


def _mean(arrivals: Made | Trace | None, options: Options) -> float:
    if arrivals is None:
        raise ValueError("a closed loop has no rate")
    return mean_rps(arrivals, options.duration_s)


def _refuse_beyond(arrivals: Made | Trace | None, options: Options) -> None:
    """BadInput for more than the generator dispatches on time, before any is sent."""
    if arrivals is None:
        return
    ceiling = CEILING_RPS_PER_WORKER * options.workers
    peak = options.rate if options.rate is not None else peak_rps(arrivals)
    if peak > ceiling:
        raise BadInput(
            f"{options.asked()[0]}: {peak:g} req/s are beyond what {options.workers} worker(s) "
            f"dispatch on time (about {ceiling:g} req/s); lower it or raise --workers"
        )


def _classes(
    options: Options, trace: Trace | None
) -> tuple[tuple[tuple[int, Path | None], ...], tuple[float, ...]]:
    """Every class of request with its weight: batch sizes (a trace's own) times files of rows."""
    sizes = weighted("--batch", options.batch or "1")
    files = [_weighted_file(text) for text in options.payload] or [(None, 1.0)]
    if trace is not None and trace.batches is not None:
        if options.batch is not None:
            raise BadInput(f"--batch {options.batch}: the trace names batch sizes; leave it out")
        of_trace, counts = np.unique(trace.batches, return_counts=True)
        if len(of_trace) * len(files) > _MOST_CLASSES:
            raise BadInput(
                f"--trace: {len(of_trace)} different batch sizes of {len(files)} input(s), at most "
                f"{_MOST_CLASSES} of both can be prepared; round the sizes to fewer"
            )
        sizes = list(zip(of_trace.tolist(), (counts / len(trace.batches)).tolist(), strict=True))
    classes = tuple((size, path) for size, _ in sizes for path, _ in files)
    return classes, tuple(a * b for _, a in sizes for _, b in files)


def _mix(classes: Sequence[tuple[int, Path | None]], weights: tuple[float, ...]) -> Mix:
    named = [path.name if path else "generated" for _, path in classes]
    return Mix(
        batches=tuple(size for size, _ in classes),
        weights=weights,
        inputs=tuple(named) if len(set(named)) > 1 else None,
    )


def weighted(option: str, text: str) -> list[tuple[int, float]]:
    """``8``, or ``1:0.7,8:0.3``."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?::\s*(\d+(?:\.\d+)?|\.\d+)\s*)?", part)
        if not match or int(match[1]) < 1 or float(match[2] or 1) <= 0:
            raise BadInput(f"{option} {text}: give rows such as 8, or a mix such as 1:0.7,8:0.3")
        found.append((int(match[1]), float(match[2] or 1)))
    return found


def _weighted_file(text: str) -> tuple[Path | None, float]:
    """``rows.npz``, or ``rows.npz=0.3`` where several are mixed; a file's own name may have a =."""
    name, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise BadInput(
            f"--payload {text}: no such file; give FILE, or FILE=WEIGHT with a weight above 0"
        )
    return Path(name), value


def parse_headers(given: list[str]) -> dict[str, str]:
    """``name: value`` pairs; BadInput for anything else."""
    headers = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise BadInput(f"--header {text!r}: give 'name: value'")
        headers[name.strip()] = value.strip()
    return headers
