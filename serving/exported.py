"""A folder that ``tonnage export`` wrote: one deployment and its model file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from serving.errors import BadInput
from serving.records import Deployment

DEPLOYMENT = "deployment.json"


def read_deployment(folder: Path) -> Deployment:
    """The deployment of an export, its variant's file made absolute.

    BadInput when the folder is not an export, or not a whole one.
    """
    path = folder / DEPLOYMENT
    try:
        found = Deployment.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        raise BadInput(f"{path}: not a deployment that 'tonnage export' wrote") from None
    file = folder / found.variant.file
    if not file.is_file():
        raise BadInput(f"{file}: missing; export again, or copy the whole folder")
    variant = found.variant.model_copy(update={"file": str(file.resolve())})
    return found.model_copy(update={"variant": variant})
