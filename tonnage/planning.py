"""From a run's measurements to its profiles, curves and recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from loadtests.dwell import FULL, SHARING
from loadtests.records import Measurement
from planner.batch_sizes import predict_batches
from planner.congestion import with_platform
from planner.cpu_factor import with_calibrations
from planner.curve import curve, predictor
from planner.demands import load_demands
from planner.lengths import at_length, predicted_at
from planner.mixture import MixedProfile, mixed_curve, mixed_of, mixed_profiles
from planner.prices import load_prices, price_warnings
from planner.probes import probes
from planner.profile import Refusal, build_profiles
from planner.recommend import best_on_host, recommend
from planner.records import Curve, Demand, PredictedProfile, Recommendation, ServiceProfile
from planner.scaling import predict_sizes
from planner.sharing import with_sharing
from planner.surface import SIMULATED_REPLICAS, Surface
from reports.bundle import Bundle, read_lines
from serving import host_facts
from serving.calibration import Calibration
from serving.errors import BadInput
from serving.instances import load_instances, resolve
from serving.placement import CannotBeMeasured, check_measurable
from serving.records import InstanceType
from serving.toml_config import near_matches
from tonnage.cells import DEPLOY_S, REFERENCE_S, fill_a_core, threads_of
from tonnage.config import Study, beside
from tonnage.plan_options import with_options
from tonnage.run_folder import RunFolder

ASSUMPTIONS = (
    "Poisson arrivals; at most 70 % of the measured capacity is planned for.",
    "Of an instance that could be bought, the ingress' CPU and the kubelet's share are taken off, "
    "the latter by the largest formula that GKE, EKS or AKS publish for a default node "
    "(planner/allocatable.py), which was not measured; on this host's own sizes both come on top.",
    "One replica runs one inference call at a time; HAProxy sends each request "
    "to the replica with the fewest in flight.",
    "Prices attach to this host's figures only through the CPU factors of "
    "prices.toml; those shipped are assumptions, not measurements.",
)

SURFACES = "surfaces.jsonl"

PROBE_BUDGET_S = 300.0


def study_instances(study: Study, path: Path) -> dict[str, InstanceType]:
    """Instance types that the study measures, by the spec it names them with."""
    catalogue = load_instances(beside(path, study.plan.instances))
    return {spec: resolve(spec, catalogue) for spec in study.measure.instances}


def study_demands(study: Study, path: Path) -> list[Demand]:
    """The profiles that the study is planned for.

    Where lengths are measured, one that gives none is of the longest, which is on the safe side;
    BadInput for one that gives a length where none are.
    """
    file, lengths = beside(path, study.plan.profiles), study.measure.lengths
    demands = load_demands(file)
    if lengths:
        return [d.model_copy(update={"length": d.length or max(lengths)}) for d in demands]
    for demand in demands:
        if demand.length is not None:
            raise BadInput(
                f"{file}: [{demand.name}]: length = {demand.length}, and {path} measures none; "
                "name some with 'lengths' under [measure], or leave it out"
            )
    return demands


def plan(
    folder: RunFolder,
    study: Study,
    study_path: Path,
    demands: Sequence[Demand],
    prices_file: Path | None = None,
    *,
    evidence: Sequence[Measurement] = (),
    calibrations: Sequence[Calibration] = (),
    probe_budget_s: float = PROBE_BUDGET_S,
) -> tuple[list[ServiceProfile], list[Recommendation], list[str]]:
    """Plan from the records of a run, and from ``evidence`` that was measured since.

    ``calibrations`` take the place of assumed CPU factors. ``probe_budget_s`` are the seconds
    that an answer's list of what to measure next may fill.
    Returns profiles, answers and warnings. Raises BadInput when the run holds no measurements, or
    some that are not of its variants and environment.
    """
    bundle = folder.bundle()
    _check(bundle, folder.path)
    catalogue = load_instances(beside(study_path, study.plan.instances))
    file = prices_file or beside(study_path, study.plan.prices)
    price_list = load_prices(file)
    if calibrations:
        price_list = with_calibrations(price_list, calibrations, bundle.environment)
    for demand in demands:
        if demand.region is not None and demand.region not in price_list.regions:
            raise BadInput(
                f"[{demand.name}]: no price in region '{demand.region}'; "
                f"{near_matches(demand.region, price_list.regions)}"
            )
    warnings = price_warnings(price_list, catalogue, file, date.today())
    if prices_file is None and study_path.parent == folder.path != file.parent:
        warnings.insert(0, f"{folder.path / study.plan.prices} is gone; prices are those of {file}")
    every = [*bundle.measurements, *evidence]
    bare, refused = build_profiles(every)
    profiles = with_sharing(with_platform(bare, bundle.measurements), every)
    predicted = predicted_of(profiles, study, study_path, demands)
    kept = _kept_surfaces(folder)
    _know(kept, [*profiles, *predicted], study.seed)
    losses = quality_losses(bundle)
    measure_with = _measured_with(bundle, folder)
    refused += _unmeasured(bundle, study, study_path, demands)

    def answered(demand: Demand) -> Recommendation:
        there, absent = at_length(
            demand, profiles, refused, bundle.variants, catalogue, measure_with
        )
        rests_on, lacks = mixed_profiles(
            demand, there, absent, catalogue, study.seed, measure_with, evidence
        )
        _know(kept, [p for p in rests_on if isinstance(p, MixedProfile)], study.seed)
        answer = recommend(
            demand,
            rests_on,
            lacks,
            bundle.variants,
            catalogue,
            price_list.prices,
            price_list.factors,
            study.seed,
            losses,
            measure_with,
        )
        if demand.mix is None:  # of a mix the rejections say what lacks
            found = probes(
                answer,
                rests_on,
                catalogue,
                price_list,
                takes_s=_takes_s,
                can_be_measured=_fits_here,
                budget_s=probe_budget_s,
                measure_with=measure_with,
            )
            answer = answer.model_copy(update={"probes": found})
        return with_options(
            answer, rests_on, lacks, bundle.variants, catalogue, price_list, study.seed
        )

    return profiles, [answered(demand) for demand in demands], warnings


def _check(bundle: Bundle, path: Path) -> None:
    """Refuse records that do not belong together: nothing follows from them as a whole."""
    if not bundle.measurements:
        raise BadInput(f"{path}: holds no measurements; run the study first")
    if bundle.environment is not None:
        own = bundle.environment.content_hash()
        others = {m.environment for m in bundle.measurements} - {own}
        if others:
            raise BadInput(
                f"{path}: has measurements of another environment ({', '.join(sorted(others))}) "
                f"than environment.json ({own}); run the study again, or put back its own file"
            )
    known = {variant.name: variant.model_sha256 for variant in bundle.variants}
    for measured in bundle.measurements:
        variant = measured.deployment.variant
        if measured.role != "cell":  # no-ops are no variants of the study
            continue
        if variant.name not in known:
            raise BadInput(
                f"{path}: has measurements of '{variant.name}', which variants.jsonl lacks; put it "
                "back, or run the study again"
            )
        if known[variant.name] != (own := variant.model_sha256):
            raise BadInput(
                f"{path}: '{variant.name}' was measured with another model file (sha256 "
                f"{own[:12]}) than variants.jsonl names ({known[variant.name][:12]}); "
                "run the study again"
            )


def _takes_s(alone_s: float, size: InstanceType) -> float:
    """Seconds of a cell that is measured into a run, with what comes along."""
    cell_s = REFERENCE_S + 2 * DEPLOY_S + FULL.cell_s(alone_s)
    return cell_s + (DEPLOY_S + SHARING.opened_s(alone_s) if fill_a_core(size) > 1 else 0.0)


def _measured_with(bundle: Bundle, folder: RunFolder) -> str:
    """How a cell is measured: added to the run, or by the command of one that knows its rows."""
    again = next(iter(bundle.info.reproduce), "")
    if again.startswith("tonnage run --"):
        return again
    # One types the study's folder, which stands for its newest run.
    beside = sorted(path.parent for path in folder.path.parent.glob("*/measurements.jsonl"))
    newest = bool(beside) and beside[-1] == folder.path
    short = newest and folder.path.parent.name == bundle.info.name
    return f"tonnage measure {folder.path.parent if short else folder.path}"


def _fits_here(size: InstanceType) -> bool:
    """Whether this host can give one replica of a size."""
    try:
        check_measurable(size, 1, host_facts.host_placement())
    except CannotBeMeasured:
        return False
    return True


def quality_losses(bundle: Bundle) -> dict[str, float]:
    """What each variant loses of the metric against the baseline; those that have both."""
    metric = bundle.info.metric
    found = {v.name: getattr(v.quality, metric, None) for v in bundle.variants if v.quality}
    base = found.get(bundle.info.baseline)
    if base is None:
        return {}
    return {name: base - value for name, value in found.items() if value is not None}


def predicted_of(
    profiles: Sequence[ServiceProfile],
    study: Study,
    study_path: Path,
    demands: Sequence[Demand],
) -> list[PredictedProfile]:
    """What profiles predict: sizes of the catalogue, and batch sizes and lengths demanded."""
    catalogue = load_instances(beside(study_path, study.plan.instances))
    batches = sorted({demand.batch for demand in demands})
    found: list[PredictedProfile] = []
    for length in {demand.length: None for demand in demands}:
        here = [p for p in profiles if p.length == length]
        found += predict_sizes(here, catalogue)
        found += [p for batch in batches for p in predict_batches(here, batch)]
        found += predicted_at(profiles, length)
    return found


def planned_from(
    profiles: Sequence[ServiceProfile],
    study: Study,
    study_path: Path,
    demands: Sequence[Demand],
) -> list[ServiceProfile]:
    """All that plans for the demands are made from: measured, predicted, and mixed of those."""
    mixes = [p for demand in demands for p in mixed_of(demand, profiles, study.seed)]
    return [*profiles, *predicted_of(profiles, study, study_path, demands), *mixes]


def surfaces_of(profiles: Sequence[ServiceProfile], seed: int) -> list[Surface]:
    """All surfaces that plans from these profiles can ask for, at the usual quantiles."""
    return [predictor(p, seed).surface(k) for p in profiles for k in SIMULATED_REPLICAS]


def _kept_surfaces(folder: RunFolder) -> list[Surface]:
    """What the run has simulated; without it a plan only takes longer."""
    try:
        return list(read_lines(folder.path / SURFACES, Surface))
    except BadInput:  # of another version
        return []


def _know(kept: Sequence[Surface], profiles: Sequence[ServiceProfile], seed: int) -> None:
    # What the platform adds is no part of a simulation, and older runs simulated without.
    bare = {p.model_copy(update={"platform": ()}).content_hash(): p for p in profiles}
    by_profile = bare | {p.content_hash(): p for p in profiles}
    for surface in kept:
        if surface.profile in by_profile:
            profile = by_profile[surface.profile]
            own = surface.model_copy(update={"profile": profile.content_hash()})
            predictor(profile, seed).know(own)


def curves_of(
    profiles: Sequence[ServiceProfile], answers: Sequence[Recommendation], seed: int
) -> list[Curve]:
    """Curves the report draws: every size at the demanded batches or mix, and the chosen plans."""
    wanted: dict[tuple[object, ...], tuple[ServiceProfile, int]] = {}
    for answer in answers:
        demand, best = answer.demand, best_on_host(answer)
        for profile in profiles if demand.mix is None else mixed_of(demand, profiles, seed):
            if (profile.batch, profile.length) != demand.request:
                continue
            shares = demand.mix and tuple(demand.mix.shares.items())
            cell = profile.variant.name, profile.instance.label, profile.threads
            key = (*cell, shares, *demand.request)
            wanted[(*key, 1)] = profile, 1
            if best and (best.candidate.variant, best.candidate.size, best.candidate.threads) == (
                profile.variant.name,
                profile.instance.name,
                profile.threads,
            ):
                wanted[(*key, best.replicas)] = profile, best.replicas
    return [_curve(profile, replicas, seed) for profile, replicas in wanted.values()]


def _curve(profile: ServiceProfile, replicas: int, seed: int) -> Curve:
    if isinstance(profile, MixedProfile):
        return mixed_curve(profile, replicas, seed)
    return curve(profile, replicas, seed)


def _unmeasured(
    bundle: Bundle,
    study: Study,
    study_path: Path,
    demands: Sequence[Demand],
) -> list[Refusal]:
    """A refusal per cell of a size that this host cannot measure, with its reason."""
    refusals: list[Refusal] = []
    for instance in study_instances(study, study_path).values():
        reason = next((s for s in bundle.info.skipped if s.startswith(f"{instance.name}: ")), None)
        if reason is None:
            continue
        text = reason.removeprefix(f"{instance.name}: ")
        refusals += [
            Refusal((variant.name, instance.label, threads, batch), text, demand.length)
            for variant in bundle.variants
            for threads in threads_of(variant, study.measure)
            for demand in demands
            for batch in demand.batches
        ]
    return refusals
