"""The search for the highest load, against servers whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from loadtests.max_load import CLEAR, CLIFF_WIDTH, MaxLoad, MaxLoadSearch, Probe, StopReason
from loadtests.objective import Slo, SloVerdict, Verdict
from loadtests.replay import Replay
from loadtests.slo import judge_slo
from serving.errors import BadInput

SLO = Slo(quantile=0.99, limit_ms=100)
SERVICE_S = 0.01
Server = Callable[[float, int, int], tuple[np.ndarray, Replay | None]]


def queue(
    service: Callable[[np.random.Generator, int], np.ndarray], *, tells: bool = False
) -> Server:
    """A single server under Poisson arrivals; Lindley's recursion, step by step.

    One that ``tells`` its service times can be replayed.
    """

    def serve(rate_rps: float, n: int, seed: int) -> tuple[np.ndarray, Replay | None]:
        draw = np.random.default_rng(seed)
        warm = 300
        gaps, times = draw.exponential(1 / rate_rps, n + warm), service(draw, n + warm)
        wait, found = 0.0, []
        for gap, time in zip(gaps.tolist(), times.tolist(), strict=True):
            wait = max(0.0, wait - gap)
            wait += time
            found.append(wait)
        replay = Replay(due_s=np.cumsum(gaps)[warm:], service_s=times[warm:], rate_rps=rate_rps)
        return np.array(found[warm:]), replay if tells else None

    return serve


MM1 = queue(lambda draw, n: draw.exponential(SERVICE_S, n))
MD1 = queue(lambda _, n: np.full(n, SERVICE_S))
TOLD_MM1 = queue(lambda draw, n: draw.exponential(SERVICE_S, n), tells=True)


def cliff(at_rps: float) -> Server:
    """Fast up to a rate, hopeless beyond it."""

    def serve(rate_rps: float, n: int, seed: int) -> tuple[np.ndarray, Replay | None]:
        level = 0.02 if rate_rps < at_rps else 5.0
        return level * np.random.default_rng(seed).lognormal(0, 0.1, n), None

    return serve


def searched(
    server: Server,
    slo: Slo = SLO,
    *,
    lowest: float = 2.0,
    ceiling: float = 1000.0,
    budget: int = 100_000,
    seed: int = 0,
) -> MaxLoad:
    """Run a search to its end."""
    search = MaxLoadSearch(slo, lowest, ceiling, budget, seed)
    while probe := search.ask():
        found, replay = server(probe.rate_rps, probe.samples, probe.seed)
        search.tell(probe, judge_slo(found, slo, replay=replay))
    return search.result()


def judged(margin: float, n: int, verdict: Verdict) -> SloVerdict:
    """A verdict on ``n`` requests whose quantile lies so far below the limit."""
    found = judge_slo(np.full(n, 0.1 / np.exp(margin)), SLO)
    return found.model_copy(update={"verdict": verdict})


def holds(found: MaxLoad, truth_rps: float) -> bool:
    """Whether the interval, which may be open above, holds the truth."""
    return found.low_rps <= truth_rps <= (found.high_rps or np.inf)


def mm1_rps(limit_s: float) -> float:
    """Sojourns of M/M/1 are exponential with mean 1 / (mu - lambda)."""
    return 1 / SERVICE_S + float(np.log(1 - 0.99)) / limit_s


@lru_cache
def md1_rps(limit_s: float) -> float:
    """Rate at which M/D/1's wait just meets the limit: Crommelin's series (1932), bisected.

    P(W <= t) = (1 - rho) sum_{k=0}^{floor(t/D)} (rho (k - t/D))^k / k! exp(-rho (k - t/D)).
    """
    low, high = 1.0, 99.0
    while high - low > 0.01:
        rate = (low + high) / 2
        rho, t = rate * SERVICE_S, limit_s / SERVICE_S - 1
        k = np.arange(int(t) + 1)
        factorial = np.cumprod(np.maximum(k, 1).astype(float))
        terms = (rho * (k - t)) ** k / factorial * np.exp(-rho * (k - t))
        low, high = (rate, high) if (1 - rho) * terms.sum() >= 0.99 else (low, rate)
    return low


@pytest.mark.parametrize("name", ["M/M/1", "M/D/1"])
def test_known_queues_are_found_within_a_tenth(name: str) -> None:
    """The rate comes out within 10 % of the closed form, on eight seeds of eight."""
    server, truth = {"M/M/1": (MM1, mm1_rps(0.1)), "M/D/1": (MD1, md1_rps(0.1))}[name]
    for seed in range(8):
        found = searched(server, seed=1000 * seed, budget=200_000)
        assert found.rate_rps == pytest.approx(truth, rel=0.1)
        assert found.high_rps is not None
        assert found.low_rps <= found.rate_rps <= found.high_rps
        assert not found.cliff


def test_a_server_that_tells_its_service_times_is_found_with_less() -> None:
    """M/M/1 with replays: within 5 % of the closed form, for less than two thirds of the budget."""
    for seed in range(8):
        found = searched(TOLD_MM1, seed=1000 * seed, budget=200_000)
        assert found.rate_rps == pytest.approx(mm1_rps(0.1), rel=0.05)
        assert found.stop_reason == StopReason.FOUND
        assert found.samples < 130_000


def test_the_closed_form_of_md1_agrees_with_a_simulation() -> None:
    """At the rate of Crommelin's series the simulated p99 is the limit."""
    runs = [MD1(md1_rps(0.1), 100_000, seed)[0] for seed in range(4)]
    assert np.quantile(np.concatenate(runs), 0.99) == pytest.approx(0.1, rel=0.06)


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("M/M/1", 20_000),
        ("M/M/1", 60_000),
        ("M/D/1", 20_000),
        ("M/D/1", 200_000),
        ("M/M/1, told", 60_000),
    ],
)
def test_the_interval_holds_the_truth(name: str, budget: int) -> None:
    """Whatever the budget, the truth lies in the 95 % interval in 18 of 20 searches or more."""
    server = {"M/M/1": MM1, "M/D/1": MD1, "M/M/1, told": TOLD_MM1}[name]
    truth = md1_rps(0.1) if name == "M/D/1" else mm1_rps(0.1)
    found = [searched(server, seed=77 * seed, budget=budget) for seed in range(20)]
    assert sum(holds(one, truth) for one in found) >= 18
    assert all(one.low_rps <= one.rate_rps for one in found)


