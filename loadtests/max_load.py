"""The highest load under an SLO: a search that says what to probe next, and touches nothing.

The margin of a probe is log(limit / quantile): positive when the objective is met, falling
with the rate. Rates are doubled until it turns negative; what was seen is made monotone
(isotonic regression: Barlow et al., Statistical Inference under Order Restrictions,
1972), and its root found by interpolation. Only near the root are probes repeated, which
is where they tell something, until the root's interval is narrow. How certain each margin
is, the verdict on the probe says, which knows what correlation costs. The effort is
counted in samples, since certainty is bought with samples, not seconds.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from pydantic import Field
from scipy.optimize import isotonic_regression

from loadtests.arrivals import Mix
from loadtests.objective import CONFIDENCE, Slo, SloVerdict, Verdict
from loadtests.slo import required_n
from serving.errors import BadInput
from serving.records import Deployment, Environment, Record

NARROW = 0.15
"""The root is bracketed this closely, relative to the rate, before probes are repeated."""

TOLERANCE = 0.08
"""Relative width of the root's 95 % interval that is good enough."""

CLIFF_WIDTH = 0.05
CLEAR = 0.5
"""A margin beyond this is no chance: the quantile is 1.65 times off the limit."""

_MOST_MARGIN = 3.0  # an overloaded probe's latency grows with its length, and means nothing more
_FEWEST_NEAR = 3
_NEAR = 0.06  # in log rate: close enough for a straight line
_AROUND = 0.4  # in log rate: far enough to see its slope
_SIGMAS = 1.96
_LEAST_ERROR = 0.01
_OFFSETS = (-0.03, 0.03, 0.0)
_REPEATS = 3
_UNBIASED = 5  # the quantile of fewer samples than this many verdicts' worth is mostly too low
_PROBES = 40  # that the budget should last for


class StopReason(StrEnum):
    """Why a search ended. A closed list."""

    FOUND = "found"
    CLIFF = "cliff"
    CEILING_HOLDS = "ceiling_holds"  # for certain only where the interval says so
    LOWEST_FAILS = "lowest_fails"  # likewise
    BUDGET_SPENT = "budget_spent"
    NOT_BELIEVABLE = "not_believable"  # a probe's runs, however often it was tried


class Probe(Record):
    """One open-loop run to make: this many samples at this rate, on this seed's schedule."""

    rate_rps: float = Field(gt=0)
    samples: int = Field(ge=1)
    seed: int = Field(ge=0)


class Seen(Record):
    """What a probe of ``n`` samples found: a margin, and its standard error."""

    rate_rps: float = Field(gt=0)
    margin: float
    error: float = Field(gt=0)
    n: int = Field(ge=1)
    verdict: Verdict


class Searched(Record):
    """What a search was about: a server, the requests it was sent, and where.

    ``deployment`` is one of ours, ``url`` somebody else's server; the environment is the
    generator's there.
    """

    url: str | None = None
    model_name: str
    deployment: Deployment | None = None
    environment: Environment
    started_at: str
    batch: int = Field(ge=1, description="of the largest class of requests")
    mix: Mix | None = None
    timeout_s: float = Field(gt=0)
    workers: int = Field(ge=1)
    seed: int
    carried_rps: float | None = Field(
        default=None, description="by generator and ingress, where no-ops told"
    )


class MaxLoad(Record):
    """The result: an interval of rates, and why the search ended there.

    ``low_rps`` to ``high_rps`` is the 95 % interval of the root. Where the budget did not
    last for one, or the search ended at an end of its range, they are the highest rate
    proven to hold and the lowest proven to fail; of a cliff, the two rates it lies between.
    ``high_rps`` is null where no rate failed for certain, and ``low_rps`` is 0 where none held.

    How honest that is: on simulated queues the interval held the truth in 92 to 100 % of
    searches, whatever the budget (``tests/loadtests/test_max_load.py`` repeats a part).
    """

    rate_rps: float = Field(ge=0)
    low_rps: float = Field(ge=0)
    high_rps: float | None
    stop_reason: StopReason
    cliff: bool
    samples: int = Field(ge=0, description="that were asked for")
    probes: tuple[Seen, ...]
    slo: Slo | None = Field(default=None, description="null in records before it, as is the rest")
    confidence: float | None = Field(default=None, description="of the verdict on each probe")
    lowest_rps: float | None = Field(default=None, description="where the search began")
    ceiling_rps: float | None = Field(default=None, description="the most that it would try")
    not_believed: str | None = Field(default=None, description="the fault that ended it, if one")
    about: Searched | None = None


