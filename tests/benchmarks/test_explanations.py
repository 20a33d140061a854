"""The sentences of explanations follow their figures, whichever way these fall."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.explain_cifar import STEPS, pruning_in_words, step_of, theirs_to_ours_in_words
from benchmarks.explain_lenet import Row
from benchmarks.explain_lenet import in_words as lenet_in_words
from benchmarks.explain_onnx_int8 import in_words as int8_in_words
from benchmarks.explain_onnx_int8 import memory_in_words

REPORTED = Row("not known", "the report", (5.84, 7.70, 9.28))
CALL = Row("library defaults", "call at batch 1, ms", (0.26, 0.06, 0.17))


@pytest.mark.parametrize(
    ("paying", "wasted", "step"),
    [
        ([32, 24, 16], [28, 22, 20], 8),
        ([32, 16], [28, 24, 22, 20], 16),
        ([32, 28, 24, 20, 16], [22], 4),
        ([32, 22], [24], None),
    ],
)
def test_the_step_is_the_smallest_that_tells_widths_apart(
    paying: list[int], wasted: list[int], step: int | None
) -> None:
    assert step_of(paying, wasted) == step


def script_of(ratios: list[float]) -> dict[str, dict[str, float]]:
    """Figures of the script's steps, whose torch is so many times slower than ONNX."""
    return {
        name: {
            "first_ms": 40.0,
            "torch_ms": ratio / 10,
            "masked_ms": ratio / 20,
            "onnx_ms": 0.1,
            "ratio": ratio,
        }
        for (name, _, _), ratio in zip(STEPS, ratios, strict=True)
    }


NET = {"all_mb": 2.08, "linear_mb": 1.99}


def test_a_report_that_is_found_in_one_step_is_put_down_to_it() -> None:
    """Made figures: as much as reported only beside a busy program."""
    said = theirs_to_ours_in_words(script_of([9, 10, 40, 5, 4.5, 4, 4, 3.8]), NET)
    assert "are 15.4x" in said
    assert 'As much as 15.4x is found here, too, in "the script, beside a program' in said
    assert 'from 9.0x to 40.0x, with "the script, beside' in said
    assert "our network 3.8x" in said


def test_a_report_that_is_not_reached_leaves_a_factor_unexplained() -> None:
    said = theirs_to_ours_in_words(script_of([7.7, 7, 6, 5, 4.5, 4, 4, 3.8]), NET)
    assert "The most here is 7.7x" in said
    assert "A factor of 2.0 of the report's 15.4x stays unexplained" in said


def width(channels: int, onnx_ms: float) -> dict[str, Any]:
    return {
        "name": f"{channels} wide",
        "channels": channels,
        "mflop": channels**2 / 100,
        "onnx": {"32": onnx_ms},
        "torch": {"32": float(channels)},
    }


def test_widths_that_are_no_faster_than_a_wider_one_are_named() -> None:
    """The figures of a CPU with AVX2: 24 channels gain, 28 and 22 do not."""
    said = pruning_in_words(
        [width(32, 3.7), width(28, 4.0), width(24, 2.3), width(22, 3.4), width(16, 1.3)]
    )
    assert "32, 24 and 16 channels pay, 28 and 22 do not" in said
    assert "blocks of 8 channels" in said
    assert "Least of its due gains 22 wide" in said


def test_without_waste_no_block_is_claimed() -> None:
    said = pruning_in_words([width(32, 4.0), width(28, 3.0), width(24, 2.0)])
    assert "every width that was tried pays" in said
    assert "block" not in said


def test_int8_that_is_slower_is_said_to_be() -> None:
    """A made profile: convolutions save 4 ms, HardSwish and the formats cost 6."""
    before = {"Conv": 10.0, "HardSwish": 1.0, "Gemm": 2.0}
    after = {"QLinearConv": 6.0, "HardSwish": 3.0, "QGemm": 1.0, "QuantizeLinear": 4.0}
    said = int8_in_words(before, after)
    assert "int8 is 1.08 times as slow" in said
    assert "convolutions -4," in said
    assert "matrix products -1," in said
    assert "HardSwish +2," in said
    assert "changes of number format +4)" in said


def test_int8_that_is_faster_is_said_to_be_and_nothing_of_hard_swish() -> None:
    said = int8_in_words({"Conv": 10.0}, {"QLinearConv": 4.0, "QuantizeLinear": 1.0})
    assert "int8 is 2.00 times as fast" in said
    assert "HardSwish" not in said


def test_memory_is_told_with_and_without_the_library() -> None:
    stages = ("library", "load_peak", "loaded", "one_peak", "one_steady", "all_peak", "all_steady")
    whole = dict(zip(stages, (50, 450, 250, 450, 270, 450, 300), strict=True))
    small = dict(zip(stages, (50, 250, 100, 250, 120, 250, 150), strict=True))
    peak, rest = memory_in_words(whole, small)
    assert "250 MiB where float peaks at 450 (56%)" in peak
    assert "without it int8 has 50%" in peak
    assert "the loaded model 50 of 200" in rest


def test_an_order_that_only_unequal_batches_show_is_put_down_to_them() -> None:
    equal = Row("library defaults", "from memory, batch 4", (0.25, 0.06, 0.14))
    unequal = Row(
        "library defaults",
        "loader of two processes, torch at batch 4, the others fixed at 1",
        (1.03, 2.73, 2.74),
    )
    said = lenet_in_words(REPORTED, [CALL], [equal, unequal])
    assert "ONNX Runtime slower than torch: in 1 of 2 whole runs, 2.65 to 2.65 times" in said
    assert "the cause that is found is a file with a fixed batch" in said
    assert "its factor of 1.21, stay unexplained" in said


def test_an_order_that_is_found_nowhere_stays_unexplained() -> None:
    equal = Row("library defaults", "from memory, batch 4", (0.25, 0.06, 0.06))
    said = lenet_in_words(REPORTED, [CALL], [equal])
    assert "ONNX Runtime slower than torch: in none of 1 whole runs." in said
    assert "not found here at all" in said


def test_of_rows_with_the_whole_order_the_nearest_is_named() -> None:
    name = "torch at batch 4, the others fixed at 1"
    near = Row("library defaults", f"near, {name}", (1.0, 1.4, 1.7))
    far = Row("library defaults", f"far, {name}", (1.0, 3.0, 9.0))
    said = lenet_in_words(REPORTED, [CALL], [far, near])
    assert "The report's whole order is in 2; nearest to it is near" in said
