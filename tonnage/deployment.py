"""``tonnage measure STUDY --variant V``: one deployment of ours under the traffic asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from loadtests.ceiling import ceilings, with_ceiling
from loadtests.cell import CellContext, measure, measure_ceiling, observe
from loadtests.dwell import FULL, QUICK
from loadtests.find_max_load import Ran, find_max_load
from loadtests.fleet import Fleet
from loadtests.floor import at_floor
from loadtests.foreign import ForeignServer
from loadtests.max_load import MaxLoad, MaxLoadSearch, Searched
from loadtests.objective import Slo
from loadtests.payloads import Payloads, make_payloads
from loadtests.records import LoadRun, Measurement
from serving.batcher import check_batches
from serving.build import build_variants
from serving.errors import BadInput
from serving.generate import generated_rows
from serving.instances import load_instances, resolve
from serving.placement import check_measurable
from serving.ray_host.client import RayHost
from serving.records import Deployment, Endpoint
from serving.rows import read_rows
from serving.stub_variant import noop_variant
from serving.workloads import find_workload
from tonnage.config import Study, beside
from tonnage.load import CEILING_RPS_PER_WORKER, Load

_LOWEST_SHARE = 0.25
# Answers that one user should get, to know what it gets alone.
_ANSWERS_ALONE = 5
_ROWS = 512
# Around the rate asked for, between which the floor is interpolated.
_FLOOR_SHARES = (0.85, 1.15)
_FLOOR_SAMPLES = 300
# Short rungs, but as many users as it takes to fill generator and ingress.
_LADDER = replace(QUICK, most_users=FULL.most_users)


@dataclass(frozen=True, kw_only=True)
class DeploymentTest:
    """What to deploy, and the load to put on it."""

    study: Study
    study_path: Path
    variant: str
    instance: str
    threads: int
    replicas: int
    load: Load
    max_batch: int = 1
    batch_wait_s: float = 0.0

    def measure(self, log: Path, progress: Callable[[str], None]) -> Measurement:
        """Deploy, find what the platform carries with no-ops, run the load once, and judge it."""
        with _running(self, log, progress, floor_runs(self.load.run)) as running:
            progress(f"measuring for {self.load.run.duration_s:g} s")
            made, result = observe(running.context, self.load.run, len(running.floor))
            judged = with_ceiling([*running.floor, made])[-1]
            return judged.model_copy(
                update={
                    "floor_p99_s": at_floor(judged, running.floor),
                    "verdicts": self.load.verdicts_of(result, made.deployment.queueing_replicas),
                }
            )

    def max_load(
        self, slo: Slo, budget_samples: int, log: Path, progress: Callable[[str], None]
    ) -> MaxLoad:
        """The highest rate at which the deployment holds ``slo``, within a budget of requests."""
        with _running(self, log, progress) as running:
            context = running.context
            one = LoadRun(
                mode="closed",
                batch=context.batch,
                length=self.load.run.length,
                duration_s=max(1.0, _ANSWERS_ALONE * running.round_trip_s),
                users=1,
                timeout_s=self.load.run.timeout_s,
            )
            alone = measure(context, one, len(running.floor))
            if not alone.ok:
                raise BadInput(
                    f"{context.deployment.label}: one user got no answer in {one.duration_s:.3g} s"
                )

            def drive(asked: LoadRun) -> Ran:
                made, result = observe(context, asked, len(running.floor))
                judged = with_ceiling([*running.floor, made])[-1]
                return result, judged.faults

            lowest = min(_LOWEST_SHARE * alone.completed_rps, running.ceiling_rps / 2)
            like = self.load.run
            search = MaxLoadSearch(
                slo,
                lowest,
                running.ceiling_rps,
                budget_samples,
                like.seed,
                confidence=self.load.confidence,
            )
            started_at = datetime.now(UTC).isoformat(timespec="seconds")
            found = find_max_load(
                search,
                slo,
                like,
                drive,
                replicas=context.deployment.queueing_replicas,
                confidence=self.load.confidence,
                progress=progress,
            )
            about = Searched(
                model_name=context.endpoint.model_name,
                deployment=context.deployment,
                environment=context.host.environment(),
                started_at=started_at,
                carried_rps=running.carried_rps,
                **like.model_dump(include={"batch", "mix", "timeout_s", "workers", "seed"}),
            )
            return found.model_copy(update={"about": about})


def floor_runs(run: LoadRun) -> list[LoadRun]:
    """What no-ops are to carry for the floor under ``run``: a little less, and a little more.

    Only under steady traffic of one batch size is a p99 there to compare with.
    """
    if not run.poisson or run.mix or run.rate_rps is None:
        return []
    seconds = min(run.duration_s, max(FULL.open_s, _FLOOR_SAMPLES / run.rate_rps))
    return [
        run.model_copy(
            update={"duration_s": seconds, "rate_rps": share * run.rate_rps, "arrivals": None}
        )
        for share in _FLOOR_SHARES
    ]


@dataclass(frozen=True, kw_only=True)
class _Running:
    context: CellContext
    floor: list[Measurement]
    carried_rps: float | None
    ceiling_rps: float
    round_trip_s: float


@contextmanager
def _running(
    test: DeploymentTest,
    log: Path,
    progress: Callable[[str], None],
    open_runs: Sequence[LoadRun] = (),
) -> Iterator[_Running]:
    study, load = test.study, test.load
    size = resolve(test.instance, load_instances(beside(test.study_path, study.plan.instances)))
    workload = find_workload(study.workload, study.data.length)
    asked = None
    if load.run.length is not None:
        asked = find_workload(study.workload, load.run.length, "--length")
    progress(f"building {test.variant}")
    data = workload.load(study.data.source, study.seed)
    built = build_variants(
        workload,
        [test.variant],
        data,
        seed=study.seed,
        max_loss=study.quality.max_loss,
    )
    variant = next(v for v in built if v.name == test.variant)
    rows = (asked.load(study.data.source, study.seed) if asked else data).test
    check_batches(variant, test.max_batch)
    deployment = Deployment(
        variant=variant,
        instance=size,
        threads=test.threads,
        replicas=test.replicas,
        max_batch=test.max_batch,
        batch_wait_ms=1e3 * test.batch_wait_s,
    )
    with RayHost(log) as host:
        check_measurable(size, test.replicas, host.placement)
        with Fleet(log, workers=load.run.workers, cpus=host.placement.platform_cpus) as fleet:
            progress("what generator and ingress carry, with no-op replicas")
            features = max(1, sum(values[:1].size for values in rows.values()))
            floor = _floor(host, fleet, deployment, load, features, open_runs)
            ceiling = CEILING_RPS_PER_WORKER * load.run.workers
            known = ceilings(floor).get(load.run.batch)
            if known:
                ceiling = min(ceiling, known.believed_rps)
            progress(f"deploying {deployment.label}")
            endpoint = host.deploy(deployment)
            parts = [
                make_payloads(
                    deployment,
                    read_rows(path, variant.inputs) if path else rows,
                    batch,
                    load.run.seed,
                )
                for batch, path in load.classes
            ]
            payloads = Payloads.join(parts)
            server = ForeignServer(endpoint, {}, timeout_s=load.run.timeout_s)
            yield _Running(
                round_trip_s=server.round_trip_s(payloads),  # refuses a timeout that is shorter
                context=_context(host, fleet, deployment, endpoint, payloads, load),
                floor=floor,
                carried_rps=known.rate_rps if known else None,
                ceiling_rps=ceiling,
            )


def _floor(
    host: RayHost,
    fleet: Fleet,
    deployment: Deployment,
    load: Load,
    features: int,
    open_runs: Sequence[LoadRun],
) -> list[Measurement]:
    model = deployment.variant
    noop = deployment.model_copy(update={"variant": noop_variant(model.workload, features)})
    endpoint = host.deploy(noop)
    seed = load.run.seed
    rows = generated_rows(noop.variant.inputs, max(_ROWS, load.run.batch), seed)
    payloads = make_payloads(noop, rows, load.run.batch, seed)
    context = _context(host, fleet, noop, endpoint, payloads, load)
    sequence = count()
    made = list(measure_ceiling(replace(context, role="ceiling"), _LADDER, lambda: next(sequence)))
    under = replace(context, role="floor")
    made += [measure(under, run, next(sequence)) for run in open_runs]
    host.delete(endpoint.model_name)
    return made


def _context(
    host: RayHost,
    fleet: Fleet,
    deployment: Deployment,
    endpoint: Endpoint,
    payloads: Payloads,
    load: Load,
) -> CellContext:
    return CellContext(
        host=host,
        fleet=fleet,
        deployment=deployment,
        endpoint=endpoint,
        payloads=fleet.store("payloads", payloads),
        batch=load.run.batch,
        length=load.run.length,
        seed=load.run.seed,
        environment=host.environment().content_hash(),
        trace=load.trace,
    )
