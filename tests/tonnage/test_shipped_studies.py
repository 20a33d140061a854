"""The studies that ship: each names what exists, and answers what its profiles ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.workloads import find_workload
from tonnage.config import load_study, shipped
from tonnage.planning import study_demands, study_instances

STUDIES = sorted(path.stem for path in shipped("studies").glob("*.toml"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_is_consistent(name: str) -> None:
    """Its variants exist, the baseline is one, and what is demanded is measured."""
    study, path = load_study(name)
    workload = find_workload(study.workload)
    assert set(study.variants) <= set(workload.recipes)
    assert workload.baseline in study.variants
    assert study.measure.reference.variant in (study.measure.variants or study.variants)
    assert study.measure.reference.instance in study_instances(study, path)
    assert {demand.batch for demand in study_demands(study, path)} <= set(study.measure.batches)
    assert set(study.measure.batches) <= set(study.bench.batches)


WORKLOADS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "serving" / "workloads").glob("*.py")
    if path.stem != "__init__"
)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_recipes_of_a_workload_fit_together(name: str) -> None:
    """What a recipe needs exists, chains end in the data, and the baseline starts from them."""
    workload = find_workload(name)
    assert workload.name == name
    assert workload.recipes[workload.baseline].needs is None
    for recipe in workload.recipes.values():
        seen = []
        while recipe.needs is not None:
            assert recipe.needs not in seen
            seen.append(recipe.needs)
            recipe = workload.recipes[recipe.needs]
