"""``tonnage plan``: what-ifs from a run's records alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from loadtests.histogram import Histogram
from loadtests.records import CpuUse
from planner import curve
from planner.surface import Surface
from reports import words
from serving.errors import BadInput
from tonnage.config import load_study, shipped
from tonnage.planning import SURFACES, curves_of, plan, predicted_of, study_demands
from tonnage.run_folder import RunFolder
from tonnage.study import StudyRun
from tonnage.what_if import changed

Tonnage = Callable[..., CompletedProcess[str]]


def test_a_what_if_simulates_nothing_that_the_run_kept(
    stub_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rate, another limit, no simulation; without the kept surfaces, the same answer."""
    folder = stub_run("sim-0.5", "sim-1")
    config, path = load_study(str(folder.path / "study.toml"))
    demands = changed(study_demands(config, path), "steady", 300, 90, 64)
    curve.predictor.cache_clear()
    with monkeypatch.context() as patch:

        def none(*_: object) -> Surface:
            raise AssertionError("simulated again")

        patch.setattr(curve, "simulate_surface", none)
        _, (kept,), _ = plan(folder, config, path, demands)
    assert kept.best is not None
    (folder.path / SURFACES).write_text('{"of": "another version"}\n')
    curve.predictor.cache_clear()
    _, (simulated,), _ = plan(folder, config, path, demands)
    assert simulated == kept


def with_floor(folder: RunFolder) -> None:
    """The run as if a no-op had been asked, too: slow where 500 requests come in a second."""
    own = folder.measurements()
    made = []
    for mode, rate, ms in (("paced", 10, 1.0), ("open", 500, 31.0)):
        like = next(m for m in own if m.run.mode == mode)
        run = like.run.model_copy(update={"rate_rps": float(rate)})
        figures = {
            "id": f"floor-{mode}",
            "role": "floor",
            "run": run,
            "offered": 10 * rate,
            "ok": 10 * rate,
            "due_to_done": Histogram.of([ms / 1e3] * 200),
            "cpu": CpuUse(
                replica_s=1e-3 * rate, ingress_s=1, generator_s=1, platform_busy=rate / 550
            ),
        }
        made.append(like.model_copy(update=figures))
    folder.write_lines("measurements.jsonl", [*own, *made])


