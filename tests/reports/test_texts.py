"""What report.md and the terminal say, word for word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadtests.histogram import Histogram
from loadtests.records import LadderEnd
from loadtests.steady import Steady
from reports import markdown, terminal
from reports.bundle import Bundle
from reports.doctor import doctor_text
from reports.table import Table
from reports.tables import all_tables
from serving.checkup import Checkup, Groups, Now, Proof, SizeCheck
from serving.records import Grant, OwnLimits

GOLDEN = Path(__file__).parent / "golden"


def _same_as_golden(name: str, text: str) -> None:
    """Compare with golden/<name>; ``TONNAGE_REGENERATE=1 pytest tests/reports`` rewrites it."""
    path = GOLDEN / name
    if os.environ.get("TONNAGE_REGENERATE"):
        path.write_text(text)
    assert text == path.read_text()


def test_markdown_is_golden(bundle: Bundle) -> None:
    """report.md of the synthetic run is the committed text."""
    _same_as_golden("report.md.txt", markdown.render(bundle, {}))


def test_terminal_is_golden(bundle: Bundle) -> None:
    """The result on stdout is the committed text."""
    text = terminal.recommendation_text(bundle, "runs/credit/2026-01-02/report.html")
    _same_as_golden("terminal.txt", text)


def _checkup(**changes: object) -> Checkup:
    good = {
        "environment": {
            "cpu_model": "Example CPU @ 2.5 GHz",
            "logical_cpus": 4,
            "threads_per_core": 2,
            "instruction_sets": ("avx2", "avx512f", "avx512_vnni"),
            "memory_gib": 7.7,
            "kernel": "6.1.0",
            "governor": "performance",
            "virtualised": False,
            "python": "3.11.2",
            "packages": {},
            "enforcement": "cgroup-v2",
            "replica_cpus": (2, 3),
            "platform_cpus": (0, 1),
            "generator_priority": "fifo",
            "settings": {},
            "own_limits": {"cpus": (0, 1, 2, 3), "quota_cpus": None, "memory_bytes": None},
        },
        "physical_cores": 2,
        "groups": Groups(version=2, permitted=True, cpusets=True),
        "now": Now(load_average=0.12, busy=0.01, steal=0.0),
        "haproxy": "HAProxy version 2.8.25",
        "port": 8080,
        "port_free": True,
        "sizes": (
            SizeCheck(name="sim-1", measurable=True),
            SizeCheck(name="sim-4", measurable=False, reason="too large", change="use 6 CPUs"),
        ),
        "proofs": (
            Proof(
                what="a quota of half a CPU", granted_cpus=0.5, used_cpus=0.501, periods=10,
                throttled_periods=10, holds=True,
            ),
            Proof(what="CPU 3 alone", granted_cpus=1, used_cpus=1.6, holds=False),
        ),
    }  # fmt: skip
    return Checkup.model_validate({**good, **changes})


def test_doctor_is_golden() -> None:
    """What the doctor says of a good host is the committed text."""
    _same_as_golden("doctor.txt", doctor_text(_checkup()))


def test_doctor_of_a_poor_host_is_golden() -> None:
    """A busy container without permissions: each lack comes with what to change."""
    good = _checkup()
    poor = good.environment.model_copy(
        update={
            "governor": "powersave",
            "virtualised": True,
            "instruction_sets": (),
            "enforcement": "affinity",
            "generator_priority": "normal",
            "replica_cpus": (0,),
            "platform_cpus": (0,),
            "own_limits": OwnLimits(cpus=(0,), quota_cpus=0.5, memory_bytes=1 << 30),
        }
    )
    text = doctor_text(
        _checkup(
            environment=poor,
            physical_cores=1,
            groups=Groups(version=2, permitted=False),
            now=Now(load_average=None, busy=0.6, steal=0.2),
            haproxy=None,
            port_free=False,
            proofs=(),
        )
    )
    _same_as_golden("doctor_poor.txt", text)
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


def test_first_screen_answers(bundle: Bundle) -> None:
    """The recommendation of every profile stands before the first section."""
    first = markdown.render(bundle, {}).split("\n---\n")[0]
    assert all(answer.demand.title in first for answer in bundle.recommendations)
    assert "USD 65.19 per month" in first


def test_terminal_is_plain_and_narrow(bundle: Bundle) -> None:
    """The result has no control characters and no line beyond 100 columns."""
    text = terminal.recommendation_text(bundle, "report.html")
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


def test_terminal_table(bundle: Bundle) -> None:
    """A table for the terminal carries its title, its mark and every row."""
    found = next(t for t in all_tables(bundle) if t.name == "sizes")
    text = terminal.table(found)
    assert text.startswith("Model files [measured]")
    assert all(row[0] in text for row in found.rows)


def test_hostile_names_stay_text_in_markdown(hostile: object) -> None:
    """A name with Markdown and HTML in it can't break a table or become a link."""
    assert callable(hostile)
    parts = markdown.render(hostile("a|b <img src=x> [c](http://d) ```"), {}).split("````")
    assert len(parts) == 3, "the commands are in a fence that theirs can't close"
    text = parts[0] + parts[2]
    assert "<img" not in text.replace("\\<img", "")
    assert "[c](" not in text.replace("\\[c\\](", "")
    header, *_ = (line for line in text.splitlines() if line.startswith("| Variant"))
    row = next(line for line in text.splitlines() if line.startswith("| a\\|b"))
    assert row.replace("\\|", "").count("|") == header.count("|")


