"""Runtimes: what they read from a file, the threads they keep to, and files they refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from serving.compressors.torch_models import example, save_network
from serving.errors import BadInput
from serving.records import TensorSpec, Variant
from serving.runtimes import load_runtime, open_model

INPUTS = (
    TensorSpec(name="ids", datatype="INT64", shape=(-1, 4)),
    TensorSpec(name="weights", datatype="FP32", shape=(-1, 4)),
)
OUTPUTS = (TensorSpec(name="total", datatype="FP32", shape=(-1,)),)
ROWS = {
    "ids": np.arange(8).reshape(2, 4),
    "weights": np.ones((2, 4), np.float32) / 2,
}
TOTAL = [3.0, 11.0]


def write_onnx(path: Path, *, opset: int = 20) -> Path:
    """Sum of ids times weights, row by row."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "weights"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["total"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "total",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 4]),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", 4]),
        ],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path)
    return path


def write_torchscript(path: Path) -> Path:
    import torch

    class Total(torch.nn.Module):
        def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return (ids * weights).sum(1)

    save_network(Total(), path, INPUTS, OUTPUTS)
    return path


def write_program(path: Path) -> Path:
    import torch

    from serving.runtimes.torch_runtime import SIGNATURE, signature_json

    class Total(torch.nn.Module):
        def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return (ids * weights).sum(1)

    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Total(), example(INPUTS, 2), dynamic_shapes=({0: batch}, {0: batch})
    )
    torch.export.save(program, path, extra_files={SIGNATURE: signature_json(INPUTS, OUTPUTS)})
    return path


def write_ir(path: Path) -> Path:
    import openvino

    source = write_onnx(path.with_suffix(".onnx"))
    openvino.save_model(openvino.convert_model(str(source)), str(path))
    return path


FILES: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "onnx": ("onnxruntime", "m.onnx", write_onnx),
    "torchscript": ("torch", "m.pt", write_torchscript),
    "program": ("torch", "m.pt2", write_program),
    "ir": ("openvino", "m.xml", write_ir),
}


@pytest.mark.parametrize(("runtime", "name", "write"), FILES.values(), ids=FILES)
def test_several_inputs_and_their_types(
    tmp_path: Path, runtime: str, name: str, write: Callable[[Path], Path]
) -> None:
    """Names, types and shapes come from the file; read-only inputs are taken."""
    loaded = open_model(runtime, write(tmp_path / name), 1)
    # ONNX files also name their free dimensions.
    nameless = [s.model_copy(update={"symbols": ()}) for s in (*loaded.inputs, *loaded.outputs)]
    assert tuple(nameless) == (*INPUTS, *OUTPUTS)
    for values in ROWS.values():
        values.flags.writeable = False
    assert loaded.predict(ROWS)["total"].tolist() == TOTAL
    one = {key: values[:1] for key, values in ROWS.items()}
    assert loaded.predict(one)["total"].tolist() == TOTAL[:1]


@pytest.mark.parametrize(("runtime", "name", "write"), FILES.values(), ids=FILES)
def test_a_truncated_file_is_one_line(
    tmp_path: Path, runtime: str, name: str, write: Callable[[Path], Path]
) -> None:
    """It names the file and the library that cannot read it."""
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput) as caught:
        open_model(runtime, path, 1)
    assert str(path) in str(caught.value)
    assert "cannot load" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", "openvino", "sklearn", "stub"])
