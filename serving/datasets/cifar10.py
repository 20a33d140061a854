"""CIFAR-10 as arrays: 50,000 + 10,000 pictures of 32 x 32 pixels in ten classes.

Read are the original's archive for Python, known by its hash, its batches unpacked, those of the
binary version, and the parquet files of the data set ``uoft-cs/cifar10``. Decoded once, then kept
in the store.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from serving.errors import BadInput
from serving.model_store import store_folder
from serving.records import sha256_of
from serving.steps import Dataset

VARIABLE = "TONNAGE_CIFAR10"
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Mean and standard deviation of the training pictures per colour, fractions of one.
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
_RECORD = 1 + 3 * 32 * 32
_ARCHIVE = "cifar-10-python.tar.gz"
_ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_HOW = (
    f"get it with: curl -O https://www.cs.toronto.edu/~kriz/{_ARCHIVE} and set {VARIABLE}, or "
    "'source' under [data] in the study, to that file or its folder; or to a folder with "
    "cifar-10-batches-py or cifar-10-batches-bin unpacked, or with the parquet files of the data "
    "set uoft-cs/cifar10 (train-*.parquet, test-*.parquet)"
)


@dataclass(frozen=True)
class Cifar10:
    """Pictures as bytes, [rows, 3, 32, 32], and classes, [rows]."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    fingerprint: str


def load_cifar10(source: str | None) -> Cifar10:
    """Read from ``source``, a folder or the archive, else from what $TONNAGE_CIFAR10 names.

    BadInput when there is none, or when it holds no CIFAR-10; it says how to get it.
    """
    given = source or os.environ.get(VARIABLE)
    if not given:
        raise BadInput(f"CIFAR-10 not found: {_HOW}")
    place = Path(given)
    if not place.exists():
        raise BadInput(f"{place}: no such file or folder; {_HOW}")
    found = _archived(place) if place.is_file() else _unpacked(place)
    if found is None and (archives := sorted(place.rglob(_ARCHIVE))):
        found = _archived(archives[0])
    if found is None:
        raise BadInput(f"{place}: holds no CIFAR-10; {_HOW}")
    return found


def _unpacked(folder: Path) -> Cifar10 | None:
    for pattern, test_pattern, read in _FORMS:
        files = sorted(folder.rglob(pattern))
        test_files = sorted(folder.rglob(test_pattern))
        if files and test_files:
            return _kept(files, test_files, read)
    return None


def _archived(path: Path) -> Cifar10 | None:
    """What the published archive holds: any other is not opened, for its batches are pickles."""
    if (digest := sha256_of(path)) != _ARCHIVE_SHA256:
        raise BadInput(
            f"{path}: is not the published {_ARCHIVE}, or cut short: its sha256 is {digest}, not "
            f"{_ARCHIVE_SHA256}; {_HOW}"
        )
    with tempfile.TemporaryDirectory(prefix="tonnage-cifar10-") as folder:
        with tarfile.open(path, "r:gz") as archive:
            archive.extractall(folder, filter="data")
        return _unpacked(Path(folder))


def picture_dataset(source: str | None) -> Dataset:
    """CIFAR-10 for a workload whose input is ``image``; the errors of :func:`load_cifar10`."""
    data = load_cifar10(source)
    sent = repr((MEAN, DEVIATION)).encode()
    return Dataset(
        train={"image": data.train},
        train_labels=data.train_labels,
        test={"image": normalised(data.test)},
        test_labels=data.test_labels,
        description=(
            f"CIFAR-10: {len(data.train):,} pictures for training, {len(data.test):,} for testing"
        ),
        fingerprint=hashlib.sha256(data.fingerprint.encode() + sent).hexdigest(),
        prepare=prepared,
    )


def prepared(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures by input name, each normalised."""
    return {name: normalised(pictures) for name, pictures in rows.items()}


def normalised(pictures: np.ndarray) -> np.ndarray:
    """What a network is sent: float32, zero mean and unit deviation per colour."""
    mean = np.array(MEAN, np.float32).reshape(3, 1, 1)
    deviation = np.array(DEVIATION, np.float32).reshape(3, 1, 1)
    return (pictures.astype(np.float32) / np.float32(255) - mean) / deviation


def _kept(files: list[Path], test_files: list[Path], read: _Reader) -> Cifar10:
    digest = hashlib.sha256()
    for path in (*files, *test_files):
        digest.update(path.read_bytes())
    fingerprint = digest.hexdigest()
    kept = store_folder() / "datasets" / f"cifar10-{fingerprint[:12]}.npz"
    try:
        with np.load(kept, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
            return Cifar10(**arrays, fingerprint=fingerprint)
    except (OSError, ValueError, TypeError, BadZipFile):
        train, train_labels = _joined(files, read)
        test, test_labels = _joined(test_files, read)
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f".{os.getpid()}-{kept.name}")
    try:
        np.savez(draft, train=train, train_labels=train_labels, test=test, test_labels=test_labels)
        os.replace(draft, kept)
    finally:
        draft.unlink(missing_ok=True)
    return Cifar10(train, train_labels, test, test_labels, fingerprint)


_Reader = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def _joined(files: list[Path], read: _Reader) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for path in files:
        try:
            pictures, labels = read(path)
        except BadInput:
            raise
        except Exception as error:  # a damaged file: any library's error for it
            raise BadInput(f"{path}: cannot be read ({_first(error)}); get it again") from None
        if pictures.shape[1:] != (3, 32, 32) or len(pictures) != len(labels):
            raise BadInput(f"{path}: holds no pictures of 3 x 32 x 32; it is not CIFAR-10")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
            raise BadInput(f"{path}: has classes beyond 0 to 9; it is not CIFAR-10")
        parts.append((pictures, labels.astype(np.int64)))
    return np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts])


def _parquet(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        from PIL import Image
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{path}: reading it needs {error.name}; install it with: pip install 'tonnage[vision]'"
        ) from None

    table = parquet.read_table(path, columns=["img", "label"])
    encoded = table["img"].combine_chunks().field("bytes")
    pictures = np.empty((len(encoded), 32, 32, 3), np.uint8)
    for row, item in enumerate(encoded):
        with Image.open(io.BytesIO(item.as_buffer())) as picture:
            pictures[row] = np.asarray(picture.convert("RGB"))
    return pictures.transpose(0, 3, 1, 2).copy(), table["label"].to_numpy()


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    records = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as stream:
        batch = _PlainUnpickler(stream, encoding="bytes").load()
    return batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[b"labels"])


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and refuses anything that could run code."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype"})

    def find_class(self, module: str, name: str) -> Any:
        """Only what an array is made of."""
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return super().find_class(module, name)
        if module.partition(".")[0] == "numpy" and name in self._ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is no array; refused")


_FORMS: tuple[tuple[str, str, _Reader], ...] = (
    ("train-*.parquet", "test-*.parquet", _parquet),
    ("data_batch_*.bin", "test_batch.bin", _binary),
    ("data_batch_?", "test_batch", _python),
)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
