"""What is measured, and when it is measured again: grid and demands on a host that is made up."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import demands, grid, grid_records, live, prediction, scale_out
from benchmarks.demands import Question
from benchmarks.grid_records import Grid, GridRecord
from benchmarks.grid_replay import Choice
from benchmarks.live import Live
from loadtests.records import Fault, FaultCode, Measurement
from planner.records import ServiceProfile
from serving.errors import BadInput, Infrastructure, InvalidMeasurement
from serving.records import Deployment

MADE = Grid("credit", ("fast",), 1, (20.0, 60.0, 120.0), (40.0,))


class FakeLive:
    """A host on which runs turn out as ``faults`` say, one after the other."""

    environment = "e1"
    replica_cpus = 1

    def __init__(
        self, like: Measurement, faults: Sequence[FaultCode | tuple[FaultCode, ...] | None]
    ) -> None:
        self.like, self.faults = like, list(faults)
        self.driven: list[tuple[float, int]] = []
        self.cells = 0

    def floor(self, *_: Any, **__: Any) -> None:
        """No floor: nothing here is judged by it."""

    def ladder(self, *_: Any) -> list[Measurement]:
        return []

    def deploy(self, deployment: Deployment, *, anew: bool = False) -> float:
        assert anew, "a configuration is a deployment of its own"
        return 3.0

    def cell(self, deployment: Deployment, batch: int) -> list[Measurement]:
        self.cells += 1
        return []

    def sharing(self, cell: object) -> list[Measurement]:
        return []

    def drive(
        self,
        deployment: Deployment,
        batch: int,
        rate_rps: float,
        seconds: float,
        seed: int,
        *_: Any,
    ) -> tuple[Measurement, Any]:
        self.driven.append((rate_rps, seed))
        found = self.faults.pop(0) if self.faults else None
        codes = found if isinstance(found, tuple) else (found,) if found else ()
        run = self.like.run.model_copy(update={"rate_rps": rate_rps})
        faults = tuple(Fault(code=code, detail="made") for code in codes)
        result = SimpleNamespace(
            samples=SimpleNamespace(due_s=np.arange(200.0), latency_s=np.full(200, 0.010)),
            steady_from_s=0.0,
        )
        update = {"run": run, "faults": faults, "deployment": deployment}
        return self.like.model_copy(update=update), result


@pytest.fixture
def like(record: Callable[..., GridRecord]) -> Measurement:
    """A run to take after: 10 ms, nothing against it."""
    return record("fast", "sim-1", 1, 10.0, (20.0,)).truth[0]


def configuration(bench: FakeLive, like: Measurement, replicas: int = 1) -> GridRecord:
    deployment = like.deployment.model_copy(update={"replicas": replicas})
    return grid._configuration(bench, MADE, deployment, 4.0)


def test_every_rate_is_driven_once_when_all_goes_well(like: Measurement) -> None:
    """Three rates, three runs, and a cell of the one replica."""
    bench = FakeLive(like, [])
    made = configuration(bench, like)
    assert [rate for rate, _ in bench.driven] == [20.0, 60.0, 120.0]
    assert len(made.truth) == 3
    assert bench.cells == 1


def test_several_replicas_have_no_cell(like: Measurement) -> None:
    """A profile is of one replica."""
    bench = FakeLive(like, [])
    configuration(bench, like, replicas=2)
    assert bench.cells == 0


def test_what_cannot_be_believed_is_driven_again_on_another_schedule(like: Measurement) -> None:
    """Up to three times, and the last of them is kept."""
    noisy = FaultCode.NOISY_HOST
    bench = FakeLive(like, [noisy, None, noisy, noisy, noisy])
    made = configuration(bench, like)
    assert [rate for rate, _ in bench.driven] == [20.0] * 2 + [60.0] * 3 + [120.0]
    assert len(set(bench.driven)) == 6
    assert [run.valid for run in made.truth] == [True, False, True]
    assert made.holds(60.0, 40.0) is None


def test_higher_rates_are_not_driven_once_the_server_fell_behind(like: Measurement) -> None:
    """Falling behind is an answer: it is not repeated, and the rest follows from it."""
    bench = FakeLive(like, [None, FaultCode.BACKLOG_GROWING])
    made = configuration(bench, like)
    assert len(bench.driven) == 2
    assert made.holds(120.0, 1e6) is False


def test_a_backlog_on_a_noisy_host_is_no_answer(like: Measurement) -> None:
    """It is driven again, then left open, and the higher rates are driven all the same."""
    bench = FakeLive(like, [(FaultCode.NOISY_HOST, FaultCode.BACKLOG_GROWING)] * 3)
    made = configuration(bench, like)
    assert [rate for rate, _ in bench.driven] == [20.0] * 3 + [60.0, 120.0]
    assert made.holds(20.0, 40.0) is None
    assert made.holds(60.0, 40.0) is True


def test_requests_that_time_out_in_a_backlog_belong_to_it(like: Measurement) -> None:
    """A few failed requests beside a backlog leave it an answer."""
    bench = FakeLive(like, [(FaultCode.ERRORS, FaultCode.BACKLOG_GROWING)])
    assert configuration(bench, like).holds(120.0, 1e6) is False
    assert len(bench.driven) == 1


def test_requests_lost_with_their_load_worker_are_not_the_servers(like: Measurement) -> None:
    """A fifth without an answer is falling behind, unless a worker took them along."""
    answered = {"offered": 100, "ok": 80, "faults": (Fault(code=FaultCode.ERRORS, detail="made"),)}
    assert grid_records.behind(like.model_copy(update=answered))
    assert not grid_records.behind(like.model_copy(update={**answered, "lost": 20}))


def test_a_grid_is_never_mixed_from_two_environments(
    record: Callable[..., GridRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of another host or of other versions have to go first."""
    monkeypatch.setattr(grid_records, "FOLDER", tmp_path)
    made = record("fast", "sim-1", 1, 10.0, (20.0,))
    grid_records.append(grid_records.path_of("credit"), made.model_dump_json())
    grid._same_environment(MADE, "e1")
    with pytest.raises(BadInput, match="another environment"):
        grid._same_environment(MADE, "e2")


