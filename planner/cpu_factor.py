"""CPU factors from calibrations: how fast a vCPU of the target is against one of this host.

Replicas were measured on CPUs of which no other was busy with the model. On the target all
may be: so each kernel gives two ratios, of a vCPU there alone and of one there with all others
busy, both against one here alone. The factor's interval is the range over the kernels, each
with the quartiles of its rounds; its middle is their geometric mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from planner.prices import PriceList
from planner.records import CpuFactor
from serving.calibration import HOST_FAMILY, Calibration
from serving.errors import BadInput
from serving.records import Environment

SAME_FAMILY = 0.05
"""Two machines with one model of CPU differ by so much, as two deployments on one do."""


def read_calibration(path: Path, family: str | None = None) -> Calibration:
    """The file of ``tonnage calibrate``, taken for ``family`` where one is given.

    BadInput when there is none, or it is something else.
    """
    try:
        found = Calibration.model_validate_json(path.read_text())
    except OSError:
        raise BadInput(f"{path}: no such file; write it with 'tonnage calibrate'") from None
    except (ValidationError, UnicodeDecodeError):
        raise BadInput(
            f"{path}: not a calibration of this version; write it again with 'tonnage calibrate'"
        ) from None
    return found if family is None else found.model_copy(update={"cpu_family": family})


def with_calibrations(
    prices: PriceList,
    files: Sequence[Calibration],
    environment: Environment | None,
) -> PriceList:
    """The price list with a measured factor in the place of each calibrated family's.

    ``files`` are those of targets and, where a target has another CPU, that of the run's host
    (family ``host``; the first counts). ``environment`` is the run's. BadInput when something is
    missing, or does not belong together.
    """
    targets = [c for c in files if c.cpu_family != HOST_FAMILY]
    own = next((c for c in files if c.cpu_family == HOST_FAMILY), None)
    if not targets:
        raise BadInput(
            "--calibration: no file is that of a target; make one there with 'tonnage calibrate "
            "--family NAME', or say which it is: --calibration NAME=FILE"
        )
    families = {p.cpu_family for p in prices.prices}
    factors = {factor.target_family: factor for factor in prices.factors}
    for target in targets:
        if target.cpu_family not in families:
            raise BadInput(
                f"--calibration: nothing in the price list has cpu_family '{target.cpu_family}'; "
                f"known are {', '.join(sorted(families))}"
            )
        factors[target.cpu_family] = _factor(target, own, environment)
    return PriceList(prices.prices, tuple(factors.values()))


def _factor(
    target: Calibration, own: Calibration | None, environment: Environment | None
) -> CpuFactor:
    if environment is not None and _cpu(target) == _cpu(environment):
        return same_family(target)
    if own is None:
        raise BadInput(
            "--calibration: the host of the run must be calibrated as well; run 'tonnage "
            "calibrate --out RUN/calibration.json' there, or give its file with --calibration"
        )
    if environment is not None and _cpu(own) != _cpu(environment):
        raise BadInput(
            f"--calibration: the run was measured on {environment.cpu_model}, the file of its "
            f"host is from {own.cpu_model}; calibrate the host of the run"
        )
    return measured_factor(own, target)


def same_family(target: Calibration) -> CpuFactor:
    """The factor of a machine with this host's very CPU: 1, give or take ``SAME_FAMILY``.

    Lower where one of its vCPUs was slower with all the others busy: hyper-threads of one
    core, or a clock that drops.
    """
    busy = _ratios(target, target, {s.kernel for s in target.speeds if s.workers > 1}, (False,))
    slowest = min((low for low, _, _ in busy), default=1.0)
    low = min(1 - SAME_FAMILY, slowest)
    shared = f", {low:.2f} of one alone with all busy" if low == slowest else ""
    return CpuFactor(
        target_family=target.cpu_family,
        low=low,
        mid=1,
        high=1 + SAME_FAMILY,
        basis=f"same family: {target.cpu_model} here and there; {SAME_FAMILY:.0%} from one "
        f"machine to another{shared}",
    )


def measured_factor(here: Calibration, there: Calibration) -> CpuFactor:
    """The factor between two calibrated hosts. BadInput where their versions differ."""
    for package, version in here.packages.items():
        if there.packages.get(package) != version:
            raise BadInput(
                f"--calibration: {package} was {version} here and "
                f"{there.packages.get(package)} on {there.cpu_family}; calibrate with one version"
            )
    kernels = sorted({s.kernel for s in here.speeds} & {s.kernel for s in there.speeds})
    if not kernels:
        raise BadInput("--calibration: the files have no kernel in common; write both again")
    lows, mids, highs = zip(*_ratios(here, there, kernels), strict=True)
    low, high = min(lows), max(highs)
    middle = math.exp(sum(map(math.log, mids)) / len(mids))
    return CpuFactor(
        target_family=there.cpu_family,
        low=low,
        mid=min(max(low, middle), high),  # rounding
        high=high,
        basis=f"measured: {len(kernels)} kernels, on a vCPU alone and with all busy, by "
        f"tonnage calibrate on {there.cpu_model}, {there.measured_at[:10]}",
    )


def _ratios(
    here: Calibration,
    there: Calibration,
    kernels: Iterable[str],
    alone: Sequence[bool] = (True, False),
) -> list[tuple[float, float, float]]:
    """Low, middle and high of each kernel's speed there, alone and all busy, over here alone."""
    found = []
    for kernel in kernels:
        base = here.speed(kernel, alone=True)
        for one in alone:
            other = there.speed(kernel, alone=one)
            if base is not None and other is not None:
                found.append(
                    (
                        other.low / base.high,
                        other.calls_per_s / base.calls_per_s,
                        other.high / base.low,
                    )
                )
    return found


def _cpu(of: Calibration | Environment) -> tuple[str, int]:
    return of.cpu_model, of.threads_per_core
