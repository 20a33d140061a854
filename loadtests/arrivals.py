"""When requests fall due: pure and seeded.

Due times are seconds from the start of the run, sorted. They are a function of their
arguments alone, so an oracle can replay them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from serving.errors import BadInput
from serving.records import Record

HIGHEST_RATE_RPS = 1e6
"""Beyond this a rate is a slip of the pen: no generator of ours sends a tenth of it."""

MOST_REQUESTS = 20_000_000
"""Due times of one schedule, at 8 bytes each."""

Rate = Annotated[float, Field(gt=0, le=HIGHEST_RATE_RPS, allow_inf_nan=False)]
RateOrZero = Annotated[float, Field(ge=0, le=HIGHEST_RATE_RPS, allow_inf_nan=False)]


class Constant(Record):
    """Evenly spaced requests."""

    kind: Literal["constant"] = "constant"
    rate_rps: Rate


class Poisson(Record):
    """Independent users: a Poisson process of constant rate."""

    kind: Literal["poisson"] = "poisson"
    rate_rps: Rate


class Ramp(Record):
    """A Poisson process whose rate moves in a straight line over the run."""

    kind: Literal["ramp"] = "ramp"
    from_rps: RateOrZero
    to_rps: RateOrZero

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if self.from_rps == self.to_rps == 0:
            raise ValueError("a ramp from 0 to 0 sends nothing; give 'to_rps' above 0")
        return self


class Step(Record):
    """A piece of constant rate; rate 0 is a pause."""

    rate_rps: RateOrZero
    seconds: float = Field(ge=1e-3, allow_inf_nan=False)


class Steps(Record):
    """Poisson pieces one after the other, begun anew until the run is full.

    Two steps are bursts: ``((20, 9), (400, 1))`` sends 400/s in every tenth second.
    """

    kind: Literal["steps"] = "steps"
    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if not any(step.rate_rps for step in self.steps):
            raise ValueError("all steps have rate 0; give one a rate above 0")
        return self


class Recorded(Record):
    """Recorded traffic, by what identifies it; :class:`Trace` holds the times themselves."""

    kind: Literal["trace"] = "trace"
    file: str
    sha256: str
    time_scale: float = Field(gt=0, allow_inf_nan=False)
    requests: int = Field(ge=1)
    mean_batch: float | None = Field(default=None, description="null: it names no batch sizes")
    peak_rps: float | None = Field(
        default=None, description="over its busiest second; null in records before it"
    )
    time_column: str | None = Field(default=None, description="null in records before it")
    batch_column: str | None = None


@dataclass(frozen=True)
class Trace:
    """Times of recorded traffic; :func:`loadtests.trace_file.read_trace` reads one from a file.

    ``due_s`` has shape [requests], in seconds from the start of the run, sorted; ``batches``
    are the rows of each, None where the trace does not say. ValueError for anything else.
    """

    due_s: np.ndarray
    batches: np.ndarray | None
    source: Recorded

    def __post_init__(self) -> None:
        due = self.due_s
        if not len(due):
            raise ValueError("a trace holds at least one request")
        if not np.all(np.isfinite(due)) or due[0] < 0 or np.any(np.diff(due) < 0):
            raise ValueError("due times must be finite, sorted and not negative")
        if self.batches is not None and len(self.batches) != len(due):
            raise ValueError(f"{len(self.batches)} batch sizes for {len(due)} due times")

    def within(self, duration_s: float) -> int:
        """How many requests fall due before ``duration_s``; BadInput when none does."""
        count = int(np.searchsorted(self.due_s, duration_s))
        if not count:
            raise BadInput(
                f"the trace begins at {self.due_s[0]:g} s, after the run of "
                f"{duration_s:g} s; give a longer duration or a smaller time scale"
            )
        return count


Arrivals = Annotated[Constant | Poisson | Ramp | Steps | Recorded, Field(discriminator="kind")]
Made = Constant | Poisson | Ramp | Steps
"""Arrivals that follow from a seed alone."""

_ADAPTER: TypeAdapter[Made] = TypeAdapter(Annotated[Made, Field(discriminator="kind")])


class Mix(Record):
    """What the requests carry: classes of batch and input size, by weight.

    ``inputs`` names the source of each class's rows, where they differ. Under a trace that
    names batch sizes each request has its own size, and weights choose among that size's classes.
    """

    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    inputs: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.weights) != len(self.batches):
            raise ValueError(f"{len(self.weights)} weights for {len(self.batches)} batches")
        if self.inputs is not None and len(self.inputs) != len(self.batches):
            raise ValueError(f"{len(self.inputs)} inputs for {len(self.batches)} batches")
        return self

    @property
    def mean_batch(self) -> float:
        """Rows of a request on average."""
        return float(np.average(self.batches, weights=self.weights))

    @property
    def shares(self) -> dict[int, float]:
        """Share of all requests by batch size, the smallest first; rounded to twelve digits."""
        found = dict.fromkeys(sorted(self.batches), 0.0)
        for batch, weight in zip(self.batches, self.weights, strict=True):
            found[batch] += weight / sum(self.weights)
        return {batch: round(share, 12) for batch, share in found.items()}

    def __str__(self) -> str:
        """``batch 1 (70 %), 100 (30 %)``."""
        return "batch " + ", ".join(f"{b:,} ({100 * s:g} %)" for b, s in self.shares.items())


MaybeMix = Annotated[
    Mix | None,
    Field(
        exclude_if=lambda value: value is None,
        description="absent where every request has 'batch' rows",
    ),
]


def alike(one: Mix | None, other: Mix | None) -> bool:
    """Whether both ask for the same batch sizes in the same shares: 7 to 3 is 0.7 to 0.3."""
    if one is None or other is None:
        return one is other
    return one.shares == other.shares


def parse_arrivals(raw: Mapping[str, Any], where: str) -> Made:
    """The record of a table such as ``{kind = "ramp", from_rps = 10, to_rps = 90}``.

    Raises BadInput in one line: ``where`` (file and table), the key and what is wrong.
    """
    try:
        return _ADAPTER.validate_python(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][1:]) or "kind"
        what = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{where}: {key}: {what}") from error


def busiest_second_rps(due_s: np.ndarray) -> float:
    """Most requests that fall due within a second, of sorted due times, shape [requests]."""
    return float(np.max(np.searchsorted(due_s, due_s + 1.0) - np.arange(len(due_s)), initial=0))


def peak_rps(arrivals: Made | Trace) -> float:
    """The highest rate that is asked for; of a trace, over its busiest second."""
    match arrivals:
        case Ramp():
            return max(arrivals.from_rps, arrivals.to_rps)
        case Steps():
            return max(step.rate_rps for step in arrivals.steps)
        case Trace():
            return busiest_second_rps(arrivals.due_s)
        case _:
            return arrivals.rate_rps


def mean_rps(arrivals: Made | Trace, duration_s: float) -> float:
    """Requests per second to expect over ``duration_s``."""
    match arrivals:
        case Ramp():
            return (arrivals.from_rps + arrivals.to_rps) / 2
        case Steps():
            edges, rates = _pieces(arrivals.steps, duration_s)
            return float(np.diff(edges) @ rates) / duration_s
        case Trace():
            return arrivals.within(duration_s) / duration_s
        case _:
            return arrivals.rate_rps


def due_times(arrivals: Made | Trace, duration_s: float, seed: int) -> np.ndarray:
    """Due times in [0, duration_s), sorted, shape [requests]; the same for the same seed.

    Raises BadInput when the duration is not positive, when the schedule would be larger
    than memory allows, or when a trace has nothing within the duration.
    """
    if not 0 < duration_s < float("inf"):
        raise BadInput(f"duration_s = {duration_s:g}: give a duration above 0 seconds")
    if isinstance(arrivals, Trace):
        return arrivals.due_s[: arrivals.within(duration_s)]
    if peak_rps(arrivals) * duration_s > MOST_REQUESTS:
        raise BadInput(
            f"{peak_rps(arrivals):g} requests/s for {duration_s:g} s are more than "
            f"{MOST_REQUESTS:,} requests; give a lower rate or a shorter duration_s"
        )
    match arrivals:
        case Constant():
            due = constant(arrivals.rate_rps, duration_s)
        case Poisson():
            due = poisson(arrivals.rate_rps, duration_s, seed)
        case Ramp():
            due = _ramp(arrivals.from_rps, arrivals.to_rps, duration_s, seed)
        case Steps():
            due = _steps(arrivals.steps, duration_s, seed)
    # Rounding may put the last one on the end itself, which belongs to the next run.
    return np.asarray(np.minimum(due, np.nextafter(duration_s, 0.0)))


def classes(requests: int, weights: tuple[float, ...], seed: int) -> np.ndarray:
    """Class of each request, shape [requests], drawn independently by weight."""
    share = np.asarray(weights, dtype=float)
    if not len(share) or not np.all(np.isfinite(share)) or np.any(share < 0) or not share.sum():
        raise BadInput(f"weights {weights}: give at least one above 0, and none below")
    # A stream of its own: with that of the due times a class would follow from its gap.
    draw = np.random.default_rng([seed, 1])
    return np.asarray(draw.choice(len(share), size=requests, p=share / share.sum()))


def constant(rate_rps: float, duration_s: float) -> np.ndarray:
    """Evenly spaced due times, shape [round(rate * duration)]; the first is at 0."""
    _check(rate_rps, duration_s)
    return np.arange(round(rate_rps * duration_s)) / rate_rps


def poisson(rate_rps: float, duration_s: float, seed: int) -> np.ndarray:
    """Poisson process of ``rate_rps`` over ``duration_s``.

    Conditioned on its count: the count is Poisson distributed, the times are sorted
    uniforms, which is the same process (Ross, Introduction to Probability Models, 5.3).
    """
    _check(rate_rps, duration_s)
    draw = np.random.default_rng(seed)
    count = draw.poisson(rate_rps * duration_s)
    return np.sort(draw.uniform(0.0, duration_s, count))


def _ramp(from_rps: float, to_rps: float, duration_s: float, seed: int) -> np.ndarray:
    """Inversion of the integrated rate f t + a t^2 / 2, a = (to - from) / duration.

    An inhomogeneous Poisson process is a homogeneous one of rate 1 on the scale of its
    integrated rate (Cinlar, Introduction to Stochastic Processes, 4.7). The root is
    written so that nothing cancels when the ramp is nearly flat.
    """
    draw = np.random.default_rng(seed)
    total = (from_rps + to_rps) / 2 * duration_s
    done = np.sort(draw.uniform(0.0, total, draw.poisson(total)))
    slope = (to_rps - from_rps) / duration_s
    root = np.sqrt(np.maximum(from_rps**2 + 2 * slope * done, 0.0))
    return np.asarray(2 * done / (from_rps + root))


def _pieces(steps: tuple[Step, ...], duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges in seconds, shape [pieces + 1], and the rate of each piece, shape [pieces]."""
    rounds = int(duration_s // sum(step.seconds for step in steps)) + 1
    ends = np.minimum(np.cumsum([step.seconds for step in steps] * rounds), duration_s)
    return np.concatenate([[0.0], ends]), np.array([step.rate_rps for step in steps] * rounds)


def _steps(steps: tuple[Step, ...], duration_s: float, seed: int) -> np.ndarray:
    """Inversion of the integrated rate, which is a polygon."""
    edges, rates = _pieces(steps, duration_s)
    reached = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges))])
    draw = np.random.default_rng(seed)
    done = np.sort(draw.uniform(0.0, reached[-1], draw.poisson(reached[-1])))
    # Pauses are flat pieces of the polygon, where an inverse would have to choose.
    rising = [i for i, (a, b) in enumerate(pairwise(reached)) if b > a]
    piece = np.searchsorted(reached[1:][rising], done, side="right")
    at = np.asarray(rising, dtype=int)[np.minimum(piece, len(rising) - 1)]
    return np.asarray(edges[at] + (done - reached[at]) / rates[at])


def _check(rate_rps: float, duration_s: float) -> None:
    if not (rate_rps > 0 and duration_s > 0):
        raise ValueError(f"rate and duration must be positive, got {rate_rps} and {duration_s}")
