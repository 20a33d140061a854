"""Where a run's plans are proven: what serves them, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from loadtests.http_call import HttpCall
from loadtests.monitor import Host
from loadtests.payloads import Payloads, make_payloads
from serving.errors import BadInput
from serving.generate import generated_rows
from serving.ray_host.client import RayHost
from serving.records import COMMAND, Variant
from serving.rows import Rows, read_rows
from serving.workloads import find_workload, known_workloads
from tonnage.cells import Cell
from tonnage.config import Study

_ROWS = 512


class StartedHost(Host, Protocol):
    """A host that serves within its context; what it is, it says before that, too."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The host that serves, by its folder of logs, and the requests of a cell.

    ``differs`` says what of the requests is not as in the run; ``most_replicas`` is set where
    the host cannot serve more.
    """

    host: Callable[[Path], StartedHost]
    payloads: Callable[[Cell], Payloads]
    workers: int
    call: HttpCall | None = None
    most_replicas: int | None = None
    differs: tuple[str, ...] = ()


def ray_host(logs: Path) -> RayHost:
    """Ray Serve, with its messages in ``logs``."""
    return RayHost(logs / "ray.log")


def stage_of(study: Study, variant: Variant, payload: Path | None) -> Stage:
    """The stage of a run of which only the folder is left: our workloads have their data.

    Rows for a model of the user's own are those of ``payload``, or generated. BadInput for a
    server of the user's own, whose requests the folder does not hold.
    """
    if variant.runtime == COMMAND:
        raise BadInput(
            f"{study.name}: a server of your own is proven in its own run, which knows what to "
            "ask it; give the same 'tonnage run --cmd ...' with --confirm"
        )
    rows, differs = _rows(study, variant, payload)

    def payloads(cell: Cell) -> Payloads:
        asked = rows
        if cell.length is not None:
            asked = _of_length(study, rows, cell.length, payload)
        return make_payloads(cell.deployment, asked, cell.batch, study.seed)

    return Stage(host=ray_host, payloads=payloads, workers=study.measure.workers, differs=differs)


def _of_length(study: Study, rows: Rows, length: int, payload: Path | None) -> Rows:
    """Rows of ``length``: the workload's, or those of the payload, which may not be others."""
    if payload is None:
        return find_workload(study.workload, length).load(study.data.source, study.seed).test
    for name, values in rows.items():
        if values.shape[1:2] != (length,):
            raise BadInput(
                f"{payload}: '{name}' has shape {list(values.shape)}, and rows of {length} tokens "
                "are demanded; give such"
            )
    return rows


def _rows(study: Study, variant: Variant, payload: Path | None) -> tuple[Rows, tuple[str, ...]]:
    if payload is not None:
        rows = read_rows(payload, variant.inputs, batched=variant.batched)
        return rows, (f"asked with the rows of {payload.name}",)
    if variant.workload == study.workload and study.workload in known_workloads():
        workload = find_workload(study.workload, study.data.length)
        return workload.load(study.data.source, study.seed).test, ()
    rows = generated_rows(variant.inputs, _ROWS, study.seed, batched=variant.batched)
    return rows, ("asked with generated rows; give others with --payload",)
