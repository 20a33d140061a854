"""What instance types cost, and how fast their CPUs are against this host's."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from planner.records import CpuFactor
from serving.errors import BadInput
from serving.records import Record
from serving.toml_config import build_record, near_matches, read_toml

STALE_AFTER_DAYS = 365
_TABLES = ("price", "cpu_factor")


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


def staleness(price: Price, today: date) -> str | None:
    """Warn when the price was noted over a year before ``today``; None when it was not."""
    age = (today - date.fromisoformat(price.as_of)).days
    if age <= STALE_AFTER_DAYS:
        return None
    return (
        f"the price of {price.instance} is from {price.as_of}, {age} days ago; "
        "look it up again and change usd_per_hour and as_of"
    )


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
