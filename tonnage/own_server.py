"""``tonnage run --cmd``: a server of the user's own, sized as a black box."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from loadtests.http_call import HttpCall
from loadtests.look import ready_when_answered
from loadtests.payloads import Payloads
from planner.prices import load_prices
from planner.records import Demand
from serving.command_host import Command, CommandHost
from serving.errors import BadInput
from serving.records import COMMAND, InstanceType, Variant
from tonnage.cells import Cell
from tonnage.config import beside
from tonnage.planning import ASSUMPTIONS, study_demands, study_instances
from tonnage.progress import Steps
from tonnage.stage import StartedHost
from tonnage.study import StudyRun

SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class OwnServer:
    """A command, what it is asked, and how one sees that it is ready.

    ``bodies`` are sent in turn, an empty one for a request without a body.
    """

    command: str
    call: HttpCall
    bodies: Sequence[bytes] = (b"",)
    health: str | None = None
    port: int | None = None
    start_timeout_s: float = 60.0
    folder: Path = field(default_factory=Path.cwd)

    @property
    def argv(self) -> list[str]:
        """The command as a list; BadInput when it cannot be run."""
        try:
            argv = shlex.split(self.command)
        except ValueError as error:
            raise BadInput(f"--cmd {self.command!r}: {error}; no shell reads it") from None
        if not argv:
            raise BadInput("--cmd: give the command that starts the server")
        if shutil.which(argv[0], path=None) is None:
            raise BadInput(
                f"--cmd: {argv[0]!r} is no program here; no shell reads it: give a path, or "
                "install it"
            )
        if self.port is None and "{port}" not in self.command:
            raise BadInput(
                "--cmd: say with {port} where the server takes its port (as in --port {port}), "
                "or with --port where it listens"
            )
        return argv

    @property
    def requests(self) -> str:
        """What is sent, in words."""
        if self.call.locustfile is not None:
            return f"tasks of {Path(self.call.locustfile).name}"
        sizes = [len(body) for body in self.bodies]
        what = f"{len(sizes)} body of" if len(sizes) == 1 else f"{len(sizes)} bodies of up to"
        return f"{self.call.method} {self.call.path}, {what} {max(sizes):,} bytes"

    def fingerprint(self) -> str:
        """Identifies the question: command, requests, and how they are put."""
        digest = hashlib.sha256(self.command.encode() + str(self.folder).encode())
        digest.update(self.call.model_dump_json().encode())
        if self.call.locustfile is not None:
            digest.update(Path(self.call.locustfile).read_bytes())
        for body in self.bodies:
            digest.update(hashlib.sha256(body).digest())
        digest.update(repr((self.health, self.port)).encode())
        return digest.hexdigest()


@dataclass
class ServerRun(StudyRun):
    """A study whose only variant is a command: nothing is built, and nothing benched."""

    server: OwnServer | None = None
    most_replicas: ClassVar[int | None] = 1
    assumptions: ClassVar[tuple[str, ...]] = (
        ASSUMPTIONS[0],
        "A replica is the command on one instance. Several stand behind a balancer that sends "
        "each request to the one with the fewest in flight, and whose own needs come on top.",
        "The server is a black box: paced round trips stand in for its service time, and it is "
        "taken to answer one request at a time.",
        ASSUMPTIONS[-1],
    )

    @property
    def _server(self) -> OwnServer:
        if self.server is None:
            raise BadInput("--cmd: give the command that starts the server")
        return self.server

    @property
    def judged(self) -> tuple[str, str]:
        """The server itself; its answers are checked, not scored."""
        return SERVER, "fidelity"

    def check(self) -> tuple[Mapping[str, InstanceType], list[Demand]]:
        """Read what the run names. Raises BadInput before anything is started."""
        instances = study_instances(self.study, self.path)
        demands = study_demands(self.study, self.path)
        load_prices(beside(self.path, self.study.plan.prices))
        _ = self._server.argv
        return instances, demands

    def _bench_estimate(self) -> float:
        return 0.0

    def _build(self, steps: Steps) -> tuple[Variant, ...]:
        if self.folder.has("variants.jsonl"):
            return self.folder.bundle().variants
        variant = Variant(
            workload=self.study.name,
            name=SERVER,
            runtime=COMMAND,
            precision="as it is",
            file=self._server.command,
            sha256=self._server.fingerprint(),
            size_bytes=0,
            inputs=(),
            outputs=(),
        )
        self._keep(self._server.requests, [variant])
        return (variant,)

    def _bench(self, variants: tuple[Variant, ...], estimate_s: float, steps: Steps) -> None:
        """A server has no inside that could be called in process."""

    def _host(self, logs: Path) -> StartedHost:
        server = self._server
        look = ready_when_answered(server.call, server.bodies[0], server.health)
        command = Command(
            argv=server.argv,
            folder=server.folder,
            look=look,
            port=server.port,
            start_timeout_s=server.start_timeout_s,
        )
        return CommandHost(command, logs / "server.log")

    def _payloads(self, cell: Cell) -> Payloads:
        return Payloads.plain(self._server.bodies)
