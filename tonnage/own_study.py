"""A study without a file: what ``tonnage run --model`` and ``--cmd`` are asked, as a study.

It is written down as the two files that a study is made of, into a folder that the run copies
them from: so it plans, reports and resumes as any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.errors import BadInput
from tonnage.config import Study, load_study

HOST_SIZES = ("sim-0.5", "sim-1")
_MOST_NAME = 40


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The demand, and where it is tried. ``p99_ms`` is the limit from due to done."""

    rate_rps: float
    p99_ms: float
    batch: int = 1
    instances: Sequence[str] = HOST_SIZES
    name: str | None = None
    seed: int = 0


def study_name(given: str | None, fallback: str) -> str:
    """A name for run folder and served model: ``--name``, or made of the file's or command's."""
    if given is not None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", given):
            raise BadInput(f"--name {given}: use small letters, digits, '-' and '_'")
        return given
    return re.sub(r"[^a-z0-9]+", "_", fallback.lower()).strip("_")[:_MOST_NAME] or "own"


def write_study(
    folder: Path,
    asked: Asked,
    *,
    name: str,
    title: str,
    source: str,
    variants: Sequence[str],
    batches: Sequence[int],
    max_loss: float = 0.0,
) -> tuple[Study, Path]:
    """Write ``study.toml`` and ``profiles.toml`` into ``folder``, and read them back.

    ``source`` identifies what is studied (files and settings, by hash), so that only the
    same question resumes an interrupted run.
    """
    reference = "sim-1" if "sim-1" in asked.instances else asked.instances[-1]
    # JSON's strings and arrays are TOML's, too, as long as no character is escaped in pairs.
    text = {
        key: json.dumps(value, ensure_ascii=False)
        for key, value in {
            "name": name,
            "title": " ".join(title.split()),
            "variants": list(variants),
            "source": source,
            "batches": list(batches),
            "instances": list(asked.instances),
            "reference": reference,
        }.items()
    }
    (folder / "study.toml").write_text(
        f"""\
# Written by 'tonnage run'; the report says how to reproduce it.
name = {text["name"]}
title = {text["title"]}
workload = {text["name"]}
variants = {text["variants"]}
seed = {asked.seed}

[quality]
max_loss = {max_loss!r}

[data]
source = {text["source"]}

[bench]
batches = {text["batches"]}
threads = [1]

[measure]
batches = [{asked.batch}]
instances = {text["instances"]}

[measure.reference]
variant = {json.dumps(variants[0])}
instance = {text["reference"]}
batch = {asked.batch}
repeats = 2
"""
    )
    (folder / "profiles.toml").write_text(
        f"""\
[own]
title = {text["title"]}
batch = {asked.batch}
batch_range = [{asked.batch}, {asked.batch}]
rate_rps = {asked.rate_rps!r}
quantile = 0.99
limit_ms = {asked.p99_ms!r}
"""
    )
    return load_study(str(folder / "study.toml"))
