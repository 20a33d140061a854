"""The stationary queue against closed forms, against its transform, and by its own laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.slo_calibration import LAWS, RATE_RPS, true_quantile_s, true_share
from loadtests.stationary import headroom, influence, quantile, share_late

EXPONENTIAL_S = -0.01 * np.log1p(-(np.arange(100_000) + 0.5) / 100_000)


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.01, 0.001])
def test_mm1_has_its_closed_form(utilisation: float, share: float) -> None:
    """Time in system of M/M/1 is exponential with rate mu - lambda."""
    rate = utilisation / 0.01
    limit = -np.log(share) / (100 - rate)
    assert share_late(EXPONENTIAL_S, rate, limit) == pytest.approx(share, rel=0.02)


@pytest.mark.parametrize("law", LAWS)
def test_every_law_agrees_with_its_transform(law: str) -> None:
    """Of 400,000 draws brought to the right mean, the share is the inverted transform's."""
    service = LAWS[law].draw(np.random.default_rng(1), (400_000, 1))[:, 0]
    service *= 0.01 / service.mean()
    for limit in np.array([0.5, 1.0, 1.3]) * true_quantile_s(law):
        expected = true_share(law, limit)
        assert share_late(service, RATE_RPS, limit) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("limit_s", [0.012, 0.05, 0.15])
def test_the_influence_is_a_derivative(limit_s: float) -> None:
    """A service time seen a little more often moves the share by its influence."""
    service = np.random.default_rng(2).gamma(4, 0.0025, 400)
    pull = influence(service, 80, limit_s)
    assert pull.mean() == pytest.approx(0, abs=1e-9)
    before = share_late(service, 80, limit_s)
    for i in (0, int(np.argmin(service)), int(np.argmax(service))):
        more = np.append(np.repeat(service, 50), service[i])
        moved = (share_late(more, 80, limit_s) - before) * len(more)
        assert moved == pytest.approx(pull[i], rel=0.02, abs=1e-3)


def test_the_influence_gives_the_variance() -> None:
    """Over 200 samples of 2,000 the share varies as the influence of one says, within a fifth."""
    draw = np.random.default_rng(3)
    samples = draw.gamma(4, 0.0025, (200, 2000))
    shares = [share_late(sample, 80, 0.12) for sample in samples]
    expected = np.mean([influence(sample, 80, 0.12).std() for sample in samples[:10]])
    assert np.std(shares) == pytest.approx(expected / np.sqrt(2000), rel=0.2)


@given(
    st.lists(st.floats(1e-4, 0.1), min_size=1, max_size=50),
    st.floats(0.05, 0.95),
    st.floats(0.01, 2.0),
)
@settings(max_examples=50, deadline=None)
def test_shares_are_shares_and_in_order(
    times: list[float], utilisation: float, limit_s: float
) -> None:
    """Always between 0 and 1; fewer over a wider limit, more at a higher rate."""
    service = np.array(times)
    rate = utilisation / float(service.mean())
    share = share_late(service, rate, limit_s)
    assert -1e-9 <= share <= 1 + 1e-9
    assert share_late(service, rate, 1.5 * limit_s) <= share + 1e-3
    assert share_late(service, 0.9 * rate, limit_s) <= share + 1e-3


@pytest.mark.parametrize("limit_s", [0.05, 0.2, 0.23, 1.0])
def test_headroom_and_quantile_undo_the_share(limit_s: float) -> None:
    """Services grown by the headroom just meet the limit; so does the quantile as a limit."""
    factor, steep = headroom(EXPONENTIAL_S, 80, limit_s, 0.01)
    grown = np.exp(factor) * EXPONENTIAL_S
    assert share_late(grown, 80, limit_s) == pytest.approx(0.01, rel=1e-3)
    step = 1e-3
    rise = share_late(np.exp(step) * grown, 80, limit_s) - 0.01
    assert steep == pytest.approx(rise / step, rel=0.05)
    at, falls = quantile(EXPONENTIAL_S, 80, 0.01, limit_s)
    assert np.exp(at) == pytest.approx(np.log(100) / 20, rel=1e-3)
    assert falls == pytest.approx(-0.01 * np.log(100), rel=0.02)


def test_headroom_has_its_bounds() -> None:
    """A limit that is never reached leaves room to 98 % busy; one below all, to a fiftieth."""
    assert headroom(EXPONENTIAL_S, 80, 100, 0.01)[0] == pytest.approx(np.log(0.98 / 0.8), abs=1e-3)
    assert headroom(EXPONENTIAL_S, 80, 1e-5, 0.01)[0] == -4


def test_an_overloaded_server_is_refused() -> None:
    """A server that is never idle has no long run."""
    with pytest.raises(ValueError, match="cannot be 120% busy"):
        share_late(EXPONENTIAL_S, 120, 1.0)
