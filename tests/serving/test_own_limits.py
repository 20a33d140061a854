"""What the container that Tonnage runs in may use, read from fake trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cgroup_mounts import hierarchies
from serving.errors import BadInput
from serving.grants import check_fits_host, container_instance, grants_of
from serving.instances import as_toml, load_instances, resolve
from serving.own_limits import read_own_limits, read_own_usage
from serving.records import InstanceType, OwnLimits

UNLIMITED = "9223372036854771712"


def v2(tmp_path: Path, own: str, root: str = "/") -> Path:
    """/proc/self of a process in the group ``own`` of a version 2 mounted at ``tmp_path``."""
    (tmp_path / "mountinfo").write_text(f"30 24 0:26 {root} {tmp_path} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cgroup").write_text(f"0::{own}\n")
    return tmp_path


def group(path: Path, **files: str) -> None:
    """A control group with these files; ``cpu_max`` stands for ``cpu.max``."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("_", ".", 1)).write_text(text + "\n")


def v1(tmp_path: Path, own: str, root: str) -> Path:
    """The same for version 1, every controller on its own mount."""
    mounts, places = [], []
    for number, controller in enumerate(("cpu", "cpuacct", "cpuset", "memory")):
        mounts.append(
            f"3{number} 24 0:2{number} {root} {tmp_path / controller} rw - cgroup x rw,{controller}"
        )
        places.append(f"{number}:{controller}:{own}")
        (tmp_path / controller).mkdir(exist_ok=True)
    (tmp_path / "mountinfo").write_text("\n".join(mounts) + "\n")
    (tmp_path / "cgroup").write_text("\n".join(places) + "\n")
    return tmp_path


def test_v2_container_with_a_namespace(tmp_path: Path) -> None:
    """Docker run --cpus 1.5 --memory 2g --cpuset-cpus 0-1, as it looks from inside."""
    here = v2(tmp_path, "/")
    group(tmp_path, cpu_max="150000 100000", memory_max=str(2 << 30), cgroup_events="populated 1")
    group(tmp_path, **{"cpuset_cpus.effective": "0-1"})
    limits = read_own_limits(here, range(8))
    assert limits == OwnLimits(cpus=(0, 1), quota_cpus=1.5, memory_bytes=2 << 30)
    assert (limits.vcpus, limits.quota_binds) == (1.5, True)


def test_v2_the_tightest_of_nested_limits_binds(tmp_path: Path) -> None:
    """A slice of half a CPU around a service of two; the memory limit is the service's."""
    here = v2(tmp_path, "/small.slice/big.service")
    group(tmp_path / "small.slice", cpu_max="50000 100000", memory_max="max")
    group(tmp_path / "small.slice/big.service", cpu_max="200000 100000", memory_max="1000000")
    assert read_own_limits(here, (3,)) == OwnLimits(
        cpus=(3,), quota_cpus=0.5, memory_bytes=1_000_000
    )


def test_v2_without_limits(tmp_path: Path) -> None:
    """A login session: nothing binds but the affinity."""
    here = v2(tmp_path, "/user.slice")
    group(tmp_path / "user.slice", cpu_max="max 100000", memory_max="max")
    limits = read_own_limits(here, (0, 1))
    assert limits == OwnLimits(cpus=(0, 1), quota_cpus=None, memory_bytes=None)
    assert (limits.vcpus, limits.quota_binds) == (2, False)


def test_v1_container(tmp_path: Path) -> None:
    """Docker on version 1 mounts the container's own group: /proc names it from outside."""
    here = v1(tmp_path, "/docker/abc", "/docker/abc")
    group(tmp_path / "cpu", cpu_cfs_quota_us="75000", cpu_cfs_period_us="50000")
    group(tmp_path / "cpuset", cpuset_effective_cpus="2-3")
    group(tmp_path / "memory", memory_limit_in_bytes=str(1 << 30))
    group(tmp_path / "memory", memory_stat=f"cache 1\nhierarchical_memory_limit {1 << 29}")
    assert read_own_limits(here, range(4)) == OwnLimits(
        cpus=(2, 3), quota_cpus=1.5, memory_bytes=1 << 29
    )


