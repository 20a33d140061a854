"""What reports say of the Pareto set, of predicted sizes, and of what to measure next."""

from __future__ import annotations

from typing import Any

from planner.constraint import Change, Constraint
from planner.records import Bottleneck, Nearest, Probe, Recommendation, Rejection
from reports import plan_tables, words
from reports.bundle import Bundle
from reports.terminal import WIDTH, recommendation_text

PROBE = Probe(
    variant="onnx_int8",
    size="sim-1:quota",
    threads=1,
    batch=100,
    seconds=14.2,
    saving_usd_per_month=12.5,
    why="not measured at batch 100",
    command="tonnage measure runs/credit --variant onnx_int8 --instance sim-1:quota --threads 1 "
    "--batch 100",
)


def with_first(bundle: Bundle, plan: dict[str, Any], **answer: Any) -> Bundle:
    """The bundle with its first answer changed, and the best plan of it."""
    first, *rest = bundle.recommendations
    assert first.best is not None
    best = first.best.model_copy(update=plan)
    changed = first.model_copy(update={"best": best, **answer})
    return bundle.model_copy(update={"recommendations": (changed, *rest)})


def test_the_plan_table_marks_the_pareto_set(bundle: Bundle) -> None:
    """A column says yes for members and nothing for the others."""
    answer = with_first(bundle, {"pareto": True}).recommendations[0]
    table = plan_tables.alternatives(answer)
    column = table.header.index("Pareto set")
    assert [row[column] for row in table.rows] == ["yes", *[""] * len(answer.alternatives)]


def test_a_predicted_size_says_so_wherever_it_is_named(bundle: Bundle) -> None:
    """In the table of plans, in the table of the answer, and on the terminal."""
    law = "predicted size, from sim-0.25 (quota), sim-0.5 (quota); each left out is missed by 7%"
    changed = with_first(bundle, {"predicted_size": law})
    answer = changed.recommendations[0]
    assert plan_tables.alternatives(answer).rows[0][0].endswith("(predicted size)")
    shown = dict(row[:2] for row in plan_tables.recommendation(changed, answer).rows)
    assert shown["Size"].startswith(law)
    assert "size       predicted size, from sim-0.25" in recommendation_text(changed)


def test_a_predicted_batch_size_says_so_wherever_it_is_named(bundle: Bundle) -> None:
    """The same for a batch size, which is no property of the machine."""
    law = "predicted batch size, from 1, 6,000; two make a line, and nothing tests it"
    changed = with_first(bundle, {"predicted_batch": law})
    answer = changed.recommendations[0]
    assert plan_tables.alternatives(answer).rows[0][0].endswith("(predicted batch size)")
    shown = dict(row[:2] for row in plan_tables.recommendation(changed, answer).rows)
    assert shown["Batch size"].startswith(law)
    assert "batch size predicted batch size, from 1, 6,000" in recommendation_text(changed)


def test_a_predicted_length_says_so_wherever_it_is_named(bundle: Bundle) -> None:
    """The same for the length of rows; the demand names it."""
    law = "predicted length, from 32, 128; two make a line, and nothing tests it"
    changed = with_first(bundle, {"predicted_length": law})
    answer = changed.recommendations[0]
    assert plan_tables.alternatives(answer).rows[0][0].endswith("(predicted length)")
    shown = dict(row[:2] for row in plan_tables.recommendation(changed, answer).rows)
    assert shown["Length"].startswith(law)
    assert "length     predicted length, from 32, 128" in recommendation_text(changed)
    asked = answer.demand.model_copy(update={"length": 64})
    assert words.demand(asked).startswith("batch 100 of 64 tokens at 400 req/s")


