"""Signatures of PyTorch models: from what a file keeps, and from what only a user can say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import BadInput
from serving.generate import Hints, generated_rows
from serving.records import TensorSpec, has_batch_axis
from serving.rows import take
from serving.runtimes.torch_runtime import open_torchscript, signature_json
from serving.v2 import datatype_of
from serving.wishes import Wish

# Operations of an exported program behind which ids are still the ids that were given.
_KEEPS_VALUES = frozenset(
    {
        "alias",
        "clone",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "permute",
        "reshape",
        "select",
        "slice",
        "squeeze",
        "to",
        "_to_copy",
        "transpose",
        "unsqueeze",
        "view",
    }
)
_LOOKS_UP = frozenset({"embedding", "embedding_bag", "_embedding_bag"})


def program_signature(
    path: str, program: Any
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an exported program, from the tensors that it was traced with."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = tuple(_of_node(path, name, name, nodes) for name in signature.user_inputs)
    names = [f"output{i}" if len(signature.user_outputs) > 1 else "output" for i in range(99)]
    pairs = zip(names, signature.user_outputs, strict=False)
    return inputs, tuple(_of_node(path, name, made, nodes) for name, made in pairs)


def program_hints(program: Any) -> Hints:
    """How many rows the tables have that an exported program looks its inputs up in."""
    origin = {name: name for name in program.graph_signature.user_inputs}
    vocabulary: dict[str, int] = {}
    for node in program.graph.nodes:
        operation = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op != "call_function" or not node.args:
            continue
        if operation in _KEEPS_VALUES and str(node.args[0]) in origin:
            origin[node.name] = origin[str(node.args[0])]
        elif operation in _LOOKS_UP and str(node.args[1]) in origin:
            size, name = node.args[0].meta["val"].shape[0], origin[str(node.args[1])]
            vocabulary[name] = min(int(size), vocabulary.get(name, int(size)))
    return Hints(vocabulary)


def script_signature(path: Path, wishes: Sequence[Wish]) -> str:
    """Signature of a TorchScript archive: names from its code, the rest from the user.

    The outputs are what it answers to rows made to fit. BadInput says what is not known.
    """
    module, _ = open_torchscript(path)
    names = [a.name for a in module.forward.schema.arguments if a.name != "self"]
    inputs = said_inputs(str(path), names, wishes)
    return signature_json(inputs, _answered(str(path), module, inputs))


def said_inputs(path: str, names: Sequence[str], wishes: Sequence[Wish]) -> tuple[TensorSpec, ...]:
    """Specs of inputs that only the user can say; BadInput shows how."""
    wished = {wish.name: wish for wish in wishes}
    specs = []
    for name in names:
        wish = wished.get(name)
        if wish is None or wish.dims is None:
            raise BadInput(
                f"{path}: does not say what {name!r} is; say it as in --input "
                f"'{name}=float[b,3,224,224]'"
            )
        specs.append(
            TensorSpec(
                name=name,
                datatype=wish.datatype or "FP32",
                shape=tuple(d if isinstance(d, int) else -1 for d in wish.dims),
                symbols=tuple(None if isinstance(d, int) else d for d in wish.dims),
            )
        )
    return tuple(specs)


def _of_node(path: str, name: str, node: str, nodes: dict[str, Any]) -> TensorSpec:
    value = nodes[node].meta.get("val") if node in nodes else None
    if value is None or not hasattr(value, "dtype"):
        raise BadInput(f"{path}: {node} is no tensor, which is all that can be served")
    sizes = list(value.shape)
    return TensorSpec(
        name=name,
        datatype=_datatype(path, value.dtype),
        shape=tuple(int(d) if isinstance(d, int) else -1 for d in sizes),
        symbols=tuple(None if isinstance(d, int) else str(d) for d in sizes),
    )


def _datatype(path: str, dtype: Any) -> str:
    import torch

    try:
        return datatype_of(torch.empty(0, dtype=dtype).numpy())
    except (TypeError, ValueError):
        raise BadInput(f"{path}: takes or gives {dtype}, which V2 cannot carry") from None


def _answered(path: str, module: Any, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Specs of what a module answers, seen from two calls of different batch sizes."""
    import torch

    batched = has_batch_axis(inputs, inputs)
    try:
        with torch.inference_mode():
            seen = [
                module(*example_tensors(inputs, rows).values())
                for rows in ((2, 3) if batched else (1, 1))
            ]
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1][:200]
        raise BadInput(f"{path}: does not run on the inputs that --input says ({first})") from None
    several = [made if isinstance(made, tuple | list) else (made,) for made in seen]
    specs = []
    for index, (first_one, second) in enumerate(zip(*several, strict=True)):
        if not isinstance(first_one, torch.Tensor):
            raise BadInput(f"{path}: answers {type(first_one).__name__}, not tensors")
        shape = [a if a == b else -1 for a, b in zip(first_one.shape, second.shape, strict=True)]
        name = "output" if len(several[0]) == 1 else f"output{index}"
        specs.append(
            TensorSpec(name=name, datatype=_datatype(path, first_one.dtype), shape=tuple(shape))
        )
    return tuple(specs)


def example_tensors(inputs: Sequence[TensorSpec], rows: int) -> dict[str, Any]:
    """Tensors of random numbers that fit; a free dimension beyond the batch is 8 long."""
    import torch

    batched = has_batch_axis(inputs, inputs)
    sizes = {
        spec.symbol(axis) or f"{spec.name}.{axis}": 8
        for spec in inputs
        for axis, size in enumerate(spec.shape)
        if size == -1 and not (batched and axis == 0)
    }
    made = take(
        generated_rows(inputs, rows, 0, batched=batched, sizes=sizes), range(rows), batched=batched
    )
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in made.items()}