def test_v1_nested_and_unlimited(tmp_path: Path) -> None:
    """The parent's quota binds where the own group has none; -1 and 2^63 mean no limit."""
    here = v1(tmp_path, "/a/b", "/")
    group(tmp_path / "cpu/a", cpu_cfs_quota_us="25000", cpu_cfs_period_us="100000")
    group(tmp_path / "cpu/a/b", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    group(tmp_path / "memory/a/b", memory_limit_in_bytes=UNLIMITED)
    assert read_own_limits(here, (0,)) == OwnLimits(cpus=(0,), quota_cpus=0.25, memory_bytes=None)


def test_a_mount_may_hide_another(tmp_path: Path) -> None:
    """Docker binds the container's group over the host's tree: what is on top is read."""
    here = v1(tmp_path, "/docker/abc", "/")
    hiding = here / "mountinfo"
    bound = hiding.read_text().replace(" / ", " /docker/abc ", 4)
    elsewhere = f"39 24 0:20 / {tmp_path / 'host'} rw - cgroup x rw,cpu\n"
    hiding.write_text(hiding.read_text() + bound + elsewhere)
    group(tmp_path / "cpu", cpu_cfs_quota_us="150000", cpu_cfs_period_us="100000")
    places = hierarchies(here).v1
    assert {place.own for place in places.values()} == {tmp_path / name for name in places}
    assert read_own_limits(here, (0, 1)).quota_cpus == 1.5


def test_nothing_readable_means_no_limits(tmp_path: Path) -> None:
    """Without /proc/self/mountinfo (a locked-down sandbox) only the affinity is known."""
    limits = read_own_limits(tmp_path / "absent", (1,))
    assert limits == OwnLimits(cpus=(1,), quota_cpus=None, memory_bytes=None)
    assert read_own_usage(tmp_path / "absent").cpu_s is None


def test_usage_of_the_container(tmp_path: Path) -> None:
    """CPU time of the own group, and the throttling of the level that suffers most."""
    here = v2(tmp_path, "/outer/inner")
    for name, throttled in (("outer", 7), ("outer/inner", 2)):
        group(
            tmp_path / name,
            cpu_stat=f"usage_usec 2500000\nnr_periods 40\nnr_throttled {throttled}",
            cgroup_events="populated 1",
        )
    usage = read_own_usage(here)
    assert (usage.cpu_s, usage.throttled_periods) == (2.5, 7)


def test_the_root_of_all_is_no_container(tmp_path: Path) -> None:
    """What the whole machine uses is not what a container uses."""
    here = v2(tmp_path, "/")
    group(tmp_path, cpu_stat="usage_usec 2500000")
    assert read_own_usage(here).cpu_s is None
    (tmp_path / "old").mkdir()
    old = v1(tmp_path / "old", "/", "/")
    group(tmp_path / "old/cpuacct", cpuacct_usage="2500000000")
    assert read_own_usage(old).cpu_s == 2.5
    (tmp_path / "old/cpuacct/release_agent").touch()
    assert read_own_usage(old).cpu_s is None


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> OwnLimits:
    """Tonnage in a container of a CPU and a half and 1 GiB."""
    limits = OwnLimits(cpus=(0, 1), quota_cpus=1.5, memory_bytes=1 << 30)
    for module in ("serving.grants", "serving.host_facts"):
        monkeypatch.setattr(f"{module}.read_own_limits", lambda: limits)
    return limits


def test_the_container_is_an_instance(inside: OwnLimits, tmp_path: Path) -> None:
    """It has the size that was read, can be named, survives a run's file, and is granted."""
    size = resolve("container", {})
    assert size == container_instance()
    assert (size.vcpus, size.memory_gib, size.enforcement) == (1.5, 1.0, "quota")
    (tmp_path / "instances.toml").write_text(as_toml(size))
    assert load_instances(tmp_path / "instances.toml") == {"container": size}
    check_fits_host(size)
    (granted,) = grants_of(size, 1, (1,), None)
    assert (granted.method, granted.cpus) == ("container", (0, 1))
    assert (granted.quota_cpus, granted.memory_bytes) == (1.5, 1 << 30)
    with pytest.raises(BadInput, match="holds one replica"):
        grants_of(size, 2, (1,), None)


def test_the_containers_memory_is_respected(inside: OwnLimits) -> None:
    """A size that the machine has memory for, but the container has not, is refused."""
    large = InstanceType(
        name="sim-1", vcpus=1, memory_gib=2, enforcement="cpuset", cpu_family="host"
    )
    with pytest.raises(BadInput, match=r"has 2 GiB, this host has 1\.0"):
        check_fits_host(large)
