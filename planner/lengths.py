"""Lengths of rows: what a demand for one is planned from, measured there or by a law.

All that plans sees one length. A variant, size, threads and batch that was measured at others
alone has a profile by :mod:`planner.request_sizes`, or a refusal that says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from planner.candidates import size_name
from planner.measuring import MEASURE_IT, measure_command
from planner.profile import NOT_VALID, Key, Refusal
from planner.records import Candidate, Demand, PredictedProfile, ServiceProfile
from planner.request_sizes import TOKENS, out_of_reach, predict_request
from serving.errors import BadInput
from serving.records import InstanceType, Variant

OF_A_MIX = "nothing of a mix of batch sizes is predicted"


def at_length(
    demand: Demand,
    profiles: Sequence[ServiceProfile],
    refused: Sequence[Refusal],
    variants: Sequence[Variant],
    instances: Mapping[str, InstanceType],
    measure_with: str | None = None,
) -> tuple[list[ServiceProfile], list[Refusal]]:
    """Profiles and refusals at the demand's length; without lengths, all as they are.

    What was measured there and cannot be believed is not predicted. ``measure_with`` is that of
    :func:`planner.measuring.measure_command`. BadInput where the demand gives a length and what
    was measured has none, or the other way round.
    """
    wanted = demand.length
    lengths = sorted({p.length for p in profiles if p.length is not None})
    if wanted is None and lengths:
        raise BadInput(
            f"[{demand.name}]: rows of {_listed(lengths)} tokens were measured, and nothing says "
            "which are demanded; give a length"
        )
    if wanted is not None and profiles and not lengths:
        raise BadInput(
            f"[{demand.name}]: length = {wanted}, and what was measured has no lengths; leave it "
            "out, or measure with 'lengths' under [measure]"
        )
    here = [p for p in profiles if p.length == wanted]
    lacking = [r for r in refused if r.length == wanted]
    if wanted is None:
        return here, lacking
    known = {_key(p) for p in here}
    known |= {r.key for r in lacking if r.reason.startswith(NOT_VALID)}
    named = {variant.name: variant for variant in variants}
    found, refusals = list(here), list(lacking)
    for key, measured in _elsewhere(profiles, known):
        name, label, threads, batch = key
        most = _most(named[name])
        if most is not None and wanted > most:
            refusals.append(Refusal(key, f"its rows have at most {most:,} tokens", wanted))
            continue
        at = [TOKENS.of(p) for p in measured]
        why = out_of_reach(TOKENS, at, wanted) if demand.mix is None else OF_A_MIX
        if not why:
            found.append(predict_request(TOKENS, measured, wanted))
            continue
        size = size_name(label, instances)
        own = Candidate(
            variant=name, size=size, threads=threads, instance=size, replicas_per_instance=1
        )
        asked = demand.model_copy(update={"batch": batch})
        command = measure_command(own, asked, measure_with)
        reason = f"not measured at {wanted:,} tokens, only at {_listed(at)}, and {why}"
        reason += f"{MEASURE_IT}`{command}`"
        refusals.append(Refusal(key, reason, wanted))
    return found, refusals


def predicted_at(profiles: Sequence[ServiceProfile], length: int | None) -> list[PredictedProfile]:
    """Profiles at ``length`` that a law from other lengths gives, of all that lack one there."""
    if length is None:
        return []
    known = {_key(p) for p in profiles if p.length == length}
    return [
        predict_request(TOKENS, measured, length)
        for _, measured in _elsewhere(profiles, known)
        if not out_of_reach(TOKENS, [TOKENS.of(p) for p in measured], length)
    ]


def lengths_needed(demands: Sequence[Demand], measured: Sequence[int]) -> list[int]:
    """Those of the ``measured`` lengths that answer a demand: its own, or all for a law."""
    wanted = {demand.length for demand in demands}
    return [n for n in measured if n in wanted or not wanted <= set(measured)]


def _elsewhere(
    profiles: Sequence[ServiceProfile], known: set[Key]
) -> Iterator[tuple[Key, tuple[ServiceProfile, ...]]]:
    """What was measured at some length and is not ``known`` at the one wanted, sorted by it."""
    cells: dict[Key, list[ServiceProfile]] = {}
    for p in profiles:
        if p.length is not None and _key(p) not in known:
            cells.setdefault(_key(p), []).append(p)
    for key, cell in sorted(cells.items()):
        yield key, tuple(sorted(cell, key=TOKENS.of))


def _most(variant: Variant) -> int | None:
    """The longest row that a variant takes; None where nobody knows."""
    return min((spec.longest for spec in variant.inputs if spec.longest), default=None)


def _key(profile: ServiceProfile) -> Key:
    return (profile.variant.name, profile.instance.label, profile.threads, profile.batch)


def _listed(lengths: Sequence[int]) -> str:
    return ", ".join(f"{n:,}" for n in lengths)
