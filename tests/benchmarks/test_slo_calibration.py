"""What is published about verdicts is what was found."""

from __future__ import annotations

import json

from benchmarks.slo_calibration import PUBLISHED, render


def test_the_published_table_has_both_rules() -> None:
    """Every row that the published figures make is in the table beside them, of either rule."""
    rows = render({"slo_calibration": json.loads(PUBLISHED.read_text())})
    table = (PUBLISHED.parent / "bench.md").read_text().splitlines()
    assert rows == [line for line in table if line.startswith("| SLO verdicts")]
    assert sum("by latencies alone (any server)" in row for row in rows) == 8
