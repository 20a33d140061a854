"""One worker of a calibration: runs small kernels on one CPU, as fast as it can.

Executed, one process a CPU. A line ``KERNEL SECONDS`` on stdin is answered on stdout with the
calls a second, and the share of the time that the worker really had its CPU. The kernels stand
for what inference spends its time on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np

Kernel = Callable[[], object]

_WARM_UP_CALLS = 2
_COPY_BYTES = 64 << 20
MEMORY_BYTES = 3 * _COPY_BYTES + (256 << 20)
"""What a worker takes at most, its libraries included."""


def gemm() -> Kernel:
    """fp32 matrix products in onnxruntime: the layers of a transformer or an MLP."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((1024, 1024)).astype(np.float32)
    rows = rng.standard_normal((128, 1024)).astype(np.float32)
    return _onnx("MatMul", rows, weights)


def int8_gemm() -> Kernel:
    """The same with 8-bit integers, where VNNI and AMX decide."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 127, (1024, 1024), dtype=np.int8)
    rows = rng.integers(0, 255, (128, 1024), dtype=np.uint8)
    return _onnx("MatMulInteger", rows, weights)


def conv() -> Kernel:
    """fp32 convolutions of 3 x 3 over pictures of 32 x 32."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    pictures = rng.standard_normal((4, 64, 32, 32)).astype(np.float32)
    return _onnx("Conv", pictures, weights)


def trees() -> Kernel:
    """Decision trees in numpy, level by level: branches and gathers, as scikit-learn's are."""
    rng = np.random.default_rng(0)
    depth, trees, features = 8, 20, 32
    rows = rng.standard_normal((500, features)).astype(np.float32)
    feature = rng.integers(0, features, (trees, 2**depth - 1))
    threshold = rng.standard_normal((trees, 2**depth - 1)).astype(np.float32)
    every = np.arange(len(rows))

    def descend() -> float:
        total = 0.0
        for of, at in zip(feature, threshold, strict=True):
            node = np.zeros(len(rows), dtype=np.int64)
            for _ in range(depth):
                node = 2 * node + 1 + (rows[every, of[node % len(of)]] > at[node % len(at)])
            total += float(node.mean())
        return total

    return descend


def memory() -> Kernel:
    """Copies of more than a core's caches hold: the bandwidth that weights are read with."""
    source = np.ones(_COPY_BYTES // 8)
    target = np.empty_like(source)

    def copy() -> None:
        np.copyto(target, source)

    return copy


KERNELS: dict[str, Callable[[], Kernel]] = {
    "fp32 matrix product": gemm,
    "int8 matrix product": int8_gemm,
    "fp32 convolution": conv,
    "decision trees": trees,
    "memory copy": memory,
}


def _onnx(operator: str, given: np.ndarray, weights: np.ndarray) -> Kernel:
    """One operator with constant weights in a session of one thread."""
    import onnxruntime
    from onnx import helper, numpy_helper

    result = np.dtype(np.int32 if weights.dtype == np.int8 else np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "kernel",
        [helper.make_tensor_value_info("x", _onnx_type(given.dtype), given.shape)],
        [helper.make_tensor_value_info("y", _onnx_type(result), None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"x": given}
    return lambda: session.run(None, feeds)


def _onnx_type(dtype: np.dtype) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(dtype))


@cache
def _made(name: str) -> Kernel:
    kernel = KERNELS[name]()
    for _ in range(_WARM_UP_CALLS):
        kernel()
    return kernel


def work(name: str, seconds: float) -> tuple[float, float]:
    """Calls of a kernel per second, and CPU time over wall time; at least one call."""
    kernel = _made(name)
    cpu, begin = time.process_time(), time.perf_counter()
    calls = 0
    while True:
        kernel()
        calls += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            return calls / elapsed, (time.process_time() - cpu) / elapsed


def main() -> None:
    """Work through the lines of stdin on the CPU that the only argument names."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    for line in sys.stdin:
        name, _, seconds = line.strip().rpartition(" ")
        calls_per_s, share = work(name, float(seconds))
        sys.stdout.write(f"{calls_per_s!r} {share!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
