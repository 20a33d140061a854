"""Which edits make a file be built again, and which do not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from serving.source import hash_of_source

WORKLOAD = """
from dataclasses import dataclass
from serving.compressors.torch_training import Train
from serving.compressors.onnx_int8 import StaticInt8
from serving.steps import Step

WIDTH = 3
OTHER = 4

def network():
    return helper(WIDTH)

def helper(width):
    return [width for _ in range(2)]

def unrelated():
    return OTHER

@dataclass(frozen=True)
class Own(Step):
    suffix = ".x"
    @property
    def title(self): return "own"
    def apply(self, source, target, making): return helper(OTHER)
    def check(self, source, target, making): pass

TRAIN = Train(network, epochs=1)
RECIPES = {"a": StaticInt8()}
"""


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., ModuleType]:
    """The workload above, with edits (old, new)."""

    def load(*edits: tuple[str, str]) -> ModuleType:
        text = WORKLOAD
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"edited_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("edited", path)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules["edited"] = made
        spec.loader.exec_module(made)
        return made

    return load


CHANGES = {
    "the network": ("helper(WIDTH)", "helper(WIDTH + 1)"),
    "what it calls": ("range(2)", "range(3)"),
    "a number it uses": ("WIDTH = 3", "WIDTH = 5"),
}
NO_CHANGES = {
    "a recipe": ('{"a": StaticInt8()}', '{"b": StaticInt8()}'),
    "another function": ("return OTHER\n", "return OTHER + 1\n"),
    "a number it does not use": ("OTHER = 4", "OTHER = 5"),
}


@pytest.mark.parametrize("edit", CHANGES.values(), ids=CHANGES)
def test_what_a_step_uses_counts(module: Callable[..., ModuleType], edit: tuple[str, str]) -> None:
    """The function it was given, what that calls, and the constants on the way."""
    assert hash_of_source([module().TRAIN]) != hash_of_source([module(edit).TRAIN])


@pytest.mark.parametrize("edit", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_it_does_not_use_does_not(
    module: Callable[..., ModuleType], edit: tuple[str, str]
) -> None:
    """Another recipe in the same module does not train the network anew."""
    assert hash_of_source([module().TRAIN]) == hash_of_source([module(edit).TRAIN])


def test_a_step_of_the_workload_itself_counts(module: Callable[..., ModuleType]) -> None:
    """Its class, and what its methods refer to."""
    before = hash_of_source([module().Own()])
    for edit in (("return helper(OTHER)", "return helper(1)"), ("OTHER = 4", "OTHER = 5")):
        assert hash_of_source([module(edit).Own()]) != before
    assert hash_of_source([module(("WIDTH = 3", "WIDTH = 5")).Own()]) == before


def test_a_compressor_counts_with_what_it_imports(
    module: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Training imports how networks are stored; quantization is no part of it."""
    before = hash_of_source([module().TRAIN])
    real = Path.read_text

    def edited(name: str) -> str:
        def read(path: Path, *args: object, **kwargs: object) -> str:
            text = real(path, *args, **kwargs)  # type: ignore[arg-type]
            return text + "\n# edited\n" if path.name == name else text

        monkeypatch.setattr(Path, "read_text", read)
        return hash_of_source([module().TRAIN])

    assert edited("torch_models.py") != before
    assert edited("onnx_int8.py") == before
