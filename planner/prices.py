"""What instance types cost, and how fast their CPUs are against this host's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from planner.records import CpuFactor
from serving.errors import BadInput
from serving.records import InstanceType, Record
from serving.toml_config import build_record, near_matches, read_toml

STALE_AFTER_DAYS = 365
_TABLES = ("price", "cpu_factor")
_MOST_NAMED = 3


class Price(Record):
    """What an instance type costs, and since when we believe so."""

    instance: str
    usd_per_hour: float = Field(gt=0)
    region: str
    as_of: str
    source: str
    cpu_family: str


class PriceList(NamedTuple):
    """All prices and CPU factors of a file, in its order."""

    prices: tuple[Price, ...]
    factors: tuple[CpuFactor, ...]

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that there are prices of."""
        return tuple(sorted({price.region for price in self.prices}))

    def offers(self, region: str | None) -> dict[str, Price]:
        """What each instance type costs in a region; without one, where it is cheapest."""
        offered: dict[str, Price] = {}
        for price in self.prices:
            known = offered.get(price.instance, price)
            if region in (None, price.region) and price.usd_per_hour <= known.usd_per_hour:
                offered[price.instance] = price
        return offered


def load_prices(path: Path) -> PriceList:
    """Read ``[[price]]`` and ``[[cpu_factor]]``; BadInput names file, row and key."""
    document = read_toml(path)
    for key in document:
        if key not in _TABLES:
            raise BadInput(f"{path}: unknown table '{key}'; {near_matches(key, _TABLES)}")
    prices = tuple(
        _price(row, f"{path}: [[price]] number {number}")
        for number, row in enumerate(_rows(document.get("price", []), "price", path), 1)
    )
    factors = tuple(
        _factor(row, f"{path}: [[cpu_factor]] number {number}")
        for number, row in enumerate(_rows(document.get("cpu_factor", []), "cpu_factor", path), 1)
    )
    in_region = [f"{p.instance}' in '{p.region}" for p in prices]
    _refuse_twice(in_region, f"{path}: [[price]]", "instance")
    _refuse_twice([f.target_family for f in factors], f"{path}: [[cpu_factor]]", "target_family")
    return PriceList(prices, factors)


def price_warnings(
    listed: PriceList, instances: Mapping[str, InstanceType], file: Path, today: date
) -> list[str]:
    """What a reader of costs has to know of a price list, a line each; [] when nothing lacks.

    Prices that are older than a year, or of a day to come, and instance types of the catalogue
    that cannot be bought, for want of a price or of a CPU factor.
    """
    shapes = [i for i in instances.values() if not i.is_host_size]
    offered = listed.offers(None)
    families = {factor.target_family for factor in listed.factors}
    unpriced = [i.name for i in shapes if i.name not in offered]
    unlike = sorted({i.cpu_family for i in shapes if i.name in offered} - families)
    found = _ages(listed.prices, file, today)
    if unpriced and not listed.prices:
        found.append(
            f"{file} holds no price, so only this host's own sizes are planned; add [[price]]"
        )
    elif unpriced:
        found.append(
            f"{file} has no price of {_named(unpriced)}; what has none is left out; add [[price]]"
        )
    if unlike:
        found.append(
            f"{file} has no CPU factor of {_named(unlike)}, so its instances are left out; add "
            "[[cpu_factor]], or run 'tonnage calibrate' there"
        )
    return found


def _ages(prices: Sequence[Price], file: Path, today: date) -> list[str]:
    age = [(today - date.fromisoformat(p.as_of)).days for p in prices]
    stale = [(p, days) for p, days in zip(prices, age, strict=True) if days > STALE_AFTER_DAYS]
    found = []
    if len(stale) == 1:
        price, days = stale[0]
        found.append(
            f"{file}: the price of {price.instance} is from {price.as_of}, {days} days ago; look "
            "it up again and change usd_per_hour and as_of"
        )
    elif stale:
        found.append(
            f"{file}: {len(stale)} prices are older than a year (oldest "
            f"{min(p.as_of for p, _ in stale)}); look them up, and change usd_per_hour and as_of"
        )
    if early := [p.instance for p, days in zip(prices, age, strict=True) if days < 0]:
        found.append(f"{file}: as_of lies in the future for {_named(early)}; correct it")
    return found


def _named(names: Sequence[str]) -> str:
    """``a, b, c and 4 more``."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _price(row: object, where: str) -> Price:
    price = build_record(Price, row, where)
    try:
        date.fromisoformat(price.as_of)
    except ValueError:
        raise BadInput(
            f"{where} ({price.instance}): key 'as_of' is '{price.as_of}'; "
            "write a date such as 2025-01-15"
        ) from None
    return price


def _factor(row: object, where: str) -> CpuFactor:
    factor = build_record(CpuFactor, row, where)
    if not factor.low <= factor.mid <= factor.high:
        raise BadInput(
            f"{where} ({factor.target_family}): low, mid and high must rise, "
            f"not {factor.low:g}, {factor.mid:g}, {factor.high:g}; order them"
        )
    return factor


def _rows(value: object, name: str, path: Path) -> list[object]:
    if not isinstance(value, list):
        raise BadInput(f"{path}: [{name}] must be a list of tables; write [[{name}]]")
    return value


def _refuse_twice(names: list[str], where: str, key: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{where}: {key} '{name}' occurs {names.count(name)} times; keep one")
