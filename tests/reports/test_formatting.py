"""Numbers as the reports print them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.records import Interval
from reports import formatting as f


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (f.ms(0.1234), "0.123 ms"),
        (f.ms(4.56), "4.56 ms"),
        (f.ms(9.996), "10.0 ms"),
        (f.ms(1234.4), "1,234 ms"),
        (f.ms(0.0), "0 ms"),
        (f.ms(None), "-"),
        (f.ms(float("nan")), "-"),
        (f.rate(4585.2), "4,585 req/s"),
        (f.given(60.0), "60"),
        (f.given(2.5), "2.5"),
        (f.rows(1_171_000), "1.17M rows/s"),
        (f.rows(999_600), "1.00M rows/s"),
        (f.rows(450_000), "450k rows/s"),
        (f.rows(823), "823 rows/s"),
        (f.file_size(92_160), "92.2 KB"),
        (f.file_size(1_020_000), "1.02 MB"),
        (f.file_size(12), "12.0 B"),
        (f.memory(327_155_712), "312 MiB"),
        (f.memory(1.5 * 2**30), "1.50 GiB"),
        (f.gib(2.0), "2 GiB"),
        (f.vcpus(0.25), "0.25 vCPU"),
        (f.usd_per_month(12.344), "USD 12.34 per month"),
        (f.usd_per_month(1234.5), "USD 1,234 per month"),
        (f.usd_per_million(0.00212), "USD 0.0021 per million rows"),
        (f.usd_per_million(None), "-"),
        (f.percent(0.7249), "72%"),
        (f.percent(0.0042), "0.4%"),
        (f.percent(0.0), "0%"),
        (f.ratio(2.34), "2.3x"),
        (f.ratio(1.018, 2), "1.02x"),
        (f.delta(-0.00001), "+0.0000"),
        (f.delta(-0.0012), "-0.0012"),
        (f.tiny(1.23e-7), "1.2e-07"),
        (f.quantile(0.999), "p99.9"),
        (f.count_of(1, "thread"), "1 thread"),
        (f.count_of(2, "thread"), "2 threads"),
        (f.interval(Interval(low=10.1, mid=12.3, high=15.04)), "12.3 (10.1-15.0)"),
        (f.interval(Interval(low=1.0, mid=1.25, high=2.0), f.ms), "1.25 ms (1.00-2.00)"),
        (f.interval(Interval(low=3.0, mid=3.0, high=3.0), f.ms), "3.00 ms"),
    ],
)
def test_printed_forms(printed: str, expected: str) -> None:
    """Each kind of figure has one printed form, at its rounding edges too."""
    assert printed == expected


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_digits_survive(value: float) -> None:
    """A printed number is within half a unit of its third significant digit."""
    printed = float(f.number(value).replace(",", ""))
    assert printed == pytest.approx(value, rel=0.00501)
