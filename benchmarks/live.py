"""Ray Serve and Locust, up and running: deployments one after the other, profiled and driven."""

from __future__ import annotations

import fcntl
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from loadtests.ceiling import with_ceiling
from loadtests.cell import (
    CellContext,
    ladder,
    measure_ceiling,
    measure_cell,
    measure_sharing,
    observe,
)
from loadtests.dwell import FULL, SHARING
from loadtests.fleet import Fleet
from loadtests.objective import Slo
from loadtests.payloads import make_payloads
from loadtests.records import LoadRun, Measurement
from loadtests.sharing import sharing_rate
from loadtests.summary import LoadResult
from planner.profile import build_profiles
from planner.records import ServiceProfile
from planner.sharing import with_sharing
from serving.build import build_variants
from serving.errors import Infrastructure, InvalidMeasurement
from serving.instances import load_instances, resolve
from serving.model_store import store_folder
from serving.ray_host.client import RayHost
from serving.records import Deployment, Endpoint, InstanceType, Variant
from serving.steps import Dataset
from serving.stub_variant import noop_rows, noop_variant
from serving.workloads import find_workload
from tonnage.cells import Cell, sharing_cells
from tonnage.config import load_study, shipped

SEED = 7
_TRIES = 3
# Rates near enough to each other that the floor may be read between them.
_NOOP = replace(FULL, open_shares=(0.1, 0.2, 0.35, 0.5, 0.7))


@lru_cache(maxsize=1)
def _data(workload: str) -> Dataset:
    study, _ = load_study(workload)
    return find_workload(workload).load(study.data.source, study.seed)


@lru_cache(maxsize=4)
def built(workload: str, names: tuple[str, ...]) -> Mapping[str, Variant]:
    """Variants of a shipped workload by name, built where they are not yet.

    Infrastructure while another process builds some: next to it nothing can be measured, and
    one that is stopped would be waited for without end.
    """
    _refuse_builders(store_folder() / workload / ".lock")
    study, _ = load_study(workload)
    made = build_variants(
        find_workload(workload),
        names,
        _data(workload),
        seed=study.seed,
        max_loss=study.quality.max_loss,
    )
    return {variant.name: variant for variant in made}


def _refuse_builders(lock: Path) -> None:
    if not lock.is_file():
        return
    with lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Infrastructure(
                f"another process is building models of {lock.parent.name}; let it end first"
            ) from None


def host_size(spec: str) -> InstanceType:
    """A size of the shipped catalogue, such as ``sim-0.5`` or ``sim-1:quota``."""
    return resolve(spec, load_instances(shipped("instances.toml")))


def held(size: InstanceType, replica_cpus: int) -> int:
    """How many replicas of ``size`` so many CPUs hold."""
    return int(replica_cpus / size.vcpus + 1e-9)


def profile_of(measurements: Sequence[Measurement]) -> ServiceProfile:
    """The one profile of a cell's measurements; InvalidMeasurement with the reason for none."""
    bare, refusals = build_profiles(measurements)
    profiles = with_sharing(bare, measurements)
    if not profiles:
        raise InvalidMeasurement(f"no profile: {refusals[0][1]}")
    return profiles[0]


