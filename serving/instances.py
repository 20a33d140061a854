"""The catalogue of instance types: sizes this host can cut, and shapes a cloud sells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from serving.errors import BadInput
from serving.grants import container_instance
from serving.records import CONTAINER, Enforcement, InstanceType
from serving.toml_config import build_named, build_record, near_matches, read_toml


def load_instances(path: Path) -> dict[str, InstanceType]:
    """Instance types by name, in the order of the file; one table each.

    BadInput names file, table and key when one cannot be used.
    """
    catalogue = {
        name: build_named(InstanceType, name, table, path)
        for name, table in read_toml(path).items()
    }
    if not catalogue:
        raise BadInput(f"{path}: holds no instance type; add a table such as [sim-1]")
    return catalogue


def resolve(spec: str, catalogue: Mapping[str, InstanceType]) -> InstanceType:
    """Find the instance type that ``spec`` names: ``sim-1``, or ``sim-1:quota``.

    ``container`` is what Tonnage itself may use here, unless the file has a table of that name
    (a run's copy has, so that its plans do not depend on where they are made). A suffix
    overrides how the size is enforced. The name stays, since what is bought stays the same;
    the label shows the difference. BadInput for names and suffixes not known.
    """
    if spec == CONTAINER and spec not in catalogue:
        return container_instance()
    name, separator, enforcement = spec.partition(":")
    if name not in catalogue:
        raise BadInput(f"instance '{spec}': unknown; {near_matches(name, catalogue)}")
    found = catalogue[name]
    if not separator:
        return found
    if enforcement not in get_args(Enforcement):
        allowed = " or ".join(f"'{name}:{how}'" for how in get_args(Enforcement))
        raise BadInput(f"instance '{spec}': unknown enforcement; write {allowed}")
    changed = {**found.model_dump(), "enforcement": cast(Enforcement, enforcement)}
    return build_record(InstanceType, changed, f"instance '{spec}'")


def as_toml(instance: InstanceType) -> str:
    """The table from which :func:`load_instances` reads this very instance type."""
    keys = instance.model_dump(exclude={"name"})
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([f"[{json.dumps(instance.name)}]", *lines]) + "\n"
