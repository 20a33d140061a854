"""What ``tonnage calibrate`` measured, in words."""

from __future__ import annotations

from reports import formatting as f
from reports.table import Mark, Table
from reports.terminal import table
from serving.calibration import Calibration


def calibration_text(found: Calibration) -> str:
    """Speed of each kernel on one CPU alone and on all of them, with the spread of its rounds."""
    rows = []
    for kernel in dict.fromkeys(s.kernel for s in found.speeds):
        alone, busy = found.speed(kernel, alone=True), found.speed(kernel, alone=False)
        if alone is not None and busy is not None:
            rows.append(
                (
                    kernel,
                    f"{f.number(alone.calls_per_s)} ({_spread(alone.low, alone.high)})",
                    f"{f.number(busy.calls_per_s)} ({_spread(busy.low, busy.high)})",
                    f.ratio(busy.calls_per_s / alone.calls_per_s, 2),
                )
            )
    busy_cpus = max(s.workers for s in found.speeds)
    return table(
        Table(
            name="calibration",
            title=f"{found.cpu_model}, taken for '{found.cpu_family}'",
            header=("Kernel", "One CPU (1/s)", f"Each of {busy_cpus} busy (1/s)", "Busy / alone"),
            rows=tuple(rows),
            mark=Mark.MEASURED,
            text_columns=(0,),
        )
    )


def _spread(low: float, high: float) -> str:
    return f"{f.number(low)}-{f.number(high)}"
