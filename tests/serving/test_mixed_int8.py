"""Mixed precision on a network in which it is known which layers int8 hurts.

Between ``wide`` and ``narrow`` one channel is a thousand times larger than the others, and is
made small again by the weights that read it. In float that changes nothing. In int8 the channel
takes all 256 levels, and the others vanish.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization.calibrate import load_tensors_data

from serving.compressors.mixed_int8 import FLOAT_LAYERS, MixedInt8, candidates, float_layers
from serving.compressors.onnx_int8 import StaticInt8
from serving.compressors.onnx_layers import layers_of, neighbours_of, quantized_on_loading
from serving.compressors.onnx_ranges import Ranges, batches_of, observe, prepare
from serving.compressors.sensitivity import (
    answers_to,
    damage_alone,
    distance,
    layer_errors,
    signal_db,
)
from serving.records import TensorSpec
from serving.steps import Dataset, Making, Step, StepFailed

HURT = {"wide", "narrow"}
LOUD = 1000.0


def network(path: Path, loud: float = LOUD, spread: float = 1.0) -> Path:
    """First (3x3) - wide (1x1) - narrow (1x1) - each (depthwise) - last (3x3) - scores."""
    draw = np.random.default_rng(5)

    def weights(name: str, *shape: int) -> np.ndarray:
        return draw.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    values = {
        "first": weights("first", 32, 3, 3, 3),
        "wide": weights("wide", 32, 32, 1, 1),
        "narrow": weights("narrow", 32, 32, 1, 1),
        "each": weights("each", 32, 1, 3, 3),
        "last": weights("last", 96, 32, 3, 3),
        "scores": weights("scores", 96, 10),
    }
    uneven = np.geomspace(1, spread, 32, dtype=np.float32)
    values["each"] *= uneven[:, None, None, None]
    values["last"] /= uneven[:, None, None]
    values["wide"][0] *= loud
    values["narrow"][:, 0] /= loud
    nodes = []
    before = "image"
    for name in ("first", "wide", "narrow", "each", "last"):
        size = values[name].shape[2]
        nodes.append(
            helper.make_node(
                "Conv",
                [before, f"{name}_weight"],
                [f"{name}_out"],
                name=name,
                group=32 if name == "each" else 1,
                kernel_shape=[size, size],
                pads=[size // 2] * 4,
            )
        )
        before = f"{name}_out"
        if name in ("first", "narrow", "last"):
            nodes.append(helper.make_node("Relu", [before], [f"{name}_relu"], name=f"{name}_relu"))
            before = f"{name}_relu"
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"], name="pooled"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "scores_weight"], ["logits"], name="scores"),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, f"{name}_weight") for name, value in values.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def making(tmp_path: Path) -> Making:
    """Noise for pictures: enough to tell answers apart."""
    draw = np.random.default_rng(6)
    rows = {"image": draw.normal(0, 1, (400, 3, 8, 8)).astype(np.float32)}
    labels = np.zeros(400, np.int64)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Making(
        data=Dataset(rows, labels, rows, labels, "noise", "noise"),
        seed=1,
        inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 8, 8)),),
        outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
        scratch=scratch,
    )


def mixed(**changed: object) -> MixedInt8:
    settings: dict[str, object] = {
        "tolerance": 0.1,
        "smaller": 1.5,
        "methods": ("MinMax",),
        "calibration_rows": 64,
        "judged_rows": 200,
        "sensitivity_rows": 32,
    }
    return MixedInt8(**{**settings, **changed})  # type: ignore[arg-type]


def ranges_of(
    making: Making,
    tmp_path: Path,
    method: str = "MinMax",
    *,
    loud: float = LOUD,
    spread: float = 1.0,
) -> Ranges:
    graph = tmp_path / "prepared.onnx"
    prepare(network(tmp_path / "known.onnx", loud, spread), graph)
    batches = [making.data.training_rows(slice(i, i + 16)) for i in (0, 16, 32)]
    return observe(graph, batches, method, making.scratch)


def moved(making: Making, source: Path, target: Path) -> float:
    """Share of the rows that two files decide differently."""
    rows = making.data.test
    return distance(answers_to(target, rows), answers_to(source, rows)).differing


def made(step: Step, making: Making, source: Path, target: Path) -> Path:
    step.apply(source, target, making)
    step.check(source, target, making)
    return target


def test_layers_are_found_with_their_kinds(tmp_path: Path) -> None:
    """Nodes with constant weights, in order; the depthwise one is told apart."""
    found = layers_of(network(tmp_path / "known.onnx"))
    assert [(layer.name, layer.kind) for layer in found] == [
        ("first", "Conv 3 x 3"),
        ("wide", "Conv 1 x 1"),
        ("narrow", "Conv 1 x 1"),
        ("each", "depthwise 3 x 3"),
        ("last", "Conv 3 x 3"),
        ("scores", "MatMul"),
    ]


def test_signal_to_noise_is_in_decibels() -> None:
    """A tenth of noise is 20 dB, a thousandth 60 dB, and none is as good as it gets."""
    wanted = np.array([3.0, 4.0], np.float32)
    assert signal_db(wanted, wanted * 1.1) == pytest.approx(20, abs=1e-4)
    assert signal_db(wanted, wanted * 1.001) == pytest.approx(60, abs=1e-2)
    assert signal_db(wanted, wanted) == 200


def test_sensitivity_names_the_layers_that_are_hurt(making: Making, tmp_path: Path) -> None:
    """Quantized alone, the two around the loud channel do most damage by far."""
    ranges = ranges_of(making, tmp_path)
    rows = making.data.training_rows(slice(100, 132))
    damage = damage_alone(ranges, layers_of(ranges.graph), rows, making.scratch)
    worst = sorted(damage, key=damage.__getitem__)
    assert set(worst[:2]) == HURT
    assert damage[worst[1]] < damage[worst[2]] - 10


def test_ranges_do_not_depend_on_how_rows_are_batched(making: Making, tmp_path: Path) -> None:
    """Observed batch by batch, the ranges are those of all rows at once."""
    ranges = ranges_of(making, tmp_path)
    batchwise = ranges.kept.read_text()
    observe(ranges.graph, [making.data.training_rows(slice(48))], "MinMax", making.scratch)
    assert ranges.kept.read_text() == batchwise


@pytest.mark.parametrize(("side", "rows"), [(8, 32), (224, 3), (440, 1)])
def test_large_rows_are_observed_few_at_a_time(making: Making, side: int, rows: int) -> None:
    """What a network keeps in between grows with its inputs: two MiB of them in a call."""
    pictures = {"image": np.zeros((40, 3, side, side), np.float32)}
    data = Dataset(pictures, np.zeros(40, np.int64), pictures, np.zeros(40, np.int64), "", "")
    made = Making(**{**vars(making), "data": data})
    sizes = [len(batch["image"]) for batch in batches_of(made, np.arange(40))]
    assert sum(sizes) == 40
    assert sizes[0] == rows


def test_what_a_rectifier_cuts_off_gets_no_levels(making: Making, tmp_path: Path) -> None:
    """The range before a rectifier is that behind it, so that a layer alone is judged fairly."""
    ranges = load_tensors_data(ranges_of(making, tmp_path).kept)
    assert ranges["first_out"].range_value == ranges["first_relu"].range_value
    assert ranges["first_out"].range_value[0] >= 0
    assert ranges["wide_out"].range_value[0] < 0


def test_neighbours_share_a_tensor(tmp_path: Path) -> None:
    """A rectifier belongs to the layer before it; the pool before the last is quantized itself."""
    path = network(tmp_path / "known.onnx")
    assert neighbours_of(path, layers_of(path)) == {
        "first": {"wide"},
        "wide": {"first", "narrow"},
        "narrow": {"wide", "each"},
        "each": {"narrow", "last"},
        "last": {"each"},
        "scores": set(),
    }


@pytest.mark.parametrize(
    ("left_out", "lost"),
    [
        (["each"], ["each"]),
        (["narrow"], ["narrow"]),
        (["narrow", "each"], []),
        (["first"], []),
        (["scores"], []),
        (["wide", "each"], ["wide", "each"]),
    ],
)
def test_a_layer_alone_does_not_stay_in_float(
    making: Making, tmp_path: Path, left_out: list[str], lost: list[str]
) -> None:
    """Between int8 tensors onnxruntime quantizes the weights after all, and nowhere else.

    This is why layers are left in float in company. Should it fail, onnxruntime has changed.
    """
    ranges = ranges_of(making, tmp_path, loud=1.0, spread=1e-3)  # loud, int8 answers nothing
    path = tmp_path / "int8.onnx"
    ranges.quantize(path, leave_out=left_out)
    assert quantized_on_loading(path, left_out) == lost
    rows = dict(making.data.training_rows(slice(100, 132)))
    name = "WeightBiasQuantization"
    as_loaded = InferenceSession(path).run(None, rows)[0]
    as_written = InferenceSession(path, disabled_optimizers=[name]).run(None, rows)[0]
    assert bool(np.abs(as_loaded - as_written).max() > 1e-2) == bool(lost)


def chain_of(damage: dict[str, float]) -> list[list[str]]:
    """Candidates of layers in a row, of which only the ends stay in float alone."""
    names = sorted(damage)
    near = {
        name: {*names[max(0, i - 1) : i], *names[i + 1 : i + 2]} for i, name in enumerate(names)
    }

    def spoiled(chosen: list[str]) -> list[str]:
        inner = [name for name in chosen if len(near[name]) == 2]
        return [name for name in inner if not near[name] & set(chosen)]

    return list(candidates(damage, near, spoiled))


def test_layers_stay_in_float_in_company() -> None:
    """Worst first; one in the middle brings the neighbour that is hurt more, the ends do not."""
    damage = {"a": 40.0, "b": 30.0, "c": 5.0, "d": 20.0, "e": 10.0}
    assert chain_of(damage) == [
        ["c", "d"],
        ["c", "d", "e"],
        ["c", "d", "e", "b"],
        ["c", "d", "e", "b", "a"],
    ]
    assert chain_of({**damage, "a": 1.0})[0] == ["a"]


def test_a_layer_that_cannot_be_helped_is_passed_over() -> None:
    """Without neighbours to come along it would be quantized on loading: it stays in int8."""
    damage = {"sum": 1.0, "free": 2.0}
    near: dict[str, set[str]] = {"sum": set(), "free": set()}
    found = candidates(damage, near, lambda names: [name for name in names if name == "sum"])
    assert list(found) == [["free"]]


@pytest.mark.parametrize(
    ("left_out", "noted", "told"),
    [
        (["narrow", "each"], ["wide"], "wide is said to be in float, and is not"),
        (["each"], ["each"], "each does not stay in float in onnxruntime"),
    ],
)
def test_what_is_noted_is_checked(
    making: Making, tmp_path: Path, left_out: list[str], noted: list[str], told: str
) -> None:
    """Layers that the note calls float have to be, in the file and as onnxruntime loads it."""
    ranges = ranges_of(making, tmp_path)
    path = tmp_path / "int8.onnx"
    ranges.quantize(path, leave_out=left_out)
    model = onnx.load(path)
    helper.set_model_props(model, {FLOAT_LAYERS: json.dumps(noted)})
    onnx.save(model, path)
    with pytest.raises(StepFailed, match=told):
        mixed(smaller=1.1).check(tmp_path / "known.onnx", path, making)


def test_mixed_precision_keeps_the_decisions(making: Making, tmp_path: Path) -> None:
    """Plain int8 decides otherwise; with the hurt layers in float it decides alike."""
    source = network(tmp_path / "known.onnx")
    plain = made(StaticInt8(calibration_rows=64), making, source, tmp_path / "plain.onnx")
    best = made(mixed(), making, source, tmp_path / "mixed.onnx")
    assert set(float_layers(best)) == HURT
    assert float_layers(plain) == []
    assert moved(making, source, plain) > 0.3
    assert moved(making, source, best) <= 0.1


def test_without_need_every_layer_is_int8(making: Making, tmp_path: Path) -> None:
    """The same network without the loud channel needs no layer in float."""
    source = network(tmp_path / "known.onnx", loud=1.0)
    lines: list[str] = []
    told = Making(**{**vars(making), "progress": lines.append})
    best = made(mixed(), told, source, tmp_path / "mixed.onnx")
    assert float_layers(best) == []
    assert not [line for line in lines if line.startswith("layer")]


def test_the_size_limits_what_stays_in_float(making: Making, tmp_path: Path) -> None:
    """A tolerance that cannot be met is not bought with a file that is too large."""
    source = network(tmp_path / "known.onnx")
    best = made(mixed(tolerance=0.0, smaller=2.0), making, source, tmp_path / "mixed.onnx")
    assert best.stat().st_size * 2 < source.stat().st_size


def test_a_claim_of_size_that_is_not_kept_is_refused(making: Making, tmp_path: Path) -> None:
    """Nothing makes the file ten times smaller."""
    with pytest.raises(StepFailed, match="less than 10% of them is claimed"):
        made(
            mixed(smaller=10.0),
            making,
            network(tmp_path / "known.onnx"),
            tmp_path / "mixed.onnx",
        )


def test_the_test_set_has_no_say(making: Making, tmp_path: Path) -> None:
    """Other test rows give the same file, to the byte."""
    source = network(tmp_path / "known.onnx")
    first = made(mixed(), making, source, tmp_path / "first.onnx")
    other = {"image": np.zeros((8, 3, 8, 8), np.float32)}
    data = Dataset(
        making.data.train, making.data.train_labels, other, np.zeros(8, np.int64), "other", "other"
    )
    scratch = tmp_path / "again"
    scratch.mkdir()
    changed = Making(**{**vars(making), "data": data, "scratch": scratch})
    second = made(mixed(), changed, source, tmp_path / "second.onnx")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("method", ["Entropy", "Percentile"])
def test_other_ways_to_choose_ranges(making: Making, tmp_path: Path, method: str) -> None:
    """Each of onnxruntime's histograms gives ranges that quantize."""
    ranges = ranges_of(making, tmp_path, method)
    ranges.quantize(tmp_path / "int8.onnx", leave_out=HURT)
    assert moved(making, ranges.graph, tmp_path / "int8.onnx") < 0.5


