"""The source code that a step runs, as a hash: when it changes, what it made is made again.

Of a compressor or network counts its whole module, and what that imports of the others. Of a
workload's module, which names recipes of every kind, counts only what the step itself uses:
its class, the functions it was given, and what those refer to or import.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from serving.steps import Step

_MAKERS = ("serving.compressors", "serving.networks")


def hash_of_source(steps: Iterable[Step]) -> str:
    """Hash over the source of the steps' classes and of the callables among their parameters."""
    found: dict[str, str] = {}
    for step in steps:
        for item in (type(step), *vars(step).values()):
            _collect(item, found)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _collect(item: Any, found: dict[str, str]) -> None:
    """Add the source that ``item`` stands for to ``found``, by name."""
    if isinstance(item, tuple | list):
        for part in item:
            _collect(part, found)
    elif inspect.isclass(item) or inspect.isfunction(item):
        if item.__module__.startswith(_MAKERS):
            found.update(_reached(item.__module__))
        elif f"{item.__module__}.{item.__qualname__}" not in found:
            text = textwrap.dedent(inspect.getsource(item))
            found[f"{item.__module__}.{item.__qualname__}"] = text
            for module in _imported(text):
                found.update(_reached(module))
            for name, value in _referred(item):
                if inspect.isclass(value) or inspect.isfunction(value):
                    _collect(value, found)
                elif isinstance(value, str | int | float | tuple | frozenset):
                    found[f"{item.__module__}.{name}"] = repr(value)


def _referred(item: Any) -> Iterator[tuple[str, Any]]:
    """Names of its own module that a function, or the methods of a class, refer to."""
    methods = vars(item).values() if inspect.isclass(item) else [item]
    for method in methods:
        function = getattr(method, "fget", None) or method  # a property's getter
        if inspect.isfunction(function):
            for name in _names(function.__code__):
                value = function.__globals__.get(name)
                home = str(getattr(value, "__module__", item.__module__))
                if home == item.__module__ or home.startswith(_MAKERS):
                    yield name, value


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _reached(module: str) -> dict[str, str]:
    """The source of the module and of every maker's that it imports, at its top or later."""
    seen: dict[str, str] = {}
    left = [module]
    while left:
        name = left.pop()
        if name not in seen:
            seen[name] = _file(name).read_text()
            left += _imported(seen[name])
    return seen


@cache
def _imported(source: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
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
