"""One measurement of the explanations, in this process; JSON on the last line."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.measure_memory import memory
from benchmarks.measure_script import export_net, script
from benchmarks.measure_stages import loaders_alone, stages
from benchmarks.measure_ways import operators, roof, ways
from benchmarks.measure_widths import widths

MEASUREMENTS: dict[str, Callable[..., Any]] = {
    "ways": ways,
    "operators": operators,
    "roof": roof,
    "script": script,
    "export": export_net,
    "widths": widths,
    "stages": stages,
    "loaders": loaders_alone,
    "memory": memory,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:])))
