"""Ports of the loopback interface."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from serving.errors import BadInput

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 20_000  # Ray's workers take ports below it
_TRIES = 100


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now.

    It is used a while after. So it is none of those that the kernel gives to outgoing connections,
    of which there are thousands a minute under load: one of them would have it by then.
    """
    beyond = int(_RANGE.read_text().split()[0]) if _RANGE.is_file() else 0
    if beyond - _FIRST >= _TRIES:
        for _ in range(_TRIES):
            port = _FIRST + secrets.randbelow(beyond - _FIRST)
            if _is_free(port):
                return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_free(port: int) -> int:
    """The port, if nobody listens on it; else BadInput."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise BadInput(
                f"port {port} cannot be used ({error}); choose another with --port"
            ) from None
    return port
