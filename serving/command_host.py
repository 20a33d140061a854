"""The server of a user on an enforced instance: any command, one deployment at a time.

The command enters its control group before it is executed, so all that it starts, workers
and daemons included, belongs to the instance; CPU time and memory are the whole group's.
What leaves the group is refused: it could not be measured truthfully.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import psutil

from serving import host_facts
from serving.cgroups import CgroupTree, Group, find_cgroups, remove_stale
from serving.errors import BadInput, Infrastructure, Unusable
from serving.grants import check_fits_host, enforcement, grants_of
from serving.ports import check_free, free_port
from serving.private_folder import new_name, private_base, remove_stale_folders
from serving.ray_host import enter_instance
from serving.records import Deployment, Endpoint, Environment, Replica
from serving.slots import read_slots
from serving.supervised import Supervised

# A server that answers, but wrongly, is given so long to come to its senses: some answer
# with errors until their model is loaded.
_SETTLING_S = 5.0
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a look at a server found: whether it is ready, else why not.

    ``wrong`` is an answer that is there and is not what was asked for.
    """

    ready: bool
    text: str = ""
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """How a server is started, and how one sees that it is ready.

    ``{port}`` in ``argv`` is replaced by a free port, unless it listens on a fixed one.
    """

    argv: Sequence[str]
    folder: Path
    look: Callable[[str], Seen]
    port: int | None = None
    start_timeout_s: float = 60.0