def test_pictures_are_placed(bundle: Bundle) -> None:
    """A picture that is passed in is shown in the section of the load tests."""
    text = markdown.render(bundle, {"latency_production": "latency.svg"})
    assert "![latency production](latency.svg)" in text
    assert "The plots are in" not in text


def test_an_empty_run_renders(bundle: Bundle) -> None:
    """A run of which only the study is known says that it has no recommendation."""
    empty = Bundle(info=bundle.info)
    assert "has not been planned" in markdown.render(empty, {})
    assert "has not been planned" in terminal.recommendation_text(empty)


@pytest.mark.parametrize("column", ["p99 (ms)", "p50 (ms)"])
def test_refused_figures_are_withheld(bundle: Bundle, column: str) -> None:
    """A measurement with a fault shows its reason instead of its latency."""
    found = next(t for t in all_tables(bundle) if t.name == "served_latency")
    refused = [row for row in found.rows if "[refused]" in row]
    assert refused
    for row in refused:
        assert row[found.header.index(column)] == "-"
        assert "lag p99 4.2 ms" in row[-1]


def test_a_shared_container_is_said(bundle: Bundle) -> None:
    """Where generator and ingress shared the replica's container, the report says how much."""
    grant = Grant(method="container", cpus=(0, 1), quota_cpus=1.5, memory_bytes=1 << 30)
    runs = [m for m in bundle.measurements if m.valid][:3]
    shared = [
        m.model_copy(
            update={
                "grant": grant,
                "cpu": m.cpu.model_copy(update={"others_on_replica_cores": 0.01 * i}),
            }
        )
        for i, m in enumerate(runs, 1)
    ]
    changed = bundle.model_copy(update={"measurements": tuple(shared)})
    found = next(t for t in all_tables(changed) if t.name == "carried")
    value, why = found.rows[0][1:]
    assert value == "1.5 vCPU by a quota per 100 ms, on CPUs 0, 1; 1.00 GiB; by container"
    assert why.startswith("generator and ingress shared it with the replica, at most 3")


def test_start_up_is_the_median_of_its_starts(bundle: Bundle) -> None:
    """All runs of one deployment carry its one start; three deployments make three starts."""
    first = next(m for m in bundle.measurements if m.role == "cell")
    runs = [
        first.model_copy(update={"startup_s": start, "model_load_s": start / 10})
        for start in (2.0, 2.0, 2.0, 4.0, 3.0)
    ]
    changed = bundle.model_copy(update={"measurements": tuple(runs)})
    (row,) = next(t for t in all_tables(changed) if t.name == "startup").rows
    assert row[3:] == ("3.00", "1.40", "0.300", "3")


def test_a_run_that_drifts_says_so(bundle: Bundle) -> None:
    """Where nothing was cut because nothing settled, the reason stands beside the figures."""
    drifts = Steady(index=0, steady=False, reason="drifts from beginning to end")
    made = next(m for m in bundle.measurements if m.run.mode == "open" and m.valid)
    changed = bundle.model_copy(
        update={"measurements": (made.model_copy(update={"steady": drifts}),)}
    )
    (row,) = next(t for t in all_tables(changed) if t.name == "served_latency").rows
    assert row[-1].endswith("drifts from beginning to end")


def test_lengths_are_a_column_where_there_are_several(bundle: Bundle) -> None:
    """A row for each; of one length alone the tables look as ever."""
    runs = [m for m in bundle.measurements if m.role == "cell" and m.run.batch == 1]

    def shown(*lengths: int) -> dict[str, Table]:
        made = tuple(
            m.model_copy(update={"run": m.run.model_copy(update={"length": length})})
            for m in runs
            for length in lengths
        )
        tables = all_tables(bundle.model_copy(update={"measurements": made}))
        return {t.name: t for t in tables if t.name.startswith("served_")}

    one, several = shown(64), shown(128, 64)
    for name, table in one.items():
        both = several[name]
        assert both.header == (*table.header[:4], "Tokens", *table.header[4:])
        assert len(both.rows) == 2 * len(table.rows)
        assert [row[4] for row in both.rows[: len(table.rows)]] == ["64"] * len(table.rows)
        for column in table.text_columns:
            assert both.header[column + (column > 3)] == table.header[column]
        assert len(both.text_columns) == len(table.text_columns)
        assert {both.header[c] for c in both.text_columns} == {
            table.header[c] for c in table.text_columns
        }


