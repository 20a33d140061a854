"""Records of the serving room: what is deployed, where, and what it runs on.

Every record is frozen, keyword-only, refuses unknown keys, and carries its units
in its field names (``_s``, ``_ms``, ``_gib``, ``_bytes``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = 1


class Record(BaseModel):
    """Base of all records: frozen, strict about keys, with a stable hash."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def content_hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON form."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


Length = Annotated[
    int | None,
    Field(
        ge=1,
        exclude_if=lambda value: value is None,
        description="tokens of a row; absent where nobody said how long rows are",
    ),
]
"""Of a sequence. Left out of what is written where it is None, so that records from before there
were lengths keep their hashes."""


class TensorSpec(Record):
    """One input or output of a model, in the terms of the Open Inference Protocol.

    ``shape`` uses -1 for a free dimension; the first is the batch when
    ``batched`` is true. ``symbols`` are the file's names of the dimensions, where it has
    names: dimensions of one name have one size. ``low`` and ``high`` bound the values that the
    model can take, where that is known (the numbers of a vocabulary, for example), and
    ``longest`` its free dimensions beside the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    symbols: tuple[str | None, ...] = ()
    low: float | None = None
    high: float | None = None
    longest: int | None = None

    @property
    def batched(self) -> bool:
        """True when the first dimension is free, which is how a batch shows."""
        return bool(self.shape) and self.shape[0] == -1

    def symbol(self, axis: int) -> str | None:
        """Name of a free dimension, if the file gives it one."""
        return self.symbols[axis] if self.symbols and self.shape[axis] == -1 else None


class Quality(Record):
    """How good a model's answers are on its test set (fractions of one).

    Precision, recall and F1 are those of the positive class where there are two classes,
    and weighted by the support of each class where there are more.
    """

    n_rows: int = Field(gt=0)
    auc: float | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    fidelity: float | None = Field(
        default=None, description="share of rows decided as the baseline decides them"
    )
    reproduced: float | None = Field(
        default=None,
        description="share of the variation of the baseline's answers to generated rows that "
        "is reproduced: fidelity to it, and no measure of quality",
    )

    @classmethod
    def measures(cls) -> tuple[str, ...]:
        """Names of the figures, all of which may be missing."""
        return tuple(name for name in cls.model_fields if name != "n_rows")


class Parity(Record):
    """Distance between a variant's answers and the original's, over the test set."""

    n_rows: int = Field(gt=0)
    max_abs_difference: float = Field(ge=0)
    mean_abs_difference: float = Field(ge=0)


class ModelPart(Record):
    """A file beside a model's main file that belongs to it, such as its weights."""

    name: str = Field(pattern=r"^[^/\\]+$")
    sha256: str
    size_bytes: int = Field(ge=0)


class Variant(Record):
    """One form of a model: the same question, another file, runtime or precision.

    ``size_bytes`` counts the main file and its ``parts``.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    workload: str
    name: str
    runtime: str
    precision: str
    file: str
    sha256: str
    size_bytes: int = Field(ge=0)
    parts: tuple[ModelPart, ...] = ()
    providers: tuple[str, ...] = Field(
        default=(),
        description="execution providers of onnxruntime, or torch's device; empty means the CPU",
    )
    made_from: str = Field(default="", description="the variant that its steps started from")
    method: str = Field(default="", description="the steps that made it, in words")
    one_row_a_call: bool = Field(
        default=False, description="whatever its shapes say, it does not take several rows"
    )
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quality: Quality | None = None
    parity: Parity | None = None
    barred: str | None = Field(
        default=None, description="why the quality gate keeps it out of recommendations"
    )

    @property
    def model_name(self) -> str:
        """Name under which it is served: ``<workload>_<variant>``."""
        return f"{self.workload}_{self.name}"

    @property
    def files(self) -> dict[str, str]:
        """The main file and its parts, by path in the model store, each with its sha256."""
        folder = PurePosixPath(self.file).parent
        return {self.file: self.sha256} | {str(folder / p.name): p.sha256 for p in self.parts}

    @property
    def model_sha256(self) -> str:
        """Identifies the model as a whole: the same graph with other weights is another one.

        The hash of its file; of the hashes of all, where there are several.
        """
        if not self.parts:
            return self.sha256
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def batched(self) -> bool:
        """Whether a request may hold several rows; see :func:`has_batch_axis`."""
        return not self.one_row_a_call and has_batch_axis(self.inputs, self.outputs)


def has_batch_axis(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether every tensor begins with a free dimension, and the inputs with the same one.

    A dimension that comes again further in (``[n, n]``) is a size, no batch. A model without
    a batch axis takes one row a call: its tensors as they are.
    """
    if not all(spec.batched for spec in (*inputs, *outputs)):
        return False
    first = {spec.symbol(0) for spec in inputs} - {None}
    inner = {spec.symbol(axis) for spec in inputs for axis in range(1, len(spec.shape))}
    return len(first) <= 1 and not first & inner


