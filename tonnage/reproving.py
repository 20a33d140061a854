"""Proving a claim again against a V2 server that somebody else runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from loadtests.foreign import ForeignServer
from loadtests.objective import ANY_TIME_MS
from loadtests.records import EndpointMeasurement
from loadtests.tls import Identity
from planner.claim import Claim, lapsed_from_outside
from planner.pooled import unbelievable
from planner.proving import Held, Protocol, recommend_instead
from planner.records import Recommendation
from planner.reproof import Reproof
from planner.reprove import judge_reproof
from reports.bundle import read_lines, read_one
from serving.errors import BadInput, InvalidMeasurement
from serving.records import Endpoint
from tonnage.confirming import REPEATS, unproven
from tonnage.endpoint import EndpointTest
from tonnage.load import Load, Options, load_of
from tonnage.progress import Steps

_TIMEOUT_S = 10.0
_START_S = 3.0


def read_claim(path: Path) -> Claim:
    """A claim's file; BadInput in one line for anything else."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; give a claim, RUN/claims/PROFILE.json")
    try:
        return read_one(path, Claim)
    except BadInput as error:
        raise BadInput(
            f"{error}; no claim that can be read: give one of RUN/claims/*.json"
        ) from None


def next_after(path: Path, claim: Claim, rate_rps: float) -> str:
    """What the run that the claim in ``path`` belongs to recommends instead, in one sentence.

    ``rate_rps`` is what it failed at. That run measured nothing on the server where it failed, so
    what it recommends next rests on the same records.
    """
    run = path.absolute().parent.parent
    if rate_rps > claim.rate_rps:
        asked = f"tonnage plan {run} --rate {rate_rps:g} --profile {claim.profile}"
        return f"the claim is about {claim.rate_rps:,.6g} req/s; a plan for this rate: {asked}"
    answers = read_lines(run / "recommendations.jsonl", Recommendation)
    answer = next((a for a in answers if a.demand.name == claim.profile), None)
    if answer is None:
        return "the claim's run does not lie around it; what else holds: tonnage plan RUN"
    plan = recommend_instead(answer, claim.candidate, claim.replicas)
    if plan is None:
        return f"the records of its run know nothing else that holds; measure more: {run}"
    return f"by the same records {unproven(plan)}"


@dataclass(frozen=True, kw_only=True)
class Reproving:
    """A claim, the server to put it to, and how much is sent at most.

    ``source`` is the claim's file, beside which its run is looked for when it fails.
    """

    claim: Claim
    endpoint: Endpoint
    source: Path | None = None
    headers: Mapping[str, str]
    insecure: bool = False
    cacert: Path | None = None
    identity: Identity | None = None
    payload: Path | None = None
    rate_rps: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    budget_s: float = 600.0
    workers: int = 1
    seed: int = 0
    today: date = field(default_factory=date.today)

    @property
    def rate(self) -> float:
        """Requests per second: of the whole plan, unless another was given."""
        return self.rate_rps or self.claim.rate_rps

    @property
    def protocol(self) -> Protocol:
        """One deployment, as it stands: by how many requests it is first judged."""
        requests = self.requests
        if self.duration_s is not None:
            requests = max(1, round(self.duration_s * self.rate))
        held = Held(self.claim.replicas, self.rate)
        if requests is None:
            # All of them have to come from one deployment.
            largest = max(self.claim.objectives, key=lambda slo: slo.quantile)
            made = Protocol.of(largest, held, None, budget_s=self.budget_s)
            requests = math.ceil(min(3 * made.requests, 0.8 * self.budget_s * self.rate))
        return Protocol.of(self.claim.slo, held, None, requests=requests)

    def prove(self, log: Path, steps: Steps) -> Reproof:
        """Check what can be seen from here, drive the server, judge; go on while undecided.

        BadInput when the claim has lapsed, the server cannot be asked, or a claim about rows of a
        length has no payload; InvalidMeasurement
        when its runs cannot be believed.
        """
        if self.claim.length is not None and self.payload is None:
            raise BadInput(
                f"the claim is about rows of {self.claim.length} tokens; give such with --payload"
            )
        sha256 = self._sha256()
        lapsed = lapsed_from_outside(self.claim, self.today, sha256)
        if lapsed:
            raise BadInput(
                f"the claim has lapsed: {'; '.join(lapsed)}; prove the plan again with "
                "'tonnage confirm RUN'"
            )
        begun = time.monotonic()
        protocol, runs = self.protocol, list[EndpointMeasurement]()
        requests: int | None = protocol.requests
        while requests is not None:
            runs.append(self._run(requests, len(runs), log, steps))
            found = judge_reproof(
                self.claim, runs, rate_rps=self.rate, sha256=sha256, proven_on=self.today
            )
            left_s = self.budget_s - (time.monotonic() - begun) - _START_S
            requests = protocol.further(found, left_s)
        if found.verdict == "fails" and self.source is not None:
            instead = next_after(self.source, self.claim, self.rate)
            found = found.model_copy(update={"instead": instead})
        return found

    def _sha256(self) -> str | None:
        server = ForeignServer(
            self.endpoint,
            self.headers,
            timeout_s=_TIMEOUT_S,
            insecure=self.insecure,
            cacert=self.cacert,
            identity=self.identity,
        )
        return server.model_sha256()

    def _run(self, requests: int, number: int, log: Path, steps: Steps) -> EndpointMeasurement:
        """One run that can be believed; repeated when it cannot."""
        why: str | None = None
        for attempt in range(1 + REPEATS):
            again = f"; again, for {why}" if why else ""
            steps.step(
                f"confirm: {requests:,} requests at {self.rate:,.6g} req/s{again}",
                requests / self.rate + _START_S,
            )
            load = self._load(requests / self.rate, self.seed + 1 + number + 1000 * attempt)
            test = EndpointTest(
                endpoint=self.endpoint,
                load=load,
                headers=self.headers,
                insecure=self.insecure,
                cacert=self.cacert,
                identity=self.identity,
            )
            made = test.measure(log, lambda line: None)
            why = unbelievable(made)
            if why is None:
                return made
        raise InvalidMeasurement(
            f"{self.endpoint.url}: the claim cannot be proven here: {1 + REPEATS} runs in a row "
            f"cannot be believed, the last one for {why}"
        )

    @property
    def _limits_ms(self) -> list[float]:
        """Of the objectives that have one; an error budget takes any time for an answer."""
        return [s.limit_ms for s in self.claim.objectives if s.limit_ms < ANY_TIME_MS]

    def _load(self, duration_s: float, seed: int) -> Load:
        options = Options(
            rate=self.rate,
            batch=str(self.claim.batch),
            payload=(str(self.payload),) if self.payload else (),
            duration_s=duration_s,
            timeout_s=max(_TIMEOUT_S, *(3e-3 * limit for limit in self._limits_ms)),
            workers=self.workers,
            seed=seed,
        )
        load = replace(load_of(options), slos=self.claim.objectives)
        if (mix := self.claim.mix) is None:
            return load
        return replace(
            load,
            run=load.run.model_copy(update={"mix": mix}),
            classes=tuple((batch, self.payload) for batch in mix.batches),
        )