class CommandHost:
    """Runs a command on enforced instances. A context manager; leaving it ends everything."""

    def __init__(self, command: Command, log: Path) -> None:
        self._command = command
        self._log = log
        self.placement = host_facts.host_placement()
        remove_stale()
        remove_stale_folders()
        run = new_name()
        self.tree: CgroupTree | None = find_cgroups(run)
        self._folder = private_base() / run
        self._running: dict[str, tuple[Supervised, list[Group]]] = {}

    @property
    def enforcement(self) -> Literal["cgroup-v1", "cgroup-v2", "affinity"]:
        """How instance types are enforced on this host."""
        return enforcement(self.tree)

    def environment(self) -> Environment:
        """The environment of what is measured here."""
        found = host_facts.environment(self.placement, self.enforcement)
        # Those are of Ray Serve, which is not here.
        return found.model_copy(update={"settings": {}, "deployed": {}})

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.delete(name)
        if self.tree is not None:
            self.tree.remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    def deploy(self, deployment: Deployment) -> Endpoint:
        """Start the command on its instance and wait until it answers.

        Unusable, with what to change, when it ends, never listens, answers wrongly or leaves
        its control group; BadInput when it outgrows the instance's memory.
        """
        check_fits_host(deployment.instance)
        grant = grants_of(deployment.instance, 1, self.placement.replica_cpus, self.tree)[0]
        groups = []
        # The container that we are in enforces itself, and what is in force is its own.
        if self.tree is not None and not deployment.instance.is_container:
            try:
                groups.append(self.tree.create(f"{deployment.cell_id}-0", grant))
            except OSError as error:
                raise Infrastructure(f"control group for {grant} cannot be made: {error}") from None
        procs = [str(path) for group in groups for path in group.procs_files]
        self._folder.mkdir(mode=0o700, exist_ok=True)  # it goes with each command
        slots = self._folder / f"slots-{deployment.cell_id}.json"
        slots.write_text(json.dumps([{"procs": procs, "cpus": list(grant.cpus)}]))
        port = check_free(self._command.port) if self._command.port else free_port()
        argv = [part.replace("{port}", str(port)) for part in self._command.argv]
        self._log.write_bytes(b"")  # its last line shall be of this start
        started = time.monotonic()
        process = Supervised(
            [sys.executable, "-I", enter_instance.__file__, str(slots), "--", *argv],
            name=Path(argv[0]).name,
            log=self._log,
            cwd=self._command.folder,
            env={**os.environ, "PORT": str(port)},
            groups=self.tree.bases if self.tree else (),
            remove=[self._folder],
            talks=False,
            linger=True,
        )
        name = deployment.variant.model_name
        self._running[name] = (process, groups)
        try:
            self._await_ready(deployment, process, groups, port)
            startup_s = time.monotonic() - started
            pid = _audit(process, groups, port, read_slots(slots)[0]["pid"])
            if groups and (found := groups[0].read_limits()) != grant:
                raise Infrastructure(f"control group: asked were {grant}, in force is {found}")
        except BaseException:
            self.delete(name)
            raise
        replica = Replica(pid=pid, grant=grant, group=groups[0].name if groups else None)
        return Endpoint(
            url=f"http://127.0.0.1:{port}",
            model_name=name,
            protocol="http",
            managed=True,
            replicas=(replica,),
            startup_s=startup_s,
        )

    def delete(self, name: str) -> None:
        """End the command, all that it started, and its control group."""
        process, groups = self._running.pop(name)
        process.close()
        for group in groups:
            group.remove()

    def groups(self, name: str) -> list[Group]:
        """Control groups of a deployment; empty where there are none.

        Unusable when the command has ended since it was deployed.
        """
        process, groups = self._running[name]
        deadline = time.monotonic() + 5
        while process.alive() and not all(g.exists() for g in groups):
            if time.monotonic() > deadline:  # the supervisor removes them, then ends
                break
            time.sleep(_POLL_S)
        if not process.alive():
            raise Unusable(
                f"--cmd ended under load with exit code {process.exit_code} (137 is a kill, as at "
                f"the limit of memory): {process.last_line()} (log: {self._log})"
            )
        return groups

    def ingress_pids(self) -> list[int]:
        """Nothing stands between the generator and the server."""
        return []

    def background_pids(self) -> list[int]:
        """Nothing of ours runs beside the server."""
        return []

    def outside_s(self) -> dict[int, float]:
        """A command is started once, before anything is measured."""
        return {}

    def fallback_sessions(self) -> int:
        """No ingress, hence no way round it."""
        return 0

    def _await_ready(
        self, deployment: Deployment, process: Supervised, groups: list[Group], port: int
    ) -> None:
        deadline = time.monotonic() + self._command.start_timeout_s
        wrong_since: float | None = None
        seen = Seen(ready=False)
        while time.monotonic() < deadline:
            if _out_of_memory(groups):
                raise BadInput(
                    f"--cmd does not fit {deployment.instance.name}: it was killed at the limit of "
                    f"{deployment.instance.memory_gib:g} GiB; choose an --instance with more memory"
                )
            if not process.alive():
                raise Unusable(
                    f"--cmd ended with exit code {process.exit_code} before it answered: "
                    f"{process.last_line()} (log: {self._log})"
                )
            seen = self._command.look(f"http://127.0.0.1:{port}")
            if seen.ready:
                return
            if not seen.wrong:
                wrong_since = None
            elif wrong_since is None:
                wrong_since = time.monotonic()
            elif time.monotonic() - wrong_since > _SETTLING_S:
                raise Unusable(
                    f"--cmd: {seen.text}; correct the request, or set --health PATH if it was "
                    f"still loading (log: {self._log})"
                )
            time.sleep(_POLL_S)
        limit = f"{self._command.start_timeout_s:g} s"
        if _listens([process.pid, *process.pids()], port):
            raise Unusable(
                f"--cmd listens on port {port}, and is not ready after {limit}: {seen.text}; set "
                f"--health PATH, or give it more with --start-timeout (log: {self._log})"
            )
        raise Unusable(
            f"--cmd does not listen on port {port} after {limit} (its last line: "
            f"{process.last_line()}); pass it {{port}}, or give it more with --start-timeout"
        )


def _audit(process: Supervised, groups: list[Group], port: int, first_pid: int) -> int:
    """Hold the processes against the group; returns the id of the one to watch."""
    inside = set(groups[0].pids()) if groups else set(process.pids())
    strays = sorted(p for p in set(process.pids()) - inside if _name(p))
    if strays:
        raise Unusable(
            f"--cmd: its process {strays[0]} ({_name(strays[0])}) left the control group of "
            "its instance, so it cannot be measured truthfully; start the server itself"
        )
    if not _listens(sorted(inside), port):
        raise Unusable(
            f"--cmd: what listens on port {port} is no process of the command (a container, a "
            "service manager?), so it is not in the instance; start the server itself"
        )
    return first_pid if first_pid in inside else min(inside)


def _out_of_memory(groups: list[Group]) -> bool:
    with contextlib.suppress(OSError):
        return any(group.usage().oom_kills for group in groups)
    return False


def _listens(pids: Sequence[int], port: int) -> bool:
    """Whether any of the processes has a socket that listens on ``port``."""
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections("inet")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
            return True
    return False


def _name(pid: int) -> str:
    """Name of a living process, "" for one that is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.name())
    except psutil.Error:
        return ""
