"""``tonnage measure --endpoint``: load-test a V2 server that somebody else runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtests.fleet import Fleet
from loadtests.foreign import (
    ForeignServer,
    check_rate,
    foreign_payloads,
)
from loadtests.http_call import v2_call
from loadtests.judge import endpoint_faults
from loadtests.records import EndpointMeasurement, LoadRun
from serving.errors import BadInput
from serving.generate import generated_rows, said_sizes
from serving.records import Endpoint, has_batch_axis
from serving.rows import read_rows
from serving.wishes import Wish, check_wishes

# One worker on one core keeps its dispatch lag below 2 ms up to about here.
CEILING_RPS_PER_WORKER = 4000.0
_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class EndpointTest:
    """What to send, where to, and for how long."""

    endpoint: Endpoint
    run: LoadRun
    payload: Path | None
    wishes: Sequence[Wish] = ()
    headers: Mapping[str, str]
    insecure: bool


def measure_endpoint(test: EndpointTest, log: Path) -> EndpointMeasurement:
    """Ask the server what it takes, warm it with single requests, then run the load.

    Raises BadInput for whatever the user can change: server, model, shapes, rate, timeout.
    """
    run = test.run
    check_rate(run, CEILING_RPS_PER_WORKER * run.workers)
    server = ForeignServer(
        test.endpoint, test.headers, insecure=test.insecure, timeout_s=run.timeout_s
    )
    specs = server.inputs()
    check_wishes(specs, test.wishes)
    batched = has_batch_axis(specs, specs)
    if run.batch > 1 and not batched:
        raise BadInput(f"--batch {run.batch}: the model has no batch axis; leave it at 1")
    rows = (
        read_rows(test.payload, specs, batched=batched)
        if test.payload
        else generated_rows(
            specs,
            _ROWS,
            run.seed,
            batched=batched,
            sizes=said_sizes(specs, test.wishes),
            wishes=test.wishes,
        )
    )
    payloads = foreign_payloads(rows, run.batch, run.seed, batched=batched)
    server.round_trip_s(payloads)
    call = v2_call(test.endpoint)
    with Fleet(log, workers=run.workers) as fleet:
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        result = fleet.run(
            run,
            test.endpoint,
            fleet.store("payloads", payloads),
            call=call.model_copy(update={"headers": {**call.headers, **test.headers}}),
            insecure=test.insecure,
        )
    return EndpointMeasurement(
        url=test.endpoint.url,
        model_name=test.endpoint.model_name,
        run=run,
        started_at=started_at,
        elapsed_s=result.elapsed_s,
        offered=result.offered,
        ok=result.ok,
        errors=result.errors,
        unsent=result.unsent,
        due_to_done=result.due_to_done,
        sent_to_done=result.sent_to_done,
        dispatch_lag=result.dispatch_lag,
        generator_cpu_s=result.generator_cpu_s,
        faults=endpoint_faults(run, result),
    )


def parse_headers(given: list[str]) -> dict[str, str]:
    """``name: value`` pairs; BadInput for anything else."""
    headers = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise BadInput(f"--header {text!r}: give 'name: value'")
        headers[name.strip()] = value.strip()
    return headers


def log_file(verb: str) -> Path:
    """Where the messages of Ray and Locust go when there is no run folder."""
    return Path(tempfile.gettempdir()) / f"tonnage-{verb}-{os.getuid()}.log"
