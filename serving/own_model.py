"""A model of the user's own as a workload: read from its file, asked with rows made to fit it.

There are no labels, so no quality: a smaller form is held against the original by how much
of its answers it reproduces on the same rows, which is called fidelity.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.build import can_be_built
from serving.errors import BadInput
from serving.generate import Hints, Sizes, generated_rows, possible_sizes
from serving.own_kinds import Kind, kind_of
from serving.records import Quality, TensorSpec, has_batch_axis
from serving.rows import Rows, count_rows, read_rows, row_bytes, take
from serving.runtimes import Runtime
from serving.steps import Dataset
from serving.vocabulary import refused_index
from serving.wishes import Wish, check_wishes
from serving.workloads import Metric, Recipe

ORIGINAL = "original"
_MOST_ROWS = 64
_FEWEST_ROWS = 16
_MOST_BYTES = 128 << 20
# Answering all rows is to take no longer, for each variant.
_ANSWER_S = 20.0
# The search for sizes that a model accepts ends after so long.
_SEARCH_S = 30.0


@dataclass(frozen=True, kw_only=True)
class OwnSource:
    """What the user gives: a model, and perhaps more about its inputs.

    ``path`` is a file, or ``module:name`` of something that makes a torch module.
    """

    path: str
    batch: int = 1
    seed: int = 0
    wishes: Sequence[Wish] = ()
    payload: Path | None = None
    allow_pickle_sha256: str | None = None


@dataclass
class OwnModel:
    """The workload; see :class:`serving.workloads.Workload`. ``notes`` are for the user."""

    name: str
    data: Dataset
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_per_call: int
    recipes: Mapping[str, Recipe]
    notes: tuple[str, ...] = ()
    baseline: str = ORIGINAL
    metric: Metric = "reproduced"

    def load(self, source: str | None, seed: int) -> Dataset:
        """The rows that were made when the model was opened."""
        return self.data

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        """Generated rows have no labels: nothing is known but their number."""
        return Quality(n_rows=count_rows(self.data.test))


def open_own_model(
    source: OwnSource, name: str, progress: Callable[[str], None] = lambda line: None
) -> OwnModel:
    """Read the model's signature, make rows that it answers, and see which variants it has.

    BadInput, in one line, for whatever cannot be served, and how to change it.
    """
    progress("reading the model")
    kind = kind_of(source)
    runtime = kind.open()
    if not runtime.inputs:
        raise BadInput(f"{source.path}: takes no inputs, so there is nothing to ask it")
    check_wishes(runtime.inputs, source.wishes)
    progress("making rows that it answers")
    batched = _takes_rows(replace(source, batch=1), kind, runtime)
    if source.batch > 1 and not batched:
        raise BadInput(
            f"--batch {source.batch}: {source.path} has no batch axis, it takes one row a call; "
            "leave --batch at 1"
        )
    rows = _rows(source, kind, runtime, batched)
    data = Dataset(
        train={},
        train_labels=np.empty(0),
        test=rows,
        test_labels=np.empty(0),
        description=_description(source, runtime.inputs, rows),
        fingerprint=_fingerprint(kind, rows),
        generated=True,
        batched=batched,
    )
    recipes = {ORIGINAL: kind.original}
    model = OwnModel(name, data, runtime.inputs, runtime.outputs, source.batch, recipes)
    _add_variants(model, kind, source.seed, progress)
    return model


def _add_variants(model: OwnModel, kind: Kind, seed: int, progress: Callable[[str], None]) -> None:
    """Add every smaller form that can be made of the model, and why others cannot."""
    notes = [f"{name} is not offered: {why}" for name, why in kind.not_offered.items()]
    for name, tries in kind.offers.items():
        reason: str | None = "nothing was tried"
        before = model.recipes
        for recipe in tries:
            if recipe.needs not in before:
                reason = f"it is made of {recipe.needs}, which is not there"
                continue
            progress(f"trying to make {name}")
            model.recipes = {**before, name: recipe}
            reason = can_be_built(model, name, model.data, seed=seed)
            if reason is None:
                break
        if reason is not None:
            model.recipes = before
            notes.append(f"{name} is not offered: {reason}")
    model.notes = tuple(notes)


def _takes_rows(source: OwnSource, kind: Kind, runtime: Runtime) -> bool:
    """Whether two rows in give two rows out: a free first dimension may be another thing.

    So it is with a list of what was found, and with a model whose layers fix a batch of one.
    """
    if not has_batch_axis(runtime.inputs, runtime.outputs):
        return False
    if source.payload is not None:
        rows = read_rows(source.payload, runtime.inputs)
        _call(source, kind, runtime, rows, True)
    else:
        sizes, _ = _accepted_sizes(source, kind, runtime, True)
        rows = _made(source, kind.hints, runtime.inputs, 2, sizes, True)
    try:
        answers = runtime.predict(take(rows, [0, min(1, count_rows(rows) - 1)], batched=True))
    except Exception:  # it took one row; why it does not take two is its own affair
        return False
    return all(len(values) == 2 for values in answers.values())


def _rows(source: OwnSource, kind: Kind, runtime: Runtime, batched: bool) -> Rows:
    if source.payload is not None:
        rows = read_rows(source.payload, runtime.inputs, batched=batched)
        rows = {name: values[: max(_MOST_ROWS, source.batch)] for name, values in rows.items()}
        if count_rows(rows) < source.batch:
            raise BadInput(
                f"{source.payload}: holds {count_rows(rows)} rows, --batch {source.batch} needs "
                "as many in a request"
            )
        _call(source, kind, runtime, rows, batched)
        return rows
    sizes, seconds = _accepted_sizes(source, kind, runtime, batched)
    one = _made(source, kind.hints, runtime.inputs, 1, sizes, batched)
    # Two numbers, not one for every speed: the same question shall find what it built before.
    fits = _MOST_BYTES // max(1, row_bytes(one)) >= _MOST_ROWS
    quick = seconds * _MOST_ROWS / source.batch <= _ANSWER_S
    number = max(_MOST_ROWS if fits and quick else _FEWEST_ROWS, source.batch)
    return _made(source, kind.hints, runtime.inputs, number, sizes, batched)


def _accepted_sizes(
    source: OwnSource, kind: Kind, runtime: Runtime, batched: bool
) -> tuple[Sizes, float]:
    """Sizes of the free dimensions that the model runs with, and how long a call takes."""
    until = time.monotonic() + _SEARCH_S
    first: BadInput | None = None
    for sizes in possible_sizes(runtime.inputs, source.wishes, batched=batched):
        rows = _made(source, kind.hints, runtime.inputs, source.batch, sizes, batched)
        try:
            _call(source, kind, runtime, rows, batched)
            begin = time.perf_counter()
            _call(source, kind, runtime, rows, batched)
            return sizes, time.perf_counter() - begin
        except BadInput as error:
            first = first or error
        if time.monotonic() > until:
            break
    raise first or BadInput(f"{source.path}: no sizes of its inputs were found that it accepts")


def _made(
    source: OwnSource,
    hints: Hints,
    specs: Sequence[TensorSpec],
    number: int,
    sizes: Sizes,
    batched: bool,
) -> Rows:
    return generated_rows(
        specs,
        number,
        source.seed,
        batched=batched,
        sizes=sizes,
        wishes=source.wishes,
        hints=hints,
    )


def _call(source: OwnSource, kind: Kind, runtime: Runtime, rows: Rows, batched: bool) -> None:
    """One call with the first rows; BadInput names the input that it fails on, where it can."""
    try:
        runtime.predict(take(rows, range(source.batch), batched=batched))
    except MemoryError:
        raise BadInput(f"{source.path}: one call needs more memory than there is") from None
    except Exception as error:  # whatever a runtime throws at inputs it cannot take
        raise BadInput(_why(source, kind.hints, runtime.inputs, rows, str(error))) from None


def _why(
    source: OwnSource, hints: Hints, specs: Sequence[TensorSpec], rows: Rows, message: str
) -> str:
    refused = refused_index(message, specs, rows, hints)
    if refused is not None:
        name, most = refused.name, refused.most
        known = "fewer" if most is None else f"0..{most}"
        change = f"give --input '{name}=0..{'N' if most is None else most}'"
        if most is None:
            change += ", N one less than the rows of the table that it looks up"
        if source.payload:
            change = "correct --payload"
        return (
            f"{source.path}: input {name!r} is out of vocabulary: it holds {refused.index}, the "
            f"model knows {known}; {change}"
        )
    shapes = ", ".join(f"{name}{list(values.shape[1:])}" for name, values in rows.items())
    first = (message.strip().splitlines() or ["no message"])[0][:300]
    change = "correct --payload" if source.payload else "say more of them with --input"
    return f"{source.path}: cannot answer rows of {shapes}; {change} ({first})"


def _description(source: OwnSource, specs: Sequence[TensorSpec], rows: Rows) -> str:
    whence = source.payload.name if source.payload else f"generated, seed {source.seed}"
    inputs = ", ".join(f"{s.name} {s.datatype}{list(rows[s.name].shape[1:])}" for s in specs)
    return f"{count_rows(rows):,} rows ({whence}): {inputs}"


def _fingerprint(kind: Kind, rows: Rows) -> str:
    digest = hashlib.sha256(kind.sha256.encode())
    for name, values in rows.items():
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(
            repr(values.tolist()).encode() if values.dtype.kind == "O" else values.tobytes()
        )
    return digest.hexdigest()
