"""Why a script may find ONNX Runtime and OpenVINO slower than PyTorch: where the order turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from benchmarks.explain_process import REPEATS, Answer, alone, listed, medians
from benchmarks.measure_stages import PICTURES
from serving.records import Variant

_RUNTIMES = ("torch", "onnx", "openvino")
# Seconds that the seed report gives for the 10,000 pictures of the test set.
_REPORTED = (5.84, 7.70, 9.28)
_SLOWER = 1.05  # a difference below is none
_SETTINGS = ("library defaults", "one thread")
_PARTS = (
    ("import, s", "import_s"),
    ("load, s", "load_s"),
    ("first call, ms", "first_call_ms"),
    ("call at batch 1, ms", "ms_at_1"),
)
_SOURCES = (
    ("from memory", "memory"),
    ("loader in the script's process", "loader_0"),
    ("loader of two processes", "loader_2"),
)
# Batches of torch, and of the others. A file exported with a batch of 1 takes no other.
_BATCHES = (
    ("batch 4", 4, 4),
    ("batch 1", 1, 1),
    ("torch at batch 4, the others fixed at 1", 4, 1),
)


class Row(NamedTuple):
    """A way to run or one of its parts: how long each runtime takes, in seconds or ms."""

    settings: str
    name: str
    times: tuple[float, float, float]

    @property
    def onnx_slower(self) -> float:
        """ONNX Runtime's time over torch's."""
        return self.times[1] / self.times[0]

    @property
    def openvino_slower(self) -> float:
        """OpenVINO's time over ONNX Runtime's."""
        return self.times[2] / self.times[1]

    @property
    def label(self) -> str:
        """The name with its settings."""
        return f"{self.name}, {self.settings}"


def why_the_report_found_them_slower(variants: Mapping[str, Variant]) -> Answer:
    """A script's way of measuring against ours, part by part and as a whole."""
    empty = medians([alone("loaders") for _ in range(REPEATS)])
    found = {
        (name, settings): medians(
            [alone("stages", variants[name], settings) for _ in range(REPEATS)]
        )
        for name, settings in product(_RUNTIMES, _SETTINGS)
    }
    parts = [
        _row(settings, name, [found[runtime, settings][key] for runtime in _RUNTIMES])
        for settings in _SETTINGS
        for name, key in _PARTS
    ]
    whole = [
        _row(
            settings,
            f"{source}, {batches}",
            [
                found[runtime, settings][f"{key}_{one if runtime == 'torch' else other}_s"]
                for runtime in _RUNTIMES
            ],
        )
        for settings in _SETTINGS
        for source, key in _SOURCES
        for batches, one, other in _BATCHES
    ]
    nothing = ", ".join(
        f"{empty[f'{key}_{batch}_s']:.3g} s ({source}, batch {batch})"
        for source, key in _SOURCES[1:]
        for batch in (4, 1)
    )
    reported = Row("not known", "the report, 10,000 pictures, s", _REPORTED)
    return {
        "question": "Why the report found ONNX Runtime and OpenVINO slower than PyTorch",
        "answer": (
            f"{in_words(reported, parts, whole)} Every whole run is of {PICTURES:,} pictures; "
            f"with no model at all the loaders take {nothing}."
        ),
        "header": [
            "settings",
            "part or whole run",
            *_RUNTIMES,
            "onnx over torch",
            "openvino over onnx",
        ],
        "rows": [_cells(row) for row in (reported, *parts, *whole)],
    }


def in_words(reported: Row, parts: Sequence[Row], whole: Sequence[Row]) -> str:
    """What of the report's order is found here, in which rows, and what is not."""
    calls = {row.settings: row for row in parts if row.name == _PARTS[3][0]}
    call = calls[_SETTINGS[0]]
    slower = [row for row in whole if row.onnx_slower >= _SLOWER]
    openvino = [row for row in whole if row.openvino_slower >= _SLOWER]
    both = [row for row in slower if row in openvino]
    alike = [row.label for row in parts if row.onnx_slower >= _SLOWER]
    return " ".join(
        [
            f"The report has seconds for the test set and not its loop: ONNX Runtime "
            f"{reported.onnx_slower:.2f} times as slow as torch, OpenVINO "
            f"{reported.openvino_slower:.2f} times as slow as ONNX Runtime. A call at batch 1 has "
            f"{call.onnx_slower:.2f} and {call.openvino_slower:.2f} here. Parts in which ONNX "
            f"Runtime is slower than torch: {listed(alike)}.",
            _found("ONNX Runtime slower than torch", slower, len(whole), "onnx_slower"),
            _found("OpenVINO slower than ONNX Runtime", openvino, len(whole), "openvino_slower"),
            _conclusion(reported, slower, both),
        ]
    )


def _found(what: str, rows: Sequence[Row], of: int, ratio: str) -> str:
    if not rows:
        return f"{what}: in none of {of} whole runs."
    values = [getattr(row, ratio) for row in rows]
    largest = rows[values.index(max(values))]
    return (
        f"{what}: in {len(rows)} of {of} whole runs, {min(values):.2f} to {max(values):.2f} times "
        f"(most: {largest.label})."
    )


def _conclusion(reported: Row, slower: Sequence[Row], both: Sequence[Row]) -> str:
    unequal = [row for row in slower if _BATCHES[2][0] in row.name]
    if not slower:
        return "The report's order is not found here at all, and stays unexplained."
    why = (
        "All of these let ONNX Runtime have batches of 1 where torch has 4, so the cause that is "
        "found is a file with a fixed batch, which takes more calls and more steps of the loader"
        if len(unequal) == len(slower)
        else f"{len(unequal)} of these {len(slower)} let ONNX Runtime have batches of 1 where "
        "torch has 4, the others have equal batches"
    )
    if not both:
        return (
            f"{why}. OpenVINO is slower than ONNX Runtime in none of them: that, and its factor "
            f"of {reported.openvino_slower:.2f}, stay unexplained."
        )
    nearest = min(
        both,
        key=lambda row: (
            abs(row.onnx_slower - reported.onnx_slower)
            + abs(row.openvino_slower - reported.openvino_slower)
        ),
    )
    return (
        f"{why}. The report's whole order is in {len(both)}; nearest to it is {nearest.label}: "
        f"{nearest.onnx_slower:.2f} and {nearest.openvino_slower:.2f}, where the report has "
        f"{reported.onnx_slower:.2f} and {reported.openvino_slower:.2f}. Its host and its loop "
        "are not known, so what is left between these stays unexplained."
    )


def _row(settings: str, name: str, times: Sequence[float]) -> Row:
    first, second, third = times
    return Row(settings, name, (first, second, third))


def _cells(row: Row) -> list[Any]:
    return [
        row.settings,
        row.name,
        *(f"{value:.3g}" for value in row.times),
        f"{row.onnx_slower:.2f}x",
        f"{row.openvino_slower:.2f}x",
    ]
