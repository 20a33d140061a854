"""The house rules that a test can hold: who imports whom, and what stays out of where."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each room may import itself and those to its left, never back.
LAYERS = ["serving", "loadtests", "planner", "reports", "tonnage"]
# Where model files are made: whatever a workload or a compressor needs, when it runs.
MAKERS = frozenset(
    str(path.relative_to(ROOT))
    for folder in ("serving/workloads", "serving/compressors", "serving/networks")
    for path in (ROOT / folder).glob("*.py")
)
# Who may name a compressor, beside themselves: modules of recipes.
RECIPES = {"serving/workloads", "serving/compressors", "serving/own_kinds.py"}
# Heavy libraries, and the only files that may import them.
CONFINED = {
    "ray": {
        "serving/ray_host/host.py",
        "serving/ray_host/replica.py",
        "serving/ray_host/exported.py",
    },
    "locust": {
        "loadtests/locust_master.py",
        "loadtests/locust_process.py",
        "loadtests/user_tasks.py",
    },
    "gevent": {
        "loadtests/crew.py",
        "loadtests/locust_master.py",
        "loadtests/locust_process.py",
        "loadtests/stamped.py",
        "loadtests/timerfd.py",
        "loadtests/user_tasks.py",
    },
    "torch": MAKERS | {"serving/runtimes/torch_runtime.py"},
    "openvino": MAKERS | {"serving/runtimes/openvino_runtime.py"},
    "sklearn": MAKERS,
    "skl2onnx": MAKERS,
    "onnx": MAKERS | {"serving/onnx_file.py", "serving/calibration_worker.py"},
    "skops": MAKERS | {"serving/runtimes/sklearn_runtime.py"},
    "onnxruntime": MAKERS
    | {"serving/runtimes/onnx_runtime.py", "serving/gpu.py", "serving/calibration_worker.py"},
    "numba": {"planner/steps.py"},
    "safetensors": MAKERS,
    "tokenizers": {"serving/datasets/minilm.py"},
    "pyarrow": {"serving/datasets/cifar10.py"},
    "PIL": {"serving/datasets/cifar10.py"},
    "plotly": {"reports/plots.py", "reports/plot_parts.py", "reports/html.py"},
    "matplotlib": {"reports/plots.py"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources() -> list[Path]:
    return [p for room in LAYERS for p in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_point_left(path: Path) -> None:
    """No module imports from a room to the right of its own, nor from the tests."""
    room = LAYERS.index(path.relative_to(ROOT).parts[0])
    forbidden = {*LAYERS[room + 1 :], "tests", "benchmarks"}
    assert not [name for name in imports(path) if name.split(".")[0] in forbidden]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    """A heavy library is imported only by the files that need it."""
    relative = str(path.relative_to(ROOT))
    for name in imports(path):
        allowed = CONFINED.get(name.split(".")[0])
        assert allowed is None or relative in allowed, f"{relative} imports {name}"


def names_compressors(name: str) -> bool:
    return name == "serving.compressors" or name.startswith("serving.compressors.")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_names_no_compressor(path: Path) -> None:
    """Only recipes do: those of the workloads, and those offered for a user's own file."""
    relative = path.relative_to(ROOT)
    if str(relative.parent) not in RECIPES and str(relative) not in RECIPES:
        assert not [name for name in imports(path) if names_compressors(name)]


def test_the_front_door_imports_nothing_heavy() -> None:
    """Starting the command line loads none of ray, locust, torch, sklearn, onnxruntime."""
    code = (
        "import sys, tonnage.cli\n"
        f"print([m for m in {[*sorted(CONFINED), 'pandas', 'scipy']!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_is_long() -> None:
    """A module is one noun; beyond 420 lines it has become two."""
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources()}
    assert {name: n for name, n in lengths.items() if n > 420} == {}
