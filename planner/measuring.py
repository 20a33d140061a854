"""The command that measures one cell, for whoever is told that it was not."""

from __future__ import annotations

from planner.records import Candidate, Demand
from serving.records import Variant

REQUESTS = 5_000
"""So many requests a probe may take to find the highest load under the limit."""

MEASURE_IT = "; measure this: "
"""Between a reason and the command."""

_OPTIONS = {0.95: "--p95", 0.99: "--p99"}
"""Of ``tonnage measure``, by the objective's quantile."""


def measure_command(
    variant: Variant, candidate: Candidate, demand: Demand, measure_with: str | None = None
) -> str | None:
    """The command that measures one cell against a demand's limit; None where no option says it.

    ``measure_with`` is how the run's study is measured, ``tonnage measure STUDY``, or the command
    of a run without one, ``tonnage run --model ...``; by default the variant's workload.
    """
    begin = measure_with or f"tonnage measure {variant.workload}"
    if begin.startswith("tonnage run"):
        words = begin.split()
        batch = words[words.index("--batch") + 1] if "--batch" in words else "1"
        other = "" if batch == str(demand.batch) else f" --batch {demand.batch}"
        return f"{begin} --instance {candidate.size}{other}"
    option = _OPTIONS.get(demand.slo.quantile)
    if option is None:
        return None
    limit = f"{option} {demand.slo.limit_ms:g}ms"
    tokens = "" if demand.length is None else f" --length {demand.length}"
    return (
        f"{begin} --variant {candidate.variant} --instance {candidate.size} "
        f"--threads {candidate.threads} --batch {demand.batch}{tokens} --max-load {limit} "
        f"--budget {REQUESTS}"
    )
