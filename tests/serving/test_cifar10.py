"""CIFAR-10 in its published forms, and what is said when it is not there."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from serving.datasets import cifar10
from serving.datasets.cifar10 import VARIABLE, load_cifar10, normalised, picture_dataset
from serving.errors import BadInput
from serving.records import sha256_of

DRAW = np.random.default_rng(5)
TRAIN = DRAW.integers(0, 256, (20, 3, 32, 32)).astype(np.uint8)
TEST = DRAW.integers(0, 256, (10, 3, 32, 32)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)


def labels(pictures: np.ndarray) -> list[int]:
    return [row % 10 for row in range(len(pictures))]


def write_parquet(folder: Path) -> None:
    for name, pictures in (("train", TRAIN), ("test", TEST)):
        encoded = []
        for picture in pictures:
            stream = io.BytesIO()
            Image.fromarray(picture.transpose(1, 2, 0)).save(stream, "png")
            encoded.append({"bytes": stream.getvalue(), "path": None})
        table = pyarrow.table({"img": encoded, "label": labels(pictures)})
        parquet.write_table(table, folder / f"{name}-00000-of-00001.parquet")


def write_binary(folder: Path) -> None:
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir()
    halves = {"data_batch_1": TRAIN[:10], "data_batch_2": TRAIN[10:], "test_batch": TEST}
    for name, pictures in halves.items():
        flat = pictures.reshape(len(pictures), -1)
        heads = np.array(labels(pictures), np.uint8).reshape(-1, 1)
        (inner / f"{name}.bin").write_bytes(np.hstack([heads, flat]).tobytes())


def write_python(folder: Path) -> None:
    halves = {"data_batch_1": TRAIN[:10], "data_batch_2": TRAIN[10:], "test_batch": TEST}
    for name, pictures in halves.items():
        batch = {b"data": pictures.reshape(len(pictures), -1), b"labels": labels(pictures)}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def pack(folder: Path) -> Path:
    """An archive of the shape of the published one, beside the batches that it was made from."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    write_python(batches)
    archive = folder / "downloads" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(batches, batches.name)
    return archive


WRITERS = {"parquet": write_parquet, "binary": write_binary, "python": write_python}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_each_published_form_is_read(tmp_path: Path, write: object) -> None:
    """The same pictures and classes, and from the store the second time."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder)  # type: ignore[operator]
    for _ in range(2):
        found = load_cifar10(str(folder))
        assert (found.train == TRAIN).all()
        assert (found.test == TEST).all()
        assert found.train_labels.tolist() == labels(TRAIN)
        assert found.test_labels.tolist() == labels(TEST)
    kept = list((tmp_path / "cache" / "datasets").iterdir())
    assert len(kept) == 1


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source in the study, the environment says where the data are."""
    write_binary(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    data = picture_dataset(None)
    assert data.test["image"].shape == (10, 3, 32, 32)
    assert data.test["image"].dtype == np.float32
    assert (data.training_rows(slice(3))["image"] == normalised(TRAIN[:3])).all()


def test_normalised_pictures_have_no_bias() -> None:
    """Mean nought and deviation one per colour, for pictures like those of CIFAR-10."""
    draw = np.random.default_rng(1)
    middle = np.array([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
    spread = np.array([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)
    values = np.sqrt(3) * draw.uniform(-1, 1, (200, 3, 32, 32)) * spread + middle
    sent = normalised((255 * values).clip(0, 255).round().astype(np.uint8))
    assert sent.mean(axis=(0, 2, 3)) == pytest.approx([0, 0, 0], abs=0.02)
    assert sent.std(axis=(0, 2, 3)) == pytest.approx([1, 1, 1], abs=0.02)


@pytest.mark.parametrize("inside", [True, False], ids=["the file", "its folder"])
def test_the_published_archive_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """As it is downloaded, without unpacking it; the same data as its batches unpacked."""
    archive = pack(tmp_path)
    monkeypatch.setattr(cifar10, "_ARCHIVE_SHA256", sha256_of(archive))
    found = load_cifar10(str(archive if inside else archive.parent))
    assert (found.train == TRAIN).all()
    assert found.test_labels.tolist() == labels(TEST)
    assert found.fingerprint == load_cifar10(str(tmp_path / "cifar-10-batches-py")).fingerprint


def test_another_archive_is_not_opened(tmp_path: Path) -> None:
    """Its batches are pickles: only the published file, by its hash, is unpacked."""
    archive = pack(tmp_path)
    with pytest.raises(BadInput, match="is not the published") as caught:
        load_cifar10(str(archive))
    assert "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce" in str(caught.value)


@pytest.mark.parametrize("given", [None, "absent", "."], ids=["unset", "absent", "empty"])
def test_missing_data_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """One line: what is missing, which forms are read, and where to say where they are."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        load_cifar10(given)
    forms = ("uoft-cs/cifar10", "cifar-10-batches-bin", "cifar-10-batches-py")
    url = "curl -O https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    for word in (VARIABLE, "[data]", url, *forms):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_names_itself(tmp_path: Path) -> None:
    """A download cut short is one line, and nothing of it is kept."""
    write_parquet(tmp_path)
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadInput, match=r"test-00000-of-00001\.parquet: cannot be read"):
        load_cifar10(str(tmp_path))
    assert not (tmp_path / "cache" / "datasets").exists()


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    """Classes beyond nine are not CIFAR-10's."""
    write_binary(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(b"\x63" + path.read_bytes()[1:])
    with pytest.raises(BadInput, match="classes beyond 0 to 9"):
        load_cifar10(str(tmp_path))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python batches are pickles: only arrays are read from them."""
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(BadInput, match="which is no array; refused"):
        load_cifar10(str(tmp_path))
    assert not (tmp_path / "harm").exists()
