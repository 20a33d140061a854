"""What a run sends, and when: the due time and the body of every request.

A schedule is made once, by the side that knows the whole run, and split over the workers
into shards that partition it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from loadtests.arrivals import Constant, Made, Poisson, Recorded, Trace, classes, due_times
from loadtests.records import LoadRun
from serving.errors import BadInput

CLOSED_LOOP_CYCLE = 65_536
"""Bodies drawn for a closed loop, whose number of requests is not known beforehand."""


@dataclass(frozen=True)
class Schedule:
    """``due_s`` in seconds from the start and ``body``, an index; both of shape [n], in order.

    A closed loop has no due times: its ``due_s`` is empty, and its users work through
    ``body`` in turn, over and over.
    """

    due_s: np.ndarray
    body: np.ndarray

    def shard(self, index: int, workers: int) -> Self:
        """The requests that worker ``index`` of ``workers`` sends.

        Round robin, so that every worker sees the same traffic shape.
        """
        if not 0 <= index < workers:
            raise ValueError(f"worker {index} of {workers}")
        return type(self)(self.due_s[index::workers], self.body[index::workers])

    def save(self, path: Path) -> None:
        """Write as an ``.npz``."""
        np.savez(path, due_s=self.due_s, body=self.body)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["due_s"], stored["body"])


def make_schedule(run: LoadRun, body_class: np.ndarray, trace: Trace | None = None) -> Schedule:
    """The schedule of ``run`` over bodies whose class is ``body_class``, shape [bodies].

    Classes are drawn by the weights of the run's mix. Where the trace names batch sizes they
    follow from those, by the mix's weights where it has several of a size. Within a class
    bodies are drawn evenly. Seeded: the same run has the same schedule. BadInput when a class
    that is needed has no body.
    """
    if run.mode == "closed":
        due = np.empty(0)
        wanted = _mixed(run, CLOSED_LOOP_CYCLE)
    else:
        due = due_times(trace or _arrivals(run), run.duration_s, run.seed)
        if trace is not None and trace.batches is not None:
            sizes = run.mix.batches if run.mix else np.unique(trace.batches)
            wanted = _of_sizes(trace.batches[: len(due)], np.asarray(sizes), run)
        else:
            wanted = _mixed(run, len(due))
    # A stream apart from that of the due times: they must not follow from each other.
    draw = np.random.default_rng([run.seed, 2])
    luck = draw.random(len(wanted))
    body = np.empty(len(wanted), dtype=np.int64)
    for one in np.unique(wanted):
        members = np.flatnonzero(body_class == one)
        if not len(members):
            raise BadInput(f"no request body of class {one} was made for this mix")
        of_class = wanted == one
        body[of_class] = members[(luck[of_class] * len(members)).astype(np.int64)]
    return Schedule(due, body)


def _arrivals(run: LoadRun) -> Made:
    if isinstance(run.arrivals, Recorded):
        raise ValueError(f"the times of {run.arrivals.file} are not in the record; give the trace")
    if run.arrivals is not None:
        return run.arrivals
    if run.rate_rps is None:
        raise ValueError(f"a run of mode {run.mode} needs a rate")
    if run.mode == "paced":
        return Constant(rate_rps=run.rate_rps)
    return Poisson(rate_rps=run.rate_rps)


def _of_sizes(batches: np.ndarray, sizes: np.ndarray, run: LoadRun) -> np.ndarray:
    """Class of each request, shape [requests], among those of its own size, by weight."""
    weights = np.asarray(run.mix.weights if run.mix else np.ones(len(sizes)))
    # The stream that draws classes elsewhere, see arrivals.classes.
    luck = np.random.default_rng([run.seed, 1]).random(len(batches))
    wanted = np.empty(len(batches), dtype=np.int64)
    for size in np.unique(batches):
        members = np.flatnonzero(sizes == size)
        if not len(members):
            raise BadInput(f"no request body of batch {size} was made for this trace")
        edges = np.cumsum(weights[members])
        mine = batches == size
        drawn = np.searchsorted(edges[:-1] / edges[-1], luck[mine], side="right")
        wanted[mine] = members[drawn]
    return wanted


def _mixed(run: LoadRun, requests: int) -> np.ndarray:
    weights = run.mix.weights if run.mix else (1.0,)
    return classes(requests, weights, run.seed)
