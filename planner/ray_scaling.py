"""Ray Serve's default autoscaling policy: what it sees of the load, and what it then decides.

Written after ``ray/serve/autoscaling_policy.py`` and ``ray/serve/_private/autoscaling_state.py``
of Ray 2.60; a test holds it against those. Every replica notes how many requests it is
working on, sends its notes every ``metrics_interval_s``, and the controller averages their
sum over what it was sent. So a rise is seen late by up to an interval, and diluted by the
look-back period.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.advice import ScalingSettings

CONTROL_INTERVAL_S = 0.1
"""Ray's ``RAY_SERVE_CONTROL_LOOP_INTERVAL_S``."""

RECORD_SHARE = 0.2
"""Of the look-back period: how often a replica takes a note, unless it sends more often."""

_ROUNDING_S = 1e-6

Note = tuple[float, float]
"""Time in seconds, and requests that a replica was working on."""


def record_interval_s(settings: ScalingSettings) -> float:
    """Seconds between two notes of a replica."""
    return min(RECORD_SHARE * settings.look_back_period_s, settings.metrics_interval_s)


def total_ongoing(notes: Sequence[Sequence[Note]], now_s: float) -> float:
    """Mean of the sum over all replicas, each note valid until the next one.

    The window opens when every replica that sent something has a note, so that a new one
    does not count as idle before it was there.
    """
    sent = [series for series in notes if series]
    if not sent:
        return 0.0
    begin = max(series[0][0] for series in sent)
    last = max(series[-1][0] for series in sent)
    end = now_s if now_s > last else last + 1e-3
    return sum(_area(series, begin, end) for series in sent) / (end - begin)


def _area(series: Sequence[Note], begin: float, end: float) -> float:
    area, until = 0.0, end
    for at, value in reversed(series):
        start = max(at, begin)
        if start < until:
            area += value * (until - start)
            until = start
        if at <= begin:
            break
    return area


class Policy:
    """The policy between two calls: since when it has wanted more, or fewer, replicas."""

    def __init__(self, settings: ScalingSettings) -> None:
        self._settings = settings
        self._direction = 0
        self._since_s = 0.0

    def decide(self, now_s: float, ongoing: float, running: int, target: int) -> int:
        """Replicas to aim at from now on, ``target`` until now; ``running`` of them are ready.

        More (or fewer) are wanted without a break for the whole delay before it happens.
        """
        settings = self._settings
        wanted = running * (ongoing / (settings.target_ongoing_requests * running))
        desired = math.ceil(running + (wanted - running))
        if math.ceil(wanted) < running == desired:
            desired -= 1
        direction = (desired > target) - (desired < target)
        if direction != self._direction:
            self._direction, self._since_s = direction, now_s
        delay = settings.upscale_delay_s if direction > 0 else settings.downscale_delay_s
        if not direction or now_s - self._since_s + _ROUNDING_S < delay:
            return target
        self._direction = 0
        return max(settings.min_replicas, min(settings.max_replicas, max(1, desired)))
