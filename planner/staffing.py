"""Staffing of many replicas: how many are enough that hardly any request waits.

Fluctuations of many independent requests cancel out: R erlangs of load need R + b sqrt(R)
replicas, with b decided by the share of requests that may wait (square-root staffing; A. K.
Erlang, 1924; S. Halfin and W. Whitt, "Heavy-traffic limits for queues with many exponential
servers", Operations Research 29, 1981). The share itself is Erlang's C, of one queue before
all replicas. Behind a least-connections router fewer requests wait, or hardly more, but one
that does waits for a whole request; so it is only used where next to none wait.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

MANY = 100
"""From so many replicas on the law is used; fewer are simulated, or taken as fewer still."""

TAIL_SHARE = 0.25
"""Of the requests beyond a quantile at most this share may be there for having waited."""


@lru_cache(maxsize=4096)
def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c, ``load`` in erlangs; 1 from ``servers`` on.

    By Erlang's B, whose inverse is the sum over k of n! / ((n - k)! load^k).

    >>> round(erlang_c(2, 1.0), 4)
    0.3333
    """
    if load >= servers:
        return 1.0
    with np.errstate(over="ignore"):  # then nobody waits
        terms = np.cumprod(np.arange(servers, 0, -1) / load).sum()
    blocked = 1 / (1 + float(terms))
    return blocked / (1 - load / servers * (1 - blocked))


@lru_cache(maxsize=4096)
def staffed(load: float, wait: float) -> int:
    """Fewest servers with which at most the share ``wait`` of requests waits.

    >>> staffed(1000.0, 0.01) - 1000
    78
    """
    low = math.floor(load)  # never enough
    step = max(1, math.ceil(math.sqrt(load)))
    high = low + step
    while erlang_c(high, load) > wait:
        low, high = high, high + step
    while high - low > 1:
        middle = (low + high) // 2
        if erlang_c(middle, load) > wait:
            low = middle
        else:
            high = middle
    return high


def may_wait(quantile: float) -> float:
    """Share of requests that may wait so that ``quantile`` is decided by service alone."""
    return TAIL_SHARE * (1 - quantile)


@lru_cache(maxsize=4096)
def carried(servers: int, wait: float) -> float:
    """Largest load in erlangs with which at most the share ``wait`` waits, to 1e-6 of it."""
    low, high = 0.0, float(servers)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if erlang_c(servers, middle) > wait:
            high = middle
        else:
            low = middle
    return low
