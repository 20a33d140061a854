"""The requests of a run, one array a column, in order of due time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np

NO_ANSWER = 0
UNSENT = -1
"""Statuses beside HTTP's: the connection gave no answer; the request was never sent."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Arrays of shape [n]. Times are seconds from the start of the run on the worker's clock.

    Only differences within a row mean anything across workers, whose clocks need not agree;
    the start of the run is each worker's own. ``waited`` marks requests that found busy every
    connection that their worker may open: their latency says nothing of the server. ``read_s`` is
    when the generator had read an answer that was there at ``done_s``. ``error``
    is a short name, empty where the answer passed its checks. What is not known is nan.
    """

    due_s: np.ndarray
    sent_s: np.ndarray
    done_s: np.ndarray
    read_s: np.ndarray
    body: np.ndarray
    status: np.ndarray
    error: np.ndarray
    waited: np.ndarray
    own_cell: np.ndarray
    inline: np.ndarray
    queue_s: np.ndarray
    service_s: np.ndarray

    def __len__(self) -> int:
        return len(self.due_s)

    @property
    def ok(self) -> np.ndarray:
        """Which were answered well, and by the cell that was asked, shape [n]."""
        return np.asarray((self.error == "") & (self.status != UNSENT) & self.own_cell)

    @property
    def latency_s(self) -> np.ndarray:
        """Due to done, shape [n]; inf for what was not answered: over any limit."""
        return np.where(self.ok, self.done_s - self.due_s, np.inf)

    @property
    def busy_s(self) -> np.ndarray:
        """Sent to read, shape [n]: for so long a closed loop's user is busy with a request."""
        return np.asarray(self.read_s - self.sent_s)

    def take(self, chosen: np.ndarray) -> Self:
        """The rows at ``chosen``: positions, or true and false."""
        return type(self)(**{name: values[chosen] for name, values in self._columns().items()})

    def save(self, path: Path) -> None:
        """Write as an ``.npz``."""
        np.savez(path, **self._columns())  # type: ignore[arg-type] # numpy's stub misreads keywords

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{field.name: stored[field.name] for field in fields(cls)})

    @classmethod
    def merge(cls, parts: Sequence[Samples]) -> Self:
        """All samples of several workers, in order of due time. ValueError without any part."""
        if not parts:
            raise ValueError("nothing to merge")
        columns = [part._columns() for part in parts]
        joined = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
        order = np.argsort(joined["due_s"], kind="stable")
        return cls(**{name: values[order] for name, values in joined.items()})

    @classmethod
    def empty(cls) -> Self:
        """No samples at all, of a run whose every worker was lost."""
        clocked = ("due_s", "sent_s", "done_s", "read_s", "queue_s", "service_s")
        times = {n: np.empty(0) for n in clocked}
        flags = {n: np.empty(0, dtype=bool) for n in ("waited", "own_cell", "inline")}
        counts = {n: np.empty(0, dtype=np.int64) for n in ("body", "status")}
        return cls(**times, **flags, **counts, error=np.empty(0, dtype="<U1"))

    def _columns(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
