"""The Pareto set: the plans that no other one dominates.

What is compared: cost, the upper bound of the p99, quality lost, and how much goes with one
instance. Priced plans and those on the host's own sizes are two sets: a host has no cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.records import Plan

Cost = tuple[float, bool, float, float]
Objectives = tuple[Cost, float, float, float]


def objectives(plan: Plan) -> Objectives:
    """What a plan is judged by, the smaller the better, in the order that ranks plans.

    Cost is the planner's order: dollars, a measured replica before a predicted one, vCPUs,
    memory. A loss that nobody measured counts as total.
    """
    cost = (plan.usd_per_month or 0.0, bool(plan.predicted), plan.vcpus, plan.memory_gib)
    loss = 1.0 if plan.quality_loss is None else plan.quality_loss
    return cost, plan.p99_ms.high, loss, 1 / plan.instances


def dominates(one: Objectives, other: Objectives) -> bool:
    """Whether ``one`` is nowhere worse and somewhere better."""
    cost, *figures = one
    other_cost, *other_figures = other
    no_worse = all(a <= b for a, b in zip(figures, other_figures, strict=True))
    return one != other and cost <= other_cost and no_worse


def with_pareto(plans: Sequence[Plan]) -> list[Plan]:
    """The plans in their order, those that none of the others dominates marked.

    The first by :func:`objectives` is always one of them.
    """
    judged = [objectives(plan) for plan in plans]
    members: list[Objectives] = []
    # Who dominates ranks before, and whoever dominates him dominates his inferiors as well: so
    # a plan is compared with the members before it alone.
    for one in sorted(set(judged)):
        if not any(dominates(member, one) for member in members):
            members.append(one)
    best = set(members)
    return [
        plan.model_copy(update={"pareto": one in best})
        for plan, one in zip(plans, judged, strict=True)
    ]
