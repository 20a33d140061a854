"""Connections that know when an answer arrived, whenever the generator got round to reading it.

A generator that is sending another request reads an answer late, by a tenth of a millisecond and
more, and that wait is none of the server's. The kernel notes when bytes came in (SO_TIMESTAMPNS,
socket(7)); the time from then until they are read is taken off. Part of the Locust process.

Where the kernel tells nothing, as under TLS, whose bytes are not read from the socket itself,
an answer counts as done when it was read.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Any

import gevent.socket
from geventhttpclient.client import HTTPClient, HTTPClientPool
from geventhttpclient.connectionpool import ConnectionPool

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the level and the kind of its message, too
_TIMESPEC = struct.Struct("@ll")
_ROOM = socket.CMSG_SPACE(_TIMESPEC.size)


class Arrival:
    """When the bytes that were read last came in, in ``perf_counter`` seconds; None: unknown."""

    def __init__(self) -> None:
        self.at: float | None = None

    def note(self, messages: list[tuple[int, int, bytes]]) -> None:
        """Take the kernel's stamp from what came with the bytes, right after they were read.

        It is of the clock that NTP may set. Only the time since then is taken from it, so a step
        of that clock spoils no more than the answers that are being read at that moment.
        """
        self.at = None
        for level, kind, data in messages:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= 16:
                seconds, nanoseconds = _TIMESPEC.unpack_from(data)
                waited = time.time_ns() - (seconds * 1_000_000_000 + nanoseconds)
                self.at = time.perf_counter() - waited / 1e9

    def done(self, sent: float, read: float) -> float:
        """When an answer was complete that was asked for at ``sent`` and was ``read`` by now.

        ``read`` itself where nothing is known, or where the stamp lies outside of the two: the
        clock was set in between.
        """
        return self.at if self.at is not None and sent <= self.at <= read else read


class _Socket(gevent.socket.socket):  # type: ignore[misc] # gevent names it while it runs
    """A socket that notes with every read when the last of the bytes came in."""

    def __init__(self, arrival: Arrival, *kind: int) -> None:
        super().__init__(*kind)
        self._arrival = arrival
        with contextlib.suppress(OSError):  # a kernel that has no stamps sends none
            self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def recv(self, most: int, flags: int = 0) -> bytes:
        """As of any socket; an answer is complete with the last read of it."""
        data, messages, _, _ = self.recvmsg(most, _ROOM, flags)
        self._arrival.note(messages)
        return bytes(data)


class _Connections(ConnectionPool):
    """Connections whose sockets are stamped."""

    def __init__(self, arrival: Arrival, like: ConnectionPool) -> None:
        super().__init__(
            like._connection_host,
            like._connection_port,
            like._request_host,
            like._request_port,
            size=like.size,
            disable_ipv6=like.disable_ipv6,
            connection_timeout=like.connection_timeout,
            network_timeout=like.network_timeout,
        )
        self._arrival = arrival

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> _Socket:
        return _Socket(self._arrival, family, socktype, protocol)


class StampedPool(HTTPClientPool):
    """The clients of one user, one connection at a time; over plain HTTP they note arrivals."""

    def __init__(self, arrival: Arrival, **options: Any) -> None:
        super().__init__(**options)
        self._arrival = arrival

    def get_client(self, url: Any) -> HTTPClient:
        """The client of an address, as of any pool."""
        client = super().get_client(url)
        plain = client._connection_pool
        if type(plain) is ConnectionPool:
            client._connection_pool = _Connections(self._arrival, plain)
        return client
