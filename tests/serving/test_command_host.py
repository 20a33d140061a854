"""Any server on an enforced instance: it starts, is found, and whatever is wrong is said."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtests.http_call import HttpCall, parse_checks
from loadtests.look import ready_when_answered
from loadtests.monitor import Monitor
from serving.command_host import Command, CommandHost
from serving.errors import BadInput, Unusable
from serving.records import COMMAND, Deployment, InstanceType, Variant

HALF = InstanceType(
    name="sim-0.5", vcpus=0.5, memory_gib=0.25, enforcement="quota", cpu_family="host"
)

SERVER = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(STATUS)
    def answer(self, status):
        body = b'{"label": "cat"}' if status == 200 else b"no model here\\nat all"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
def serve(status=200):
    global STATUS
    STATUS = status
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def command(tmp_path: Path, script: str, *more: str, **options: object) -> Command:
    """A command that runs ``script`` after the definitions of a small server."""
    path = tmp_path / "server.py"
    path.write_text(SERVER + script)
    call = HttpCall(path="/predict", check=parse_checks(['{"label": "cat"}']))
    settings: dict[str, object] = {"start_timeout_s": 15.0, **options}
    health = settings.pop("health", None)
    look = ready_when_answered(call, b"{}", health if isinstance(health, str) else None)
    argv = [sys.executable, "-I", str(path), "{port}", *more]
    return Command(argv=argv, folder=tmp_path, look=look, **settings)  # type: ignore[arg-type]


def deployment(instance: InstanceType = HALF) -> Deployment:
    variant = Variant(
        workload="own",
        name="server",
        runtime=COMMAND,
        precision="as it is",
        file="server.py {port}",
        sha256="0" * 64,
        size_bytes=0,
        inputs=(),
        outputs=(),
    )
    return Deployment(variant=variant, instance=instance, threads=0)


def refusal(tmp_path: Path, script: str, **options: object) -> str:
    """What is said of a server that cannot be used; nothing of it may be left."""
    with CommandHost(command(tmp_path, script, **options), tmp_path / "log") as host:
        with pytest.raises(BadInput) as caught:
            host.deploy(deployment())
        assert str(tmp_path / "server.py") not in running()
    return str(caught.value)


def running() -> str:
    return "\n".join(
        " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    )


def test_a_server_runs_in_its_instance(tmp_path: Path) -> None:
    """Its processes and those it forks are in the group; CPU and memory are the group's."""
    fork = "\nif os.fork() == 0:\n    time.sleep(100)\n    os._exit(0)\nserve()"
    with CommandHost(command(tmp_path, fork, health="/health"), tmp_path / "log") as host:
        if host.tree is None:
            pytest.skip("no permission for control groups here")
        endpoint = host.deploy(deployment())
        (replica,) = endpoint.replicas
        (group,) = host.groups(endpoint.model_name)
        assert len(group.pids()) == 2
        assert replica.pid in group.pids()
        assert replica.grant.quota_cpus == 0.5
        assert endpoint.startup_s is not None
        assert endpoint.startup_s > 0
        usage = group.usage()
        assert usage.cpu_s > 0
        assert usage.peak_memory_bytes > 1 << 20
        assert host.ingress_pids() == []
        host.delete(endpoint.model_name)
        assert group.pids() == []
    assert str(tmp_path / "server.py") not in running()


def test_a_daemon_stays_findable(tmp_path: Path) -> None:
    """A server that forks away and whose first process ends is served all the same."""
    daemon = (
        "\nif os.fork():\n    os._exit(0)\nos.setsid()\nif os.fork():\n    os._exit(0)\nserve()"
    )
    with CommandHost(command(tmp_path, daemon), tmp_path / "log") as host:
        endpoint = host.deploy(deployment())
        assert psutil.pid_exists(endpoint.replicas[0].pid)
    deadline = time.monotonic() + 10
    while str(tmp_path / "server.py") in running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert str(tmp_path / "server.py") not in running()


def test_a_command_that_ends_says_how(tmp_path: Path) -> None:
    """Exit code and last line, for an error and for a quiet end."""
    said = refusal(tmp_path, "\nprint('starting')\nsys.exit('no such model: cats.pt')")
    assert "ended with exit code 1" in said
    assert "no such model: cats.pt" in said
    assert "exit code 0" in refusal(tmp_path, "")


def test_a_server_that_never_listens_is_given_up(tmp_path: Path) -> None:
    """The port, the last line, and the two ways to change it."""
    said = refusal(tmp_path, "\nprint('busy', flush=True)\ntime.sleep(100)", start_timeout_s=1.0)
    for part in ("does not listen", "busy", "{port}", "--start-timeout"):
        assert part in said


def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    """It listens, and its health path says otherwise."""
    said = refusal(tmp_path, "\nserve()", health="/healthz", start_timeout_s=1.5)
    assert "GET /healthz is answered with 404" in said
    assert "--health" in said


def test_a_wrong_answer_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status of 500, and a body that the check refuses, each with the body's first line."""
    monkeypatch.setattr("serving.command_host._SETTLING_S", 0.5)
    said = refusal(tmp_path, "\nserve(500)")
    assert "POST /predict is answered with 500: no model here" in said
    assert "at all" not in said
    said = refusal(tmp_path, "\nserve(201)")
    assert "the answer to POST /predict is not JSON: no model here" in said


def test_what_leaves_the_group_is_refused(tmp_path: Path) -> None:
    """A server that moves itself out of its control group could not be measured."""
    leave = """
for root in ("cpu", "cpuacct", "cpuset", "memory"):
    for base in (f"/sys/fs/cgroup/{root}", "/sys/fs/cgroup"):
        try:
            with open(base + "/cgroup.procs", "w") as procs:
                procs.write(str(os.getpid()))
        except OSError:
            pass
serve()
"""
    with CommandHost(command(tmp_path, leave), tmp_path / "log") as host:
        if host.tree is None:
            pytest.skip("no permission for control groups here")
        with pytest.raises(BadInput, match="left the control group"):
            host.deploy(deployment())


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """What answers on a fixed port must be the command, so nobody else may listen there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        made = command(tmp_path, "\nserve()", port=port)
        with (
            CommandHost(made, tmp_path / "log") as host,
            pytest.raises(BadInput, match=f"port {port} cannot be used"),
        ):
            host.deploy(deployment())


def test_an_end_under_load_is_said(tmp_path: Path) -> None:
    """A server that dies after it was ready is named with its exit code and last line."""
    dies = """
class Fragile(Handler):
    def do_DELETE(self):
        print("no more", flush=True)
        os._exit(3)
Handler = Fragile
serve()
"""
    with CommandHost(command(tmp_path, dies), tmp_path / "log") as host:
        if host.tree is None:
            pytest.skip("no permission for control groups here")
        endpoint = host.deploy(deployment())
        monitor = Monitor(host, endpoint)
        monitor.snapshot()
        connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=5)
        connection.request("DELETE", "/")
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
        deadline = time.monotonic() + 10
        while host.tree is not None and host.tree.bases[0].exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(Unusable, match=r"exit code 3 .*no more"):
            monitor.snapshot()


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    """A server that outgrows its instance is named, with the limit."""
    with CommandHost(
        command(tmp_path, "\nhog = bytearray(400 << 20)\nserve()"), tmp_path / "log"
    ) as host:
        if host.tree is None:
            pytest.skip("no permission for control groups here")
        with pytest.raises(BadInput, match=r"0\.25 GiB"):
            host.deploy(deployment())
