"""``tonnage measure --endpoint``: load-test a V2 server that somebody else runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtests.find_max_load import Ran, find_max_load
from loadtests.fleet import Fleet
from loadtests.foreign import ForeignServer
from loadtests.generator_host import (
    HostReading,
    generator_cpus,
    generator_environment,
    host_faults,
)
from loadtests.http_call import Check, v2_call
from loadtests.judge import endpoint_faults
from loadtests.max_load import MaxLoad, MaxLoadSearch, Searched
from loadtests.objective import Slo
from loadtests.payloads import Payloads, foreign_payloads
from loadtests.quantiles import quantiles_of
from loadtests.records import EndpointMeasurement, LoadRun
from loadtests.tls import Identity, trusting
from serving.errors import BadInput
from serving.generate import generated_rows, said_sizes
from serving.records import Endpoint, has_batch_axis
from serving.rows import Rows, read_rows
from serving.wishes import Wish, check_wishes
from tonnage.load import CEILING_RPS_PER_WORKER, Load

_ROWS = 512
# What can be seen from outside of a server.
_SEEN = ("due_to_done", "sent_to_done", "dispatch_lag")
# Of what one connection gets alone: any server carries it.
_LOWEST_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class EndpointTest:
    """What to send, and where to."""

    endpoint: Endpoint
    load: Load
    headers: Mapping[str, str]
    insecure: bool = False
    cacert: Path | None = None
    identity: Identity | None = None
    wishes: Sequence[Wish] = ()

    def measure(self, log: Path, progress: Callable[[str], None]) -> EndpointMeasurement:
        """Ask the server what it takes, warm it with single requests, then run the load.

        Raises BadInput for whatever the user can change: server, model, shapes, rate, timeout.
        """
        run = self.load.run
        progress(f"measuring for {run.duration_s:g} s")
        with _running(self, log) as (_, drive):
            started_at = datetime.now(UTC).isoformat(timespec="seconds")
            result, faults = drive(run)
        return EndpointMeasurement(
            url=self.endpoint.url,
            model_name=self.endpoint.model_name,
            run=run,
            started_at=started_at,
            elapsed_s=result.elapsed_s,
            offered=result.offered,
            ok=result.ok,
            errors=result.errors,
            unsent=result.unsent,
            lost=result.lost,
            checked=result.checked,
            wrong=result.wrong,
            steady=result.steady,
            due_to_done=result.due_to_done,
            sent_to_done=result.sent_to_done,
            dispatch_lag=result.dispatch_lag,
            read_lag_p99_s=result.read_lag_p99_s,
            quantiles=tuple(one for one in quantiles_of(result) if one.of in _SEEN),
            generator_cpu_s=result.generator_cpu_s,
            environment=generator_environment(generator_cpus(run.workers)),
            verdicts=self.load.verdicts_of(result, None),
            faults=faults,
        )

    def max_load(
        self, slo: Slo, budget_samples: int, log: Path, progress: Callable[[str], None]
    ) -> MaxLoad:
        """The highest rate at which the server holds ``slo``, within a budget of requests."""
        with _running(self, log) as (round_trip_s, drive):
            ceiling = CEILING_RPS_PER_WORKER * self.load.run.workers
            lowest = min(_LOWEST_SHARE / round_trip_s, ceiling / 2)
            run = self.load.run
            confidence = self.load.confidence
            search = MaxLoadSearch(
                slo, lowest, ceiling, budget_samples, run.seed, confidence=confidence
            )
            started_at = datetime.now(UTC).isoformat(timespec="seconds")
            found = find_max_load(
                search,
                slo,
                run,
                drive,
                replicas=None,
                confidence=confidence,
                progress=progress,
            )
            about = Searched(
                url=self.endpoint.url,
                model_name=self.endpoint.model_name,
                environment=generator_environment(generator_cpus(run.workers)),
                started_at=started_at,
                **run.model_dump(include={"batch", "mix", "timeout_s", "workers", "seed"}),
            )
            return found.model_copy(update={"about": about})


@contextmanager
def _running(test: EndpointTest, log: Path) -> Iterator[tuple[float, Callable[[LoadRun], Ran]]]:
    """A round trip's seconds, and how to make a run, while the generator is up."""
    run = test.load.run
    server = ForeignServer(
        test.endpoint,
        test.headers,
        timeout_s=run.timeout_s,
        insecure=test.insecure,
        cacert=test.cacert,
        identity=test.identity,
    )
    payloads = _payloads(test, server)
    round_trip_s = server.round_trip_s(payloads)
    cpus = generator_cpus(run.workers)
    with trusting(test.cacert), Fleet(log, workers=run.workers, cpus=cpus) as fleet:
        stored = fleet.store("payloads", payloads)
        call = v2_call(test.endpoint)
        call = call.model_copy(
            update={
                "headers": {**call.headers, **test.headers},
                "check": Check(outputs=server.outputs()),
            }
        )

        def drive(asked: LoadRun) -> Ran:
            before: list[HostReading] = []
            result = fleet.run(
                asked,
                test.endpoint,
                stored,
                lambda: before.append(HostReading.now()),
                trace=test.load.trace,
                call=call,
                insecure=test.insecure,
                identity=test.identity,
            )
            seen = host_faults(before[0], HostReading.now(), cpus)
            return result, (*endpoint_faults(asked, result), *seen)

        yield round_trip_s, drive


def _payloads(test: EndpointTest, server: ForeignServer) -> Payloads:
    specs = server.inputs()
    check_wishes(specs, test.wishes)
    batched = has_batch_axis(specs, specs)
    largest = max(size for size, _ in test.load.classes)
    if largest > 1 and not batched:
        raise BadInput(f"--batch {largest}: the model has no batch axis; leave it at 1")
    seed = test.load.run.seed
    made: Rows = {}
    if not test.load.classes[0][1]:
        sizes = said_sizes(specs, test.wishes)
        made = generated_rows(specs, _ROWS, seed, batched=batched, sizes=sizes, wishes=test.wishes)
    return Payloads.join(
        [
            foreign_payloads(
                read_rows(path, specs, batched=batched) if path else made,
                size,
                seed,
                batched=batched,
            )
            for size, path in test.load.classes
        ]
    )
