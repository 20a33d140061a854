"""The caller's side of :mod:`serving.supervisor`: a child process that cannot be orphaned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from serving import supervisor
from serving.errors import BadInput, Infrastructure


class Supervised:
    """A command under supervision that speaks JSON lines on its stdin and stdout.

    ``groups`` and ``remove`` are control group folders and folders that go when it
    ends, however it ends. ``log`` collects its stderr, and its stdout, too, when it does not
    talk to us. With ``linger`` it lives as long as anything that it started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        cpus: Sequence[int] = (),
        groups: Sequence[Path] = (),
        remove: Sequence[Path] = (),
        grace_s: float = 10.0,
        talks: bool = True,
        linger: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        read_end, self._lifeline = os.pipe()
        settings = {
            "command": list(command),
            "groups": [str(g) for g in groups],
            "remove": [str(r) for r in remove],
            "grace_s": grace_s,
            "cpus": list(cpus),
            "linger": linger,
        }
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", supervisor.__file__, str(read_end), json.dumps(settings)],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                pass_fds=[read_end],
                cwd=cwd,
                env=dict(env) if env is not None else None,
                start_new_session=True,  # Ctrl-C is ours to handle, not the child's
            )
        os.close(read_end)

    @property
    def pid(self) -> int:
        """Id of the supervisor."""
        return self._process.pid

    def pids(self) -> list[int]:
        """Ids of everything the command has started, itself included."""
        return supervisor.descendants(self._process.pid)

    def alive(self) -> bool:
        """Whether the supervisor still runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How the command ended, as a shell says it (137 is SIGKILL); None while it runs."""
        return self._process.poll()

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one JSON line. Raises Infrastructure when the process is gone."""
        stdin: IO[bytes] = self._process.stdin  # type: ignore[assignment] # PIPE above
        try:
            stdin.write(orjson.dumps(message) + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._gone() from None

    def receive(self) -> dict[str, Any]:
        """Read one JSON line. Raises Infrastructure when the process ended instead."""
        stdout: IO[bytes] = self._process.stdout  # type: ignore[assignment] # PIPE above
        line = stdout.readline()
        if not line:
            raise self._gone()
        reply: dict[str, Any] = orjson.loads(line)
        return reply

    def call(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send, and wait for the answer.

        An ``error`` in it is raised: as BadInput where its ``kind`` says so, else as
        Infrastructure.
        """
        self.send(message)
        reply = self.receive()
        if "error" in reply:
            if reply.get("kind") == BadInput.__name__:
                raise BadInput(reply["error"])
            raise Infrastructure(f"{self.name}: {reply['error']} (log: {self.log})")
        return reply

    def close(self) -> None:
        """End the command and wait until everything below it is gone. Safe to repeat."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(45)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> Infrastructure:
        time.sleep(0.1)
        return Infrastructure(
            f"{self.name} ended unexpectedly: {self.last_line()} (log: {self.log})"
        )

    def last_line(self) -> str:
        """The last line of the log, or that there is none."""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        lines = text.strip().splitlines()
        return lines[-1].strip()[:300] if lines else "no message"
