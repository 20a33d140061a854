"""Which CPUs go to the replicas and which to the platform."""

from __future__ import annotations

import pytest

from serving.errors import BadInput
from serving.placement import (
    CannotBeMeasured,
    check_measurable,
    cpus_of_replicas,
    divide,
    rotated,
)
from serving.records import InstanceType


def size(vcpus: float, enforcement: str = "quota") -> InstanceType:
    return InstanceType.model_validate(
        {
            "name": f"t-{vcpus:g}",
            "vcpus": vcpus,
            "memory_gib": 1,
            "enforcement": enforcement,
            "cpu_family": "host",
        }
    )


def test_two_cores_are_shared_out_one_each() -> None:
    """The platform takes the first core, the replicas the second."""
    parts = divide([(0,), (1,)])
    assert (parts.platform_cpus, parts.replica_cpus, parts.shared) == ((0,), (1,), False)


def test_siblings_stay_together() -> None:
    """Hyper-threads of one core never serve both sides."""
    parts = divide([(0, 4), (1, 5), (2, 6), (3, 7)])
    assert parts.platform_cpus == (0, 4)
    assert parts.replica_cpus == (1, 5, 2, 6, 3, 7)


def test_what_does_not_fit_beside_the_generator_is_refused() -> None:
    """Two CPUs on a two-core host are left to prediction, and the text says why."""
    parts = divide([(0,), (1,)])
    check_measurable(size(0.5), 2, parts)
    with pytest.raises(CannotBeMeasured, match="needs 2 CPUs; this host has 2"):
        check_measurable(size(2, "cpuset"), 1, parts)
    with pytest.raises(CannotBeMeasured, match="one core"):
        check_measurable(size(0.25), 1, divide([(0,)]))


def test_quota_replicas_pack_and_cpuset_replicas_do_not() -> None:
    """Two halves share a CPU; two whole ones have one each."""
    assert cpus_of_replicas(size(0.5), 2, (1, 2, 3)) == [(3,), (3,)]
    assert cpus_of_replicas(size(1, "cpuset"), 2, (1, 2, 3)) == [(2,), (3,)]
    with pytest.raises(BadInput, match="choose a smaller instance"):
        cpus_of_replicas(size(2, "cpuset"), 2, (1, 2, 3))


def test_a_fraction_needs_a_quota() -> None:
    """A cpuset of half a CPU is refused when the instance type is read."""
    with pytest.raises(ValueError, match="needs quota"):
        size(0.5, "cpuset")


def test_the_quota_of_a_container_is_no_ones_twice() -> None:
    """Four CPUs and a quota of two and a half: the platform's CPU comes off it first."""
    parts = divide([(0,), (1,), (2,), (3,)], quota_cpus=2.5)
    assert (parts.platform_cpus, parts.quota_left) == ((0,), 1.5)
    check_measurable(size(1, "cpuset"), 1, parts)
    with pytest.raises(CannotBeMeasured, match=r"quota of this container leaves 1\.5"):
        check_measurable(size(1, "cpuset"), 2, parts)
    large = divide([(cpu,) for cpu in range(64)], quota_cpus=8)
    assert (large.platform_cpus, large.quota_left) == ((0, 1), 6)


def test_the_container_itself_always_fits() -> None:
    """On a single core, too: whether it could be shared is judged by what is measured."""
    container = size(1, "cpuset").model_copy(update={"name": "container"})
    check_measurable(container, 1, divide([(0,)]))
    check_measurable(container, 1, divide([(0,), (1,)], quota_cpus=1.5))


@pytest.mark.parametrize(
    ("available", "cpus", "picked"),
    [
        ((1,), 1, [(1,), (1,)]),
        ((1, 2, 3), 1, [(3,), (2,), (1,), (3,)]),
        ((1, 2, 3), 2, [(2, 3), (2, 3)]),
        ((1, 2, 3, 4, 5), 2, [(4, 5), (2, 3), (4, 5)]),
        ((1, 2), 3, [(1, 2), (1, 2)]),
    ],
)
def test_what_is_deployed_anew_gets_other_cpus(
    available: tuple[int, ...], cpus: int, picked: list[tuple[int, ...]]
) -> None:
    """Where there are others; the last ones are taken, in ascending order, and none is lost."""
    given = available
    for expected in picked:
        assert given[-cpus:] == expected
        assert sorted(given) == list(available)
        given = rotated(given, cpus)
