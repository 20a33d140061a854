"""Candidates: every measured size on everything that could be bought to hold it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from planner.allocatable import allocatable_gib, allocatable_vcpus
from planner.batch_sizes import out_of_reach, predict_batches
from planner.measuring import MEASURE_IT, measure_command
from planner.prices import Price, PriceList
from planner.profile import NOT_VALID, Refusal
from planner.records import (
    Bottleneck,
    Candidate,
    CpuFactor,
    Demand,
    PredictedProfile,
    Rejection,
    ServiceProfile,
)
from planner.scaling import FEWEST_SIZES, REACH, predict_sizes
from serving.errors import BadInput
from serving.records import COMMAND, InstanceType, Variant

MEMORY_HEADROOM = 0.25
"""On top of a replica's measured peak: a longer life meets larger peaks than a short run."""

HERE = CpuFactor(
    target_family="host", low=1, mid=1, high=1, basis="measured on the instance itself"
)


class Placement(NamedTuple):
    """A candidate with what is needed to size it."""

    candidate: Candidate
    profile: ServiceProfile
    instance: InstanceType
    factor: CpuFactor
    price: Price | None

    @property
    def replica_memory_gib(self) -> float:
        """Memory that one replica needs, with headroom."""
        return replica_memory_gib(self.profile)


def replica_memory_gib(profile: ServiceProfile) -> float:
    """Measured peak and a quarter more, in GiB."""
    return profile.peak_memory_bytes * (1 + MEMORY_HEADROOM) / 2**30


def ingress_vcpus(profile: ServiceProfile) -> float:
    """CPU that one replica at its full capacity makes the ingress use, in measured vCPUs.

    Both are as fast as the instance's CPU lets them be, so no CPU factor belongs here.
    """
    return profile.capacity_rps * profile.ingress_cpu_ms / 1e3


def fitting_on(vcpus: float, gib: float, each_vcpus: float, each_gib: float) -> tuple[int, int]:
    """How many replicas vCPUs and memory have room for, each by itself."""
    share = math.floor(vcpus / each_vcpus + 1e-9)
    return share, math.floor(gib / each_gib) if each_gib > 0 else share


def place(
    demand: Demand,
    profiles: Iterable[ServiceProfile],
    refused: Iterable[Refusal],
    variants: Iterable[Variant],
    instances: Mapping[str, InstanceType],
    prices: PriceList,
    measure_with: str | None = None,
) -> tuple[list[Placement], list[Rejection]]:
    """Every candidate once: placed, or rejected before any latency is looked at.

    A candidate is a (variant, size, threads) that was measured or refused at any batch, and
    a host size of the catalogue that neither was. One with a profile at the demanded batch
    stands on its own size and on every other shape that has the vCPUs for it; the rest
    stands on its own size only, since no shape could change why it is rejected; so do those that
    fail the demand's own gates of quality and memory. A law's prediction is as good as a profile:
    of a size never measured (:mod:`planner.scaling`), or of a batch size never measured there
    (:mod:`planner.batch_sizes`). ``measure_with`` as in
    :func:`planner.measuring.measure_command`.
    """
    known_profiles = list(profiles)
    by_cell = _cells(demand.batch, known_profiles, refused, instances)
    price_of = prices.offers(demand.region)
    shapes = _shapes(instances, price_of, prices, demand.region)
    placements: list[Placement] = []
    rejections: list[Rejection] = []
    for variant in variants:
        cells = {key: cell for key, cell in by_cell.items() if key[0] == variant.name}
        known = {size.partition(":")[0] for _, size, _ in cells}
        for name, instance in instances.items():
            if instance.is_host_size and name not in known:
                cells[variant.name, name, 0 if variant.runtime == COMMAND else 1] = _Cell()
        for (_, size, threads), cell in sorted(cells.items()):
            own = Candidate(
                variant=variant.name,
                size=size,
                threads=threads,
                instance=size,
                replicas_per_instance=1,
            )
            profile = cell.profiles.get(demand.batch)
            command = measure_command(own, demand, measure_with)
            barred = variant.barred or _below(demand, variant)
            if barred is not None:
                rejections.append(_rejected(own, Bottleneck.QUALITY, barred))
            elif profile is None:
                law = _beyond_law(variant.name, size, instances, known_profiles)
                rejections.append(_without_profile(own, cell, demand.batch, law, command))
            elif (too_large := _too_large(demand, profile)) is not None:
                rejections.append(_rejected(own, Bottleneck.MEMORY, too_large))
            else:
                found = _on_own_size(own, profile, price_of.get(profile.instance.name), command)
                if isinstance(found, Placement):
                    placements.append(found)
                else:
                    rejections.append(found)
                _on_shapes(own, profile, demand, shapes, placements, rejections, measure_with)
    return placements, rejections


def _below(demand: Demand, variant: Variant) -> str | None:
    """Why a variant has not the quality demanded; None where it has."""
    for measure, least in demand.min_quality.items():
        found = getattr(variant.quality, measure, None)
        if found is None:
            return f"its {measure} was not measured, and at least {least:g} is demanded"
        if found < least:
            return f"{measure} is {found:.4g}, and at least {least:g} is demanded"
    return None


