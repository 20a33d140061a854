"""The report's contents: its sections in reading order, the same for every format."""

from __future__ import annotations

from reports import (
    autoscaling_table,
    batching_table,
    comparison_table,
    gpu_table,
    model_tables,
    plan_tables,
    proven,
    run_tables,
    served_tables,
    sharing_table,
    steadiness_tables,
    words,
)
from reports.bundle import Bundle
from reports.carried_table import carried
from reports.table import Section, Table


def answers(bundle: Bundle) -> tuple[str, ...]:
    """Answer of the report: one sentence a profile."""
    return tuple(words.answer(r) for r in bundle.recommendations)


def sections(bundle: Bundle) -> tuple[Section, ...]:
    """All sections; from the second to the seventh they follow the seed report.

    Tables without rows are left out.
    """
    info = bundle.info
    found = (
        Section(
            key="comparison",
            title="Variants compared",
            tables=(comparison_table.comparison(bundle),),
        ),
        Section(key="sizes", title="Model sizes", tables=(model_tables.sizes(bundle),)),
        Section(
            key="inference", title="Inference in process", tables=(model_tables.inference(bundle),)
        ),
        Section(
            key="quality",
            title="Fidelity" if model_tables.is_fidelity(bundle) else "Quality",
            tables=(model_tables.quality(bundle),),
        ),
        Section(
            key="load",
            title="Load tests",
            tables=(
                model_tables.configurations(bundle),
                served_tables.capacities(bundle),
                served_tables.open_runs(bundle),
                served_tables.start_ups(bundle),
                sharing_table.sharing(bundle),
                steadiness_tables.floors(bundle),
                steadiness_tables.drift(bundle),
            ),
            plots=("latency", "throughput"),
        ),
        Section(
            key="recommendations",
            title="Recommended resources",
            tables=(
                *_recommendation_tables(bundle),
                batching_table.batching(bundle.recommendations),
            ),
        ),
        Section(
            key="gpu",
            title="GPU",
            items=gpu_table.verdict(bundle),
            tables=(gpu_table.reach_table(bundle), gpu_table.measured_table(bundle)),
        ),
        proven.section(bundle),
        proven.track_section(bundle),
        Section(
            key="reproduce",
            title="How to reproduce",
            code=info.reproduce,
            tables=(run_tables.files(bundle),),
        ),
        Section(
            key="conditions",
            title="Conditions and limits",
            items=info.assumptions,
            tables=(run_tables.skipped(bundle), carried(bundle), run_tables.environment(bundle)),
        ),
    )
    return tuple(filter(_says_something, map(_without_empty, found)))


def all_tables(bundle: Bundle) -> tuple[Table, ...]:
    """Every table of the report, in reading order."""
    return tuple(table for section in sections(bundle) for table in section.tables)


def _recommendation_tables(bundle: Bundle) -> list[Table]:
    tables = []
    for answer in bundle.recommendations:
        tables += [
            plan_tables.recommendation(bundle, answer),
            autoscaling_table.autoscaling(answer),
            plan_tables.alternatives(answer),
            plan_tables.rejection_summary(answer),
            plan_tables.rejections(answer),
        ]
    return tables


def _without_empty(section: Section) -> Section:
    return Section(
        key=section.key,
        title=section.title,
        tables=tuple(table for table in section.tables if table.rows),
        plots=section.plots,
        code=section.code,
        items=section.items,
    )


def _says_something(section: Section) -> bool:
    return bool(section.tables or section.items or section.code)
