"""Where control groups are mounted, and where in each hierarchy a process is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory")


@dataclass(frozen=True)
class Place:
    """A mounted hierarchy and the process's own group in it, both as folders that exist.

    In a container the mount often is the container's own group: what lies above cannot be
    seen.
    """

    mount: Path
    own: Path
    version: int

    @property
    def is_machine(self) -> bool:
        """Whether the own group is the root of all, which counts the whole machine.

        A root looks like any other group from within a namespace, but for these files: the
        first only a root of version 1 has, the second every group of version 2 but its root.
        """
        if self.version == 1:
            return (self.own / "release_agent").exists()
        return not (self.own / "cgroup.events").exists()

    @property
    def chain(self) -> list[Path]:
        """The own group and all groups around it that are visible, own first."""
        above = [p for p in self.own.parents if p == self.mount or self.mount in p.parents]
        return [self.own, *above]


@dataclass(frozen=True)
class Hierarchies:
    """A process's places: in version 1 by controller, in version 2 a single one."""

    v1: dict[str, Place] = field(default_factory=dict)
    v2: Place | None = None

    def place(self, controller: str) -> Place | None:
        """Where ``controller`` is to be read: version 1 where it is mounted, else version 2."""
        return self.v1.get(controller, self.v2)


def hierarchies(proc: Path = Path("/proc/self")) -> Hierarchies:
    """Places of the process whose folder under /proc is ``proc``; empty where unreadable."""
    try:
        lines = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return Hierarchies()
    paths = _own_paths(proc / "cgroup")
    found: dict[str, Place] = {}
    for line in lines:
        left, _, right = line.partition(" - ")
        root, mount = (_unescaped(text) for text in left.split()[3:5])
        kind, _, options = right.split(" ", 2)
        controllers = {"cgroup": set(options.split(",")) & set(CONTROLLERS), "cgroup2": {""}}
        for controller in controllers.get(kind, ()):
            # Of several mounts the first counts, unless a later one hides it.
            if controller not in found or found[controller].mount == Path(mount):
                version = 1 if controller else 2
                found[controller] = _place(mount, root, paths.get(controller), version)
    v2 = found.pop("", None)
    return Hierarchies(found, v2)


def _own_paths(file: Path) -> dict[str, str]:
    """Path of the own group by controller ("" for version 2), from /proc/PID/cgroup."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _place(mounted_at: str, root: str, path: str | None, version: int) -> Place:
    """``root`` is the group that is mounted; a path outside of it is not visible here."""
    mount = Path(mounted_at)
    inside = "" if path is None else path.removeprefix(root.rstrip("/"))
    own = mount / inside.lstrip("/")
    hidden = path is None or not path.startswith(root) or ".." in own.parts or not own.is_dir()
    return Place(mount, mount if hidden else own, version)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
