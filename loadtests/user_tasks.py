"""Tasks of a user's own locustfile, each run when a request falls due.

Arrivals, latency and verdicts stay ours: a task is one request, from its due time to its
return, however many requests of its own it makes. Weights of users and of tasks are honoured,
``wait_time`` and load shapes are not. Part of the Locust process, as it imports Locust.
"""

from __future__ import annotations

import inspect
import random
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import gevent
from locust import TaskSet, User, events
from locust.env import Environment
from locust.exception import InterruptTaskSet, RescheduleTask, RescheduleTaskImmediately
from locust.user.task import DefaultTaskSet
from locust.util.load_locustfile import load_locustfile

from serving.errors import BadInput

_FAILURE = "tonnage_failure"


def load_tasks(path: str, url: str) -> list[type[User]]:
    """The user classes of a locustfile, each as often as its weight, aimed at ``url``.

    BadInput when the file cannot be loaded or holds no user with tasks.
    """
    classes = [kind for kind in _classes(path) if kind.tasks]
    if not classes:
        raise BadInput(f"--locustfile {path}: holds no user class with tasks")
    for kind in classes:
        kind.host = url
    return [kind for kind in classes for _ in range(max(1, int(kind.weight)))]


@cache
def _classes(path: str) -> tuple[type[User], ...]:
    if not Path(path).is_file():
        raise BadInput(f"--locustfile {path}: no such file")
    try:
        return tuple(load_locustfile(path)[0].values())
    except (Exception, SystemExit) as error:  # whatever the file does while it is imported
        raise BadInput(f"--locustfile {path}: cannot be loaded ({error!r})") from None


@events.request.add_listener  # type: ignore[untyped-decorator] # Locust is partly typed
def _note_failure(exception: Any = None, response: Any = None, **_: Any) -> None:
    """Remember on the greenlet that a request of the task at hand has failed."""
    if exception is not None:
        status = getattr(response, "status_code", 0) or 0
        name = f"http_{status}" if status >= 400 else type(exception).__name__
        setattr(gevent.getcurrent(), _FAILURE, name)


class Player:
    """One of each of the user's classes, started, on a connection of ours."""

    def __init__(self, weighted: list[type[User]], environment: Environment) -> None:
        self._weighted = weighted
        self._sets: dict[type[User], TaskSet] = {}
        self._nested: dict[type[TaskSet], TaskSet] = {}
        for kind in dict.fromkeys(weighted):
            user = kind(environment)
            user.on_start()
            self._sets[kind] = DefaultTaskSet(user)

    def perform(self) -> str | None:
        """Run one task; the name of what failed in it, or None."""
        current = gevent.getcurrent()
        setattr(current, _FAILURE, None)
        try:
            self._do(self._sets[random.choice(self._weighted)])  # noqa: S311 - a draw by weight
        except (InterruptTaskSet, RescheduleTask, RescheduleTaskImmediately):
            pass  # how tasks leave early; with one task a request there is nothing to leave
        except Exception as error:  # a failed task is data
            sys.stderr.write(traceback.format_exc())
            return type(error).__name__
        failure: str | None = getattr(current, _FAILURE, None)
        return failure

    def _do(self, holder: TaskSet) -> None:
        task = holder.get_next_task()  # type: ignore[no-untyped-call] # Locust is partly typed
        if not (inspect.isclass(task) and issubclass(task, TaskSet)):
            holder.execute_task(task)  # type: ignore[no-untyped-call] # Locust is partly typed
            return
        if task not in self._nested:  # it keeps its place, which sequential sets go by
            self._nested[task] = task(holder)  # type: ignore[arg-type] # or a set, says its code
            self._nested[task].on_start()
        self._do(self._nested[task])
