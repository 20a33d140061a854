"""Build the variants of a workload, each only when its inputs changed.

A variant's file is named by the hash of everything it was made from: data, seed, the chain of
steps with their parameters and source, and the versions of their libraries. Files appear
under their final name only when they are whole and have passed their step's check.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from serving.errors import BadInput
from serving.memory import free_bytes
from serving.model_store import store_folder
from serving.records import ModelPart, Variant, sha256_of
from serving.rows import take
from serving.runtimes import libraries_of, load_runtime
from serving.scoring import answers_of, judge
from serving.source import hash_of_source
from serving.steps import Dataset, Making, Step, parameters
from serving.workloads import Recipe, Workload

Progress = Callable[[str], None]


def build_variants(
    workload: Workload,
    names: Sequence[str],
    data: Dataset,
    *,
    seed: int,
    max_loss: float,
    providers: Sequence[str] = (),
    progress: Progress = lambda line: None,
) -> list[Variant]:
    """Build or reuse the variants ``names``, and judge each against the baseline.

    Quality is measured over the whole test set; a variant that loses more than ``max_loss``
    of the baseline's score in the workload's metric carries the reason in ``barred``.
    ``providers`` are the execution providers that ONNX variants run on.

    Raises BadInput for an unknown variant or too little memory, StepFailed when a file is not
    what its step claims to make.
    """
    unknown = [name for name in names if name not in workload.recipes]
    if unknown:
        raise BadInput(
            f"workload {workload.name} has no variant {unknown[0]!r}; "
            f"known are {', '.join(workload.recipes)}"
        )
    builder = _Builder(workload, data, seed, progress)
    wanted = list(dict.fromkeys([workload.baseline, *names]))
    with builder.alone():
        drafts = [builder.variant(name, providers) for name in wanted]
        answered = []
        for draft in drafts:
            progress(f"{draft.name}: answering the test set")
            answered.append(answers_of(draft, workload, data))
    return judge(answered, workload, data, max_loss)


def can_be_built(workload: Workload, name: str, data: Dataset, *, seed: int) -> str | None:
    """Build a variant ahead of its study, and let it answer a call; else why it cannot be used.

    What was built is kept, and found again by :func:`build_variants`.
    """
    builder = _Builder(workload, data, seed, lambda line: None)
    try:
        with builder.alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a quantizer about weights it cannot scale
            runtime = load_runtime(builder.variant(name, ()), threads=1)
        runtime.predict(take(data.test, range(workload.rows_per_call), batched=data.batched))
    except Exception as error:  # quantizers and converters raise whatever they like
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return None


class _Builder:
    """The files of one workload, built on one data set with one seed."""

    def __init__(self, workload: Workload, data: Dataset, seed: int, progress: Progress) -> None:
        self._workload = workload
        self._data = data
        self._seed = seed
        self._progress = progress
        self._folder = store_folder() / workload.name

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from building the same files meanwhile; they wait, then reuse."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in self._folder.glob(".building-*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield

    def variant(self, name: str, providers: Sequence[str]) -> Variant:
        """The record of a built file; inputs, outputs and quality are not known yet."""
        path = self._file(name)
        recipe = self._workload.recipes[name]
        hashes: dict[str, str] = json.loads(_hashes_path(path).read_text())
        parts = tuple(
            ModelPart(name=part, sha256=digest, size_bytes=(path.parent / part).stat().st_size)
            for part, digest in hashes.items()
            if part != path.name
        )
        return Variant(
            workload=self._workload.name,
            name=name,
            runtime=recipe.runtime,
            precision=recipe.precision,
            file=str(path.relative_to(store_folder())),
            sha256=hashes[path.name],
            size_bytes=path.stat().st_size + sum(part.size_bytes for part in parts),
            parts=parts,
            providers=tuple(providers) if recipe.runtime == "onnxruntime" else (),
            made_from=recipe.needs or "",
            method=recipe.method,
            inputs=(),
            outputs=(),
        )

    def _key(self, name: str) -> str:
        recipe = self._recipe(name)
        made_from = [
            name,
            self._seed,
            self._data.fingerprint,
            [recipe.runtime, recipe.precision],
            self._key(recipe.needs) if recipe.needs else None,
            [[type(s).__module__, type(s).__qualname__, parameters(s)] for s in recipe.steps],
            hash_of_source(recipe.steps),
            {package: _version(package) for package in _packages(recipe)},
        ]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]

    def _recipe(self, name: str) -> Recipe:
        return self._workload.recipes[name]

    def _file(self, name: str) -> Path:
        """Path of a variant's file, built if need be, and what it is made from before it."""
        recipe = self._recipe(name)
        path = self._folder / f"{name}-{self._key(name)}{recipe.suffix}"
        if _whole(path):
            return path  # as it was built; anything else is built again
        needed = self._file(recipe.needs) if recipe.needs else None
        folder = Path(tempfile.mkdtemp(prefix=".building-", dir=self._folder))
        try:
            made = self._made(name, path.name, needed or folder, folder)
            files = sorted(f for f in made.parent.iterdir() if f.is_file())
            hashes = _hashes_path(made)
            hashes.write_text(json.dumps({f.name: sha256_of(f) for f in files}))
            for file in (*(f for f in files if f != made), hashes, made):  # the main file last
                os.replace(file, self._folder / file.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return path

    def _made(self, name: str, file: str, source: Path, folder: Path) -> Path:
        steps = self._recipe(name).steps
        for number, step in enumerate(steps, 1):
            last = number == len(steps)
            place = folder / f"step-{number}"
            scratch = folder / f"scratch-{number}"
            place.mkdir()
            scratch.mkdir()
            target = place / (file if last else f"{name}{step.suffix}")
            _check_memory(name, step, source)

            def tell(line: str, title: str = step.title) -> None:
                self._progress(f"{name}: {title}{': ' if line else ''}{line}")

            tell("")
            making = Making(
                data=self._data,
                seed=self._seed,
                inputs=self._workload.inputs,
                outputs=self._workload.outputs,
                scratch=scratch,
                progress=tell,
            )
            try:
                step.apply(source, target, making)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "allocate memory" in str(error):
                    raise _no_memory(name, step, source, "it ran out of memory") from None
                raise
            step.check(source, target, making)
            source = target
        return source


def _hashes_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256.json")


def _whole(path: Path) -> bool:
    """True when the file and its parts are there, as they were built."""
    try:
        hashes: dict[str, str] = json.loads(_hashes_path(path).read_text())
        return path.name in hashes and all(
            sha256_of(path.parent / name) == digest for name, digest in hashes.items()
        )
    except (OSError, ValueError):
        return False


def _check_memory(name: str, step: Step, source: Path) -> None:
    free = free_bytes() / 2**30
    if free < step.needed_gib(source):
        raise _no_memory(name, step, source, f"{free:.1f} GiB are free")


def _no_memory(name: str, step: Step, source: Path, found: str) -> BadInput:
    return BadInput(
        f"building {name} ({step.title}) needs about {step.needed_gib(source):.3g} GiB of "
        f"memory, and {found}; free some, or leave {name!r} out of the study's 'variants'"
    )


def _packages(recipe: Recipe) -> list[str]:
    named = {package for step in recipe.steps for package in step.libraries}
    return sorted({*named, *libraries_of(recipe.runtime), "numpy"})


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