def with_limits(specs: Sequence[TensorSpec], known: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """``specs`` as a runtime reads them from a file, with what ``known`` ones say beyond that."""
    by_name = {spec.name: spec for spec in known}
    return tuple(
        spec.model_copy(
            update={
                "symbols": spec.symbols or more.symbols,
                "low": more.low,
                "high": more.high,
                "longest": more.longest,
            }
        )
        if (more := by_name.get(spec.name)) and len(more.shape) == len(spec.shape)
        else spec
        for spec in specs
    )


COMMAND = "command"
"""Runtime of a variant that is the server of a user: ``file`` is the command that starts it."""

Enforcement = Literal["cpuset", "quota"]


CONTAINER: Final = "container"
"""Name of the instance type that is the container (or machine) Tonnage itself runs in."""


class InstanceType(Record):
    """The size of one instance, as a cloud would sell it or this host can cut it."""

    name: str
    vcpus: float = Field(gt=0, le=8)
    memory_gib: float = Field(gt=0)
    enforcement: Enforcement
    cpu_family: str = Field(description="key of the CPU in prices.toml; 'host' for this machine")
    threads_per_core: int = Field(ge=1, le=8, default=1)
    note: str = ""

    @model_validator(mode="after")
    def _whole_cpus_for_cpuset(self) -> Self:
        if self.enforcement == "cpuset" and self.vcpus != int(self.vcpus):
            raise ValueError(
                f"{self.name}: cpuset grants whole CPUs, vcpus = {self.vcpus:g} needs quota"
            )
        return self

    @property
    def is_host_size(self) -> bool:
        """True for the sizes that are cut out of this host (``sim-*``)."""
        return self.cpu_family == "host"

    @property
    def is_container(self) -> bool:
        """True for the one size that nobody has to enforce, as it holds already."""
        return self.name == CONTAINER and self.is_host_size

    @property
    def label(self) -> str:
        """Name with its enforcement, as sentences print it: ``sim-0.5 (quota)``."""
        return f"{self.name} ({self.enforcement})"


class Grant(Record):
    """What the kernel was really told to give a replica.

    With the method ``container`` nothing was told: the replica has what the container around
    Tonnage has, and shares it with generator and ingress.
    """

    method: Literal["cgroup-v1", "cgroup-v2", "affinity", "container"]
    cpus: tuple[int, ...]
    quota_cpus: float | None = Field(description="CPU-seconds per second; None means unlimited")
    memory_bytes: int | None = Field(description="memory limit; None means not enforced")

    @property
    def vcpus(self) -> float:
        """CPU-seconds per second that the replica may use."""
        return min(float(len(self.cpus)), self.quota_cpus or float("inf"))


class OwnLimits(Record):
    """What the container (slice, service) that Tonnage runs in may use, itself included."""

    cpus: tuple[int, ...]
    quota_cpus: float | None = Field(description="CPU-seconds per second; None means unlimited")
    memory_bytes: int | None = Field(description="memory limit; None means the machine's memory")

    @property
    def vcpus(self) -> float:
        """CPU-seconds per second that may be used in all."""
        return min(float(len(self.cpus)), self.quota_cpus or float("inf"))

    @property
    def quota_binds(self) -> bool:
        """Whether there is a quota, and one below the number of CPUs."""
        return self.vcpus < len(self.cpus)


class Deployment(Record):
    """One variant on one instance type: what a measurement is about."""

    schema_version: Literal[1] = SCHEMA_VERSION
    variant: Variant
    instance: InstanceType
    threads: int = Field(ge=0, description="0: the server of a user decides")
    replicas: int = Field(ge=1, default=1)
    max_ongoing_requests: int = Field(ge=1, default=256)
    max_queued_requests: int = Field(ge=1, default=256)
    max_batch: int = Field(
        ge=1, le=1024, default=1, description="waiting requests that one call may answer"
    )
    batch_wait_ms: float = Field(
        ge=0, default=0.0, description="how long a call waits for others to share it"
    )

    @model_validator(mode="after")
    def _batches_what_can_be(self) -> Self:
        if self.max_batch > 1 and not self.variant.batched:
            raise ValueError(
                f"{self.variant.name} takes one request a call: its tensors have no batch axis"
            )
        return self

    @property
    def cell_id(self) -> str:
        """Short hash that every answer carries, so that a wrong replica shows."""
        return self.content_hash()

    @property
    def queueing_replicas(self) -> int | None:
        """Replicas that answer one request at a time; None where calls are shared.

        The exact law of such a queue takes every service time for one request's own.
        """
        return self.replicas if self.max_batch == 1 else None

    @property
    def label(self) -> str:
        """The deployment in words: ``2 x sim-0.5 (quota), onnx_fp32, 1 thread``."""
        threads = f", {self.threads} thread" + ("s" if self.threads > 1 else "")
        named = f"{self.replicas} x {self.instance.label}, {self.variant.name}"
        shared = f", up to {self.max_batch} requests a call" if self.max_batch > 1 else ""
        return named + (threads if self.threads else "") + shared


class Replica(Record):
    """One running replica as the host side sees it."""

    pid: int
    grant: Grant
    group: str | None = Field(description="name of its control group, if it has one")
    earlier_threads: tuple[int, ...] = Field(
        default=(), description="ids of threads older than the model: Ray's, not its own"
    )
    compute_threads: int | None = Field(
        default=None, description="threads its runtime computes with, where they can be counted"
    )


class Endpoint(Record):
    """Where a model answers. ``managed`` ones carry their replicas and cell."""

    url: str
    model_name: str
    protocol: Literal["v2", "http"] = "v2"
    managed: bool = False
    cell_id: str | None = None
    replicas: tuple[Replica, ...] = ()
    startup_s: float | None = Field(default=None, description="deploy call to first ready answer")
    worker_start_s: float | None = Field(
        default=None, description="of it, process start to the model's turn: Ray, imports"
    )
    model_load_s: float | None = Field(default=None, description="of it, loading and warm-up")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class BenchRow(Record):
    """One variant measured in process: no server, no network, one call after another."""

    schema_version: Literal[1] = SCHEMA_VERSION
    variant: str
    batch: int = Field(ge=1)
    length: Length = None
    threads: int = Field(ge=1)
    device: Literal["cpu", "gpu"] = "cpu"
    oversubscribed: bool = Field(description="more threads than the host has cores")
    n_calls: int = Field(ge=1)
    p50_ms: float
    p95_ms: float
    p99_ms: float
    rows_per_s: float = Field(description="batch / median latency")
    peak_rss_bytes: int = Field(description="of a process that holds this variant alone")
    gpu_memory_bytes: int | None = None
    load_s: float


class Environment(Record):
    """The host and the versions behind a set of measurements.

    Records of unlike environments are never mixed: ``content_hash`` is in each.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    cpu_model: str
    logical_cpus: int
    threads_per_core: int
    instruction_sets: tuple[str, ...]
    memory_gib: float
    kernel: str
    governor: str | None
    virtualised: bool
    python: str
    packages: dict[str, str]
    enforcement: Literal["cgroup-v1", "cgroup-v2", "affinity"]
    replica_cpus: tuple[int, ...]
    platform_cpus: tuple[int, ...] = Field(description="ingress, generator and Ray itself")
    generator_priority: Literal["fifo", "normal"]
    settings: dict[str, str] = Field(description="environment variables Ray Serve ran under")
    deployed: dict[str, str] = Field(
        default={},
        exclude_if=lambda settings: not settings,
        description="settings that are no variables; absent in records before it",
    )
    own_limits: OwnLimits | None = Field(
        default=None, description="of the container Tonnage ran in; None in records before it"
    )
