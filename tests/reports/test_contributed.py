"""Results that teams hand in: what is refused, and how they get into the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.table import PUBLISHED, TABLE, main, rendered
from reports.all_models import read_rows, table_of
from reports.contributed import read_submission, read_submissions
from serving.errors import BadInput
from serving.records import BenchRow, Quality, Variant

GOOD = """
team = "team-a"
model = "some_model"
source = "https://example.org/notebook"
dataset = "CIFAR-10"
host = "a laptop"

[[result]]
method = "original"
weights_mb = 100.0
cpu_ms = 40

[[result]]
method = "int8"
weights_mb = 25.0
cpu_ms = 20
precision = 0.9
recall = 0.8
f1 = 0.84
"""


def submission(folder: Path, text: str = GOOD, name: str = "team-a.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    """A complete file gives its results, and the original among them."""
    read = read_submission(submission(tmp_path))
    assert [r.method for r in read.result] == ["original", "int8"]
    assert read.original.weights_mb == 100


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('team = "team-a"\n', "", "key 'team' is missing"),
        ("cpu_ms = 20", "cpu_msec = 20", "did you mean 'cpu_ms'"),
        ("cpu_ms = 20", 'cpu_ms = "20"', "key 'cpu_ms' is '20'"),
        ("cpu_ms = 20", "cpu_ms = nan", "give a finite number"),
        ("weights_mb = 25.0", "weights_mb = -1", "greater than 0"),
        ("f1 = 0.84", "f1 = 84", "less than or equal to 1"),
        ("f1 = 0.84", "", "give all or none"),
        ("f1 = 0.84", "f1 = 0.95", "which cannot be"),
        ("cpu_ms = 20", "cpu_ms = 20\ngpu_ms = 3", "gpu_ms and vram_mb belong together"),
        ('method = "original"', 'method = "fp32"', "method = 'original'"),
        ('method = "int8"', 'method = "original"', "there twice"),
        ("[[result]]", "[result", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, before: str, after: str, told: str) -> None:
    """Each mistake ends in one line that names the file, the key, and what to change."""
    path = submission(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(BadInput) as caught:
        read_submission(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_that_are_no_list_are_refused(tmp_path: Path) -> None:
    """A number in the place of the results is named."""
    text = GOOD.partition("[[result]]")[0] + "result = 3\n"
    with pytest.raises(BadInput, match="'result' is 3"):
        read_submission(submission(tmp_path, text))


def test_a_team_hands_in_a_model_once(tmp_path: Path) -> None:
    """The second file of the same team on the same model is refused, and the first named."""
    submission(tmp_path)
    submission(tmp_path, name="team-a-again.toml")
    with pytest.raises(BadInput, match="team-a already has some_model in team-a"):
        read_submissions(tmp_path)


def test_ours_and_theirs_become_one_table(tmp_path: Path) -> None:
    """Rows of both kinds, each with ratios against its own original, marked by whom."""
    (tmp_path / "contributed").mkdir()
    submission(tmp_path / "contributed")
    for folder in ("net", "credit"):
        (tmp_path / folder).mkdir()
    (tmp_path / "credit" / "bench.json").write_text('{"in_process": {}}')  # of no workload
    (tmp_path / "net" / "bench.json").write_text(json.dumps(bench_document()))
    table = table_of(read_rows(tmp_path))
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [(r["Model"], r["Method"], r["By"]) for r in rows] == [
        ("net", "original", "tonnage"),
        ("net", "onnx_int8", "tonnage"),
        ("some_model", "original", "team-a"),
        ("some_model", "int8", "team-a"),
    ]
    assert [r["Times smaller"] for r in rows] == ["-", "4.0x", "-", "4.0x"]
    assert [r["Times faster"] for r in rows] == ["-", "3.00x", "-", "2.00x"]
    assert [r["RAM"] for r in rows] == ["200 MB", "200 MB", "-", "-"]
    assert [row[-1] for row in table.rows] == ["[measured]"] * 2 + ["[stated]"] * 2


def test_a_gpu_has_its_columns_in_the_one_table(tmp_path: Path) -> None:
    """Time and memory where both were measured; a variant without either has a dash in both."""
    (tmp_path / "net").mkdir()
    document = bench_document()
    there = {"device": "gpu", "p50_ms": 0.5, "gpu_memory_bytes": 300_000_000}
    unknown = {"device": "gpu", "p50_ms": 0.4, "gpu_memory_bytes": None}
    for rows in document["rows"]:
        rows += [{**rows[0], **there}, {**rows[1], **unknown}]
    (tmp_path / "net" / "bench.json").write_text(json.dumps(document))
    table = table_of(read_rows(tmp_path))
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [(r["GPU ms"], r["VRAM"]) for r in rows] == [("0.500", "300 MB"), ("-", "-")]
    assert [r["CPU ms"] for r in rows] == ["3.30", "1.10"]


def test_a_bench_of_another_version_is_named(tmp_path: Path) -> None:
    """A bench.json of a workload that does not fit says how to write it again."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "bench.json").write_text('{"workload": "net"}')
    with pytest.raises(BadInput, match=r"run it again: python -m benchmarks\.workloads net"):
        read_rows(tmp_path)


def test_the_command_checks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good file is called fine; a bad one ends in one line and a failure."""
    main([str(submission(tmp_path))])
    assert "fine, 2 results on some_model" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such file"):
        main([str(tmp_path / "absent.toml")])


def test_the_published_table_is_the_published_results() -> None:
    """What lies in reports/published is checked, and the committed table is made from it."""
    assert rendered() == TABLE.read_text(), "run: python -m benchmarks.table"
    assert read_submissions(PUBLISHED / "contributed")


def bench_document() -> dict[str, object]:
    """What the bench of a workload writes, of two variants timed three times."""
    names = ("torch", "onnx_int8")
    variants = [
        Variant(
            workload="net",
            name=name,
            runtime="stub",
            precision="fp32",
            file=name,
            sha256="",
            size_bytes={"torch": 4_000_000, "onnx_int8": 1_000_000}[name],
            made_from="" if name == "torch" else "torch",
            inputs=(),
            outputs=(),
            quality=Quality(n_rows=100, accuracy=0.9, fidelity=1.0),
        )
        for name in names
    ]
    repeats = [[bench_row(name, slow) for name in names] for slow in (1.0, 1.1, 9.0)]
    return {
        "workload": "net",
        "host": {"cpu": "a CPU"},
        "variants": [v.model_dump(mode="json") for v in variants],
        "rows": [[row.model_dump(mode="json") for row in rows] for rows in repeats],
    }


def bench_row(name: str, slow: float) -> BenchRow:
    took = slow * {"torch": 3.0, "onnx_int8": 1.0}[name]
    return BenchRow(
        variant=name,
        batch=1,
        threads=1,
        oversubscribed=False,
        n_calls=15,
        p50_ms=took,
        p95_ms=took,
        p99_ms=took,
        rows_per_s=1e3 / took,
        peak_rss_bytes=200_000_000,
        load_s=0.1,
    )
