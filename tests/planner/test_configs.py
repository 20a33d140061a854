"""Configuration files: what ships is consistent, and every mistake is one clear line."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from planner.demands import load_demands
from planner.prices import Price, PriceList, load_prices, price_warnings
from planner.records import CpuFactor
from serving.errors import BadInput
from serving.instances import load_instances, resolve
from serving.records import InstanceType
from serving.toml_config import near_matches, read_toml

CONFIGS = Path(__file__).parents[2] / "configs"

PRICE = """
[[price]]
instance = "c7i.large"
usd_per_hour = 0.08925
region = "us-east-1"
as_of = 2025-01-15
source = "list"
cpu_family = "intel"
"""
FACTOR = """
[[cpu_factor]]
target_family = "intel"
low = 0.6
mid = 0.9
high = 1.1
basis = "assumed"
"""
INSTANCE = """
[sim-1]
vcpus = 1
memory_gib = 2
enforcement = "cpuset"
cpu_family = "host"
"""
DEMAND = """
[real-time]
title = "Real-time API"
batch = 1
batch_range = [1, 10]
rate_rps = 600
quantile = 0.99
limit_ms = 25
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "file.toml"
    path.write_text(text)
    return path


def test_what_ships_is_consistent() -> None:
    """Every cloud shape has a price of its own CPU family, and that family a factor."""
    instances = load_instances(CONFIGS / "instances.toml")
    prices, factors = load_prices(CONFIGS / "prices.toml")
    cloud = {i.name: i.cpu_family for i in instances.values() if not i.is_host_size}
    assert {p.instance: p.cpu_family for p in prices} == cloud
    assert {f.target_family for f in factors} == set(cloud.values())
    assert {i.name for i in instances.values() if i.is_host_size} == {
        "sim-0.25",
        "sim-0.5",
        "sim-1",
        "sim-2",
    }
    assert all("assumed" in f.basis for f in factors)


def test_fargate_prices_follow_from_its_rates() -> None:
    """0.04048 USD per vCPU-hour and 0.004445 per GB-hour, for each size."""
    instances = load_instances(CONFIGS / "instances.toml")
    prices = {p.instance: p.usd_per_hour for p in load_prices(CONFIGS / "prices.toml").prices}
    for name in ("fargate-0.25", "fargate-0.5", "fargate-1", "fargate-2"):
        size = instances[name]
        expected = 0.04048 * size.vcpus + 0.004445 * size.memory_gib
        assert prices[name] == pytest.approx(expected, abs=1e-6)


def test_the_shipped_profiles_can_be_read() -> None:
    """Production, real-time and batch, with the seed's in-process limit shown apart."""
    production, real_time, batch = load_demands(CONFIGS / "profiles.toml")
    assert (production.name, production.batch, production.slo.limit_ms) == ("production", 100, 50)
    assert real_time.in_process_limit_ms == 1
    assert (batch.slo.quantile, batch.batch_range) == (0.95, (1000, 6000))


