"""What the options of ``tonnage measure`` ask for, and which of them cannot be carried out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.objective import Verdict
from loadtests.summary import Workers, summarise
from serving.errors import BadInput
from tonnage.load import Options, load_of

from ..loadtests.answered import answered


def test_users_that_the_workers_cannot_have_are_refused() -> None:
    """A worker has 128 users, and what is recorded as two workers' load is made by two."""
    for users, workers in ((128, 1), (256, 2), (126, 2)):
        assert load_of(Options(users=users, workers=workers)).run.users == users
    for users, workers in ((129, 1), (258, 2)):
        with pytest.raises(BadInput, match=f"--users {users}: a worker has 128"):
            load_of(Options(users=users, workers=workers))
    with pytest.raises(BadInput, match="--users 127: cannot be shared evenly by 2 workers"):
        load_of(Options(users=127, workers=2))


def test_a_trace_with_batch_sizes_needs_none(tmp_path: Path) -> None:
    """What --batch would say is in the file, so the option would be ignored: refused, even 1."""
    path = tmp_path / "trace.csv"
    path.write_text("timestamp,batch\n0,2\n1,4\n")
    assert [size for size, _ in load_of(Options(trace=path)).classes] == [2, 4]
    for batch in ("8", "1", "2,4"):
        with pytest.raises(BadInput, match=f"--batch {batch}: the trace names batch sizes"):
            load_of(Options(trace=path, batch=batch))


def test_what_a_run_leaves_out_of_its_trace_is_counted(tmp_path: Path) -> None:
    """Of a trace of 20 s at 1 req/s, a run of 5 s at twice its speed leaves out the second half."""
    path = tmp_path / "trace.csv"
    path.write_text("timestamp\n" + "".join(f"{second}\n" for second in range(20)))
    assert load_of(Options(trace=path, time_scale=0.5, duration_s=5)).cut_requests == 10
    assert load_of(Options(trace=path, duration_s=20)).cut_requests == 0
    assert load_of(Options(rate=5)).cut_requests == 0


def test_inputs_are_mixed_within_the_sizes_of_a_trace(tmp_path: Path) -> None:
    """Every size with every file, by the trace's share times the file's weight."""
    path = tmp_path / "trace.csv"
    path.write_text("at,rows\n0,2\n1,4\n2,2\n3,2\n")
    options = Options(
        trace=path, trace_columns="due=at,batch=rows", payload=("a.npz=0.6", "b.npz=0.4")
    )
    load = load_of(options)
    a, b = Path("a.npz"), Path("b.npz")
    assert load.classes == ((2, a), (2, b), (4, a), (4, b))
    assert load.run.mix is not None
    assert load.run.mix.weights == pytest.approx((0.45, 0.3, 0.15, 0.1))
    assert load.run.mix.inputs == ("a.npz", "b.npz", "a.npz", "b.npz")
    assert load.run.mean_batch == 2.5


@pytest.mark.parametrize("text", ["at", "time=at", "due=", "due=at,due=to", "due=at,"])
def test_columns_that_are_not_named_are_refused(tmp_path: Path, text: str) -> None:
    """What --trace-columns takes is said."""
    with pytest.raises(BadInput, match=f"--trace-columns {text}: give due=NAME, batch=NAME"):
        load_of(Options(trace=tmp_path / "t.csv", trace_columns=text))


def test_a_payload_may_have_an_equals_sign_in_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there is one; only what follows the last = of others is a weight."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run=3").mkdir()
    path = Path("run=3/rows.npz")
    path.touch()
    assert load_of(Options(rate=5, payload=(str(path),))).classes == ((1, path),)
    mixed = load_of(Options(rate=5, payload=(f"{path}=0.3", "other.npz=0.7")))
    assert mixed.classes == ((1, path), (1, Path("other.npz")))
    assert mixed.run.mix is not None
    assert mixed.run.mix.weights == (0.3, 0.7)
    for wrong in ("run=4/rows.npz", "other.npz=0"):
        with pytest.raises(BadInput, match="no such file; give FILE, or FILE=WEIGHT"):
            load_of(Options(rate=5, payload=(wrong,)))


def test_the_confidence_asked_for_is_that_of_the_verdict() -> None:
    """Of 600 requests none is late: a p99 holds at 99 %, and not at 99.9 %, which takes 688."""
    n = 600
    due = np.arange(n) / 64  # exact, so that all latencies are the same
    result = summarise(answered(due, due + 2**-10), n / 64, Workers())
    for confidence, verdict in ((None, Verdict.HOLDS), (0.999, Verdict.UNDECIDED)):
        load = load_of(Options(rate=64, p99_ms=20, confidence=confidence))
        (found,) = load.verdicts_of(result, None)
        assert found.verdict == verdict
        assert found.confidence == (confidence or 0.99)
    for wrong in (0.5, 1.0, 99.0, float("nan")):
        with pytest.raises(BadInput, match=r"give a share above 0\.5 and below 1"):
            load_of(Options(rate=100, p99_ms=20, confidence=wrong))