@pytest.mark.usefixtures("no_own_error")
def test_several_replicas_wait_for_the_ingress_that_they_share(
    stub_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the run's no-ops, on this host's sizes; what the run simulated is used all the same."""
    folder = stub_run("sim-1", prices=False)
    config, path = load_study(str(folder.path / "study.toml"))
    demands = changed(study_demands(config, path), "steady", 450, 90, 64)
    _, (without,), _ = plan(folder, config, path, demands)
    with_floor(folder)
    with monkeypatch.context() as patch:

        def none(*_: object) -> Surface:
            raise AssertionError("simulated again")

        patch.setattr(curve, "simulate_surface", none)
        profiles, (answer,), _ = plan(folder, config, path, demands)
    assert [p.rate_rps for p in profiles[0].platform] == [10, 500]
    assert without.best is not None
    assert answer.best is not None
    assert answer.best.replicas == without.best.replicas
    assert answer.best.p99_ms.low == pytest.approx(without.best.p99_ms.low)
    more = answer.best.p99_ms.high - without.best.p99_ms.high
    assert more == pytest.approx(30 * 440 / 490, rel=0.02)
    tight = changed(demands, None, p99_ms=25)
    _, (refused,), _ = plan(folder, config, path, tight)
    assert refused.best is None
    assert any("generator and ingress alone may add" in r.reason for r in refused.rejections)
    busy = changed(demands, None, 600)
    _, (beyond,), _ = plan(folder, config, path, busy)
    assert beyond.best is not None
    assert "was measured up to 500 req/s in all" in beyond.best.ingress


def test_figures_on_the_command_line_replace_those_of_the_profile(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage
) -> None:
    """Rate, p99 and replicas allowed; the run's own profile stays as it was."""
    folder = stub_run()
    done = tonnage(
        "plan", folder.path, "--profile", "steady", "--rate", "40000", "--p99", "90ms",
        "--max-replicas", "1000", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert (answer["demand"]["rate_rps"], answer["demand"]["max_replicas"]) == (40_000, 1000)
    assert answer["demand"]["slo"]["limit_ms"] == 90
    assert "staffing law" in answer["best"]["staffing"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--profile", "nope"], "known are steady, absurd"),
        (["--rate", "-1"], "--rate -1: must be a positive number"),
        (["--p99", "soon"], "--p99 soon"),
        (["--max-replicas", "0"], "--max-replicas"),
        (["--also", "p50"], "--also p50: write a quantile and its limit, such as p50=10ms"),
        (["--also", "p100=1ms"], "--also p100=1ms: write a quantile and its limit"),
        (["--also", "p99=1ms"], "[steady]: two objectives on one quantile; keep one"),
        (["--batch-mix", "1:0.7,x"], "--batch-mix 1:0.7,x: give rows such as 8, or a mix"),
        (["--batch", "8", "--batch-mix", "1:1"], "--batch and --batch-mix: requests are of one"),
        (["--batch", "0"], "--batch"),
        (["--error-budget", "1"], "--error-budget 1: must lie between 0 and 1"),
        (["--min-quality", "good"], "--min-quality good: write a fraction of one"),
        (["--min-quality", "acu=0.7"], "[steady]: min_quality: unknown measure 'acu'"),
        (["--replica-memory", "-1"], "--replica-memory -1: must be a positive number"),
        (["--spare-replicas", "8"], "--spare-replicas 8: of the 8 replicas of [steady] 8 are to"),
        (["--max-replicas", "1", "--spare-replicas", "1"], "--max-replicas 1: of the 1 replicas"),
        (["--region", "us-east-2"], "no price in region 'us-east-2'; did you mean 'us-east-1'"),
        (["--price-file", "none.toml"], "none.toml: no such file"),
    ],
)
def test_bad_what_ifs_are_one_line(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage, arguments: list[str], named: str
) -> None:
    """Exit code 2, and what to change."""
    done = tonnage("plan", stub_run().path, *arguments)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_what_nothing_holds_says_what_would(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage
) -> None:
    """Which constraint binds, and the nearest figure that works; exit code 1 all the same."""
    folder = stub_run()
    done = tonnage("plan", folder.path, "--profile", "absurd")
    assert done.returncode == 1, done.stderr
    assert "no candidate holds this demand, bound by p99 limit alone [refused]" in done.stdout
    assert re.search(r"nearest +p99 at most [\d.]+ ms instead of 0.5 ms: \d x sim-1", done.stdout)
    # fmt: off
    done = tonnage(
        "plan", folder.path, "--profile", "steady", "--rate", "9000", "--also", "p50=50ms",
        "--json",
    )
    # fmt: on
    assert done.returncode == 1, done.stderr
    (answer,) = json.loads(done.stdout)
    assert [one["constraint"] for one in answer["nearest"]] == ["rate", "replicas"]
    assert answer["demand"]["more_slos"] == [{"quantile": 0.5, "limit_ms": 50}]
    assert answer["nearest"][0]["plan"]["replicas"] == 8


def test_a_spare_replica_is_planned_and_said(stub_run: Callable[..., RunFolder]) -> None:
    """One more than without, and what a machine with several of them takes when it is lost."""
    folder = stub_run("sim-0.5", "sim-1")
    config, path = load_study(str(folder.path / "study.toml"))
    demands = study_demands(config, path)
    _, (without,), _ = plan(folder, config, path, changed(demands, "steady"))
    spare = changed(demands, "steady", spare_replicas=1)
    _, (answer,), _ = plan(folder, config, path, spare)
    assert without.best is not None
    assert answer.best is not None
    assert answer.best.replicas == without.best.replicas + 1
    assert "1 replica to spare" in words.demand(answer.demand)
    assert "that is lost takes" not in answer.note
    busy = changed(demands, "steady", 500, max_replicas=64, spare_replicas=1)
    _, (shared,), _ = plan(folder, config, path, busy)
    assert shared.best is not None
    held = shared.best.candidate.replicas_per_instance
    assert held > 1
    assert f"that is lost takes {held} replicas with it, and 1 is to spare." in shared.note


def test_a_mix_of_batches_is_planned_and_said(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage
) -> None:
    """Of one measured batch it is that batch; one that was not measured is asked for."""
    folder = stub_run()
    done = tonnage("plan", folder.path, "--profile", "steady", "--batch-mix", "1:2", "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["best"]["rows_per_s"] == 60
    done = tonnage("plan", folder.path, "--profile", "steady", "--batch-mix", "1:0.7,8:0.3")
    assert done.returncode == 1, done.stderr
    text = " ".join(done.stdout.split())
    assert "batch 1 (70%), 8 (30%) at 60 req/s" in text
    done = tonnage(
        "plan", folder.path, "--profile", "steady", "--batch-mix", "1:0.7,8:0.3", "--json"
    )
    reasons = [one["reason"] for one in json.loads(done.stdout)[0]["rejections"]]
    lacking = "not measured at batch 8, which the mix has; measure this: `tonnage measure"
    assert any(reason.startswith(lacking) for reason in reasons)


def test_a_plan_says_what_to_measure_next(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage
) -> None:
    """Within its budget, with commands that add a cell to the run; none in a second."""
    folder = stub_run()
    found = []
    for budget in ("1h", "1s"):
        done = tonnage(
            "plan", folder.path, "--profile", "steady", "--probe-budget", budget, "--json"
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)[0]["probes"])
    every, none = found
    assert none == []
    assert every
    assert all(probe["command"].startswith(f"tonnage measure {folder.path} ") for probe in every)
    assert sum(probe["seconds"] for probe in every) <= 3600
    text = tonnage("plan", folder.path, "--profile", "steady", "--probe-budget", "1h").stdout
    assert 1 <= text.count("tonnage measure ") <= 3


def test_a_day_can_be_asked_about(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage, tmp_path: Path
) -> None:
    """Of 24 rates or a trace the peak is planned for, with how to follow it; or why not."""
    folder, steady = stub_run(), ("--profile", "steady")
    night_and_day = ",".join(["5"] * 12 + ["60"] * 12)
    done = tonnage("plan", folder.path, *steady, "--daily", night_and_day, "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["demand"]["rate_rps"] == 60
    assert answer["autoscaling"] is not None
    trace = tmp_path / "day.csv"
    times = "\n".join(str(k / 2) for k in range(1300))
    trace.write_text(f"timestamp\n{times}\n")
    done = tonnage("plan", folder.path, *steady, "--trace", trace, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["demand"]["rate_rps"] == pytest.approx(2, abs=0.1)
    for options, says in (
        (("--daily", "5,6"), "--daily: 2 rates; a day has 24 hours; write 24 rates"),
        (("--daily", "x"), "--daily: could not convert"),
        (("--daily", night_and_day, "--trace", trace), "give one of them"),
        (("--daily", night_and_day, "--rate", "9"), "--rate 9: is below the peak of 60 req/s"),
    ):
        done = tonnage("plan", folder.path, *steady, *options)
        assert done.returncode == 2, (options, done.stderr)
        assert says in done.stderr


def test_two_shares_predict_a_third(stub_run: Callable[..., RunFolder]) -> None:
    """From a quarter and a half a whole CPU under a quota, as a container would have it."""
    folder = stub_run("sim-0.25", "sim-0.5")
    config, path = load_study(str(folder.path / "study.toml"))
    demands = changed(study_demands(config, path), "steady", 300, 200, 64)
    _, (answer,), _ = plan(folder, config, path, demands)
    plans = [p for p in (answer.best, *answer.alternatives) if p]
    named = {p.candidate.size for p in plans} | {r.candidate.size for r in answer.rejections}
    assert "sim-1:quota" in named
    assert all(bool(p.predicted_size) == (p.candidate.size == "sim-1:quota") for p in plans)


def test_a_cell_measured_since_counts_as_well(
    stub_run: Callable[..., RunFolder], finished_run: Callable[..., Path], tonnage: Tonnage
) -> None:
    """Another run of the same files on the same host adds its sizes; of elsewhere it is refused."""
    folder, later = stub_run("sim-1"), finished_run(("sim-0.5",), True)

    def sizes(*arguments: Any) -> set[str]:
        done = tonnage("plan", folder.path, "--profile", "steady", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        (answer,) = json.loads(done.stdout)
        return {p["candidate"]["size"] for p in (answer["best"], *answer["alternatives"])}

    assert "sim-0.5" not in sizes()
    assert {"sim-0.5", "sim-1"} <= sizes("--with", later)
    elsewhere = folder.path.parent / "elsewhere"
    shutil.copytree(later, elsewhere)
    other = [m.model_copy(update={"environment": "e2"}) for m in RunFolder(later).measurements()]
    RunFolder(elsewhere).write_lines("measurements.jsonl", other)
    done = tonnage("plan", folder.path, "--with", elsewhere)
    assert (done.returncode, "come from 2 environments" in done.stderr) == (2, True)
    RunFolder(elsewhere).write_lines("measurements.jsonl", [])
    done = tonnage("plan", folder.path, "--with", elsewhere)
    assert (done.returncode, "holds no measurements" in done.stderr) == (2, True)


def with_lengths(folder: RunFolder, *lengths: int) -> None:
    """The run as if it had measured rows of these lengths, of which all took as long."""
    one = folder.bundle().measurements
    made = [
        m.model_copy(update={"id": f"{m.id}-{n}", "run": m.run.model_copy(update={"length": n})})
        for n in lengths
        for m in one
    ]
    folder.write_lines("measurements.jsonl", made)


def test_two_lengths_predict_a_third(stub_run: Callable[..., RunFolder], tonnage: Tonnage) -> None:
    """From 64 tokens and 128, which take as long, 96; its surfaces are kept, too."""
    folder = stub_run("sim-1", prices=False)
    with_lengths(folder, 64, 128)
    config, path = load_study(str(folder.path / "study.toml"))
    wanted = changed(study_demands(config, path), "steady", 60, 200, 64, length=96)
    profiles, (answer,), _ = plan(folder, config, path, wanted)
    assert [p.length for p in profiles] == [64, 128]
    assert answer.best is not None
    assert answer.best.predicted_length.startswith("predicted length, from 64, 128; two make a")
    assert [p.length for p in predicted_of(profiles, config, path, wanted)] == [96]
    assert curves_of(profiles, [answer], 0) == []
    there = changed(wanted, None, length=128)
    _, (measured,), _ = plan(folder, config, path, there)
    assert measured.best is not None
    assert not measured.best.predicted
    assert {c.length for c in curves_of(profiles, [measured], 0)} == {128}
    done = tonnage("plan", folder.path, "--profile", "steady", "--length", "96")
    assert done.returncode == 0, done.stderr
    assert "batch 1 of 96 tokens at 60 req/s" in done.stdout
    assert "predicted length, from 64, 128; two make a line, and nothing tests it" in done.stdout


def test_lengths_are_given_where_they_were_measured(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage
) -> None:
    """One line says what to give or leave out."""
    folder = stub_run("sim-1")
    done = tonnage("plan", folder.path, "--length", "96")
    assert (done.returncode, "what was measured has no lengths" in done.stderr) == (2, True)
    with_lengths(folder, 64, 128)
    done = tonnage("plan", folder.path)
    assert (done.returncode, "rows of 64, 128 tokens were measured" in done.stderr) == (2, True)


def test_a_profile_without_a_length_is_of_the_longest(tmp_path: Path) -> None:
    """On the safe side; in a study that measures none, one that gives a length is refused."""
    text = shipped("studies/bert.toml").read_text()
    profiles = shipped("profiles_text.toml").read_text()
    study = tmp_path / "study.toml"
    study.write_text(text.replace("[measure]\n", "[measure]\nlengths = [64, 256]\n"))
    (tmp_path / "profiles_text.toml").write_text(profiles + "length = 64\n")
    assert [d.length for d in study_demands(*load_study(str(study)))] == [256, 256, 64]
    study.write_text(text)
    with pytest.raises(BadInput, match=r"\[batch\]: length = 64, and .* measures none"):
        study_demands(*load_study(str(study)))


def test_a_study_of_lengths_has_rows_of_each(tmp_path: Path) -> None:
    """Beside those of [data]; a workload without sequences says what to remove."""
    lengths = {"lengths": (16, 48)}
    for name in ("bert_base", "credit"):
        study, path = load_study(name)
        grid = study.measure.model_copy(update=lengths)
        run = StudyRun(
            study=study.model_copy(update={"measure": grid}), path=path, folder=RunFolder(tmp_path)
        )
        if name == "credit":
            with pytest.raises(BadInput, match=r"no sequences; remove 'lengths' under \[measure\]"):
                run.check()
            continue
        run.check()
        shapes = [run.data(length).test["input_ids"].shape[1] for length in (None, 16, 48)]
        assert shapes == [128, 16, 48]


def test_another_batch_size_is_asked_for(
    stub_run: Callable[..., RunFolder], tonnage: Tonnage
) -> None:
    """In the place of the profile's own, or of its mix; predicted, or what measures it."""
    folder = stub_run()
    records = folder.bundle().measurements
    larger = [
        m.model_copy(update={"id": f"{m.id}-16", "run": m.run.model_copy(update={"batch": 16})})
        for m in records
    ]
    folder.write_lines("measurements.jsonl", [*records, *larger])
    done = tonnage("plan", folder.path, "--profile", "steady", "--batch", "8", "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert (answer["demand"]["batch"], answer["demand"]["batch_range"]) == (8, [8, 8])
    assert answer["best"]["predicted_batch"].startswith("predicted batch size, from 1, 16")
    done = tonnage("plan", folder.path, "--profile", "steady", "--batch", "40")
    assert done.returncode == 1, done.stderr
    assert "not measured at batch 40" in done.stdout.replace("\n             ", " ")


def test_two_batch_sizes_predict_a_third(stub_run: Callable[..., RunFolder]) -> None:
    """From one row and from sixteen, which take as long, eight; its surfaces are kept, too."""
    folder = stub_run("sim-1")
    config, path = load_study(str(folder.path / "study.toml"))
    one = folder.bundle().measurements
    more = [
        m.model_copy(update={"id": f"{m.id}-16", "run": m.run.model_copy(update={"batch": 16})})
        for m in one
    ]
    (wanted,) = changed(study_demands(config, path), "steady", 60, 200, 64)
    eight = wanted.model_copy(update={"batch": 8, "batch_range": (1, 16)})
    profiles, (answer,), _ = plan(folder, config, path, [eight], evidence=more)
    assert answer.best is not None
    assert answer.best.predicted_batch.startswith("predicted batch size, from 1, 16; two make a")
    assert [p.batch for p in predicted_of(profiles, config, path, [eight])] == [8]
    assert {reach.batch for reach in answer.cpu_reaches if reach.rate_rps} == {1, 8, 16}
    assert any(probe.batch == 8 and probe.why.endswith("batch size") for probe in answer.probes)
