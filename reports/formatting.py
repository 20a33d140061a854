"""All number formatting of the reports, in one file.

Every function takes a plain number in the unit its name says, or None (or nan),
which prints as "-". Three significant digits, as many as the histograms keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from loadtests.objective import ANY_TIME_MS, Slo
from loadtests.quantiles import QuantileInterval
from planner.records import Interval

NOTHING = "-"
_DIGITS = 3


def _is_nothing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _decimals(value: float, digits: int = _DIGITS) -> int:
    """Decimals that leave ``digits`` significant digits, none for large numbers."""
    if value == 0 or math.isinf(value):
        return 0
    magnitude = math.floor(math.log10(abs(value)))
    # 9.996 rounds up to 10.0: rounding may add a digit before the point.
    if abs(round(value, digits - 1 - magnitude)) >= 10 ** (magnitude + 1):
        magnitude += 1
    return min(max(0, digits - 1 - magnitude), 9)


def number(value: float | None, digits: int = _DIGITS) -> str:
    """Bare number: 0.123, 4.56, 78.9, 1,234."""
    if value is None or _is_nothing(value):
        return NOTHING
    return f"{value:,.{_decimals(value, digits)}f}"


def given(value: float) -> str:
    """Print a number that a person wrote, as written: 60, 2.5, 6,000."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,}"


def count(value: int | None) -> str:
    """Whole number with its thousands marked: 6,000."""
    return NOTHING if value is None else f"{value:,d}"


def count_of(value: int, noun: str) -> str:
    """Count in words: 1 thread, 2 threads."""
    return f"{value:,d} {noun}" + ("" if value == 1 else "s")


def with_threads(text: str, threads: int) -> str:
    """Name of what runs with its threads: "onnx_fp32, 1 thread"; 0 are not ours to know."""
    return f"{text}, {count_of(threads, 'thread')}" if threads else text


def _with_unit(text: str, unit: str) -> str:
    return text if text == NOTHING else text + unit


def ms(value: float | None) -> str:
    """Milliseconds: 0.123 ms, 4.56 ms, 1,234 ms."""
    return _with_unit(number(value), " ms")


def rate(value: float | None) -> str:
    """Rate in requests per second: 4,585 req/s."""
    return _with_unit(number(value), " req/s")


def compact(value: float | None) -> str:
    """Large count, shortened: 823, 4.56k, 450k, 1.17M."""
    if value is None or _is_nothing(value):
        return NOTHING
    # The limits lie where rounding to three digits would print "1,000k".
    for limit, scale, suffix in ((999.5e6, 1e9, "B"), (999.5e3, 1e6, "M"), (999.5, 1e3, "k")):
        if abs(value) >= limit:
            return number(value / scale) + suffix
    return number(value)


def rows(value: float | None) -> str:
    """Rows per second: 1.17M rows/s."""
    return _with_unit(compact(value), " rows/s")


def file_size(value: float | None) -> str:
    """Size of a file in decimal units, as file managers print it: 26.4 KB, 1.02 MB."""
    if value is None or _is_nothing(value):
        return NOTHING
    for limit, scale, suffix in ((999.5e6, 1e9, "GB"), (999.5e3, 1e6, "MB"), (999.5, 1e3, "KB")):
        if value >= limit:
            return f"{number(value / scale)} {suffix}"
    return f"{number(value)} B"


def memory(value: float | None) -> str:
    """Memory in binary units, as limits are set: 312 MiB, 1.50 GiB."""
    if value is None or _is_nothing(value):
        return NOTHING
    if value >= 2**30:
        return f"{number(value / 2**30)} GiB"
    return f"{number(value / 2**20)} MiB"


def gib(value: float | None) -> str:
    """Memory that is given in GiB, without trailing zeros: 0.5 GiB, 2 GiB."""
    if value is None or _is_nothing(value):
        return NOTHING
    return f"{value:,.0f} GiB" if value >= 1000 else f"{value:.3g} GiB"


def vcpus(value: float | None) -> str:
    """Virtual CPUs: 0.25 vCPU, 2 vCPU."""
    return NOTHING if value is None or _is_nothing(value) else f"{value:g} vCPU"


def usd(value: float | None) -> str:
    """Money: USD 12.34, USD 1,234, and two significant digits below one: USD 0.0021."""
    if value is None or _is_nothing(value):
        return NOTHING
    if 0 < abs(value) < 1:
        return f"USD {number(value, 2)}"
    return f"USD {value:,.0f}" if abs(value) >= 1000 else f"USD {value:.2f}"


def usd_per_month(value: float | None) -> str:
    """USD 12.34 per month."""
    return _with_unit(usd(value), " per month")


def usd_per_million(value: float | None) -> str:
    """USD 0.0021 per million rows."""
    return _with_unit(usd(value), " per million rows")


def percent(fraction: float | None) -> str:
    """Share of one: 0.4%, 72%."""
    if fraction is None or _is_nothing(fraction):
        return NOTHING
    value = 100 * fraction
    return f"{value:.0f}%" if value == 0 or abs(value) >= 9.95 else f"{value:.1f}%"


def share(fraction: float) -> str:
    """Share of one that a person wrote: 0.1%, 0.05%."""
    return f"{100 * fraction:.6g}%"


def ratio(value: float | None, decimals: int = 1) -> str:
    """How many times: 2.3x; ``decimals=2`` where it is near one."""
    return NOTHING if value is None or _is_nothing(value) else f"{value:,.{decimals}f}x"


def metric(value: float | None) -> str:
    """Quality metric, a fraction of one: 0.767."""
    return NOTHING if value is None or _is_nothing(value) else f"{value:.3f}"


def delta(value: float | None) -> str:
    """Signed difference of quality metrics, to four decimals: -0.0012."""
    if value is None or _is_nothing(value):
        return NOTHING
    # Adding 0.0 turns the -0.0 of a rounded tiny loss into 0.0.
    return f"{round(value, 4) + 0.0:+.4f}"


def tiny(value: float | None) -> str:
    """Difference that is near zero: 1.2e-07."""
    return NOTHING if value is None or _is_nothing(value) else f"{value:.1e}"


def quantile(value: float) -> str:
    """Quantile by its usual name: p50, p99, p99.9."""
    return f"p{100 * value:g}"


def objective(slo: Slo) -> str:
    """``p99 <= 20 ms``, or how many may fail."""
    if slo.limit_ms >= ANY_TIME_MS:
        return str(slo)
    return f"p{100 * slo.quantile:g} <= {given(slo.limit_ms)} ms"


def interval(value: Interval | None, unit: Callable[[float], str] | None = None) -> str:
    """Figure with its range, 12.3 (10.1-15.0); a measured one has no range.

    The range takes the decimals of the middle. ``unit`` formats the middle, e.g. ``ms``.
    """
    if value is None or _is_nothing(value.mid):
        return NOTHING
    middle = (unit or number)(value.mid)
    if value.low == value.high:
        return middle
    decimals = _decimals(value.mid)
    return f"{middle} ({value.low:,.{decimals}f}-{value.high:,.{decimals}f})"


def measured_quantile(found: QuantileInterval, unit: Callable[[float], str] | None = None) -> str:
    """A measured quantile in ms with its range, 12.3 (11.8-13.0), or what it would take.

    With a ``unit`` it is part of a text, which says that it is refused; else a table's cell.
    """
    value, low, high = found.value_s, found.low_s, found.high_s
    if value is None or low is None or high is None:
        needs = f"needs {count(found.needed)}"
        return f"refused ({needs} samples)" if unit else needs
    return interval(Interval(low=1e3 * low, mid=1e3 * value, high=1e3 * high), unit)
