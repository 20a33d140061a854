"""Where built models lie: records name a file relative to the store, never to a machine."""

from __future__ import annotations

import os
from pathlib import Path

from serving.records import Variant


def store_folder() -> Path:
    """The store: $TONNAGE_CACHE, else ``tonnage`` in the user's cache folder."""
    given = os.environ.get("TONNAGE_CACHE")
    if given:
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tonnage"


def model_path(variant: Variant) -> Path:
    """Path of a variant's file on this machine; an absolute ``file`` stands for itself."""
    return store_folder() / variant.file
