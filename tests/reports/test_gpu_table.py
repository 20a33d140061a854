"""The GPU section: a verdict without a GPU, real figures with one, and nothing made up."""

from __future__ import annotations

import pytest

from loadtests.arrivals import Mix
from reports.bundle import Bundle
from reports.gpu_table import measured_table, reach_table, verdict


def with_gpu(bundle: Bundle, times: float) -> Bundle:
    """The run as if a GPU had been benched, so many times as fast as one CPU thread."""
    there = tuple(
        row.model_copy(
            update={
                "device": "gpu",
                "p50_ms": row.p50_ms / times,
                "rows_per_s": row.rows_per_s * times,
            }
        )
        for row in bundle.bench
        if (row.threads, row.variant, row.batch) == (1, "onnx_int8", 100)
    )
    return bundle.model_copy(update={"bench": (*bundle.bench, *there)})


def test_without_a_gpu_there_is_a_price_and_no_figure(bundle: Bundle) -> None:
    """What one may cost at most follows from the CPU plan; its speed is refused."""
    said, none = verdict(bundle)
    assert "CPUs hold up to 3,200 req/s of 100 rows" in said
    assert "A GPU for more than USD 0.36 per hour cannot be cheaper" in said  # .714 for two
    assert none == "No GPU was measured, so no GPU figure is given. [refused]"
    assert not measured_table(bundle).rows


def test_a_measured_gpu_is_held_against_the_cpu(bundle: Bundle) -> None:
    """Its own milliseconds, how many it would take at 70 %, and from which price on."""
    table = measured_table(with_gpu(bundle, 10))
    (row,) = table.rows
    # 320,000 rows/s of 70 % of 24 million a second, and a spare one.
    assert row[:3] == ("Production", "onnx_int8", "100")
    assert row[5:] == ("10.0x [measured]", "2 [predicted]", "USD 0.36 [predicted]")
    assert not any("No GPU" in line for line in verdict(with_gpu(bundle, 10)))


def test_a_rate_that_nothing_holds_is_said(bundle: Bundle) -> None:
    """A profile without any plan has no cost to compare with."""
    rows = {row[0]: row for row in reach_table(bundle).rows}
    assert rows["Batch processing"][4:] == (
        "none", "-", "no plan holds at any rate", "-", "-", "-",
    )  # fmt: skip
    bare = bundle.model_copy(update={"recommendations": ()})
    assert "not known from this run" in verdict(bare)[1]


def of_a_mix(bundle: Bundle) -> Bundle:
    """The run as if "Production" had asked for batches of 1 and of 100 alike."""
    mix = Mix(batches=(1, 100), weights=(1, 1))
    answers = tuple(
        a.model_copy(
            update={"cpu_reaches": tuple(r.model_copy(update={"mix": mix}) for r in a.cpu_reaches)}
        )
        if a.demand.title == "Production"
        else a.model_copy(update={"cpu_reaches": ()})
        for a in bundle.recommendations
    )
    return bundle.model_copy(update={"recommendations": answers})


def test_a_gpu_serves_a_mix_in_the_time_of_its_batches(bundle: Bundle) -> None:
    """Rows over time, no median, since no request is of both; measured at each batch or refused."""
    mixed = of_a_mix(bundle)
    assert (
        "CPUs hold up to 3,200 req/s of batch 1 (50%), 100 (50%) (Production)" in verdict(mixed)[0]
    )
    one = with_gpu(mixed, 10)
    assert not measured_table(one).rows
    assert verdict(one)[1:] == (
        "Production: no GPU was measured at every batch size of the mix, so nothing says how many "
        "it would take. [refused]",
    )
    (large,) = [row for row in one.bench if row.device == "gpu"]
    single = large.model_copy(update={"batch": 1, "rows_per_s": 1000.0})
    both = one.model_copy(update={"bench": (*one.bench, single)})
    (row,) = measured_table(both).rows
    assert row[2:4] == ("1 (50%), 100 (50%)", "-")
    expected = 101 / (1 / 1000 + 100 / large.rows_per_s)
    shown = float(row[4].split()[0].rstrip("kM").replace(",", ""))
    assert shown in (
        pytest.approx(expected, rel=0.01),
        pytest.approx(expected / 1e3, rel=0.01),
        pytest.approx(expected / 1e6, rel=0.01),
    )
    assert len(verdict(both)) == 1
