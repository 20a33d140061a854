"""The client of the Ray process: start it, deploy on enforced instances, tear it down."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Literal, Self

import psutil

from serving import host_facts, placement
from serving.audit import ReplicaReport, report_name, strays, violations
from serving.cgroups import CgroupTree, Group, find_cgroups, remove_stale
from serving.errors import BadInput, Infrastructure, TonnageError
from serving.grants import check_fits_host, enforcement, grants_of
from serving.ports import check_free, free_port
from serving.private_folder import new_name, private_base, remove_stale_folders
from serving.ray_host import enter_instance, host
from serving.ray_host.settings import admin_socket, host_environment
from serving.records import Deployment, Endpoint, Environment, Grant, Replica
from serving.slots import outside_s, read_slots, slots_in
from serving.supervised import Supervised

READY_TIMEOUT_S = 60.0
# A worker of Ray with onnxruntime and no model yet, as measured; below it nothing starts.
_BASE_MEMORY_BYTES = 200 << 20


class RayHost:
    """Ray Serve behind HAProxy on a loopback port, with replicas on enforced instances.

    A context manager; leaving it (or dying inside it) leaves no process, control group,
    token or folder behind. ``overlap`` lets replicas use the platform's CPUs as well,
    which serving may do and measuring may not.
    """

    def __init__(self, log: Path, *, port: int | None = None, overlap: bool = False) -> None:
        self.port = check_free(port) if port else free_port()
        self._log = log
        self._replica_groups: dict[str, list[Group]] = {}
        self._deployments: dict[str, Deployment] = {}
        self.placement = host_facts.host_placement()
        self._all_cpus = tuple(sorted(os.sched_getaffinity(0)))
        self._available = self._all_cpus if overlap else self.placement.replica_cpus
        remove_stale()
        remove_stale_folders()
        run = new_name()
        self.tree: CgroupTree | None = find_cgroups(run)
        self.folder = private_base() / run
        self._process: Supervised | None = None

    @property
    def enforcement(self) -> Literal["cgroup-v1", "cgroup-v2", "affinity"]:
        """How instance types are enforced on this host."""
        return enforcement(self.tree)

    def environment(self) -> Environment:
        """The environment of what is measured here."""
        return host_facts.environment(self.placement, self.enforcement)

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        env = host_environment(os.environ, self.folder, free_port)
        # Ray opens its own folder to everybody; inside ours, which is 0700, that is harmless.
        settings = {"folder": str(self.folder / "r"), "http_port": self.port}
        self._process = Supervised(
            [sys.executable, "-P", host.__file__, json.dumps(settings)],
            name="Ray Serve",
            log=self._log,
            cwd=self.folder,
            env=env,
            cpus=self.placement.platform_cpus,
            groups=self.tree.bases if self.tree else (),
            remove=[self.folder],
        )
        try:
            reply = self._process.receive()
            if "error" in reply:
                raise Infrastructure(
                    f"Ray Serve did not start: {reply['error']} (log: {self._log})"
                )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End Ray and wait until nothing of it is left. Safe to repeat."""
        if self._process is not None:
            self._process.close()
            self._process = None
        if self.tree is not None:
            self.tree.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def process(self) -> Supervised:
        """The supervised Ray process; Infrastructure before it was started."""
        if self._process is None:
            raise Infrastructure("Ray Serve is not running")
        return self._process

    def deploy(self, deployment: Deployment) -> Endpoint:
        """Deploy, wait until it answers through the ingress, and audit what it was given.

        Raises BadInput when the model does not fit its instance, Infrastructure when
        Serve could not start it.
        """
        name = deployment.variant.model_name
        _check_memory(deployment)
        check_fits_host(deployment.instance)
        grants = grants_of(
            deployment.instance, deployment.replicas, self._free_cpus(deployment), self.tree
        )
        slots, groups = [], []
        for index, grant in enumerate(grants):
            procs: list[str] = []
            if self.tree is not None and grant.method != "container":
                group = self._create_group(f"{deployment.cell_id}-{index}", grant)
                groups.append(group)
                procs = [str(path) for path in group.procs_files]
            slots.append({"procs": procs, "cpus": list(grant.cpus)})
        self._replica_groups[name] = groups
        self._deployments[name] = deployment
        slots_file = self.folder / f"slots-{deployment.cell_id}.json"
        slots_file.write_text(json.dumps(slots))
        started = time.monotonic()
        try:
            self.process.call(
                {
                    "op": "deploy",
                    "name": name,
                    "replicas": deployment.replicas,
                    "max_ongoing_requests": deployment.max_ongoing_requests,
                    "max_queued_requests": deployment.max_queued_requests,
                    "max_batch": deployment.max_batch,
                    "batch_wait_ms": deployment.batch_wait_ms,
                    "py_executable": shlex.join(
                        [sys.executable, "-I", enter_instance.__file__, str(slots_file)]
                    ),
                    "variant": deployment.variant.model_dump_json(),
                    "threads": deployment.threads,
                    "cell_id": deployment.cell_id,
                    "reports": str(self.folder),
                }
            )
        except TonnageError as error:
            killed = any(group.usage().oom_kills for group in groups)
            self.delete(name)
            if killed:
                raise BadInput(_too_small(deployment)) from None
            raise type(error)(f"{deployment.label}: {error}") from None
        self._await_ready(name, deployment.cell_id)
        startup_s = time.monotonic() - started
        replicas, reports = [], []
        for index, (slot, grant) in enumerate(zip(read_slots(slots_file), grants, strict=True)):
            report = self._report(slot["pid"])
            reports.append(report)
            replicas.append(
                Replica(
                    pid=slot["pid"],
                    grant=grant,
                    group=groups[index].name if groups else None,
                    earlier_threads=report.earlier_threads,
                    compute_threads=report.compute_threads,
                )
            )
        self._audit(deployment, replicas, groups)
        return Endpoint(
            url=f"http://127.0.0.1:{self.port}",
            model_name=name,
            managed=True,
            cell_id=deployment.cell_id,
            replicas=tuple(replicas),
            startup_s=startup_s,
            # Replicas start side by side: the slowest is what is waited for.
            worker_start_s=max(report.worker_start_s for report in reports),
            model_load_s=max(report.model_load_s for report in reports),
        )

    def deploy_front(self) -> None:
        """Deploy what answers for the server as a whole, over the models deployed now."""
        self.process.call({"op": "front", "models": {n: n for n in self._deployments}})

    def delete(self, name: str) -> None:
        """Take a deployment down and remove its control groups."""
        self.process.call({"op": "delete", "name": name})
        for group in self._replica_groups.pop(name, ()):
            deadline = time.monotonic() + 5
            while group.pids() and time.monotonic() < deadline:
                time.sleep(0.02)
            group.remove()
        self._deployments.pop(name, None)

    def rotate(self, cpus: int) -> None:
        """Let what is deployed next have other CPUs than the last ``cpus``, if there are any."""
        self._available = placement.rotated(self._available, cpus)

    def groups(self, name: str) -> list[Group]:
        """Control groups of a deployment's replicas; empty where there are none."""
        return self._replica_groups.get(name, [])

    def ingress_pids(self) -> list[int]:
        """Ids of the HAProxy processes."""
        found = []
        for pid in self.process.pids():
            try:
                if psutil.Process(pid).name() == "haproxy":
                    found.append(pid)
            except psutil.Error:
                continue
        return found

    def fallback_sessions(self) -> int:
        """Requests that HAProxy has sent to the Python fallback proxy so far.

        From ``show stat`` on the admin socket: sessions of backup servers.
        """
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(admin_socket(self.folder)))
            client.sendall(b"show stat\n")
            text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        lines = text.lstrip("# ").splitlines()
        fields = lines[0].split(",")
        rows = [dict(zip(fields, line.split(","), strict=False)) for line in lines[1:] if line]
        return sum(
            int(row["stot"] or 0)
            for row in rows
            if row.get("bck") == "1" and row["svname"] != "BACKEND"
        )

    def _create_group(self, name: str, grant: Grant) -> Group:
        if self.tree is None:
            raise Infrastructure("no control groups on this host")
        try:
            return self.tree.create(name, grant)
        except OSError as error:
            raise Infrastructure(f"control group for {grant} cannot be made: {error}") from None

    def _free_cpus(self, deployment: Deployment) -> tuple[int, ...]:
        """CPUs that no other deployment has to itself; BadInput when too few are left."""
        others = [d for d in self._deployments.values() if d != deployment]
        available = self._all_cpus if deployment.instance.is_container else self._available
        free = list(available)
        for other in (d for d in others if d.instance.enforcement == "cpuset"):
            del free[max(0, len(free) - placement.cpus_needed(other.instance, other.replicas)) :]
        wanted = float(placement.cpus_needed(deployment.instance, deployment.replicas))
        if deployment.instance.enforcement == "quota":
            quotas = [d for d in (*others, deployment) if d.instance.enforcement == "quota"]
            wanted = sum(d.instance.vcpus * d.replicas for d in quotas)
        if len(free) < wanted:
            raise BadInput(
                f"{deployment.label} does not fit beside what is deployed: of "
                f"{len(available)} CPUs {len(free)} are free, {wanted:g} are needed; "
                "choose fewer variants or smaller instances"
            )
        return tuple(free)

    def _await_ready(self, name: str, cell_id: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        seen = "no answer"
        while time.monotonic() < deadline:
            if not self.process.alive():
                raise Infrastructure(
                    f"Ray Serve ended while {name} was starting (log: {self._log})"
                )
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", f"/v2/models/{name}/ready")
                response = connection.getresponse()
                body = response.read()
                if response.status == 200 and response.headers.get("tonnage-cell") == cell_id:
                    return
                seen = f"{response.status} {body[:80].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as error:
                seen = str(error)
            finally:
                connection.close()
            time.sleep(0.02)
        raise Infrastructure(f"{name} was not ready after {READY_TIMEOUT_S:.0f} s: {seen}")

    def _report(self, pid: int) -> ReplicaReport:
        """What a replica wrote about itself before it became ready."""
        path = self.folder / report_name(pid)
        try:
            return ReplicaReport.model_validate_json(path.read_text())
        except (OSError, ValueError) as error:
            raise Infrastructure(f"replica {pid} left no report of itself: {error}") from None

    def _audit(self, deployment: Deployment, replicas: list[Replica], groups: list[Group]) -> None:
        """Hold what the kernel says against what was asked; a false cell must not run."""
        found: list[str] = []
        for index, replica in enumerate(replicas):
            group = groups[index] if groups else None
            found += violations(replica, group, deployment.threads)
        found += strays(self.background_pids(), self._kept_free())
        if found:
            self.delete(deployment.variant.model_name)
            raise Infrastructure(f"{deployment.label}: {'; '.join(found)}")

    def background_pids(self) -> list[int]:
        """Ids of everything this host runs besides model replicas: Ray, controller, ingress."""
        replicas = {slot.get("pid") for slot in slots_in(self.folder)}
        return [pid for pid in self.process.pids() if pid not in replicas]

    def outside_s(self) -> dict[int, float]:
        """CPU-seconds that replicas used before they entered their instance, by their ids."""
        return outside_s(slots_in(self.folder))

    def _kept_free(self) -> set[int]:
        """CPUs on which nothing but replicas may run; none where the two have to share."""
        return set(self.placement.replica_cpus) - set(self.placement.platform_cpus)


def _too_small(deployment: Deployment) -> str:
    return (
        f"{deployment.variant.name} does not fit {deployment.instance.name}: its replica was "
        f"killed at the limit of {deployment.instance.memory_gib:g} GiB; choose an instance with "
        "more memory, or raise memory_gib in instances.toml"
    )


def _check_memory(deployment: Deployment) -> None:
    needed = _BASE_MEMORY_BYTES + 2 * deployment.variant.size_bytes
    if deployment.instance.memory_gib * 2**30 < needed:
        raise BadInput(
            f"{deployment.variant.name} needs about {needed / 2**30:.2f} GiB to load, "
            f"{deployment.instance.name} has {deployment.instance.memory_gib:g}; choose an "
            "instance with more memory, or raise memory_gib in instances.toml"
        )