def asked(limit_ms: float) -> Question:
    best = Choice(("fast", "sim-0.25", 1, 4), 1.0)
    return Question(4, "credit", 60.0, limit_ms, best, (8.0, 9.0, 10.0), None, 0)


@pytest.fixture(autouse=True)
def made_up_models(like: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant is made up, too."""
    monkeypatch.setattr(demands, "built", lambda *_: {"fast": like.deployment.variant})


def test_a_recommendation_is_driven_at_its_rate(like: Measurement) -> None:
    """Whole, not a share of it; 10 ms hold 40 ms and not 5 ms."""
    bench = FakeLive(like, [])
    line = demands.answer(bench, asked(40.0))
    assert bench.driven[0][0] == pytest.approx(60.0)
    assert line["recommended"]["holds"] is True
    assert line["cheaper"] is None
    late = demands.answer(FakeLive(like, []), asked(5.0))
    assert late["recommended"]["holds"] is False
    assert late["recommended"]["late"] == 200


def test_a_test_that_cannot_be_believed_says_nothing(like: Measurement) -> None:
    """Three noisy runs leave a reason in the place of an answer."""
    bench = FakeLive(like, [FaultCode.NOISY_HOST] * 3)
    found = demands.answer(bench, asked(40.0))["recommended"]
    assert found["holds"] is None
    assert found["refused"] == "noisy_host: made"


def test_a_server_that_falls_behind_does_not_hold(like: Measurement) -> None:
    """However quick the answers were that came."""
    bench = FakeLive(like, [FaultCode.BACKLOG_GROWING])
    assert demands.answer(bench, asked(40.0))["recommended"]["holds"] is False
    assert len(bench.driven) == 1


def test_a_window_in_which_the_server_fell_behind_counts(like: Measurement) -> None:
    """A backlog is part of the measured p99; what the neighbours did is not."""
    bench = FakeLive(like, [FaultCode.BACKLOG_GROWING, FaultCode.NOISY_HOST])
    late, why = prediction._window(bench, like.deployment, 1, 50.0, 8.0, 0)
    assert late is not None
    assert (len(late.due_s), why) == (200, "")
    noisy = prediction._window(bench, like.deployment, 1, 50.0, 8.0, 1)
    assert noisy == (None, "noisy_host: made")


def test_replicas_that_fall_behind_are_measured_ones(
    like: Measurement, profile: Callable[..., ServiceProfile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that falls behind is not driven again until it does not; a noisy host's p99 is none."""
    fell = FaultCode.BACKLOG_GROWING
    # Of each number of replicas first what it carries, then its p99.
    bench = FakeLive(like, [fell, fell, *[FaultCode.NOISY_HOST] * 6])
    monkeypatch.setattr(scale_out, "built", lambda *_: {"onnx": like.deployment.variant})
    monkeypatch.setattr(scale_out, "kept", lambda: nullcontext(bench))
    monkeypatch.setattr(scale_out, "profile_of", lambda _: profile())
    found = scale_out.scaled(scale_out.Case("made", "onnx", 1, "sim-0.5"), 45.0)
    assert [row["faults"] for row in found["rows"]] == [[], ["noisy_host: made"]]
    assert [row["carried_rps"] is None for row in found["rows"]] == [False, True]
    carry = [round(scale_out.OVERLOAD * n * 100, 1) for n in (1, 2)]
    driven = [round(rate, 1) for rate, _ in bench.driven]
    assert driven == [carry[0], 60.0, *[carry[1]] * 3, *[120.0] * 3]


def test_what_is_kept_up_is_replaced_when_something_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next part has the same platform after a success, a new one after a failure."""
    ended: list[object] = []

    @contextmanager
    def started() -> Iterator[object]:
        made = object()
        yield made
        ended.append(made)

    monkeypatch.setattr(live, "live", started)
    with live.kept() as first:
        pass
    with pytest.raises(InvalidMeasurement), live.kept() as second:
        raise InvalidMeasurement("made")
    assert first is second
    assert ended == [first]
    with live.kept() as third:
        pass
    live.down()
    live.down()
    assert ended == [first, third]


def test_a_deployment_is_profiled_once(
    record: Callable[..., GridRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the platform stays up; another batch size is another profile."""
    made = record("fast", "sim-1", 1, 10.0, (20.0,))
    floors: list[int] = []
    monkeypatch.setattr(Live, "floor", lambda _, __, batch: floors.append(batch))
    monkeypatch.setattr(Live, "cell", lambda *_: list(made.cell))
    bench = Live(host=None, fleet=None, environment="e1")
    first = bench.profiled(made.deployment, 1)
    assert bench.profiled(made.deployment, 1) is first
    bench.profiled(made.deployment, 2)
    assert floors == [1, 2]


def test_what_hangs_is_given_up() -> None:
    """A part that never ends ends with a reason, and a timely one is left alone."""
    with pytest.raises(Infrastructure, match=r"given up after 0.05 s"), live.within(0.05):
        time.sleep(10)
    with live.within(0.05):
        pass
    time.sleep(0.1)


def test_nothing_is_measured_beside_a_process_that_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take long, and one that is stopped for ever; so the part says why and ends."""
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path))
    lock = tmp_path / "credit" / ".lock"
    lock.parent.mkdir()
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(Infrastructure, match="another process is building models of credit"):
            live.built("credit", ("onnx_fp32",))