def test_errors_are_told_layer_by_layer(making: Making, tmp_path: Path) -> None:
    """One scale for the loud layer's weights spoils them; a scale per channel does not.

    Before the loud channel outputs are right in both files; where it is, the loud channel's own
    energy hides the loss (an angle near zero); behind it the loss shows.
    """
    ranges = ranges_of(making, tmp_path)
    rows = making.data.training_rows(slice(100, 108))
    weight, output, cosine = ({}, {}, {})
    for per_channel in (False, True):
        int8 = tmp_path / "int8.onnx"
        ranges.quantize(int8, per_channel=per_channel)
        for error in layer_errors(ranges.graph, int8, rows, making.scratch):
            key = (error.layer.name, per_channel)
            weight[key], output[key] = error.weight_db, error.output_db
            cosine[key] = error.output_cosine
    assert weight["wide", False] < weight["wide", True]
    assert weight["narrow", False] < weight["narrow", True]
    for per_channel in (False, True):
        assert output["first", per_channel] > 30
        assert cosine["wide", per_channel] > 0.99
        assert output["narrow", per_channel] < 15


def test_what_stays_in_float_has_no_error_of_its_own(making: Making, tmp_path: Path) -> None:
    """Neither weights nor outputs of a layer in float are compared."""
    ranges = ranges_of(making, tmp_path)
    int8 = tmp_path / "int8.onnx"
    ranges.quantize(int8, leave_out=["last", "scores"])
    rows = making.data.training_rows(slice(100, 108))
    errors = {e.layer.name: e for e in layer_errors(ranges.graph, int8, rows, making.scratch)}
    assert errors["last"].weight_db is None
    assert errors["scores"].output_db is None
    assert errors["first"].weight_db is not None