def test_the_interval_narrows_with_the_budget() -> None:
    """Ten times the samples: an interval of a tenth of the rate, where it was open or wide."""

    def width(budget: int) -> float:
        found = [searched(MD1, seed=seed, budget=budget) for seed in range(0, 500, 100)]
        return float(np.median([(one.high_rps or np.inf) - one.low_rps for one in found]))

    assert width(20_000) > 3 * width(200_000)
    assert width(200_000) < 0.12 * md1_rps(0.1)


@pytest.mark.parametrize("at", [40.0, 333.0, 700.0])
def test_a_cliff_is_an_interval(at: float) -> None:
    """A server that breaks down from one rate to the next gets the two rates it breaks between."""
    found = searched(cliff(at))
    assert found.stop_reason == StopReason.CLIFF
    assert found.cliff
    assert found.high_rps is not None
    assert found.low_rps < at <= found.high_rps
    assert found.high_rps <= found.low_rps * (1 + CLIFF_WIDTH)
    assert found.rate_rps == found.low_rps


def test_probes_are_repeated_only_near_the_root() -> None:
    """Half of all probes or more lie within 12 % of the answer, and doubling spans the rest."""
    found = searched(MD1)
    near = [abs(np.log(seen.rate_rps / found.rate_rps)) < 0.12 for seen in found.probes]
    assert np.mean(near) >= 0.5
    far = [seen.rate_rps for seen, close in zip(found.probes, near, strict=True) if not close]
    assert len(far) == len(set(far))


@pytest.mark.parametrize("limit_ms", [60.0, 100.0, 200.0])
def test_a_tighter_limit_never_carries_more(limit_ms: float) -> None:
    """On the same seeds, half the limit gives a lower rate."""
    loose = searched(MM1, Slo(quantile=0.99, limit_ms=2 * limit_ms))
    tight = searched(MM1, Slo(quantile=0.99, limit_ms=limit_ms))
    assert tight.rate_rps < loose.rate_rps


def test_the_budget_is_kept() -> None:
    """No search uses more samples than it was given, and a small one says that it ran out."""
    for budget in (459, 2000, 9000, 30_000, 100_000):
        found = searched(MM1, budget=budget)
        assert found.samples == sum(seen.n for seen in found.probes) <= budget
    small = searched(MM1, budget=20_000)
    assert small.stop_reason == StopReason.BUDGET_SPENT
    assert holds(small, mm1_rps(0.1))


def test_nothing_proven_is_nothing_promised() -> None:
    """A search that could afford one undecided probe knows no bound."""
    search = MaxLoadSearch(SLO, 10, 20, 500, 0)
    probe = search.ask()
    assert probe is not None
    search.tell(probe, judged(0.1, 500, Verdict.UNDECIDED))
    assert search.ask() is None
    found = search.result()
    assert found.stop_reason == StopReason.BUDGET_SPENT
    assert (found.low_rps, found.high_rps) == (0, None)


