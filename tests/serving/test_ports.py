"""Ports that are chosen now and used later."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serving import ports


def test_a_free_port_is_none_that_connections_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the kernel's range, where that leaves room; one that somebody has is not chosen."""
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "range")
    ports._RANGE.write_text("32768\t60999\n")
    found = {ports.free_port() for _ in range(50)}
    assert all(20_000 <= port < 32_768 for port in found)
    assert len(found) > 40
    ports._RANGE.write_text("20100\t60999\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.free_port()))
        assert {ports.free_port() for _ in range(500)}.isdisjoint({taken.getsockname()[1]})


@pytest.mark.parametrize("given", [None, "1024\t65535\n"])
def test_without_room_below_the_kernel_chooses(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that gives every port to connections, or does not say which."""
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "range")
    if given:
        ports._RANGE.write_text(given)
    assert ports.check_free(ports.free_port()) > 1_023
