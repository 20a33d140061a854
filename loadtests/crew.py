"""The users of a load worker: parked until a run has work for them, more hired when all are busy.

Part of the Locust process, as it imports gevent.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import Waiter, get_hub

_OTHER_FILES = 200  # sockets to the master, logs, libraries


class Crew:
    """Parked users, warmest last. ``hire`` starts one more, who will park.

    A request never waits for another one's answer as long as fewer than ``most`` users are
    there: an open loop is one only while somebody is free.
    """

    def __init__(self, hire: Callable[[], object]) -> None:
        self._hire = hire
        self._idle: list[Waiter] = []
        self._untaken: deque[Callable[[Any], None]] = deque()
        self._users = 0
        self.most = 0

    def __len__(self) -> int:
        return len(self._idle)

    def park(self) -> Callable[[Any], None]:
        """Called by a user: the next job, waited for."""
        if self._untaken:
            return self._untaken.popleft()
        waiter: Waiter = Waiter()
        self._idle.append(waiter)
        job: Callable[[Any], None] = waiter.get()
        return job

    def join(self) -> None:
        """Called by a user who is new."""
        self._users += 1

    def leave(self) -> None:
        """Called by a user who will not park again."""
        self._users -= 1

    def give(self, job: Callable[[Any], None]) -> bool:
        """Hand a job to the user that parked last, or to a new one; False when all are busy."""
        if self._idle:
            get_hub().loop.run_callback(self._idle.pop().switch, job)
            return True
        if self._users >= self.most:
            return False
        self._untaken.append(job)
        self._hire()
        # Who hires in a row and never looks up would keep all others from what they wait for.
        gevent.sleep(0)
        return True

    def dismiss(self, keep: int, leave: Callable[[Any], None]) -> None:
        """Give the job ``leave`` to all parked users but the ``keep`` that parked last."""
        coldest = len(self._idle) - keep
        for _ in range(coldest):
            get_hub().loop.run_callback(self._idle.pop(0).switch, leave)


def files_for(connections: int) -> int:
    """Raise this process' limit of open files as far as permitted; the connections that it allows.

    At most ``connections``, at least 1.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = connections + _OTHER_FILES
    if hard != unlimited:
        allowed = min(allowed, hard)
    if soft not in (unlimited, hard) and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - _OTHER_FILES)