def test_the_same_seed_is_the_same_search() -> None:
    """A search is a function of its arguments and of what it was told."""
    assert searched(MM1, seed=5) == searched(MM1, seed=5)
    assert searched(MM1, seed=5) != searched(MM1, seed=6)


def test_ends_of_the_range_are_reported_as_such() -> None:
    """A ceiling that holds leaves the answer open above; a lowest rate that fails is none."""
    above = searched(MD1, ceiling=40)
    assert above.stop_reason == StopReason.CEILING_HOLDS
    assert (above.rate_rps, above.low_rps, above.high_rps) == (40, 40, None)
    below = searched(MD1, lowest=90)
    assert below.stop_reason == StopReason.LOWEST_FAILS
    assert (below.rate_rps, below.low_rps, below.high_rps) == (0, 0, 90)


@pytest.mark.parametrize(
    ("margin", "rates", "stop", "rate"),
    [
        (-0.1, [10, 10, 10], StopReason.LOWEST_FAILS, 0),
        (0.1, [10, 20, 20, 20], StopReason.CEILING_HOLDS, 20),
    ],
)
def test_undecided_ends_are_looked_at_three_times(
    margin: float, rates: list[float], stop: StopReason, rate: float
) -> None:
    """Where no verdict comes out, the search ends after three probes, and nothing is proven."""
    search = MaxLoadSearch(SLO, 10, 20, 100_000, 0)
    asked = []
    while probe := search.ask():
        asked.append(probe.rate_rps)
        search.tell(probe, judged(margin, probe.samples, Verdict.UNDECIDED))
    found = search.result()
    assert (asked, found.stop_reason, found.rate_rps) == (rates, stop, rate)
    assert (found.low_rps, found.high_rps) == (0, None)


def test_the_verdict_overrules_the_margin() -> None:
    """A growing backlog fails although its quantile is still within the limit."""
    search = MaxLoadSearch(SLO, 10, 20, 100_000, 0)
    probe = search.ask()
    assert probe is not None
    search.tell(probe, judged(1.0, probe.samples, Verdict.FAILS))
    assert search.ask() is None
    assert search.result().stop_reason == StopReason.LOWEST_FAILS
    assert search.result().probes[0].margin < 0


def test_every_stop_reason_has_its_test() -> None:
    """The list is closed; a new reason needs a search that ends in it."""
    shaken = MaxLoadSearch(SLO, 10, 20, 100_000, 0)
    shaken.ask()
    shaken.give_up("noisy_host: load 9")
    assert shaken.ask() is None
    reached = {
        shaken.result().stop_reason,
        searched(TOLD_MM1, budget=200_000).stop_reason,
        searched(MD1, ceiling=40).stop_reason,
        searched(MD1, lowest=90).stop_reason,
        searched(cliff(100)).stop_reason,
        searched(MM1, budget=2000).stop_reason,
    }
    assert reached == set(StopReason)


def test_answers_out_of_turn_are_refused() -> None:
    """Only the probe that was asked for can be answered, once, with what it was given."""
    search = MaxLoadSearch(SLO, 10, 20, 100_000, 0)
    with pytest.raises(ValueError, match="not over"):
        search.result()
    probe = search.ask()
    assert probe is not None
    assert search.ask() == probe
    other = Probe(rate_rps=11, samples=probe.samples, seed=0)
    verdict = judged(0.1, 500, Verdict.HOLDS)
    with pytest.raises(ValueError, match=r"ask\(\)"):
        search.tell(other, verdict)
    search.tell(probe, verdict)
    with pytest.raises(ValueError, match=r"ask\(\)"):
        search.tell(probe, verdict)


@pytest.mark.parametrize("failed", [50, 500, 0])
def test_probes_without_a_quantile_are_far_beyond_the_limit(failed: int) -> None:
    """Where too many requests failed, or none was sent, the lowest rate fails."""
    answers = np.append(np.full(450 if failed else 0, 0.01), np.full(failed, np.inf))
    search = MaxLoadSearch(SLO, 10, 20, 100_000, 0)
    while probe := search.ask():
        search.tell(probe, judge_slo(answers, SLO))
    assert search.result().stop_reason == StopReason.LOWEST_FAILS
    assert all(seen.margin < -CLEAR for seen in search.result().probes)


@pytest.mark.parametrize(
    ("lowest", "ceiling", "budget", "what"),
    [(0, 10, 9999, "lowest_rps"), (20, 10, 9999, "ceiling_rps"), (1, 10, 458, "459; give more")],
)
def test_bad_searches_are_refused(lowest: float, ceiling: float, budget: int, what: str) -> None:
    """Rates in disorder and budgets below one verdict are named."""
    with pytest.raises(BadInput, match=what):
        MaxLoadSearch(SLO, lowest, ceiling, budget, 0)