def test_enforcement_can_be_overridden() -> None:
    """``sim-1:quota`` is sim-1 by name, and says quota in its label."""
    catalogue = load_instances(CONFIGS / "instances.toml")
    assert resolve("sim-1", catalogue) is catalogue["sim-1"]
    assert resolve("sim-1:quota", catalogue).label == "sim-1 (quota)"
    assert resolve("sim-1:cpuset", catalogue) == catalogue["sim-1"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sim1", "instance 'sim1': unknown; did you mean 'sim-1'"),
        ("zzz", "instance 'zzz': unknown; known are: F2s_v2, "),
        ("sim-1:weight", "unknown enforcement; write 'sim-1:cpuset' or 'sim-1:quota'"),
        ("sim-0.5:cpuset", "cpuset grants whole CPUs, vcpus = 0.5 needs quota"),
    ],
)
def test_an_instance_that_cannot_be_resolved_says_what_to_write(spec: str, message: str) -> None:
    """Unknown names list near matches; a contradiction names both sides."""
    with pytest.raises(BadInput) as caught:
        resolve(spec, load_instances(CONFIGS / "instances.toml"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (INSTANCE.replace("vcpus", "vcpu"), "[sim-1]: key 'vcpus' is missing; add it"),
        (INSTANCE + "vcpuz = 1", "[sim-1]: unknown key 'vcpuz'; did you mean 'vcpus'?"),
        (INSTANCE.replace("vcpus = 1", "vcpus = 9"), "key 'vcpus' is 9: input should be less"),
        (INSTANCE.replace("vcpus = 1", "vcpus = inf"), "key 'vcpus' is inf; give a finite"),
        (INSTANCE.replace("= 2", '= "2"'), "key 'memory_gib' is '2': input should be a valid n"),
        (INSTANCE.replace("vcpus = 1", "vcpus = 0.5"), "vcpus = 0.5 needs quota"),
        (INSTANCE + 'name = "x"', "[sim-1]: remove the key 'name'"),
        ("vcpus = 1", "[vcpus]: must be a table; 'vcpus = 1' stands outside of any"),
        ("", "holds no instance type; add a table such as [sim-1]"),
        ("[sim-1\n", "not valid TOML: Expected ']' at the end of a table declaration (at line 1"),
    ],
)
def test_mistakes_in_instances_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    """File, table, key, and what to change."""
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        load_instances(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRICE.replace("0.08925", "-1"), "[[price]] number 1: key 'usd_per_hour' is -1"),
        (PRICE.replace("2025-01-15", '"May"'), "key 'as_of' is 'May'; write a date such as"),
        (PRICE + PRICE, "instance 'c7i.large' in 'us-east-1' occurs 2 times; keep one"),
        (FACTOR + FACTOR, "[[cpu_factor]]: target_family 'intel' occurs 2 times"),
        (FACTOR.replace("0.6", "1.0"), "low, mid and high must rise, not 1, 0.9, 1.1"),
        (PRICE.replace("[[price]]", "[[prices]]"), "unknown table 'prices'; did you mean 'price'?"),
        (
            PRICE.replace("[[price]]", "[price]"),
            "[price] must be a list of tables; write [[price]]",
        ),
        ("price = [1]", "[[price]] number 1: must be a table of keys, not 1"),
    ],
)
def test_mistakes_in_prices_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    """File, row, key, and what to change."""
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        load_prices(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEMAND.replace("600", "-600"), "[real-time]: key 'rate_rps' is -600"),
        (DEMAND.replace("0.99", "99"), "key 'quantile' is 99: input should be less than 1"),
        (DEMAND.replace("batch = 1\n", "batch = 11\n"), "batch = 11 lies outside batch_range"),
        (DEMAND + "max_replicas = 2\nspare_replicas = 2", "raise max_replicas"),
        (DEMAND + "p99 = 1", "unknown key 'p99'"),
        (
            DEMAND + "more_slos = [{ quantile = 0.99, limit_ms = 9 }]",
            "[real-time]: two objectives on one quantile; keep one",
        ),
        (
            DEMAND + "more_slos = [{ quantile = 50, limit_ms = 9 }]",
            "key 'more_slos.0.quantile' is 50: input should be less than 1",
        ),
        (
            DEMAND + "min_quality = { acu = 0.7 }",
            "min_quality: unknown measure 'acu'; known are auc",
        ),
        (DEMAND + "min_quality = 0.7", "key 'min_quality' is 0.7: input should be"),
        (DEMAND + "batch_mix = { 1 = 0.7, 8 = 0.3 }", "batch = 1 is not the largest of the mix, 8"),
        (DEMAND + "batch_mix = { 1 = 0 }", "key 'batch_mix': give batch sizes from 1 and weights"),
        (DEMAND + "batch_mix = {}", "key 'batch_mix': give batch sizes from 1 and weights above 0"),
        (DEMAND + "batch_mix = { one = 1 }", "key 'batch_mix.one.[key]' is 'one'"),
        (DEMAND.replace("batch = 1\n", ""), "key 'batch' is missing; add it"),
        (DEMAND.replace("batch_range = [1, 10]\n", ""), "key 'batch_range' is missing; add it"),
        (DEMAND + "error_budget = 1", "key 'error_budget' is 1: input should be less than 1"),
        (DEMAND + "max_replica_memory_gib = 0", "key 'max_replica_memory_gib' is 0"),
        ("", "holds no profile"),
    ],
)
def test_mistakes_in_profiles_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    """File, table, key, and what to change."""
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        load_demands(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_profile_may_ask_for_more(tmp_path: Path) -> None:
    """Objectives beside the principal one, a budget, gates of quality and memory, a region."""
    (asked,) = load_demands(
        written(
            tmp_path,
            DEMAND
            + """
more_slos = [{ quantile = 0.5, limit_ms = 10 }, { quantile = 0.999, limit_ms = 80 }]
error_budget = 0.001
min_quality = { auc = 0.76 }
max_replica_memory_gib = 0.5
region = "us-east-1"
""",
        )
    )
    assert [(s.quantile, s.limit_ms) for s in asked.slos] == [(0.99, 25), (0.5, 10), (0.999, 80)]
    assert (asked.error_budget, asked.min_quality) == (0.001, {"auc": 0.76})
    assert (asked.max_replica_memory_gib, asked.region) == (0.5, "us-east-1")


def test_a_profile_may_mix_batch_sizes(tmp_path: Path) -> None:
    """The largest is its batch, both ends its range; a request has its mean of rows."""
    without = DEMAND.replace("batch = 1\n", "").replace("batch_range = [1, 10]\n", "")
    (asked,) = load_demands(written(tmp_path, without + "batch_mix = { 1 = 0.7, 100 = 0.3 }"))
    assert (asked.batch, asked.batch_range, asked.batches) == (100, (1, 100), (1, 100))
    assert asked.mean_batch == pytest.approx(30.7)


def test_a_profile_may_ask_for_rows_of_a_length(tmp_path: Path) -> None:
    """In tokens; by default nothing is said of it."""
    (asked,) = load_demands(written(tmp_path, DEMAND + "length = 64"))
    (other,) = load_demands(written(tmp_path, DEMAND))
    assert (asked.length, other.length) == (64, None)


def test_an_instance_may_have_a_price_in_each_region(tmp_path: Path) -> None:
    """Of a region it is that one; of none, where it is cheapest."""
    dear = PRICE.replace("us-east-1", "eu-west-1").replace("0.08925", "0.1")
    prices = load_prices(written(tmp_path, PRICE + dear))
    assert prices.regions == ("eu-west-1", "us-east-1")
    assert prices.offers("eu-west-1")["c7i.large"].usd_per_hour == 0.1
    assert prices.offers(None)["c7i.large"].usd_per_hour == 0.08925
    assert prices.offers("mars") == {}


def test_dates_may_be_toml_dates(tmp_path: Path) -> None:
    """``as_of = 2025-01-15`` means the same with and without quotes."""
    (price,), _ = load_prices(written(tmp_path, PRICE))
    assert price.as_of == "2025-01-15"


def test_unreadable_files_say_so(tmp_path: Path) -> None:
    """Missing, a folder, or not text: three different lines."""
    with pytest.raises(BadInput, match="no such file"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(BadInput, match="cannot be read"):
        read_toml(tmp_path)
    path = tmp_path / "binary.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(BadInput, match="not UTF-8 at byte 5"):
        read_toml(path)


def test_near_matches_fall_back_to_what_is_known() -> None:
    """Nothing close lists everything; nothing at all says so."""
    assert near_matches("zzz", ["b", "a"]) == "known are: a, b"
    assert near_matches("zzz", []) == "none is known"


def priced(*dates: str, families: tuple[str, ...] = ("intel",)) -> PriceList:
    prices = tuple(
        Price(
            instance=f"vm-{number}",
            usd_per_hour=0.09,
            region="us-east-1",
            as_of=day,
            source="list",
            cpu_family="intel",
        )
        for number, day in enumerate(dates, 1)
    )
    factors = (CpuFactor(target_family=f, low=1, mid=1, high=1, basis="") for f in families)
    return PriceList(prices, tuple(factors))


def shapes(number: int) -> dict[str, InstanceType]:
    """The catalogue: so many shapes that could be bought, and one size of this host."""
    sizes = {f"vm-{n}": "intel" for n in range(1, number + 1)} | {"sim-1": "host"}
    return {
        name: InstanceType(
            name=name, vcpus=1, memory_gib=2, enforcement="cpuset", cpu_family=family
        )
        for name, family in sizes.items()
    }


def test_a_price_grows_stale_after_a_year() -> None:
    """A year is fine, a day more is a warning that names file, price and age; several are one."""
    file = Path("mine.toml")
    one, two = priced("2025-01-15"), priced("2025-01-15", "2025-02-01", "2026-01-01")
    assert price_warnings(one, shapes(1), file, date(2026, 1, 15)) == []
    (warning,) = price_warnings(one, shapes(1), file, date(2026, 1, 16))
    assert warning.startswith("mine.toml: the price of vm-1 is from 2025-01-15, 366 days ago")
    (warning,) = price_warnings(two, shapes(3), file, date(2026, 2, 2))
    assert "mine.toml: 2 prices are older than a year (oldest 2025-01-15)" in warning
    (warning,) = price_warnings(one, shapes(1), file, date(2025, 1, 14))
    assert "as_of lies in the future for vm-1" in warning


def test_what_cannot_be_bought_for_want_of_a_price_is_said() -> None:
    """Shapes without a price, families without a factor, a list of none; own sizes have none."""
    file, today = Path("mine.toml"), date(2025, 1, 15)
    (warning,) = price_warnings(priced("2025-01-15"), shapes(6), file, today)
    assert (
        "mine.toml has no price of vm-2, vm-3, vm-4 and 2 more; what has none is left out"
        in warning
    )
    (warning,) = price_warnings(priced("2025-01-15", families=()), shapes(1), file, today)
    assert "mine.toml has no CPU factor of intel" in warning
    (warning,) = price_warnings(priced(), shapes(6), file, today)
    assert "mine.toml holds no price, so only this host's own sizes are planned" in warning
    assert price_warnings(priced(), shapes(0), file, today) == []