@dataclass(kw_only=True)
class Live:
    """One deployment at a time; the next one takes its place."""

    host: RayHost
    fleet: Fleet
    environment: str
    _running: tuple[Deployment, Endpoint] | None = field(default=None, init=False)
    _stored: dict[tuple[str, int], Path] = field(default_factory=dict, init=False)
    _sequence: int = field(default=0, init=False)
    _floor: list[Measurement] = field(default_factory=list, init=False)
    _profiled: dict[tuple[str, int], tuple[list[Measurement], ServiceProfile]] = field(
        default_factory=dict, init=False
    )

    @property
    def replica_cpus(self) -> int:
        """CPUs that replicas may have."""
        return len(self.host.placement.replica_cpus)

    def deploy(self, deployment: Deployment, *, anew: bool = False) -> float:
        """Have ``deployment`` run; the seconds that it took. ``anew`` replaces an equal one."""
        began = time.monotonic()
        if self._running is None or self._running[0] != deployment or anew:
            self.remove()
            self._running = (deployment, self.host.deploy(deployment))
        return time.monotonic() - began

    def remove(self) -> None:
        """Have nothing run."""
        if self._running is not None:
            self.host.delete(self._running[1].model_name)
        self._running = None

    def floor(self, like: Deployment, batch: int, *, ladder_only: bool = False) -> None:
        """Measure what a no-op of the same size does: the platform's floor and its ceiling.

        What is measured afterwards is judged by it. ``ladder_only`` leaves out the floor.
        """
        features = max(1, sum(v[:1].size for v in _data(like.variant.workload).test.values()))
        noop = noop_variant(like.variant.workload, features)
        deployment = like.model_copy(update={"variant": noop, "replicas": 1})
        self.deploy(deployment)
        role = "ceiling" if ladder_only else "floor"
        run = measure_ceiling if ladder_only else measure_cell
        self._floor = list(run(self._context(batch, role, SEED, ()), _NOOP, self._next))

    @property
    def floors(self) -> Sequence[Measurement]:
        """What :meth:`floor` measured last."""
        return self._floor

    def cell(self, deployment: Deployment, batch: int) -> list[Measurement]:
        """The product's own measurement of a cell, from which it makes a profile.

        It is measured again, up to three times in all, where no profile comes of it.
        """
        self.deploy(deployment)
        for _ in range(_TRIES):
            made = list(measure_cell(self._context(batch, "cell", SEED, ()), FULL, self._next))
            judged = with_ceiling([*self._floor, *made])[len(self._floor) :]
            if build_profiles(judged)[0]:
                break
        return judged

    def sharing(self, cell: Sequence[Measurement]) -> list[Measurement]:
        """What a deployment's replicas cost that fill a core, held against its ``cell``.

        Nothing where a replica has a core of its own.
        """
        made: list[Measurement] = []
        first = cell[0]
        for one in sharing_cells([Cell(first.deployment, first.run.batch)]):
            self.deploy(one.deployment)
            rate = sharing_rate(cell, one.deployment, one.batch, None)
            context = self._context(one.batch, one.role, SEED, ())
            context = replace(context, rates=() if rate is None else (rate,))
            made += measure_sharing(context, SHARING, self._next)
        return with_ceiling([*self._floor, *made])[len(self._floor) :]

    def profiled(self, deployment: Deployment, batch: int) -> ServiceProfile:
        """Floor and profile of a deployment: measured the first time, remembered then."""
        key = deployment.cell_id, batch
        if key not in self._profiled:
            self.floor(deployment, batch)
            profile = profile_of([*self._floor, *self.cell(deployment, batch)])
            self._profiled[key] = list(self._floor), profile
        self._floor, profile = self._profiled[key]
        return profile

    def ladder(self, deployment: Deployment, batch: int) -> list[Measurement]:
        """Closed-loop rungs: what the deployment carries."""
        self.deploy(deployment)
        context = self._context(batch, "cell", SEED, ())
        made = list(ladder(context, FULL, self._one_user_rps(context), self._next))
        return with_ceiling([*self._floor, *made])[len(self._floor) :]

    def drive(
        self,
        deployment: Deployment,
        batch: int,
        rate_rps: float,
        seconds: float,
        seed: int,
        slos: Sequence[Slo] = (),
    ) -> tuple[Measurement, LoadResult]:
        """One open-loop run of Poisson arrivals."""
        self.deploy(deployment)
        run = LoadRun(
            mode="open", batch=batch, duration_s=seconds, rate_rps=round(rate_rps, 3), seed=seed
        )
        made, result = observe(self._context(batch, "cell", seed, slos), run, self._next())
        return with_ceiling([*self._floor, made])[-1], result

    def _one_user_rps(self, context: CellContext) -> float:
        one = LoadRun(mode="closed", batch=context.batch, duration_s=FULL.warmup_s, users=1)
        return max(observe(context, one, self._next())[0].completed_rps, 0.5)

    def _context(self, batch: int, role: str, seed: int, slos: Sequence[Slo]) -> CellContext:
        if self._running is None:
            raise ValueError("nothing is deployed")
        deployment, endpoint = self._running
        return CellContext(
            host=self.host,
            fleet=self.fleet,
            deployment=deployment,
            endpoint=endpoint,
            payloads=self._payloads(deployment, batch),
            batch=batch,
            seed=seed,
            environment=self.environment,
            role=role,
            slos=tuple(slos),
        )

    def _payloads(self, deployment: Deployment, batch: int) -> Path:
        variant = deployment.variant
        key = (variant.model_name, batch)
        if key not in self._stored:
            rows = dict(_data(variant.workload).test)
            if variant.runtime == "stub":
                rows = dict(noop_rows(variant, batch, SEED))
            one = deployment.model_copy(update={"threads": 1})
            made = make_payloads(one, rows, batch, SEED)
            self._stored[key] = self.fleet.store(f"{key[0]}-{batch}", made)
        return self._stored[key]

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1


_up = ExitStack()
_kept: list[Live] = []


@contextmanager
def live() -> Iterator[Live]:
    """Everything up, anew; taken down afterwards."""
    down()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            RayHost(folder / "ray.log") as host,
            Fleet(folder / "locust.log", cpus=host.placement.platform_cpus) as fleet,
        ):
            environment = host.environment().content_hash()
            yield Live(host=host, fleet=fleet, environment=environment)


@contextmanager
def kept() -> Iterator[Live]:
    """Everything up, and left up for who asks next: until :func:`down`, or something fails."""
    if not _kept:
        _kept.append(_up.enter_context(live()))
    try:
        yield _kept[0]
    except BaseException:
        down()
        raise


def down() -> None:
    """Take down what was left up. Safe to repeat."""
    _kept.clear()
    _up.close()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Infrastructure when what is inside takes longer: nobody is there to interrupt it.

    Of the main thread only.
    """

    def over(*_: object) -> None:
        raise Infrastructure(f"given up after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
