"""Building variants: what is cached, what is rebuilt, what is refused, what is left behind."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from serving.build import build_variants
from serving.errors import BadInput, Infrastructure
from serving.model_store import model_path, store_folder
from serving.quality import classification_quality
from serving.records import Quality, TensorSpec, Variant
from serving.runtimes import load_runtime
from serving.scoring import predict_in_chunks
from serving.steps import Dataset, Making, Step, StepFailed
from serving.workloads import Metric, Recipe

CALLS: list[str] = []


@dataclass(frozen=True)
class WriteStub(Step):
    """A stub model: what it answers is the sum of a row."""

    busy_ms: float = 0.0
    fail: str = ""
    suffix: ClassVar[str] = ".json"

    @property
    def title(self) -> str:
        return f"stub of {self.busy_ms:g} ms"

    def apply(self, source: Path, target: Path, making: Making) -> None:
        CALLS.append(target.stem.partition("-")[0])
        making.progress("half way")
        target.write_text(json.dumps({"busy_ms": self.busy_ms, "features": 2}))
        target.with_suffix(".bin").write_bytes(b"weights")
        if self.fail == "midway":
            raise KeyboardInterrupt
        if self.fail == "memory":
            raise MemoryError

    def check(self, source: Path, target: Path, making: Making) -> None:
        if self.fail == "check":
            raise StepFailed("it claims too much")


class Sums:
    """A workload of stubs; class 0 is the only one they know."""

    name = "sums"
    baseline = "first"
    metric: Metric = "accuracy"
    rows_per_call = 3
    inputs = (TensorSpec(name="features", datatype="FP32", shape=(-1, 2)),)
    outputs = (TensorSpec(name="sums", datatype="FP32", shape=(-1, 1)),)

    def __init__(self, **recipes: Recipe) -> None:
        first = Recipe("stub", "none", (WriteStub(),))
        self.recipes: Mapping[str, Recipe] = {"first": first, **recipes}

    def load(self, source: str | None, seed: int) -> Dataset:
        raise NotImplementedError  # nobody asks: the rows are given to the build

    def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
        return classification_quality(outputs["sums"], labels)


DATA = Dataset(
    train={"features": np.zeros((4, 2), np.float32)},
    train_labels=np.zeros(4, np.int64),
    test={"features": np.arange(20, dtype=np.float32).reshape(10, 2)},
    test_labels=np.zeros(10, np.int64),
    description="ten rows",
    fingerprint="ten",
)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path))
    CALLS.clear()
    return tmp_path


def build(workload: Sums, *names: str, data: Dataset = DATA, seed: int = 1) -> list[Variant]:
    return build_variants(workload, names, data, seed=seed, max_loss=0.0)


def second(step: Step, needs: str | None = "first") -> Sums:
    return Sums(second=Recipe("stub", "none", (step,), needs=needs))


def test_a_variant_is_built_once() -> None:
    """The second build makes nothing, and gives the same records."""
    workload = second(WriteStub(1.0))
    first = build(workload, "second")
    assert CALLS == ["first", "second"]
    assert build(workload, "second") == first
    assert CALLS == ["first", "second"]


@pytest.mark.parametrize(
    "change",
    [
        {"data": replace(DATA, fingerprint="other")},
        {"seed": 2},
    ],
    ids=["data", "seed"],
)
def test_other_inputs_build_everything_again(change: dict) -> None:
    """Data and seed decide about every file of the chain."""
    workload = second(WriteStub(1.0))
    build(workload, "second")
    build(workload, "second", **change)
    assert CALLS == ["first", "second"] * 2


def test_what_a_workload_says_of_its_inputs_is_recorded() -> None:
    """Limits and names of dimensions, which a model's file does not hold."""
    workload = second(WriteStub(1.0))
    said = {"low": 0.0, "high": 9.0, "longest": 5, "symbols": ("batch", None)}
    workload.inputs = (Sums.inputs[0].model_copy(update=said),)
    assert all(v.inputs == workload.inputs for v in build(workload, "second"))


def test_a_changed_parameter_rebuilds_what_follows_only() -> None:
    """What a step was made from stays; the step itself is done again."""
    build(second(WriteStub(1.0)), "second")
    build(second(WriteStub(2.0)), "second")
    assert CALLS == ["first", "second", "second"]


