"""Records of the GPU verdict: how far CPUs reach at one batch size, and what that costs."""

from __future__ import annotations

from pydantic import Field

from loadtests.arrivals import MaybeMix
from serving.records import Record


class CpuReach(Record):
    """The highest rate at which a CPU plan holds the demand's objective at one batch size.

    Or of its mix, ``batch`` the largest.

    ``usd_per_hour`` is that of the cheapest plan at this rate, null without a price.
    """

    batch: int = Field(ge=1)
    mix: MaybeMix = None
    rate_rps: float = Field(ge=0, description="0: no plan holds at any rate")
    variant: str = ""
    instance: str = ""
    instances: int = Field(ge=0, default=0)
    replicas: int = Field(ge=0, default=0)
    usd_per_hour: float | None = None
    usd_per_million: float | None = Field(default=None, description="per million rows")
    spare_replicas: int = Field(ge=0, default=0)

    @property
    def rows_per_s(self) -> float:
        """Rows per second at that rate."""
        return self.rate_rps * (self.batch if self.mix is None else self.mix.mean_batch)

    @property
    def gpu_usd_per_hour(self) -> float | None:
        """The price of a GPU instance from which it cannot be cheaper, however fast it is.

        One is the least one can buy, and a spare one where the demand wants spares.
        """
        return None if self.usd_per_hour is None else self.usd_per_hour / (1 + self.spare_replicas)