@pytest.mark.parametrize("name", ["m.onnx", "m.pt", "m.pt2", "m.xml"])
def test_a_renamed_file_is_one_line(tmp_path: Path, runtime: str, name: str) -> None:
    """A picture under a model's name is refused by every runtime."""
    path = tmp_path / name
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(BadInput) as caught:
        open_model(runtime, path, 1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_future_opset_is_one_line(tmp_path: Path) -> None:
    """Which opset the file has, and which onnxruntime knows."""
    path = write_onnx(tmp_path / "m.onnx", opset=99)
    with pytest.raises(BadInput, match=r"m\.onnx: opset 99, and onnxruntime .* goes up to"):
        open_model("onnxruntime", path, 1)


@pytest.mark.parametrize("location", ["weights.data", "../weights.data"])
def test_external_weights_must_lie_beside_the_model(tmp_path: Path, location: str) -> None:
    """Weights that are missing, or outside the model's folder, are refused in one line."""
    inner = tmp_path / "model"
    inner.mkdir()
    (tmp_path / "weights.data").write_bytes(bytes(4096))
    weight = onnx.numpy_helper.from_array(np.zeros((4, 64), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (inner / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput) as caught:
        open_model("onnxruntime", inner / "m.onnx", 1)
    assert "external data" in str(caught.value)
    assert "weights.data" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_ir_without_weights_is_one_line(tmp_path: Path) -> None:
    """The .xml alone is no model."""
    path = write_ir(tmp_path / "m.xml")
    path.with_suffix(".bin").unlink()
    with pytest.raises(BadInput, match=r"its weights, m\.bin, are missing"):
        open_model("openvino", path, 1)


def test_an_archive_without_a_signature_is_refused(tmp_path: Path) -> None:
    """TorchScript keeps no tensor names; without ours nothing could be sent."""
    import torch

    path = tmp_path / "m.pt2"
    batch = torch.export.Dim("batch")
    layer = torch.nn.Linear(2, 1)
    program = torch.export.export(layer, (torch.ones(2, 2),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    with pytest.raises(BadInput, match="holds no signature"):
        open_model("torch", path, 1)


@pytest.mark.parametrize("name", ["onnx", "torchscript", "ir"])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_kept_to(tmp_path: Path, name: str, threads: int) -> None:
    """A process computes on as many threads as it was given: CPU time against wall time."""
    runtime, file, _ = FILES[name]
    path = FILES[name][2](tmp_path / file)
    code = (
        "import time, numpy as np\n"
        "from pathlib import Path\n"
        "from serving.runtimes import open_model\n"
        f"model = open_model({runtime!r}, Path({str(path)!r}), {threads})\n"
        "rows = {'ids': np.ones((400_000, 4), np.int64), "
        "'weights': np.ones((400_000, 4), np.float32)}\n"
        "model.predict(rows)\n"
        "begin, cpu = time.perf_counter(), time.process_time()\n"
        "while time.perf_counter() - begin < 0.7: model.predict(rows)\n"
        "print((time.process_time() - cpu) / (time.perf_counter() - begin))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < threads + 0.1


def test_an_absent_gpu_is_refused(tmp_path: Path) -> None:
    """PyTorch on a device that is not there; on the CPU the same file answers."""
    path = write_torchscript(tmp_path / "m.pt")
    with pytest.raises(BadInput, match="torch sees no GPU here"):
        open_model("torch", path, 1, providers=("cuda",))
    open_model("torch", path, 1, providers=("cpu",))


def test_an_absent_provider_is_refused(tmp_path: Path) -> None:
    """Onnxruntime would fall back to the CPU without a word."""
    path = write_onnx(tmp_path / "m.onnx")
    with pytest.raises(BadInput, match="TensorrtExecutionProvider is not available; available"):
        open_model("onnxruntime", path, 1, providers=("TensorrtExecutionProvider",))


def test_a_provider_that_does_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named first and built in, but without its driver: said, not replaced."""
    path = write_onnx(tmp_path / "m.onnx")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: start(path, options, providers=providers[1:]),
    )
    with pytest.raises(BadInput, match="CUDAExecutionProvider did not start"):
        open_model("onnxruntime", path, 1, providers=names)


def test_a_library_that_is_not_installed_is_named(
    make_stub: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says which extra installs it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadInput, match=r"needs the package torch; .*tonnage\[torch\]"):
        load_runtime(make_stub().model_copy(update={"runtime": "torch"}), 1)


def test_an_unknown_runtime_is_refused(make_stub: Callable[..., Variant]) -> None:
    """The line lists those that exist."""
    with pytest.raises(BadInput, match="unknown runtime 'caffe'; known are onnxruntime"):
        load_runtime(make_stub().model_copy(update={"runtime": "caffe"}), 1)


def test_runtimes_import_their_library_only() -> None:
    """Loading a stub imports none of the others' libraries."""
    code = (
        "import sys, serving.runtimes, serving.runtimes.stub, serving.stub_variant\n"
        "print([m for m in ('torch', 'openvino', 'onnxruntime', 'skops') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
