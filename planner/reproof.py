"""What somebody else's server shows of a claim, of which only the answers are seen."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from loadtests.arrivals import MaybeMix
from loadtests.objective import Slo
from planner.claim import Beside, Judged, VerdictName, beside_in_words
from serving.records import SCHEMA_VERSION, Record


class Reproof(Record):
    """What a server of somebody else's shows of a claim.

    It is one deployment, as it stands; the verdict is on all objectives of the claim together.
    ``unchecked`` is what the claim depends on and cannot be seen from outside.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    sentence: str
    verdict: VerdictName
    reason: str
    claim: str = Field(description="hash of the claim")
    claimed: str = Field(description="its sentence")
    url: str
    model_name: str
    slo: Slo
    batch: int = Field(ge=1, description="of a mix the largest")
    mix: MaybeMix = None
    rate_rps: float = Field(gt=0)
    confidence: float = Field(gt=0.5, lt=1)
    looks: int = Field(ge=1)
    judged: Judged
    beside: tuple[Beside, ...] = Field(
        default=(), description="the claim's further objectives, by the same requests"
    )
    more_requests: int | None = Field(description="undecided: about so many more are needed")
    proven_on: str = Field(description="ISO date")
    unchecked: tuple[str, ...]
    instead: str = Field(default="", description="of one that fails: what is recommended now")

    @model_validator(mode="after")
    def _says_what_it_is(self) -> Self:
        if self.sentence != (said := self._in_words()):
            raise ValueError(f"the sentence does not follow from the figures, which say: {said}")
        return self

    @classmethod
    def of(cls, **figures: object) -> Self:
        """A reproof whose sentence is made from its figures."""
        draft = cls.model_construct(**figures)  # type: ignore[arg-type] # checked below
        return cls.model_validate({**figures, "sentence": draft._in_words()})

    def _in_words(self) -> str:
        rows = f" of {self.mix}" if self.mix is not None else ""
        return (
            f"{self.slo} at {self.rate_rps:,.6g} req/s{rows} on {self.model_name} "
            f"at {self.url}: {self.verdict} at {100 * self.confidence:g} %, "
            f"n = {self.judged.n:,}, {self.judged.over:,} over, 1 deployment as it stands"
            f"{beside_in_words(self.beside)}"
        )
