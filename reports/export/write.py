"""Writes an export into a folder: whole or not at all, and never over somebody's files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from reports.export.carried import NOT_CARRIED, Export, not_carried_text
from reports.export.compose import compose
from reports.export.kubernetes import kubernetes
from reports.export.proven import Proven
from reports.export.rayserve import rayserve
from serving.errors import BadInput
from serving.exported import DEPLOYMENT
from serving.records import Deployment, sha256_of

TARGETS: dict[str, Callable[[Proven], Export]] = {
    "rayserve": rayserve,
    "k8s": kubernetes,
    "compose": compose,
}


def write_export(proven: Proven, target: str, model: Path, folder: Path) -> Export:
    """Render for one of ``TARGETS`` and write everything, the ``model`` file included.

    Its parts, such as weights in a file of their own, lie beside ``model``. An earlier export in
    ``folder`` is replaced. BadInput for an unknown target, a model file that is missing or no
    longer the measured one, and a folder that holds other files.
    """
    if target not in TARGETS:
        raise BadInput(f"--to {target}: unknown; known are {', '.join(TARGETS)}")
    variant = proven.deployment.variant
    sources = {name: model.parent / Path(name).name for name in variant.files}
    sources[variant.file] = model
    for name, path in sources.items():
        if not path.is_file():
            raise BadInput(f"{path}: model file of {variant.name} is missing; build it again")
        if sha256_of(path) != variant.files[name]:
            raise BadInput(
                f"{path}: changed since it was measured (sha256 differs); measure it again"
            )
    export = TARGETS[target](proven)
    files = {**export.files, NOT_CARRIED: not_carried_text(proven, export, target)}
    _refuse_other_files(folder, {*files, *sources})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BadInput(f"{folder}: cannot be created ({error.strerror}); set --out") from None
    try:
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
        (draft / variant.file).parent.mkdir()
        for name, path in sources.items():
            shutil.copy(path, draft / name)
        for path in draft.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
        draft.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return export


def _earlier_model(folder: Path) -> set[str]:
    """The model files of the export that lies there, which may be other ones by now."""
    try:
        lies = Deployment.model_validate_json((folder / DEPLOYMENT).read_text())
        return set(lies.variant.files)
    except (OSError, ValidationError):
        return set()


def _refuse_other_files(folder: Path, ours: set[str]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder}: is a file; give another folder with --out")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    other = found - ours - _earlier_model(folder)
    if other or (found and NOT_CARRIED not in found):
        raise BadInput(
            f"{folder}: holds files that no export wrote "
            f"({', '.join(sorted(other or found)[:3])}); give an empty folder with --out"
        )
