"""A suite of benchmarks: modules that name their parts, and render what these found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Module(Protocol):
    """What a module of benchmarks offers."""

    def parts(self) -> Mapping[str, Callable[[], Any]]:
        """Parts by name, each measured once and kept; results are JSON-ready."""
        ...

    def render(self, results: Mapping[str, Any]) -> Sequence[str]:
        """Rows of a Markdown table: figure, aim, measured."""
        ...


@dataclass(frozen=True)
class Suite:
    """Modules that are published together.

    Those of a ``piecemeal`` suite render whatever parts there are, and are published so; the
    others only all of them.
    """

    title: str
    note: str
    modules: Sequence[Any]
    piecemeal: bool = False
