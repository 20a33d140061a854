"""CPU factors: measured from two calibrations, or 1 for the same CPU, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cpu_factor import measured_factor, read_calibration, same_family, with_calibrations
from planner.prices import Price, PriceList
from planner.records import CpuFactor
from serving.calibration import Calibration, KernelSpeed
from serving.errors import BadInput

PRICES = PriceList(
    (
        Price(
            instance="vm",
            usd_per_hour=0.1,
            region="x",
            as_of="2025-01-15",
            source="list",
            cpu_family="cloud",
        ),
    ),
    (CpuFactor(target_family="cloud", low=0.4, mid=0.8, high=1.2, basis="assumed"),),
)


def speed(kernel: str, workers: int, calls: float, spread: float = 0.0) -> KernelSpeed:
    return KernelSpeed(
        kernel=kernel,
        workers=workers,
        low=calls * (1 - spread),
        calls_per_s=calls,
        high=calls * (1 + spread),
        rounds=6,
        cpu_share=1.0,
    )


def calibration(family: str, *speeds: KernelSpeed, **changes: Any) -> Calibration:
    values: dict[str, Any] = {
        "cpu_family": family,
        "cpu_model": f"CPU of {family}",
        "instruction_sets": (),
        "logical_cpus": 4,
        "threads_per_core": 1,
        "virtualised": True,
        "packages": {"onnxruntime": "1.31.1"},
        "measured_at": "2026-01-02T03:04:05+00:00",
        "speeds": speeds,
    }
    return Calibration(**(values | changes))


HERE = calibration("host", speed("gemm", 1, 100), speed("gemm", 4, 90), speed("copy", 1, 50))
THERE = calibration(
    "cloud",
    speed("gemm", 1, 80, spread=0.1),
    speed("gemm", 4, 45),
    speed("copy", 1, 50),
    speed("copy", 4, 20),
)


def test_a_factor_is_the_range_over_the_kernels_by_hand() -> None:
    """Alone .8 and 1, all busy .45 and .4, both against one vCPU here alone."""
    found = measured_factor(HERE, THERE)
    assert found.low == pytest.approx(0.4)
    assert found.high == pytest.approx(1.0)
    assert found.mid == pytest.approx((0.8 * 0.45 * 1.0 * 0.4) ** 0.25)
    assert found.basis == (
        "measured: 2 kernels, on a vCPU alone and with all busy, by tonnage calibrate on CPU of "
        "cloud, 2026-01-02"
    )


def test_the_spread_of_the_rounds_widens_it() -> None:
    """Quartiles there over quartiles here."""
    one = calibration("host", speed("gemm", 1, 100, spread=0.1))
    two = calibration("cloud", speed("gemm", 1, 100, spread=0.2))
    found = measured_factor(one, two)
    assert found.low == pytest.approx(80 / 110)
    assert found.high == pytest.approx(120 / 90)


@given(st.floats(0.2, 5), st.floats(0, 0.3))
def test_a_host_twice_as_fast_has_twice_the_factor(ratio: float, spread: float) -> None:
    """Whatever the spread, low <= mid <= high, and all follow the speed."""
    one = calibration("host", speed("gemm", 1, 100, spread), speed("copy", 1, 30, spread))
    two = calibration(
        "cloud", speed("gemm", 1, 100 * ratio, spread), speed("copy", 1, 30 * ratio, spread)
    )
    found = measured_factor(one, two)
    assert found.low <= found.mid <= found.high
    assert found.mid == pytest.approx(ratio)


def test_the_same_cpu_is_as_fast_and_no_surer_than_two_machines_are() -> None:
    """Factor 1 within 5 %, without a file of this host."""
    target = calibration("cloud", speed("gemm", 1, 1), cpu_model="Xeon")
    assert (same_family(target).low, same_family(target).high) == (0.95, 1.05)
    found = with_calibrations(PRICES, [target], _environment(target)).factors
    assert found == (same_family(target),)


def test_the_same_cpu_is_slower_with_its_siblings_busy() -> None:
    """Hyper-threads that get 60 % of a core each are planned with 60 %, not 95 %."""
    target = calibration("cloud", speed("gemm", 1, 100), speed("gemm", 4, 60), speed("copy", 1, 50))
    found = same_family(target)
    assert (found.low, found.mid, found.high) == (pytest.approx(0.6), 1, 1.05)
    assert found.basis.endswith("5% from one machine to another, 0.60 of one alone with all busy")


def test_a_measured_factor_takes_the_place_of_the_assumed_one() -> None:
    """Of its family; the others stay."""
    other = CpuFactor(target_family="other", low=1, mid=1, high=1, basis="assumed")
    prices = PriceList(PRICES.prices, (other, *PRICES.factors))
    found = with_calibrations(prices, [THERE, HERE], _environment(HERE))
    assert found.factors == (other, measured_factor(HERE, THERE))
    assert found.prices == PRICES.prices


@pytest.mark.parametrize(
    ("files", "environment", "named"),
    [
        ([HERE], HERE, "no file is that of a target"),
        ([THERE], HERE, "the host of the run must be calibrated"),
        ([THERE, HERE], calibration("x", speed("gemm", 1, 1)), "measured on CPU of x, the file"),
        ([HERE, THERE.model_copy(update={"cpu_family": "moon"})], HERE, "known are cloud"),
        (
            [HERE, THERE.model_copy(update={"packages": {"onnxruntime": "1.2"}})],
            HERE,
            "onnxruntime was 1.31.1 here and 1.2 on cloud",
        ),
        ([HERE, calibration("cloud", speed("new", 1, 1))], HERE, "no kernel in common"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    files: list[Calibration], environment: Calibration, named: str
) -> None:
    """In one line that says what to do."""
    with pytest.raises(BadInput, match=named):
        with_calibrations(PRICES, files, _environment(environment))


def test_a_file_is_read_as_written_or_for_another_family(tmp_path: Path) -> None:
    """JSON there and back; what is something else is refused by name."""
    path = tmp_path / "c.json"
    path.write_text(THERE.model_dump_json())
    assert read_calibration(path) == THERE
    assert read_calibration(path, "moon").cpu_family == "moon"
    path.write_text("{}")
    with pytest.raises(BadInput, match=r"c\.json: not a calibration of this version"):
        read_calibration(path)
    with pytest.raises(BadInput, match=r"none\.json: no such file"):
        read_calibration(tmp_path / "none.json")


def _environment(of: Calibration) -> Any:
    """An environment with the CPU of a calibration; the rest does not matter here."""
    from serving.records import Environment

    return Environment.model_construct(cpu_model=of.cpu_model, threads_per_core=of.threads_per_core)