def _too_large(demand: Demand, profile: ServiceProfile) -> str | None:
    """Why a replica needs more memory than the demand allows; None where it does not."""
    needed, most = replica_memory_gib(profile), demand.max_replica_memory_gib
    if most is None or needed <= most:
        return None
    return (
        f"needs {needed:.3g} GiB with {MEMORY_HEADROOM:.0%} headroom, "
        f"max_replica_memory_gib = {most:g} is demanded"
    )


class _Cell(NamedTuple):
    """What is known of one (variant, size, threads), by batch."""

    profiles: Mapping[int, ServiceProfile] = {}
    refusals: Mapping[int, str] = {}


def _cells(
    batch: int,
    profiles: Sequence[ServiceProfile],
    refused: Iterable[Refusal],
    instances: Mapping[str, InstanceType],
) -> dict[tuple[str, str, int], _Cell]:
    measured: dict[tuple[str, str, int], dict[int, ServiceProfile]] = {}
    for p in profiles:
        key = (p.variant.name, size_name(p.instance.label, instances), p.threads)
        measured.setdefault(key, {})[p.batch] = p
    missing: dict[tuple[str, str, int], dict[int, str]] = {}
    for refusal in refused:
        variant, label, threads, at = refusal.key
        key = (variant, size_name(label, instances), threads)
        missing.setdefault(key, {})[at] = refusal.reason
    by_size = predict_sizes([p for p in profiles if p.batch == batch], instances)
    for predicted in sorted([*predict_batches(profiles, batch), *by_size], key=_doubt):
        size = size_name(predicted.instance.label, instances)
        key = (predicted.variant.name, size, predicted.threads)
        invalid = missing.get(key, {}).get(batch, "").startswith(NOT_VALID)
        if not invalid:  # what was measured and can't be believed shall be measured again
            measured.setdefault(key, {}).setdefault(batch, predicted)
    keys = measured.keys() | missing.keys()
    return {key: _Cell(measured.get(key, {}), missing.get(key, {})) for key in keys}


def _doubt(profile: PredictedProfile) -> float:
    """How wide what is predicted is: of two laws the one that says more is taken."""
    return profile.capacity_interval.high / profile.capacity_interval.low


def size_name(label: str, instances: Mapping[str, InstanceType]) -> str:
    """Write a size as one asks for it: ``sim-1 (cpuset)`` becomes ``sim-1``.

    It becomes ``sim-1:cpuset`` where the catalogue enforces the size in another way.
    """
    match = re.fullmatch(r"(.+) \((\w+)\)", label)
    if match is None:
        return label
    name, enforcement = match.groups()
    usual = instances.get(name)
    return name if usual is None or usual.enforcement == enforcement else f"{name}:{enforcement}"


def _beyond_law(
    variant: str,
    size: str,
    instances: Mapping[str, InstanceType],
    profiles: Iterable[ServiceProfile],
) -> str:
    """Why no law of sizes reaches one that was not measured; "" where that cannot be said."""
    name, _, enforcement = size.partition(":")
    if name not in instances:
        return ""
    enforcement = enforcement or instances[name].enforcement
    measured = {
        p.instance.vcpus
        for p in profiles
        if (p.variant.name, p.instance.enforcement) == (variant, enforcement)
        and not isinstance(p, PredictedProfile)
    }
    if len(measured) < FEWEST_SIZES:
        kind = "whole CPUs" if enforcement == "cpuset" else "a share of one CPU"
        return f"a law takes {FEWEST_SIZES} measured sizes of {kind}, there are {len(measured)}"
    if instances[name].vcpus > REACH * max(measured):
        return f"it is more than {REACH:g} times the largest measured one, {max(measured):g} vCPU"
    return ""


def _without_profile(own: Candidate, cell: _Cell, batch: int, law: str, command: str) -> Rejection:
    reason = cell.refusals.get(batch)
    if reason is None:
        measured = [n for n, p in cell.profiles.items() if not isinstance(p, PredictedProfile)]
        elsewhere = sorted({*measured, *cell.refusals})
        batches = ", ".join(map(str, elsewhere))
        seen = f"only at batch {batches}" if elsewhere else "nor at any other"
        reason = f"not measured at batch {batch}, {seen}"
        if cell.profiles:
            reach = out_of_reach(measured, batch) if measured else "what is predicted makes no law"
            reason += f", and {reach}"
        elif law and not elsewhere:
            reason += f", and {law}"
        reason += f"{MEASURE_IT}`{command}`"
        return _rejected(own, Bottleneck.UNMEASURED, reason)
    invalid = reason.startswith(NOT_VALID)
    return _rejected(own, Bottleneck.INVALID if invalid else Bottleneck.UNMEASURED, reason)


class _Shape(NamedTuple):
    """What could be bought, and what is the same about it for every profile."""

    instance: InstanceType
    price: Price | None
    factor: CpuFactor | None
    usable_vcpus: float
    usable_gib: float
    refusal: str | None


