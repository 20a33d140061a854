"""report.json: every table as data, and the records behind them with their quantiles."""

from __future__ import annotations

import json
import math
from datetime import date
from functools import lru_cache
from typing import Any

from loadtests.histogram import Histogram
from loadtests.quantiles import required_n
from reports import unjudged
from reports.bundle import Bundle
from reports.table import Section, Table
from reports.tables import answers, sections

SCHEMA_VERSION = 1
_QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}


def render(bundle: Bundle) -> str:
    """Report as JSON, keys in the order of the records, so that two runs can be diffed.

    ``tables`` holds the strings that a reader sees, ``records`` the numbers behind them,
    in which each histogram is replaced by its quantiles. What is not a number is null, and so is
    a quantile of which it has too few samples, even if they were independent.
    """
    found = sections(bundle)
    document = {
        "schema_version": SCHEMA_VERSION,
        "answers": answers(bundle),
        "not_judged": unjudged.of_study(bundle.measurements),
        "sections": [_section(section) for section in found],
        "tables": {t.name: _table(t) for section in found for t in section.tables},
        "records": _plain(bundle.model_dump(mode="python")),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "key": section.key,
        "title": section.title,
        "tables": [t.name for t in section.tables],
        "items": section.items,
        "code": section.code,
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "mark": table.mark,
        "header": table.header,
        "rows": table.rows,
        "notes": table.notes,
    }


def _plain(value: Any) -> Any:
    """Replace histograms by their quantiles and nan by null, all the way down."""
    if isinstance(value, dict):
        if value.keys() == {"count", "encoded"}:
            return dict(_quantiles(Histogram(**value)))
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value


@lru_cache(maxsize=4096)
def _quantiles(histogram: Histogram) -> tuple[tuple[str, float | int | None], ...]:
    values = zip(_QUANTILES.values(), histogram.quantiles_s(_QUANTILES.values()), strict=True)
    figures = (round(1e3 * v, 6) if histogram.count >= required_n(q) else None for q, v in values)
    return (("count", histogram.count), *zip(_QUANTILES, figures, strict=True))