class MaxLoadSearch:
    """Ask for a probe, tell what it found, until there is none to ask for.

    Raises BadInput when the rates are not 0 < lowest < ceiling, or when the budget does
    not pay for a single probe.
    """

    def __init__(
        self,
        slo: Slo,
        lowest_rps: float,
        ceiling_rps: float,
        budget_samples: int,
        seed: int,
        *,
        confidence: float = CONFIDENCE,
    ) -> None:
        self._confidence = confidence
        self._fewest = required_n(0, slo.quantile, confidence)
        if not 0 < lowest_rps < ceiling_rps < float("inf"):
            raise BadInput(
                f"lowest_rps = {lowest_rps:g}, ceiling_rps = {ceiling_rps:g}: "
                "give 0 < lowest_rps < ceiling_rps"
            )
        if budget_samples < self._fewest:
            raise BadInput(
                f"budget_samples = {budget_samples}: one verdict on the quantile "
                f"{slo.quantile:g} takes {self._fewest}; give more"
            )
        self._slo, self._limit_ms = slo, slo.limit_ms
        self._lowest, self._ceiling = lowest_rps, ceiling_rps
        self._left, self._samples, self._seed = budget_samples, 0, seed
        self._base = max(_UNBIASED * self._fewest, budget_samples // _PROBES)
        self._seen: list[Seen] = []
        self._pending: Probe | None = None
        self._stop: StopReason | None = None
        self._not_believed: str | None = None

    def ask(self) -> Probe | None:
        """The next probe; the same until it is told of; None when the search is over."""
        if self._pending is None and self._stop is None:
            self._stop, rate, near = self._next()
            if self._stop is None and self._left < self._fewest:
                self._stop = StopReason.BUDGET_SPENT
            if self._stop is None:
                samples = min(self._base * (2 if near else 1), self._left)
                seed = self._seed + len(self._seen)
                self._pending = Probe(rate_rps=rate, samples=samples, seed=seed)
        return self._pending

    def tell(self, probe: Probe, judged: SloVerdict, tries: int = 1) -> None:
        """What the probe asked for found, on as many samples as it made of those asked for.

        ``tries`` is how often it was made until it could be believed: each is paid for.
        Raises ValueError for a probe that was not asked for.
        """
        if probe != self._pending:
            raise ValueError("tell() answers the probe that ask() gave last")
        margin, error = -_MOST_MARGIN, CLEAR
        if judged.quantile_ms and judged.quantile_error is not None:
            margin = float(np.log(self._limit_ms / judged.quantile_ms))
            margin = float(np.clip(margin, -_MOST_MARGIN, _MOST_MARGIN))
            error = max(judged.quantile_error, _LEAST_ERROR)
        # The verdict knows more than the quantile: of a growing backlog, say.
        if judged.verdict == Verdict.FAILS and margin >= 0:
            margin = -CLEAR
        if judged.verdict == Verdict.HOLDS and margin < 0:
            margin = 0.0
        self._seen.append(
            Seen(
                rate_rps=probe.rate_rps,
                margin=margin,
                error=error,
                n=max(judged.n, 1),
                verdict=judged.verdict,
            )
        )
        self._left -= tries * probe.samples
        self._samples += tries * probe.samples
        self._pending = None

    @property
    def left(self) -> int:
        """Samples that the budget still has."""
        return self._left

    def give_up(self, fault: str) -> None:
        """End the search where it is: no run of the probe asked for can be believed."""
        self._pending, self._stop = None, StopReason.NOT_BELIEVABLE
        self._not_believed = fault

    def result(self) -> MaxLoad:
        """What the search found; raises ValueError while it still has something to ask."""
        if self._stop is None:
            raise ValueError("the search is not over: ask() still has a probe")
        rate, low, high = self._answer(self._stop)
        return MaxLoad(
            rate_rps=rate,
            low_rps=low,
            high_rps=high,
            stop_reason=self._stop,
            cliff=self._stop == StopReason.CLIFF,
            samples=self._samples,
            probes=tuple(self._seen),
            slo=self._slo,
            confidence=self._confidence,
            lowest_rps=self._lowest,
            ceiling_rps=self._ceiling,
            not_believed=self._not_believed,
        )

    def _next(self) -> tuple[StopReason | None, float, bool]:
        """Why to stop, or the next rate and whether it is near the root."""
        if not self._seen:
            return None, self._lowest, False
        rates, margins = _monotone(self._seen)
        if margins[0] < 0:
            return self._at_end(StopReason.LOWEST_FAILS, self._lowest, Verdict.FAILS)
        if margins[-1] >= 0:
            if rates[-1] < self._ceiling:
                return None, min(2 * rates[-1], self._ceiling), False
            return self._at_end(StopReason.CEILING_HOLDS, self._ceiling, Verdict.HOLDS)
        last = int(np.flatnonzero(margins >= 0)[-1])
        low, high = rates[last], rates[last + 1]
        jumps = margins[last] > CLEAR and margins[last + 1] < -CLEAR
        if jumps and high <= low * (1 + CLIFF_WIDTH):
            return StopReason.CLIFF, low, False
        root = _root(rates, margins)
        if jumps or (high > low * (1 + NARROW) and self._near(root) < _FEWEST_NEAR):
            # Never close to an end: a bracket that shrinks from one side only is slow.
            share = np.log(root / low) / np.log(high / low)
            return None, float(low * (high / low) ** np.clip(share, 0.25, 0.75)), False
        if self._near(root) >= _FEWEST_NEAR:
            bottom, top = self._interval(root)
            if top is not None and top - bottom <= TOLERANCE * root:
                return StopReason.FOUND, root, True
        offset = _OFFSETS[len(self._seen) % len(_OFFSETS)]
        return None, float(np.clip(root * (1 + offset), self._lowest, self._ceiling)), True

    def _at_end(
        self, reason: StopReason, rate: float, proof: Verdict
    ) -> tuple[StopReason | None, float, bool]:
        """Stop at an end of the range once that is proven, or was seen often enough."""
        here = [seen for seen in self._seen if seen.rate_rps == rate]
        sure = any(seen.verdict == proof for seen in here) or len(here) >= _REPEATS
        return (reason if sure else None), rate, True

    def _answer(self, stop: StopReason) -> tuple[float, float, float | None]:
        """Rate, and the interval around it; all 0 and open where no probe was seen."""
        if not self._seen:
            return 0.0, 0.0, None
        rates, margins = _monotone(self._seen)
        root = _root(rates, margins)
        match stop:
            case StopReason.LOWEST_FAILS:
                return 0.0, 0.0, self._proven(self._lowest)[1]
            case StopReason.CEILING_HOLDS:
                return self._ceiling, self._proven(self._ceiling)[0], None
            case StopReason.CLIFF:
                last = int(np.flatnonzero(margins >= 0)[-1])
                return float(rates[last]), float(rates[last]), float(rates[last + 1])
            case _:
                return (root, *self._interval(root))

    def _near(self, root: float) -> int:
        return sum(abs(np.log(seen.rate_rps / root)) <= _NEAR for seen in self._seen)

    def _interval(self, root: float) -> tuple[float, float | None]:
        """95 % interval of the root: that of the mean margin near it, over the slope.

        The slope is taken from further around, where it is known well. All probes near
        the root get the same error per sample, since a quantile that is low by luck also
        looks more certain; if they scatter by more than that, it is their scatter that
        counts. Without enough of them the interval reaches from the highest rate proven to
        hold to the lowest proven to fail.
        """
        at = np.log([seen.rate_rps / root for seen in self._seen])
        margins = np.array([seen.margin for seen in self._seen])
        n = np.array([seen.n for seen in self._seen], dtype=float)
        noise = n * np.array([seen.error for seen in self._seen]) ** 2
        near = np.abs(at) <= _NEAR
        around = (np.abs(at) < _AROUND) & (np.abs(margins) < 2 * CLEAR)
        free = np.count_nonzero(near) - 1
        seen_apart = around.any() and np.ptp(at[around]) > _NEAR / 2
        if free < _FEWEST_NEAR - 1 or not seen_apart:
            return self._proven(root)
        slope = float(np.polyfit(at[around], margins[around], 1, w=np.sqrt(n[around]))[0])
        if slope >= 0:
            return self._proven(root)
        level = margins[near] - slope * at[near]
        mean = float(np.average(level, weights=n[near]))
        scatter = float(n[near] @ (level - mean) ** 2) / free
        error = np.sqrt(max(scatter, float(noise[near].mean())) / n[near].sum())
        # That the line misses the fitted root at all is the curvature's doing.
        reach = float(np.exp((abs(mean) + _SIGMAS * error) / -slope))
        return root / reach, root * reach

    def _proven(self, root: float) -> tuple[float, float | None]:
        """The highest rate below ``root`` that surely holds, the lowest above that fails."""
        holds = [s.rate_rps for s in self._seen if s.verdict == Verdict.HOLDS]
        fails = [s.rate_rps for s in self._seen if s.verdict == Verdict.FAILS]
        low = max((rate for rate in holds if rate <= root), default=0.0)
        return low, min((rate for rate in fails if rate >= root), default=None)


def _monotone(seen: list[Seen]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rates, rising, and the falling margins fitted to them, both [rates]."""
    rates, place = np.unique([one.rate_rps for one in seen], return_inverse=True)
    n = np.array([one.n for one in seen], dtype=float)
    weight = np.bincount(place, n)
    mean = np.bincount(place, n * [one.margin for one in seen]) / weight
    return rates, _isotonic(mean, weight)


def _isotonic(margins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Closest falling sequence: pool adjacent violators."""
    return np.asarray(isotonic_regression(margins, weights=weights, increasing=False).x)


def _root(rates: np.ndarray, margins: np.ndarray) -> float:
    """Where falling margins cross zero, linear in the logarithm of the rate.

    An end of the range where they do not cross.
    """
    if margins[0] < 0:
        return float(rates[0])
    if margins[-1] >= 0:
        return float(rates[-1])
    last = int(np.flatnonzero(margins >= 0)[-1])
    share = margins[last] / (margins[last] - margins[last + 1])
    return float(rates[last] * (rates[last + 1] / rates[last]) ** share)