def _shapes(
    instances: Mapping[str, InstanceType],
    price_of: Mapping[str, Price],
    prices: PriceList,
    region: str | None,
) -> list[_Shape]:
    """Everything in the catalogue that is not cut out of this host."""
    factor_of = {factor.target_family: factor for factor in prices.factors}
    elsewhere = prices.offers(None)
    shapes = []
    for instance in instances.values():
        if instance.is_host_size:
            continue
        price, factor = price_of.get(instance.name), factor_of.get(instance.cpu_family)
        refusal = None
        if price is None:
            refusal = f"no price for {instance.name} in the price list"
            if (other := elsewhere.get(instance.name)) is not None:
                refusal = f"no price in {region} for {instance.name}, only in {other.region}"
        elif price.cpu_family != instance.cpu_family:
            raise BadInput(
                f"the price list says cpu_family = '{price.cpu_family}' for {instance.name}, "
                f"instances.toml says '{instance.cpu_family}'; change one of them"
            )
        elif factor is None:
            refusal = (
                f"no CPU factor for {instance.cpu_family} in the price list, so no price can be "
                "attached to what was measured here"
            )
        vcpus, gib = allocatable_vcpus(instance), allocatable_gib(instance)
        shapes.append(_Shape(instance, price, factor, vcpus, gib, refusal))
    return shapes


def _on_own_size(
    own: Candidate, profile: ServiceProfile, price: Price | None, command: str
) -> Placement | Rejection:
    needed = replica_memory_gib(profile)
    if needed > profile.instance.memory_gib:
        reason = (
            f"{needed:.2f} GiB with {MEMORY_HEADROOM:.0%} headroom, "
            f"has {profile.instance.memory_gib:g} GiB"
        )
        if not isinstance(profile, PredictedProfile) or profile.unmeasured == "size":
            return _rejected(own, Bottleneck.MEMORY, f"needs {reason}")
        asked = f"batch {profile.batch:,}"
        asked += "" if profile.length is None else f" of {profile.length:,} tokens"
        reason = f"may need {reason}; its peak at {asked} was not measured"
        reason += f"{MEASURE_IT}`{command}`"
        return _rejected(own, Bottleneck.UNMEASURED, reason)
    return Placement(own, profile, profile.instance, HERE, price)


def _on_shapes(
    own: Candidate,
    profile: ServiceProfile,
    demand: Demand,
    shapes: Iterable[_Shape],
    placements: list[Placement],
    rejections: list[Rejection],
    measure_with: str | None,
) -> None:
    """Put the replicas of one profile on every shape that has the vCPUs for one.

    On a node each replica brings its share of the ingress, which runs on every node. A
    container holds replicas only; what is before it, is not in it. Runs for every pair of a
    profile and a shape, so what a pair does not change is outside.
    """
    size, needed = profile.instance, replica_memory_gib(profile)
    with_quota = own.model_copy(update={"size": f"{size.name}:quota"})
    command = measure_command(with_quota, demand, measure_with)
    ingress = ingress_vcpus(profile)
    variant, name, threads = own.variant, own.size, own.threads
    for shape in shapes:
        instance = shape.instance
        if instance.vcpus < size.vcpus - 1e-9 or instance.name == size.name:
            continue
        beside = ingress if instance.enforcement == "cpuset" else 0.0
        share, fitting = fitting_on(
            shape.usable_vcpus, shape.usable_gib, size.vcpus + beside, needed
        )
        candidate = Candidate(
            variant=variant,
            size=name,
            threads=threads,
            instance=instance.name,
            replicas_per_instance=max(1, min(share, fitting, demand.max_replicas)),
        )
        if shape.factor is None or shape.refusal is not None:
            rejections.append(_rejected(candidate, Bottleneck.COST, shape.refusal or ""))
        elif instance.enforcement == "quota" and size.enforcement == "cpuset":
            # The same vCPU enforced by a quota has about twice the tail.
            reason = (
                f"{instance.name} enforces a quota and {size.name} was measured with whole CPUs"
                f"{MEASURE_IT}`{command}`"
            )
            rejections.append(_rejected(candidate, Bottleneck.UNMEASURED, reason))
        elif share < 1:
            reason = (
                f"a replica and its share of the ingress need {size.vcpus + beside:.3g} vCPU, "
                f"{instance.name} has {shape.usable_vcpus:.3g} of {instance.vcpus:g} to give"
            )
            rejections.append(_rejected(candidate, Bottleneck.CAPACITY, reason))
        elif fitting < 1:
            reason = (
                f"a replica needs {needed:.2f} GiB with {MEMORY_HEADROOM:.0%} headroom, "
                f"{instance.name} has {shape.usable_gib:.2f} of {instance.memory_gib:g} GiB to give"
            )
            rejections.append(_rejected(candidate, Bottleneck.MEMORY, reason))
        else:
            placements.append(Placement(candidate, profile, instance, shape.factor, shape.price))


def _rejected(candidate: Candidate, bottleneck: Bottleneck, reason: str) -> Rejection:
    return Rejection(candidate=candidate, bottleneck=bottleneck, reason=reason)
