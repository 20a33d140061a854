"""Durations as users write them."""

from __future__ import annotations

import re

from serving.errors import BadInput


def seconds_of(text: str, option: str) -> float:
    """Seconds in ``90s``, ``5m``, ``1.5h`` or ``20ms``; BadInput for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)", text.strip())
    if not match or float(match[1]) == 0:
        raise BadInput(f"{option} {text}: give a duration such as 20ms, 90s or 5m")
    return float(match[1]) * {"ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def in_words(seconds: float) -> str:
    """Seconds as one says them: 45 s, 2.5 min."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