def test_overhead_stands_apart_from_the_model(bundle: Bundle) -> None:
    """Of a paced request that took 5 ms, 3 of them in the model, 2 are overhead."""
    paced = next(m for m in bundle.measurements if m.run.mode == "paced" and m.role == "cell")
    times = {
        "sent_to_done": Histogram.of([0.005] * 9),
        "service": Histogram.of([0.003] * 9),
        "inference": "inline",
    }
    changed = bundle.model_copy(update={"measurements": (paced.model_copy(update=times),)})
    capacity = next(t for t in all_tables(changed) if t.name == "served_capacity")
    row = dict(zip(capacity.header, capacity.rows[0], strict=True))
    assert (row["Model p50 (ms)"], row["Overhead p50 (ms)"]) == ("3.00", "2.00")


def _with_floors(bundle: Bundle, p99_s: dict[str, float]) -> Bundle:
    """No-ops on the sizes of ``p99_s``, with these p99, at the rates of all sizes at batch 1."""
    runs = [m for m in bundle.measurements if m.role == "cell" and m.run.batch == 1]
    sizes = {m.deployment.instance.name: m.deployment.instance for m in runs}
    floors = [
        m.model_copy(
            update={
                "role": "floor",
                "faults": (),
                "offered": round(share * m.offered),
                "deployment": m.deployment.model_copy(update={"instance": sizes[name]}),
                "due_to_done": Histogram.of([seconds] * 300),
                "sent_to_done": Histogram.of([seconds / 2] * 300),
            }
        )
        for m in runs
        if m.run.mode != "closed"
        for name, seconds in p99_s.items()
        for share in (0.9, 1.1)
    ]
    cells = [m for m in bundle.measurements if m.role != "floor"]
    return bundle.model_copy(update={"measurements": (*cells, *floors)})


def test_a_p99_is_held_against_the_floor_of_its_own_size(bundle: Bundle) -> None:
    """At the same ratio to sim-1's floor both would be labelled or none: sim-0.25's is 3 x that."""
    quarter = next(
        m
        for m in bundle.measurements
        if m.role == "cell" and m.deployment.instance.name == "sim-0.25" and m.run.mode == "open"
    )
    p99_s = quarter.due_to_done.quantile_s(0.99)

    def remarks(p99_s: dict[str, float]) -> tuple[dict[str, str], str]:
        table = next(
            t for t in all_tables(_with_floors(bundle, p99_s)) if t.name == "served_latency"
        )
        rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
        mine = quarter.deployment.variant.name
        found = {
            r["Instance"]: r["Samples or faults"]
            for r in rows
            if r["Variant"] == mine and r["Batch"] == "1"
        }
        return found, table.notes[-1]

    own = {"sim-1": p99_s / 3, "sim-0.25": p99_s}
    found, note = remarks(own)
    assert "at the platform's floor" in found["sim-0.25 (quota)"]
    assert "floor" not in found["sim-0.5 (quota)"], "none of its size: nothing is said"
    assert "sim-0.5 (quota), batch 1" in note
    assert "sim-0.25 (quota), batch 1;" not in note
    found, note = remarks({"sim-1": p99_s})
    assert "floor" not in found["sim-0.25 (quota)"], "sim-1's says nothing of a quarter"
    found, _ = remarks({"sim-1": p99_s, "sim-0.25": p99_s / 3})
    assert "floor" not in found["sim-0.25 (quota)"]
    assert remarks({})[1].startswith("No no-op was driven at the rates of any size")


def test_overhead_stands_beside_the_floor_of_its_size(bundle: Bundle) -> None:
    """The round trip of a no-op on the same size and batch; a dash where none was measured."""
    changed = _with_floors(bundle, {"sim-0.25": 0.006, "sim-1": 0.002})
    capacity = next(t for t in all_tables(changed) if t.name == "served_capacity")
    rows = [dict(zip(capacity.header, row, strict=True)) for row in capacity.rows]
    found = {(r["Instance"], r["Batch"]): r["Floor p50 (ms)"] for r in rows}
    assert found["sim-0.25 (quota)", "1"] == "3.00"
    assert found["sim-1 (cpuset)", "1"] == "1.00"
    assert found["sim-0.5 (quota)", "1"] == found["sim-1 (cpuset)", "100"] == "-"


@pytest.mark.parametrize("end", [None, *LadderEnd])
def test_a_capacity_says_why_its_ladder_ended(bundle: Bundle, end: LadderEnd | None) -> None:
    """Out of users is not the same as out of capacity; records before it say nothing."""
    rung = next(m for m in bundle.measurements if m.run.mode == "closed" and m.role == "cell")
    usual = (None, LadderEnd.GAIN_SMALL)  # of which the capacities' note speaks
    for name, role, column in (("served_capacity", "cell", -1), ("floor", "floor", 2)):
        made = rung.model_copy(update={"ladder_end": end, "role": role})
        changed = bundle.model_copy(update={"measurements": (made,)})
        (row,) = next(t for t in all_tables(changed) if t.name == name).rows
        silent = usual if name == "served_capacity" else (None,)
        assert ("4 users: " in row[column]) == (end not in silent)
        assert ("more may bring more" in row[column]) == (end == LadderEnd.MOST_USERS)
