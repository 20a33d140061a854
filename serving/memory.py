"""Memory that is still free: of the machine, and of the control groups that we run in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from serving.errors import BadInput

_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def free_bytes(own: Path = _OWN, root: Path = _ROOT) -> int:
    """Bytes that this process can still take before something is killed.

    The least of what the machine has available and what is left in each control group above
    us; page cache that the kernel would give up counts as free, as it does for Kubernetes.
    """
    free = int(psutil.virtual_memory().available)
    return min([free, *(_left_in(folder) for folder in _groups(own, root))])


def require(gib: float, what: str, advice: str) -> None:
    """Raise BadInput beforehand when ``what`` needs more than is free."""
    free = free_bytes() / 2**30
    if free < gib:
        raise BadInput(
            f"{what} needs about {gib:.2g} GiB of memory, and {free:.2g} are free; {advice}"
        )


def _groups(own: Path, root: Path) -> Iterator[Path]:
    """Our memory groups, from the innermost to the root; of version 2, else of version 1."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers in ("", "memory"):
            top = root / controllers
            here = top / path.strip("/")
            # Inside a container the path may be the host's, of which only the end is mounted.
            inner = here if here.is_dir() else top
            yield from (f for f in (inner, *inner.parents) if f == top or top in f.parents)


def _left_in(folder: Path) -> int:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((folder / limit).read_text())
            taken = int((folder / used).read_text())
            return max(0, most - taken + _cache(folder))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62


def _cache(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    found = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))
