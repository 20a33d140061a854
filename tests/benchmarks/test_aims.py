"""Aims and explanations ask for variants that their studies build, or that --fine-tune adds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.aims import AIMS, TUNED, TUNED_AIMS, Aim, Figures
from benchmarks.explain import EXPLANATIONS
from benchmarks.explain_one import MEASUREMENTS
from benchmarks.workloads import why_missed
from tonnage.config import load_study


class _Asked(Figures):
    """Figures that answer anything, and remember which variants and batches they were asked for."""

    def __init__(self) -> None:
        super().__init__((), (), 0)
        self.names: set[str] = set()
        self.batches: set[int] = set()

    def score(self, name: str, metric: str) -> list[float]:
        self.names.add(name)
        return [1.0]

    def faster(self, name: str, against: str, batch: int) -> list[float]:
        self.names |= {name, against}
        self.batches.add(batch)
        return [1.0]

    def memory(self, name: str, against: str, batch: int) -> list[float]:
        self.names |= {name, against}
        self.batches.add(batch)
        return [1.0]

    def smaller(self, name: str, against: str) -> list[float]:
        self.names |= {name, against}
        return [1.0]

    def size(self, name: str) -> int:
        self.names.add(name)
        return 1


def asked(aims: Sequence[Aim]) -> _Asked:
    figures = _Asked()
    for aim in aims:
        aim.measure(figures)
    return figures


@pytest.mark.parametrize("name", AIMS)
def test_aims_ask_for_what_the_study_builds_and_times(name: str) -> None:
    study, _ = load_study(name)
    figures = asked(AIMS[name])
    assert figures.names <= set(study.variants)
    assert figures.batches <= set(study.bench.batches)


@pytest.mark.parametrize("name", TUNED_AIMS)
def test_aims_of_tuned_variants_ask_for_what_is_added(name: str) -> None:
    study, _ = load_study(name)
    figures = asked(TUNED_AIMS[name])
    assert figures.names <= {*study.variants, *TUNED[name]}
    assert not set(TUNED[name]) & set(study.variants)


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_explanations_need_what_the_study_builds(name: str) -> None:
    study, _ = load_study(name)
    assert name in AIMS
    for explanation in EXPLANATIONS[name]:
        assert set(explanation.needs) <= set(study.variants), explanation.name


@pytest.mark.parametrize("name", AIMS)
def test_figures_of_aims_are_told_apart(name: str) -> None:
    figures = [aim.figure for aim in (*AIMS[name], *TUNED_AIMS.get(name, ()))]
    assert len(figures) == len(set(figures))


def test_a_missed_aim_is_explained_below_the_aims_and_a_met_one_is_not() -> None:
    document = {
        "aims": [{"figure": "speed", "met": False}, {"figure": "size", "met": True}],
        "explained": [
            {"question": "Why so slow", "missed": {"speed": "It computes more."}},
            {"question": "Why so large", "missed": {"size": "It holds more."}},
            {"question": "What else"},
        ],
    }
    text = "\n".join(why_missed(document))
    assert "*speed*: It computes more. (See *Why so slow*.)" in text
    assert "holds more" not in text


def test_every_measurement_is_a_function_of_its_own() -> None:
    assert len(set(MEASUREMENTS.values())) == len(MEASUREMENTS)
