"""Ports of the loopback interface."""

from __future__ import annotations

import socket

from serving.errors import BadInput


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
