"""Free memory, read from trees that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import memory
from serving.errors import BadInput

MIB = 1 << 20


def tree(root: Path, folder: str, limit: str, used: int, cache: int, version: int) -> None:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    group = root / folder
    group.mkdir(parents=True, exist_ok=True)
    (group / names[0]).write_text(limit)
    (group / names[1]).write_text(str(used))
    (group / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


def own(folder: Path, text: str) -> Path:
    path = folder / "own"
    path.write_text(text)
    return path


def test_the_tightest_group_of_version_2_decides(tmp_path: Path) -> None:
    """A parent's limit binds as well as our own; cache counts as free."""
    tree(tmp_path, "pod", str(100 * MIB), 90 * MIB, 20 * MIB, 2)
    tree(tmp_path, "pod/box", "max", 10 * MIB, 0, 2)
    assert memory.free_bytes(own(tmp_path, "0::/pod/box\n"), tmp_path) == 30 * MIB


def test_version_1_is_read_too(tmp_path: Path) -> None:
    """The memory controller's own hierarchy."""
    tree(tmp_path, "memory/pod", str(100 * MIB), 90 * MIB, 0, 1)
    lines = "9:cpu:/elsewhere\n4:memory:/pod\n"
    assert memory.free_bytes(own(tmp_path, lines), tmp_path) == 10 * MIB


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    """A path of the host that is not mounted stands for the root of what is."""
    tree(tmp_path, "memory", str(100 * MIB), 60 * MIB, 0, 1)
    assert memory.free_bytes(own(tmp_path, "4:memory:/docker/abc\n"), tmp_path) == 40 * MIB


def test_without_groups_the_machine_decides(tmp_path: Path) -> None:
    """No control groups, no limit but the machine's own."""
    assert memory.free_bytes(tmp_path / "absent", tmp_path) > 0


def test_what_does_not_fit_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: what needs how much, how much is free, and what to do."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 << 29)
    memory.require(1.4, "this", "free some")
    with pytest.raises(BadInput, match=r"this needs about 2 GiB of memory, and 1\.5 are free"):
        memory.require(2.0, "this", "free some")
