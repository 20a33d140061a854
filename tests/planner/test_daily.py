"""The course of a demand over a day, from hourly rates, from a trace, and from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.daily import Daily
from planner.demands import load_demands, trace_files
from serving.errors import BadInput

DAY = [10.0] * 8 + [100.0, 80.0] + [60.0] * 14

TABLE = """
[real-time]
title = "Real-time API"
batch = 1
batch_range = [1, 1]
quantile = 0.99
limit_ms = 25
"""


def table(folder: Path, text: str) -> Path:
    path = folder / "profiles.toml"
    path.write_text(TABLE + text)
    return path


def test_every_rise_of_a_day_is_a_burst() -> None:
    """From 10 to 100 at eight o'clock, in a straight line, and then held; falls are none."""
    bursts = Daily.hourly(DAY, rise_s=10).rises(hold_s=5)
    (burst,) = [b for b in bursts if b.peak_rps > b.before_rps + 5]
    assert (burst.before_rps, burst.peak_rps, burst.rise_s) == (10, 100, 10)
    assert len(burst.rates_rps) == 15
    assert burst.rates_rps[:2] == (14.5, 23.5)
    assert sum(burst.rates_rps[:10]) == pytest.approx(550)


def test_midnight_is_followed_by_the_same_day() -> None:
    """A rise from the last hour to the first is one, too."""
    rises = Daily.hourly([90, *[10.0] * 23]).rises(1)
    assert max(b.peak_rps - b.before_rps for b in rises) == pytest.approx(80, rel=0.01)
    assert len(rises) == 23


def test_a_trace_stands_for_a_day(tmp_path: Path) -> None:
    """Rates of its parts, its busiest minute, and the seconds around its steepest rise."""
    rates = np.repeat([5, 40, 10], [600, 300, 900])
    seconds = np.repeat(np.arange(len(rates)), rates)
    due = seconds + np.concatenate([np.arange(r) / r for r in rates])
    lines = "".join(f"{at:.4f}\n" for at in due)
    (tmp_path / "t.csv").write_text("timestamp\n" + lines)
    daily = Daily.recorded(tmp_path / "t.csv")
    assert len(daily.rates_rps) == 288
    assert daily.part_s * 288 == pytest.approx(1800, abs=1)
    assert np.mean(daily.rates_rps) == pytest.approx(len(due) / 1800, rel=0.01)
    assert daily.peak_rps == 40
    (burst,) = daily.rises(hold_s=300)
    assert burst.before_rps == 5
    assert set(burst.rates_rps) == {40}
    assert len(burst.rates_rps) == 360
    assert daily.scaled(2).rises(0)[0].peak_rps == 80
    assert daily.source == f"t.csv ({len(due):,} requests)"


def test_a_profile_takes_its_rate_from_the_day(tmp_path: Path) -> None:
    """The highest hour, unless a higher rate is given; a trace's busiest minute."""
    (one,) = load_demands(table(tmp_path, f"daily = {DAY}\n"))
    assert one.rate_rps == 100
    assert one.daily is not None
    assert (one.daily.rise_s, one.daily.part_s) == (60, 3600)
    (one,) = load_demands(table(tmp_path, f"daily = {DAY}\nrate_rps = 150\nrise_s = 300\n"))
    assert (one.rate_rps, one.daily and one.daily.rise_s) == (150, 300)


def test_a_trace_is_found_where_a_run_keeps_it(tmp_path: Path) -> None:
    """Relative to the profiles as named, or beside them."""
    rows = "".join(f"{i / 2}\n" for i in range(2000))
    path = table(tmp_path, 'trace = "far/away/t.csv"\nmachine_start_s = 40\n')
    (tmp_path / "t.csv").write_text("timestamp\n" + rows)
    (one,) = load_demands(path)
    assert one.rate_rps == 2
    assert one.daily is not None
    assert one.daily.machine_start_s == 40
    assert trace_files(path) == [tmp_path / "t.csv"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("daily = [1, 2]", "key 'daily': 2 rates; a day has 24 hours; correct it"),
        (f"daily = {[0] * 24}", "all rates are 0"),
        (f"daily = {[-1] * 24}", "greater than or equal to 0"),
        (f"daily = {DAY}\nrate_rps = 60", "rate_rps = 60 is below the peak of 100 req/s"),
        (f'daily = {DAY}\ntrace = "t.csv"', "gives both 'daily' and 'trace'"),
        ("rate_rps = 60\nrise_s = 3", "add 'daily'"),
        ("rate_rps = 60\nmachine_start_s = 3", "of use with 'daily' or 'trace' alone"),
        ("", "key 'rate_rps' is missing; add it"),
        ('trace = "none.csv"', "none.csv: no such file"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    """Each names the table and what to change."""
    with pytest.raises(BadInput, match=r"^[^\n]*$") as caught:
        load_demands(table(tmp_path, text + "\n"))
    assert says in str(caught.value)


def test_a_short_trace_is_no_day(tmp_path: Path) -> None:
    """Ten minutes at least."""
    (tmp_path / "t.csv").write_text("timestamp\n0\n30\n")
    with pytest.raises(BadInput, match="30 s of traffic"):
        load_demands(table(tmp_path, 'trace = "t.csv"\n'))
