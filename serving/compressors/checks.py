"""What several compressors claim alike, checked on the files themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serving.runtimes import open_model
from serving.steps import Making, StepFailed

# Batch sizes at which answers are compared: one, an odd one, and a full one.
_BATCHES = (1, 3, 32)


def size_of(path: Path) -> int:
    """Bytes of a model file and of the parts beside it, which share its stem."""
    parts = {path, path.with_suffix(".bin"), path.with_name(f"{path.name}.data")}
    return sum(file.stat().st_size for file in parts if file.is_file())


def is_smaller(source: Path, target: Path, what: str, *, at_most: float = 1.0) -> None:
    """Raise StepFailed unless ``target`` has less than ``at_most`` of the bytes of ``source``."""
    before, after = size_of(source), size_of(target)
    if after >= at_most * before:
        raise StepFailed(
            f"{what}: the file has {after:,} bytes, of {before:,} before; "
            f"less than {at_most:.0%} of them is claimed"
        )


def answers_agree(
    source: tuple[str, Path], target: tuple[str, Path], making: Making, tolerance: float
) -> None:
    """Raise StepFailed when two files (runtime and path) answer differently.

    ``tolerance`` is the largest absolute difference allowed, on rows of the test set.
    """
    before, after = (open_model(runtime, path, 1) for runtime, path in (source, target))
    for batch in _BATCHES:
        rows = {k: np.ascontiguousarray(v[:batch]) for k, v in making.data.test.items()}
        wanted, got = before.predict(rows), after.predict(rows)
        for name, values in wanted.items():
            if name not in got or got[name].shape != values.shape:
                raise StepFailed(
                    f"{target[1].name}: output {name!r} is missing, or of another shape, "
                    f"at batch {batch}"
                )
            worst = float(np.abs(values - got[name]).max(initial=0.0))
            if not worst <= tolerance:
                raise StepFailed(
                    f"{target[1].name}: {name!r} differs by up to {worst:.2g} at batch {batch}; "
                    f"{tolerance:g} is allowed"
                )
