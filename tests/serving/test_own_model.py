"""A model of the user's own: what its file says, rows that it answers, forms made of it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.build import build_variants
from serving.compressors.clustering import ClusterWeights
from serving.compressors.given import ConstantsAsWeights, GivenOnnx
from serving.compressors.given_torch import ExportProgram
from serving.compressors.mixed_int8 import MixedInt8
from serving.compressors.onnx_graph import OptimiseGraph
from serving.compressors.onnx_int8 import DynamicInt8
from serving.compressors.openvino_ir import OpenVinoInt8, OpenVinoIr
from serving.errors import BadInput
from serving.generate import Hints
from serving.model_store import model_path
from serving.own_model import OwnModel, OwnSource, open_own_model
from serving.records import TensorSpec
from serving.runtimes import load_runtime
from serving.steps import Making, Step, StepFailed
from serving.vocabulary import RefusedIndex, refused_index
from serving.wishes import parse_wish

from . import onnx_models as models


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONNAGE_CACHE", str(tmp_path / "cache"))


def opened(path: Path | str, *wishes: str, **options: object) -> OwnModel:
    source = OwnSource(
        path=str(path),
        wishes=tuple(parse_wish(wish) for wish in wishes),
        **options,  # type: ignore[arg-type]
    )
    return open_own_model(source, "own")


def refused(path: Path | str, *wishes: str, **options: object) -> str:
    with pytest.raises(BadInput) as caught:
        opened(path, *wishes, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


STEPS = (
    DynamicInt8(),
    ClusterWeights(),
    OptimiseGraph(),
    OpenVinoIr(),
    OpenVinoInt8(),
    MixedInt8(),
    ConstantsAsWeights(),
    ExportProgram(),
)
KINDS: dict[str, tuple[Callable[[Path], Path], bool, dict[str, tuple[str, tuple[int, ...]]]]] = {
    "linear": (models.linear, True, {"x": ("float32", (64,))}),
    "embedding": (models.embedding, True, {"ids": ("int64", (128,)), "mask": ("int64", (128,))}),
    "text": (models.text, True, {"words": ("object", (2,))}),
    "truth": (models.truth, True, {"flag": ("bool", (3,)), "number": ("int32", (3,))}),
    "picture": (models.picture, True, {"image": ("float32", (224, 224, 3))}),
    "recurrent": (
        models.recurrent,
        False,
        {"sound": ("float32", (1, 512)), "state": ("float32", (2, 1, 4)), "rate": ("int64", ())},
    ),
    "detections": (models.detections, False, {"x": ("float32", (1, 4))}),
    "one row": (models.one_row, False, {"x": ("float32", (1, 4))}),
}


@pytest.mark.parametrize(("make", "batched", "inputs"), KINDS.values(), ids=KINDS)
def test_every_signature_is_read_and_answered(
    tmp_path: Path,
    make: Callable[[Path], Path],
    batched: bool,
    inputs: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    """Types, several inputs, symbolic dimensions, NHWC, states, and no batch axis.

    The original is built from the file and reproduces itself.
    """
    model = opened(make(tmp_path / "m.onnx"))
    assert model.data.batched == batched
    found = {n: (str(v.dtype), v.shape[1:]) for n, v in model.data.test.items()}
    assert found == inputs
    (original, *_) = build_variants(model, ["original"], model.data, seed=0, max_loss=0.05)
    assert original.quality is not None
    assert original.quality.reproduced == 1
    assert original.batched == batched
    assert original.sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()


def test_rows_know_what_the_file_tells(tmp_path: Path) -> None:
    """Ids stay in the vocabulary that the table has, and the state begins at zero."""
    ids = opened(models.embedding(tmp_path / "e.onnx", words=100)).data.test["ids"]
    assert 50 < ids.max() < 100
    assert not opened(models.recurrent(tmp_path / "r.onnx")).data.test["state"].any()


def test_text_reaches_the_model_as_text(tmp_path: Path) -> None:
    """Strings travel as bytes, and onnxruntime is given what they mean."""
    model = opened(models.text(tmp_path / "t.onnx"), "words=yes|no")
    (built,) = build_variants(model, ["original"], model.data, seed=0, max_loss=0)
    answer = load_runtime(built, 1).predict({"words": np.array([[b"yes", b"\xc3\xa9"]], object)})
    assert answer["same"].tolist() == [["yes", "é"]]


def test_an_int8_form_is_offered_and_judged(tmp_path: Path) -> None:
    """It is smaller, its fidelity is measured, and beyond the allowed loss it is barred."""
    model = opened(models.linear(tmp_path / "m.onnx", 256, 64))
    assert list(model.recipes) == ["original", "int8"]
    original, int8 = build_variants(model, list(model.recipes), model.data, seed=0, max_loss=0.05)
    assert int8.size_bytes < 0.5 * original.size_bytes
    assert int8.quality is not None
    assert int8.quality.reproduced is not None
    assert 0.95 < int8.quality.reproduced < 1
    assert int8.quality.auc is int8.quality.accuracy is None
    assert int8.barred is None
    _, strict = build_variants(model, list(model.recipes), model.data, seed=0, max_loss=0)
    assert strict.barred is not None
    assert "fidelity against original" in strict.barred


def test_a_file_that_is_int8_only_in_part_is_found_out(tmp_path: Path) -> None:
    """One small matrix in eight bits makes the file smaller; the claim is of all of them."""
    from onnxruntime.quantization import quantize_dynamic

    source = models.two_layers(tmp_path / "m.onnx")
    whole, part = tmp_path / "whole.onnx", tmp_path / "part.onnx"
    quantize_dynamic(source, whole, per_channel=True)
    quantize_dynamic(source, part, per_channel=True, nodes_to_exclude=["large"])
    making = Making(data=opened(source).data, seed=0, inputs=(), outputs=(), scratch=tmp_path)
    DynamicInt8().check(source, whole, making)
    with pytest.raises(StepFailed, match=r"linear layers take 270,336 bytes, 294,912 before"):
        DynamicInt8().check(source, part, making)


def test_why_there_is_no_int8_form_is_said(tmp_path: Path) -> None:
    """One line for a model without weights to shrink."""
    model = opened(models.truth(tmp_path / "m.onnx"))
    assert list(model.recipes) == ["original"]
    assert model.notes[0].startswith("int8 is not offered: ")


def test_the_same_question_finds_the_same_rows(tmp_path: Path) -> None:
    """Seed and file decide; another file with the same signature is another question."""
    path = models.linear(tmp_path / "m.onnx")
    first, again = opened(path), opened(path)
    assert first.data.fingerprint == again.data.fingerprint
    assert opened(path, seed=1).data.fingerprint != first.data.fingerprint
    assert opened(path, "x=0..1").data.fingerprint != first.data.fingerprint


def test_rows_come_from_a_file(tmp_path: Path) -> None:
    """An array per input; rows of whole tensors for a model without a batch axis."""
    given = np.arange(5 * 64, dtype=np.float64).reshape(5, 64)
    np.savez(tmp_path / "rows.npz", x=given)
    model = opened(models.linear(tmp_path / "m.onnx"), payload=tmp_path / "rows.npz", batch=4)
    np.testing.assert_array_equal(model.data.test["x"], given.astype(np.float32))
    rows = {"sound": np.ones((3, 1, 8)), "state": np.zeros((3, 2, 1, 4)), "rate": np.full(3, 2)}
    np.savez(tmp_path / "whole.npz", **rows)
    path = models.recurrent(tmp_path / "r.onnx")
    assert opened(path, payload=tmp_path / "whole.npz").data.test["rate"].tolist() == [2, 2, 2]
    said = refused(tmp_path / "m.onnx", payload=tmp_path / "rows.npz", batch=6)
    assert "holds 5 rows" in said
    assert "has no array 'x'" in refused(tmp_path / "m.onnx", payload=tmp_path / "whole.npz")


def test_rows_come_from_a_parquet_file(tmp_path: Path) -> None:
    """A column per input, lists for further dimensions; or the features of a single input."""
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({f"f{i}": np.arange(6) + i for i in range(64)})
    table.to_parquet(tmp_path / "features.parquet")
    path = models.linear(tmp_path / "m.onnx")
    rows = opened(path, payload=tmp_path / "features.parquet").data.test["x"]
    np.testing.assert_array_equal(rows, table.to_numpy(np.float32))
    lists = pandas.DataFrame({"ids": [[1, 2], [3, 4]], "mask": [[1, 1], [1, 0]]})
    lists.to_parquet(tmp_path / "lists.parquet")
    rows = opened(models.embedding(tmp_path / "e.onnx"), payload=tmp_path / "lists.parquet")
    assert rows.data.test["ids"].tolist() == [[1, 2], [3, 4]]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert "cannot be read as parquet" in refused(path, payload=tmp_path / "broken.parquet")


def test_a_file_of_rows_that_is_cut_short_is_said(tmp_path: Path) -> None:
    """Wherever an .npz ends too early, its directory at the end included."""
    path = models.linear(tmp_path / "m.onnx")
    np.savez_compressed(tmp_path / "rows.npz", x=np.zeros((20, 64), np.float32))
    whole = (tmp_path / "rows.npz").read_bytes()
    damaged = whole[:60] + bytes(20) + whole[80:]
    for number, content in enumerate((whole[:100], whole[:-5], damaged, b"text")):
        (tmp_path / f"{number}.npz").write_bytes(content)
        assert "cannot be read as .npz" in refused(path, payload=tmp_path / f"{number}.npz")


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    """There is nothing to ask it."""
    path = models.save(
        tmp_path / "m.onnx",
        [onnx.helper.make_node("Identity", ["w"], ["y"])],
        [],
        [models.value("y", onnx.TensorProto.FLOAT, [2])],
        {"w": np.zeros(2, np.float32)},
    )
    assert "takes no inputs" in refused(path)


def test_weights_beside_the_file_are_taken_inside(tmp_path: Path) -> None:
    """The variant is one file, which needs nothing of the folder it came from."""
    folder = tmp_path / "given"
    folder.mkdir()
    path = models.linear(
        folder / "m.onnx", 256, 64, save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert (folder / "m.data").is_file()
    model = opened(path)
    (built, *_) = build_variants(model, ["original"], model.data, seed=0, max_loss=0)
    shutil.rmtree(folder)
    assert load_runtime(built, 1).predict({"x": np.zeros((2, 256), np.float32)})["y"].shape == (
        2,
        64,
    )


def test_other_weights_beside_the_same_graph_are_another_model(tmp_path: Path) -> None:
    """Trained again and exported again, the .onnx may be the same to the byte: all is made anew."""
    path = models.linear(
        tmp_path / "m.onnx",
        256,
        64,
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    graph = path.read_bytes()
    before = opened(path)
    (old, *_) = build_variants(before, ["original"], before.data, seed=0, max_loss=0)
    stale = before.recipes["original"].steps[0]
    data = np.fromfile(tmp_path / "m.data", np.float32)
    (-data).tofile(tmp_path / "m.data")
    assert path.read_bytes() == graph
    after = opened(path)
    assert after.data.fingerprint != before.data.fingerprint
    (new, *_) = build_variants(after, ["original"], after.data, seed=0, max_loss=0)
    row = {"x": np.ones((1, 256), np.float32)}
    np.testing.assert_allclose(
        load_runtime(new, 1).predict(row)["y"], -load_runtime(old, 1).predict(row)["y"], rtol=1e-5
    )
    with pytest.raises(BadInput, match="changed while it was read"):
        stale.check(tmp_path, model_path(new), None)


def test_a_file_that_does_not_fit_into_memory_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line before a session is, by the weights beside it as well; the kernel has no words."""
    monkeypatch.setattr("serving.memory.free_bytes", lambda: 300 << 20)
    opened(models.linear(tmp_path / "small.onnx"))
    path = models.linear(
        tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    with (tmp_path / "m.data").open("r+b") as data:
        data.truncate(200 << 20)  # a hole: it takes no room on the disk
    assert "m.onnx: opening it needs about" in refused(path)
    (tmp_path / "m.pt2").touch()
    with (tmp_path / "m.pt2").open("r+b") as data:
        data.truncate(200 << 20)
    assert "m.pt2: opening it needs about" in refused(tmp_path / "m.pt2")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_the_memory_that_a_step_claims_grows_with_the_file(tmp_path: Path, step: Step) -> None:
    """Half a gigabyte of weights is refused beforehand, not killed midway."""
    path = tmp_path / "m.bin"
    path.touch()
    os.truncate(path, 438 << 20)
    assert step.needed_gib(path) > 3 * 438 / 1024


def test_the_memory_of_a_given_file_counts_its_weights(tmp_path: Path) -> None:
    """A first step starts from an empty folder: what it reads is the user's file."""
    path = models.linear(
        tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    before = GivenOnnx(str(path), "").needed_gib(tmp_path)
    os.truncate(tmp_path / "m.data", 1 << 30)
    assert GivenOnnx(str(path), "").needed_gib(tmp_path) > before + 2


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "deep/../../m.data", "link"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    """A path that leads out, an absolute one, and a symbolic link: none of them is read."""
    folder = tmp_path / "given"
    (folder / "deep").mkdir(parents=True)
    path = models.linear(
        folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    shutil.move(folder / "m.data", tmp_path / "m.data")
    (folder / "link").symlink_to(tmp_path / "m.data")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    onnx.save(model, path)
    assert "outside of its own folder" in refused(path)


def test_absent_and_short_weights_are_named(tmp_path: Path) -> None:
    """The file that is missing or cut short is said."""
    path = models.linear(
        tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(data[:100])
    assert "cut short" in refused(path)
    (tmp_path / "m.data").unlink()
    assert "'m.data', which is not beside it" in refused(path)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    """Cut short, renamed, empty, absent, and of another kind: one line each."""
    good = models.linear(tmp_path / "m.onnx", 256, 64).read_bytes()
    (tmp_path / "short.onnx").write_bytes(good[: len(good) // 2])
    assert "cut short" in refused(tmp_path / "short.onnx")
    (tmp_path / "zip.onnx").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "it looks like a zip archive" in refused(tmp_path / "zip.onnx")
    (tmp_path / "lfs.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(tmp_path / "lfs.onnx")
    (tmp_path / "empty.onnx").touch()
    assert "is empty" in refused(tmp_path / "empty.onnx")
    assert "no such file" in refused(tmp_path / "absent.onnx")
    (tmp_path / "m.h5").write_bytes(b"\x89HDF")
    assert "tf2onnx" in refused(tmp_path / "m.h5")
    assert "is a folder" in refused(tmp_path)
    for suffix in (".pt", ".pt2", ".skops"):
        (tmp_path / f"m{suffix}").write_bytes(good)
        assert "renamed or cut short" in refused(tmp_path / f"m{suffix}")


def test_what_torch_save_wrote_is_no_program(tmp_path: Path) -> None:
    """Weights, or a pickled module, under TorchScript's ending: what to give instead is said."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Linear(4, 2)
    for number, saved in enumerate((network, network.state_dict())):
        torch.save(saved, tmp_path / f"{number}.pt")
        said = refused(tmp_path / f"{number}.pt", "x=float[b,4]")
        assert "torch.save" in said
        assert "torch.export.save" in said


def test_newer_opsets_and_formats_are_said(tmp_path: Path) -> None:
    """Which opset it has, which the installed onnxruntime takes, and what to do."""
    path = models.linear(tmp_path / "m.onnx", opset=17)
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "new.onnx")
    said = refused(tmp_path / "new.onnx")
    assert "opset 99" in said
    assert "export with a lower opset" in said
    model.opset_import[0].version = 17
    model.ir_version = 99
    onnx.save(model, tmp_path / "newer.onnx")
    assert "IR version 99" in refused(tmp_path / "newer.onnx")


def test_values_out_of_vocabulary_name_the_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The input, the index, and the option that gives its range; of a file, the file.

    The runtime's own complaint is not printed beside it.
    """
    path = models.hidden_embedding(tmp_path / "m.onnx", words=50)
    said = refused(path, "ids=0..99")
    assert "input 'ids' is out of vocabulary" in said
    assert "--input 'ids=0..49'" in said
    assert opened(path, "ids=0..49").data.test["ids"].max() == 49
    np.savez(tmp_path / "rows.npz", ids=np.full((4, 3), 60))
    assert "correct --payload" in refused(path, payload=tmp_path / "rows.npz")
    assert capfd.readouterr().err == ""


def test_fused_look_ups_are_read_as_well(tmp_path: Path) -> None:
    """Ids and segments of the fused embedding stay in their tables, or it is said."""
    path = models.fused_embedding(tmp_path / "m.onnx", words=50)
    rows = opened(path).data.test
    assert 25 < rows["ids"].max() < 50
    assert rows["types"].max() == 1
    assert "--input 'ids=0..49'" in refused(path, "ids=0..99")


EMBEDDING = """
import torch
class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)
        self.last = torch.nn.Linear(8, 4)
        self.shift = SHIFT
    def forward(self, ids):
        ids = ids.to(torch.int64)
        return self.last(self.table(ids + 1 if self.shift else ids).sum(1))
"""


def words_net(shift: bool) -> tuple[Any, Any]:
    """A torch module that looks words up, behind arithmetic or not, and its exported program."""
    torch = pytest.importorskip("torch")
    scope: dict[str, type] = {}
    exec(EMBEDDING.replace("SHIFT", str(shift)), scope)  # noqa: S102 - the text above
    module = scope["Words"]().eval()
    ids = torch.zeros((2, 6), dtype=torch.int32)
    return module, torch.export.export(
        module, (ids,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )


def test_words_of_a_torch_program_are_drawn_from_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its embeddings tell the vocabulary; beyond it the range is said, and how to give it."""
    torch = pytest.importorskip("torch")
    _, program = words_net(shift=False)
    torch.export.save(program, str(tmp_path / "m.pt2"))
    ids = opened(tmp_path / "m.pt2").data.test["ids"]
    assert 25 < ids.max() < 50
    said = refused(tmp_path / "m.pt2", "ids=0..99")
    assert "input 'ids' is out of vocabulary" in said
    assert "--input 'ids=0..49'" in said
    np.savez(tmp_path / "rows.npz", ids=np.full((4, 6), 60))
    said = refused(tmp_path / "m.pt2", payload=tmp_path / "rows.npz")
    assert "it holds 60, the model knows 0..49; correct --payload" in said
    (tmp_path / "words_of_mine.py").write_text(EMBEDDING.replace("SHIFT", "False"))
    monkeypatch.chdir(tmp_path)
    ids = opened("words_of_mine:Words", "ids=int64[b,6]").data.test["ids"]
    assert 25 < ids.max() < 50


def test_words_whose_range_is_not_told_are_asked_for(tmp_path: Path) -> None:
    """Behind arithmetic, and in TorchScript, nobody says the range; how to give it is said."""
    torch = pytest.importorskip("torch")
    module, program = words_net(shift=True)
    torch.export.save(program, str(tmp_path / "m.pt2"))
    ids = torch.zeros((2, 6), dtype=torch.int64)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.trace(module, ids).save(str(tmp_path / "m.pt"))
    assert opened(tmp_path / "m.pt", "ids=int64[b,6]:0..48").data.test["ids"].max() == 48
    np.savez(tmp_path / "rows.npz", ids=np.full((4, 6), 60))
    for file, wish in (("m.pt2", "ids=0..99"), ("m.pt", "ids=int64[b,6]:0..99")):
        said = refused(tmp_path / file, wish)
        assert "input 'ids' is out of vocabulary: it holds " in said
        assert "--input 'ids=0..N', N one less than the rows of the table" in said
    said = refused(tmp_path / "m.pt2", payload=tmp_path / "rows.npz")
    assert "it holds 60, the model knows fewer; correct --payload" in said


def test_a_look_up_of_something_else_is_not_blamed_on_words() -> None:
    """All ids in range: what was refused is not among the inputs."""
    specs = [TensorSpec(name="ids", datatype="INT64", shape=(-1, 2))]
    rows = {"ids": np.array([[1, 49]])}
    words = "index out of range in self"
    assert refused_index(words, specs, rows, Hints({"ids": 50})) is None
    assert refused_index("no memory", specs, rows, Hints()) is None
    assert refused_index(words, specs, rows, Hints({"ids": 49})) == RefusedIndex("ids", 49, 48)
    told = "index 60 is out of bounds for dimension 0 with size 40"
    assert refused_index(told, specs, rows, Hints()) == RefusedIndex("ids", 60, 39)


def test_a_batch_needs_a_batch_axis(tmp_path: Path) -> None:
    """A model that takes one row a call is not sent several."""
    assert "no batch axis" in refused(models.recurrent(tmp_path / "r.onnx"), batch=8)
    assert "no batch axis" in refused(models.detections(tmp_path / "d.onnx"), batch=2)
    assert opened(models.linear(tmp_path / "m.onnx"), batch=100).data.test["x"].shape == (100, 64)


def test_a_pickle_is_loaded_only_by_its_hash(tmp_path: Path) -> None:
    """Without the hash it is refused and told; with another it is refused; then it is served.

    An ONNX form is offered beside it, which reproduces its answers.
    """
    import joblib
    from sklearn.linear_model import LogisticRegression, Ridge

    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(200, 5)), draw.integers(0, 3, 200)
    path = tmp_path / "m.pkl"
    joblib.dump(LogisticRegression().fit(rows, labels), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"--allow-pickle-sha256 {digest}" in refused(path)
    assert "says 00" in refused(path, allow_pickle_sha256="00")
    model = opened(path, allow_pickle_sha256=digest)
    assert list(model.recipes)[:2] == ["original", "onnx"]
    original, converted = build_variants(
        model, ["original", "onnx"], model.data, seed=0, max_loss=0.01
    )
    assert original.file.endswith(".skops")
    assert original.outputs[0].shape == (-1, 3)
    assert converted.quality is not None
    assert converted.quality.reproduced == pytest.approx(1, abs=1e-6)

    joblib.dump(Ridge().fit(rows, rows[:, 0]), tmp_path / "r.joblib")
    digest = hashlib.sha256((tmp_path / "r.joblib").read_bytes()).hexdigest()
    model = opened(tmp_path / "r.joblib", allow_pickle_sha256=digest)
    for variant in build_variants(model, ["original", "onnx"], model.data, seed=0, max_loss=0.01):
        assert variant.outputs[0].name == "predictions"
        assert variant.quality is not None
        assert variant.quality.reproduced == pytest.approx(1, abs=1e-6)


def test_a_pickle_that_is_no_estimator_is_said(tmp_path: Path) -> None:
    """What was pickled decides, not the file's name."""
    import joblib

    joblib.dump({"a": 1}, tmp_path / "d.pkl")
    digest = hashlib.sha256((tmp_path / "d.pkl").read_bytes()).hexdigest()
    said = refused(tmp_path / "d.pkl", allow_pickle_sha256=digest)
    assert said == f"{tmp_path}/d.pkl: dict is no fitted estimator"


TWO_LAYERS = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(32, 64)
        self.second = torch.nn.Linear(64, 4)
    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""


def test_torch_models_are_served_from_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported program, TorchScript with a stated signature, and code that makes a module.

    Of a program an ONNX form is offered, which reproduces its answers, and an int8 form of
    that; so it is of the same network when the user exports it to ONNX.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    scope: dict[str, type] = {}
    exec(TWO_LAYERS, scope)  # noqa: S102 - the text above
    module = scope["Net"]().eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (torch.ones(2, 32),), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(tmp_path / "m.pt2"))
    model = opened(tmp_path / "m.pt2", batch=3)
    assert model.data.batched
    assert list(model.recipes) == ["original", "onnx", "onnx_int8"]
    original, exported, int8 = build_variants(
        model, list(model.recipes), model.data, seed=0, max_loss=0.05
    )
    assert original.runtime == "torch"
    assert original.inputs[0].shape == (-1, 32)
    assert exported.quality is not None
    assert exported.quality.reproduced == pytest.approx(1, abs=1e-5)
    assert int8.size_bytes < exported.size_bytes
    assert int8.barred is None

    shutil.copy(model_path(exported), tmp_path / "exported.onnx")
    assert list(opened(tmp_path / "exported.onnx").recipes) == ["original", "int8"]

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.trace(module, torch.ones(2, 32)).save(str(tmp_path / "m.pt"))
    assert "--input 'x=float[b,3,224,224]'" in refused(tmp_path / "m.pt")
    model = opened(tmp_path / "m.pt", "x=float[b,32]")
    assert model.data.batched
    assert model.notes[0].startswith("onnx is not offered: ")

    (tmp_path / "nets_of_mine.py").write_text(TWO_LAYERS)
    monkeypatch.chdir(tmp_path)
    model = opened("nets_of_mine:Net", "x=float[b,32]")
    assert list(model.recipes) == ["original", "onnx", "onnx_int8"]
    assert "cannot be made" in refused("nets_of_mine:Absent", "x=float[b,32]")


def built_files(model: OwnModel) -> dict[str, float]:
    """Every variant's file and when it was written."""
    variants = build_variants(model, list(model.recipes), model.data, seed=0, max_loss=1)
    return {variant.file: model_path(variant).stat().st_mtime_ns for variant in variants}


def test_a_moved_file_is_the_same_model(tmp_path: Path) -> None:
    """Nothing is built again: what a file holds decides, not where it lies."""
    path = models.linear(tmp_path / "m.onnx", 256, 64)
    before = built_files(opened(path))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(path, tmp_path / "elsewhere" / "m.onnx")
    assert built_files(opened(tmp_path / "elsewhere" / "m.onnx")) == before


def test_code_that_makes_the_same_module_is_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run exports it anew, to another folder; what it built before is found."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    (tmp_path / "the_same_net.py").write_text(TWO_LAYERS)
    monkeypatch.chdir(tmp_path)
    first, second = (opened("the_same_net:Net", "x=float[b,32]") for _ in range(2))
    places = {model.recipes["original"].steps[0].path for model in (first, second)}
    assert len(places) == 2
    assert first.data.fingerprint == second.data.fingerprint
    before = built_files(first)
    assert len(before) > 1
    assert built_files(second) == before


def test_a_torch_file_cannot_run_code(tmp_path: Path) -> None:
    """A .pt2 that holds a pickle of something else is refused, not unpickled."""
    torch = pytest.importorskip("torch")
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 and nothing else")
    assert "renamed or cut short" in refused(tmp_path / "m.pt2")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]

    from serving.compressors.given_torch import _weights_only

    torch.save(Evil(), tmp_path / "evil.pt")
    with _weights_only(), pytest.raises(Exception, match=r"[Ww]eights"):
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert not (tmp_path / "touched").exists()
