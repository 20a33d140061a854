"""The record of a load run against a server that is not ours."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from loadtests.histogram import Histogram
from loadtests.records import Fault, LoadRun, Slo
from loadtests.slo import SloVerdict
from serving.records import SCHEMA_VERSION, Record


class EndpointMeasurement(Record):
    """One load run against a server that Tonnage does not manage.

    All that the generator sees, and nothing of what happens inside the server.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    url: str
    model_name: str
    run: LoadRun
    started_at: str
    elapsed_s: float = Field(gt=0)
    offered: int = Field(ge=0)
    ok: int = Field(ge=0)
    errors: dict[str, int] = Field(default_factory=dict)
    unsent: int = Field(ge=0, default=0)
    due_to_done: Histogram
    sent_to_done: Histogram
    dispatch_lag: Histogram
    generator_cpu_s: float = Field(ge=0)
    slo: Slo | None = None
    verdict: SloVerdict | None = Field(default=None, description="of a valid run with an SLO")
    faults: tuple[Fault, ...] = ()

    @property
    def valid(self) -> bool:
        """Valid when nothing speaks against it."""
        return not self.faults

    @property
    def completed_rps(self) -> float:
        """Answered requests per second."""
        return self.ok / self.elapsed_s
