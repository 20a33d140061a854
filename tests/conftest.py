"""Shared fixtures: the command line, a stub whose answers are known, and pictures."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from loadtests.fleet import Fleet
from planner import own_error
from serving.datasets.cifar10 import prepared
from serving.records import Variant
from serving.steps import Dataset
from serving.stub_variant import stub_variant


@pytest.fixture
def make_stub(tmp_path: Path) -> Callable[..., Variant]:
    """Factory of stub variants with a known service time."""

    def make(busy_ms: float = 0.0, name: str = "stub", **settings: object) -> Variant:
        return stub_variant(tmp_path, busy_ms, name, **settings)

    return make


@pytest.fixture
def no_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals without the planner's own error, for truths which the simulation has all in it.

    Of that error itself see planner/test_own_error.py.
    """
    monkeypatch.setattr(own_error, "ALONE", (0.0, 0.0, 0.0))
    monkeypatch.setattr(own_error, "SHARED", (0.0, 0.0, 0.0))


@pytest.fixture
def tonnage(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """The command line in the test's folder, to its exit code, as if in a process of its own.

    It is called in this process: its imports take seconds, and hundreds of tests call it. The
    installed command itself is run by test_bad_input, by test_doctor, and end to end.
    """
    from tonnage.cli import app, main

    def run(*arguments: object) -> CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        out, err = StringIO(), StringIO()
        handler = signal.getsignal(signal.SIGTERM)
        with (
            pytest.MonkeyPatch.context() as patch,
            chdir(tmp_path),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            patch.setenv("TONNAGE_CACHE", str(tmp_path / "cache"))
            patch.setattr(sys, "argv", ["tonnage", *words])
            try:
                with pytest.raises(SystemExit) as ended:
                    main(partial(app, words))
            finally:
                signal.signal(signal.SIGTERM, handler)
        return CompletedProcess(words, int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One Locust worker, on no CPU in particular, for the tests of a module."""
    with Fleet(tmp_path_factory.mktemp("logs") / "locust.log") as running:
        yield running


@pytest.fixture(scope="session")
def pictures() -> Dataset:
    """600 pictures to train on and 150 to test; each class has a bar of its own."""
    draw = np.random.default_rng(0)

    def some(rows: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(rows) % 10
        made = draw.integers(0, 90, (rows, 3, 32, 32))
        for picture, label in zip(made, labels, strict=True):
            picture[label % 3, 8 * (label // 3) : 8 * (label // 3 + 1)] += 160
        return made.astype(np.uint8), labels.astype(np.int64)

    (train, train_labels), (test, test_labels) = some(600), some(150)
    return Dataset(
        train={"image": train},
        train_labels=train_labels,
        test=prepared({"image": test}),
        test_labels=test_labels,
        description="pictures made for a test",
        fingerprint="made",
        prepare=prepared,
    )