def test_changed_source_rebuilds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the steps is part of what a file was made from."""
    build(Sums(), "first")
    monkeypatch.setattr("serving.build.hash_of_source", lambda steps: "edited")
    build(Sums(), "first")
    assert CALLS == ["first", "first"]


def test_steps_follow_one_another() -> None:
    """A chain of steps ends in one file, made from the one before."""
    chain = Recipe("stub", "none", (WriteStub(1.0), WriteStub(2.0)), needs="first")
    variant = build(Sums(second=chain), "second")[1]
    assert CALLS == ["first", "second", "second"]
    assert json.loads(model_path(variant).read_text())["busy_ms"] == 2.0
    assert (variant.made_from, variant.method) == ("first", "stub of 1 ms, stub of 2 ms")


def test_parts_belong_to_the_variant() -> None:
    """Files beside the main one are counted, hashed, and must be there to load it."""
    variant = build(Sums(), "first")[0]
    (part,) = variant.parts
    assert variant.size_bytes == model_path(variant).stat().st_size + len(b"weights")
    beside = model_path(variant).parent / part.name
    beside.write_bytes(b"changed")
    with pytest.raises(BadInput, match=r"\.bin: changed since it was built"):
        load_runtime(variant, 1)
    beside.unlink()
    with pytest.raises(BadInput, match=r"\.bin: model file of variant first is missing"):
        load_runtime(variant, 1)
    build(Sums(), "first")
    assert CALLS == ["first", "first"]


@pytest.mark.parametrize(
    ("how", "error"),
    [("midway", KeyboardInterrupt), ("check", StepFailed), ("memory", BadInput)],
)
def test_nothing_half_made_is_left(how: str, error: type[BaseException]) -> None:
    """Interrupted, refused by its check, or out of memory: no file of it remains."""
    with pytest.raises(error):
        build(second(WriteStub(1.0, fail=how)), "second")
    left = {path.name.partition("-")[0] for path in (store_folder() / "sums").iterdir()}
    assert left == {".lock", "first"}


def test_answers_that_are_cut_short_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while they are written: nothing of them remains beside the model."""

    def interrupted(part: Path, **answers: np.ndarray) -> None:
        Path(part).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(Sums(), "first")
    assert not [f for f in (store_folder() / "sums").iterdir() if "answers" in f.name]
    build(Sums(), "first")


def test_what_a_killed_build_left_is_removed() -> None:
    """Folders of builds that died are swept by the next."""
    left = store_folder() / "sums" / ".building-dead"
    left.mkdir(parents=True)
    build(Sums(), "first")
    assert not left.exists()


def test_too_little_memory_is_said_beforehand() -> None:
    """Before a step starts, its need is held against what is free."""

    @dataclass(frozen=True)
    class Huge(WriteStub):
        memory_gib: ClassVar[float] = 1e6

    with pytest.raises(BadInput, match=r"building second \(.*\) needs about 1e\+06 GiB"):
        build(second(Huge()), "second")
    assert CALLS == ["first"]


def test_the_need_grows_with_the_file_a_step_starts_from() -> None:
    """A step that holds its source many times over is refused for a source that is too large."""

    @dataclass(frozen=True)
    class Copies(WriteStub):
        memory_factor: ClassVar[float] = 1e15

    with pytest.raises(BadInput, match=r"building second \(.*\) needs about .* of memory"):
        build(second(Copies()), "second")
    assert CALLS == ["first"]


def test_an_unknown_variant_is_refused() -> None:
    """The line lists those that exist."""
    with pytest.raises(BadInput, match="no variant 'third'; known are first"):
        build(Sums(), "third")


def test_progress_names_variant_and_step() -> None:
    """Long steps tell how far they are."""
    lines: list[str] = []
    build_variants(Sums(), ["first"], DATA, seed=1, max_loss=0, progress=lines.append)
    assert lines == [
        "first: stub of 0 ms",
        "first: stub of 0 ms: half way",
        "first: answering the test set",
    ]


def test_a_variant_that_loses_more_is_barred() -> None:
    """The gate watches the workload's own metric, and says by how much it was missed."""
    scored: list[int] = []

    class Falling(Sums):
        metric: Metric = "f1"

        def quality(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Quality:
            scored.append(1)
            return Quality(n_rows=len(labels), f1={1: 0.9, 2: 0.9, 3: 0.86}[len(scored)])

    workload = Falling(second=Recipe("stub", "none", (WriteStub(1.0),), needs="first"))
    base, worse = build_variants(workload, ["second"], DATA, seed=1, max_loss=0.03)
    assert base.barred is None
    assert worse.barred == "loses 0.0400 F1 against first, allowed are 0.03"


def test_a_model_is_asked_in_chunks() -> None:
    """Rows are predicted a few at a time, and the answers put together in order."""
    sizes = []

    class Recording:
        inputs = outputs = ()

        def predict(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            sizes.append(len(rows["x"]))
            return {"y": 2 * rows["x"]}

    rows = {"x": np.arange(10.0)}
    answers = predict_in_chunks(Recording(), rows, 4)  # type: ignore[arg-type]
    assert sizes == [4, 4, 2]
    assert (answers["y"] == 2 * rows["x"]).all()


def test_another_signature_than_stated_is_refused() -> None:
    """All variants of a workload are sent the same, and answer under the same names."""

    class Misnamed(Sums):
        outputs = (TensorSpec(name="totals", datatype="FP32", shape=(-1, 1)),)

    with pytest.raises(StepFailed, match=r"first has the outputs .*'sums'.* stated are .*'totals'"):
        build(Misnamed(), "first")


def test_undefined_answers_are_refused() -> None:
    """A model that answers nan is broken; no quality is made up for it."""
    data = replace(DATA, test={"features": np.full((10, 2), np.nan, np.float32)})
    with pytest.raises(Infrastructure, match="undefined numbers in 'sums'"):
        build(Sums(), "first", data=data)


def test_two_processes_do_not_build_at_once() -> None:
    """A build holds the workload's lock while it works."""

    @dataclass(frozen=True)
    class Watching(WriteStub):
        def apply(self, source: Path, target: Path, making: Making) -> None:
            super().apply(source, target, making)
            handle = os.open(store_folder() / "sums" / ".lock", os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(handle)

    build(second(Watching()), "second")
    assert CALLS == ["first", "second"]
