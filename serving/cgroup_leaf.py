"""Stepping aside in a v2 control group that is ours, so that it can have children.

A group of version 2 cannot both hold processes and hand controllers to its children (the
"no internal processes" rule), the root excepted. So whoever lives in a delegated group moves
into a leaf below it first, and back when the children are gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.supervisor import descendants

_PREFIX = "tonnage-"
_SUFFIX = "-leaf"


@dataclass(frozen=True)
class Leaf:
    """A child of the group ``owner`` for this process and those that it has started."""

    group: Path

    @classmethod
    def owner(cls, own: Path) -> Path:
        """The delegated group when ``own`` is already the leaf of this process, else ``own``."""
        return own.parent if own.name == _name() else own

    @property
    def path(self) -> Path:
        """Folder of the leaf."""
        return self.group / _name()

    def enter(self) -> None:
        """Move our processes into the leaf; nothing happens when they are there already.

        Processes of others are left alone. If there are any, the kernel refuses (EBUSY) to
        give controllers to the group's children.
        """
        ours = {os.getpid(), *descendants(os.getpid())}
        inside = _pids(self.group) & ours
        if inside:
            self.path.mkdir(exist_ok=True)
            _move(inside, self.path)

    def leave(self) -> None:
        """Move everything in the leaf back, and remove it; never raises."""
        if not self.path.is_dir():
            return
        with contextlib.suppress(OSError):
            control = self.group / "cgroup.subtree_control"
            given = control.read_text().split()
            if given:  # else nobody could enter the group again
                control.write_text(" ".join(f"-{name}" for name in given))
            _move(_pids(self.path), self.group)
            self.path.rmdir()


def _name() -> str:
    return f"{_PREFIX}{os.getpid()}{_SUFFIX}"


def _pids(group: Path) -> set[int]:
    return {int(line) for line in (group / "cgroup.procs").read_text().split()}


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError), (group / "cgroup.procs").open("w") as procs:
            procs.write(str(pid))
