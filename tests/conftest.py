"""Shared fixtures: a stub variant, whose answers and service time are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.records import Variant
from serving.stub_variant import stub_variant


@pytest.fixture
def make_stub(tmp_path: Path) -> Callable[..., Variant]:
    """Factory of stub variants with a known service time."""

    def make(busy_ms: float = 0.0, name: str = "stub", **settings: object) -> Variant:
        return stub_variant(tmp_path, busy_ms, name, **settings)

    return make
