"""The source code that a step runs, as a hash: when it changes, what it made is made again."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from serving.steps import Step

# Where model files come from. The rest of the room serves them, and cannot change them.
_MAKERS = ("serving.compressors", "serving.workloads.", "serving.training")


def hash_of_source(steps: Iterable[Step]) -> str:
    """Hash over the modules of the steps, of their parameters, and of what those import."""
    modules: set[str] = set()
    for step in steps:
        for item in (type(step), *vars(step).values()):
            for module in _named_by(item):
                modules |= _reached(module)
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(_file(module).read_bytes())
    return digest.hexdigest()


def _named_by(item: Any) -> list[str]:
    if isinstance(item, tuple | list):
        return [module for part in item for module in _named_by(part)]
    return [item.__module__] if callable(item) else []


def _reached(module: str) -> set[str]:
    """The module and, of the makers, every one that it imports, at its top or later."""
    seen: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += _imports(name)
    return seen


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_file(module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(sorted(n for n in names if n.startswith(_MAKERS) and _is_module(n)))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a class or function of the module named before it
        return False


@cache
def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"module {module} has no source file")
    return Path(spec.origin)
