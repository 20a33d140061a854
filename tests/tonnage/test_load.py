"""What the options of ``tonnage measure`` ask for, and which of them cannot be carried out."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import BadInput
from tonnage.load import Options, load_of


def test_more_users_than_the_workers_have_are_refused() -> None:
    """A worker has 128 users, and users that do not divide among the workers are all one's."""
    for users, workers in ((128, 1), (256, 2), (127, 2)):
        assert load_of(Options(users=users, workers=workers)).run.users == users
    for users, workers in ((129, 1), (258, 2), (129, 2)):
        with pytest.raises(BadInput, match=f"--users {users}: a worker has 128"):
            load_of(Options(users=users, workers=workers))


def test_what_a_run_leaves_out_of_its_trace_is_counted(tmp_path: Path) -> None:
    """Of a trace of 20 s at 1 req/s, a run of 5 s at twice its speed leaves out the second half."""
    path = tmp_path / "trace.csv"
    path.write_text("timestamp\n" + "".join(f"{second}\n" for second in range(20)))
    assert load_of(Options(trace=path, time_scale=0.5, duration_s=5)).cut_requests == 10
    assert load_of(Options(trace=path, duration_s=20)).cut_requests == 0
    assert load_of(Options(rate=5)).cut_requests == 0


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
