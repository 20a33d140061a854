"""A measurement in a process of its own, so that nothing that ran before it is in its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from serving.model_store import model_path
from serving.records import Variant

Answer = dict[str, Any]
REPEATS = 3
# Libraries of linear algebra read these when they are loaded, never afterwards.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def alone(what: str, *arguments: Variant | str, one_thread: bool = False) -> Any:
    """What the measurement of that name in ``explain_one`` returns; RuntimeError if it failed.

    With ``one_thread`` numpy, too, has one thread.
    """
    words = [str(model_path(a)) if isinstance(a, Variant) else a for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.explain_one", what, *words],
        capture_output=True,
        text=True,
        env=os.environ | (_ONE_THREAD if one_thread else {}),
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"explain_one {' '.join([what, *words])} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure the median over runs."""
    return {key: median(run[key] for run in runs) for key in runs[0]}


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them; "none" of none."""
    if len(words) < 2:
        return words[0] if words else "none"
    return f"{', '.join(words[:-1])} and {words[-1]}"
