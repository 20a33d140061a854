"""The slots of a deployment's replicas: which process claimed which, and what it cost before.

``serving/ray_host/enter_instance.py`` writes them, in the process that claims one.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_slots(path: Path) -> list[dict[str, Any]]:
    """One slot per replica, in their order; waits while a replica is claiming one."""
    with path.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        return list(json.load(stream))


def slots_in(folder: Path) -> list[dict[str, Any]]:
    """The slots of all deployments of a host's folder."""
    return [slot for path in sorted(folder.glob("slots-*.json")) for slot in read_slots(path)]


def outside_s(slots: Iterable[dict[str, Any]]) -> dict[int, float]:
    """CPU-seconds that processes used before they entered their instance, by their ids.

    Slots that nobody claimed, or whose owner did not note it, are left out.
    """
    return {
        slot["pid"]: slot["outside_s"] for slot in slots if "pid" in slot and "outside_s" in slot
    }
