"""What nobody judged of a run, a plain sentence each: the platform's ceiling and floor, and drift.

They need runs beside those that are reported: of no-op replicas, and of the reference again and
again. Quick runs, single tests and servers that are not ours have none.
"""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.ceiling import ceilings
from loadtests.drift import visits
from loadtests.records import Measurement
from reports import formatting as f

_DRIFT = (
    "the reference was not measured again and again, so a host that became slower or faster "
    "meanwhile would not show"
)
_DRIFT_OF_ONE = (
    "no reference was measured before and after, so a host that was slower or faster than usual "
    "would not show"
)


_FLOOR = "no no-op was driven at these rates, so a p99 may be the platform's more than the model's"


def of_study(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Of all the runs of a study; nothing where none was made."""
    cells = [m for m in measurements if m.role == "cell" and m.run.mode != "paced"]
    if not cells:
        return ()
    known = ceilings(measurements)
    without = sorted({m.run.batch for m in cells} - known.keys())
    found = []
    if without:
        where = f" at batch {', '.join(map(f.count, without))}" if known else ""
        found.append(_ceiling(ours=cells[0].tells_service, where=where))
    if not any(m.role == "floor" for m in measurements) and cells[0].tells_service:
        found.append(_FLOOR)
    if visits(measurements) < 2:
        found.append(_DRIFT)
    return tuple(found)


def of_one(*, ours: bool, carried_rps: float | None, floored: bool = True) -> tuple[str, ...]:
    """Of a single test, which has nothing before and after it.

    ``carried_rps`` is what generator and ingress carry, None where nobody measured it. They stand
    before a deployment of ours; before anybody else's server is a network. ``floored`` is whether
    a no-op was driven at the test's rates.
    """
    if ours:
        ceiling, floor = () if carried_rps else (_ceiling(),), () if floored else (_FLOOR,)
        return (*ceiling, *floor, _DRIFT_OF_ONE)
    return (
        "what generator and network carry was not measured, so the highest rates may be theirs, "
        "not the server's",
        _DRIFT_OF_ONE,
    )


def _ceiling(*, ours: bool = True, where: str = "") -> str:
    if ours:
        way, whose = "generator and ingress carry", "theirs, not the model's"
    else:
        way, whose = "the generator carries", "its own, not the server's"
    return f"what {way}{where} was not measured, so the highest rates may be {whose}"