def test_at_most_three_commands_are_shown_each_on_a_line_of_its_own(bundle: Bundle) -> None:
    """They are there to be copied, whatever the width."""
    none = recommendation_text(bundle)
    assert "tonnage measure" not in none
    text = recommendation_text(with_first(bundle, {}, probes=(PROBE,) * 5))
    lines = [line for line in text.splitlines() if PROBE.command in line]
    assert len(lines) == 3
    assert lines[0].startswith("  measure    tonnage measure runs/credit")
    assert lines[0].endswith("# 14 s, may save USD 12.50 per month")
    assert len(lines[0]) > WIDTH
    news = PROBE.model_copy(update={"saving_usd_per_month": None})
    assert "may give an answer" in recommendation_text(with_first(bundle, {}, probes=(news,)))


def test_the_terminal_lists_other_members_of_the_set(bundle: Bundle) -> None:
    """Those with a price where the best has one, with what they cost and give."""
    answer = bundle.recommendations[0]
    assert answer.best is not None
    other = answer.best.model_copy(
        update={
            "pareto": True,
            "instances": 2,
            "usd_per_month": 777.0,
            "quality_loss": 0.012,
        }
    )
    hosts = other.model_copy(update={"usd_per_month": None})
    text = recommendation_text(with_first(bundle, {"pareto": True}, alternatives=(other, hosts)))
    lines = [line for line in text.splitlines() if "trade-offs" in line]
    assert len(lines) == 1
    assert "USD 777.00 per month" in text
    assert "1.2 points of quality less" in " ".join(text.split())


def without_plan(bundle: Bundle, *bottlenecks: Bottleneck, **answer: Any) -> Recommendation:
    """An answer that nothing holds, with a rejection for each of these."""
    first = bundle.recommendations[0]
    assert first.best is not None
    rejections = tuple(
        Rejection(candidate=first.best.candidate, bottleneck=b, reason=f"{b} {number}")
        for number, b in enumerate(bottlenecks)
    )
    update = {"best": None, "alternatives": (), "rejections": rejections, **answer}
    return first.model_copy(update=update)


def test_two_figures_that_give_way_together_are_one_line(bundle: Bundle) -> None:
    """Both changes, and the plan that holds them; what binds is both."""
    plan = bundle.recommendations[0].best
    assert plan is not None
    limit = Change(constraint=Constraint.LIMIT, of="p99", asked=3, works=6.5)
    near = Nearest(constraint=Constraint.REPLICAS, asked=1, works=9, plan=plan, besides=limit)
    answer = without_plan(bundle, Bottleneck.LATENCY, nearest=(near,))
    (line,) = words.nearest(answer)
    said = "p99 at most 6.5 ms instead of 3 ms, and max_replicas = 9 instead of 1: "
    assert line.startswith(said + words.configuration(plan))
    assert words.binding(answer) == "bound by p99 limit and replicas: both have to give way"
    alone = without_plan(bundle, nearest=(near.model_copy(update={"besides": None}),))
    assert words.binding(alone) == "bound by replicas alone"


def test_where_nothing_works_it_says_what_is_lacking(bundle: Bundle) -> None:
    """A measurement, a quality, or more than two changes."""
    unmeasured, quality = Bottleneck.UNMEASURED, Bottleneck.QUALITY
    for bottlenecks, says in (
        ((unmeasured, Bottleneck.INVALID), "measure it first"),
        ((unmeasured, Bottleneck.LATENCY), "no change of one figure is enough, nor of two"),
    ):
        (line,) = words.nearest(without_plan(bundle, *bottlenecks, nearest=()))
        assert says in line
    answer = without_plan(bundle, quality, nearest=())
    wanted = answer.demand.model_copy(update={"min_quality": {"auc": 0.9}})
    (line,) = words.nearest(answer.model_copy(update={"demand": wanted}))
    assert "leave min_quality out" in line


def test_of_as_many_rejections_what_was_tried_is_told(bundle: Bundle) -> None:
    """A size that was never measured says less than one that fails."""
    answer = without_plan(bundle, Bottleneck.UNMEASURED, Bottleneck.MEMORY)
    assert "most (1) for memory" in words.commonest(answer)
    more = without_plan(bundle, Bottleneck.UNMEASURED, Bottleneck.UNMEASURED, Bottleneck.MEMORY)
    assert "most (2) for unmeasured" in words.commonest(more)
