"""Drive the search for the highest load under an objective: each probe is one open-loop run."""

from __future__ import annotations

import math
from collections.abc import Callable

from loadtests.max_load import MaxLoad, MaxLoadSearch, Probe
from loadtests.objective import CONFIDENCE, Slo, Verdict
from loadtests.records import OVERLOAD, Fault, FaultCode, LoadRun
from loadtests.summary import LoadResult
from loadtests.verdict import verdict_of

# That the server cannot keep up is an answer. Everything else is no answer at all.
# Failed requests are over the limit already, and so many of them fail the probe as slow ones do.
_ANSWERS = OVERLOAD | {FaultCode.ERRORS, FaultCode.TOO_FEW_SAMPLES}
_TRIES = 3

Ran = tuple[LoadResult, tuple[Fault, ...]]


def find_max_load(
    search: MaxLoadSearch,
    slo: Slo,
    like: LoadRun,
    run: Callable[[LoadRun], Ran],
    *,
    replicas: int | None,
    confidence: float = CONFIDENCE,
    progress: Callable[[str], None] = lambda line: None,
) -> MaxLoad:
    """Make the runs that ``search`` asks for, each like ``like`` but for rate and length.

    A run with a fault that is not the server's is made again, three times in all if the budget
    of samples allows; then the search ends with what it has, and says what keeps going wrong. A
    stall may be chance as well: only one that comes back three times is the server's, and its
    latencies are its answer.
    """
    while probe := search.ask():
        result, faults, made, tries = _best_of_tries(probe, like, run, search.left)
        others = [fault for fault in faults if fault.code not in _ANSWERS | {FaultCode.STALLED}]
        if others:
            reason = (
                f"at {probe.rate_rps:,.1f} req/s no run of {tries} can be believed: "
                f"{others[0].code}: {others[0].detail}"
            )
            search.give_up(reason)
            progress(reason)
            break
        verdict = verdict_of(result, made, slo, replicas=replicas, confidence=confidence)
        if any(fault.code in OVERLOAD for fault in faults):
            verdict = verdict.model_copy(update={"verdict": Verdict.FAILS})
        search.tell(probe, verdict, tries)
        name, seen = f"p{100 * slo.quantile:g}", verdict.quantile_ms or math.inf
        progress(f"{probe.rate_rps:,.1f} req/s: {name} {seen:.3g} ms, {verdict.verdict}")
    return search.result()


def _best_of_tries(
    probe: Probe, like: LoadRun, run: Callable[[LoadRun], Ran], left: int
) -> tuple[LoadResult, tuple[Fault, ...], LoadRun, int]:
    """The first run with no fault but the server's, or else the last; and how many were made.

    No more than ``left`` samples pay for.
    """
    asked = like.model_copy(
        update={
            "mode": "open",
            "users": None,
            "arrivals": None,
            "rate_rps": probe.rate_rps,
            "duration_s": probe.samples / probe.rate_rps,
            "seed": like.seed + probe.seed,
        }
    )
    for tries in range(1, 1 + _TRIES):
        result, faults = run(asked)
        if {f.code for f in faults} <= _ANSWERS or (tries + 1) * probe.samples > left:
            break
    return result, faults, asked, tries
