"""What several compressors claim alike, checked on the files themselves."""

from __future__ import annotations

from pathlib import Path

from serving.steps import StepFailed


def size_of(path: Path) -> int:
    """Bytes of a model file and of the parts beside it, which share its stem."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}*"))


def is_smaller(source: Path, target: Path, what: str, *, at_most: float = 1.0) -> None:
    """Raise StepFailed unless ``target`` has less than ``at_most`` of the bytes of ``source``."""
    before, after = source.stat().st_size, size_of(target)
    if after >= at_most * before:
        raise StepFailed(
            f"{what}: the file has {after:,} bytes, of {before:,} before; "
            f"less than {at_most:.0%} is claimed"
        )
