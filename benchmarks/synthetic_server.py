"""A V2 server that takes exactly as long as each request says, one request at a time.

Shares no code with the product: it is what the generator's figures are held against. The
request's one number, ``service_ms``, is its service time; requests are served first come,
first served. Standard library only, executed by path: PORT CPU.
"""

import collections
import contextlib
import json
import os
import select
import socket
import struct
import sys
import time

_METADATA = {
    "name": "synthetic",
    "versions": ["1"],
    "platform": "synthetic",
    "inputs": [{"name": "service_ms", "datatype": "FP32", "shape": [-1, 1]}],
    "outputs": [{"name": "done", "datatype": "FP32", "shape": [-1, 1]}],
}
_HEAD = json.dumps(
    {
        "model_name": "synthetic",
        "model_version": "1",
        "outputs": [
            {
                "name": "done",
                "datatype": "FP32",
                "shape": [1, 1],
                "parameters": {"binary_data_size": 4},
            }
        ],
    }
).encode()


def _response(body, kind, extra=""):
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


_DONE = _response(
    _HEAD + struct.pack("<f", 1.0),
    "application/octet-stream",
    f"Inference-Header-Content-Length: {len(_HEAD)}\r\n",
)
_ABOUT = _response(json.dumps(_METADATA).encode(), "application/json")


class Connection:
    """One client: what it has sent so far, keep-alive, no pipelining."""

    def __init__(self, client):
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = client
        self.buffer = b""

    def request(self):
        """The next whole request as (head, body); None while there is none."""
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if len(rest) < length:
            return None
        self.buffer = rest[length:]
        return head, rest[:length]


class Server:
    """Requests in order of arrival; each is done when its time is up, and not before.

    It never sleeps, so that neither an arrival nor an end waits for a core to wake up.
    """

    def __init__(self, listener):
        listener.setblocking(False)
        self.listener = listener
        self.poll = select.epoll()
        self.poll.register(listener, select.EPOLLIN)
        self.connections = {}
        self.waiting = collections.deque()
        self.free_at = 0.0

    def run(self):
        """Serve until killed."""
        while True:
            for fd, _ in self.poll.poll(0):
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.read(fd, time.perf_counter())
            while self.waiting and time.perf_counter() >= self.waiting[0][0]:
                _, connection = self.waiting.popleft()
                with contextlib.suppress(OSError):
                    connection.client.sendall(_DONE)

    def accept(self):
        """Take in one more client."""
        client, _ = self.listener.accept()
        self.connections[client.fileno()] = Connection(client)
        self.poll.register(client, select.EPOLLIN)

    def read(self, fd, arrived):
        """Queue what has arrived whole; a request for the metadata is answered at once."""
        connection = self.connections[fd]
        try:
            part = connection.client.recv(65536)
        except OSError:
            part = b""
        if not part:
            del self.connections[fd]
            self.poll.unregister(fd)
            connection.client.close()
            return
        connection.buffer += part
        while whole := connection.request():
            head, body = whole
            if head.startswith(b"GET"):
                connection.client.sendall(_ABOUT)
                continue
            (service_ms,) = struct.unpack("<f", body[-4:])
            self.free_at = max(arrived, self.free_at) + service_ms / 1e3
            self.waiting.append((self.free_at, connection))


def main():
    """Serve until killed."""
    port, cpu = int(sys.argv[1]), int(sys.argv[2])
    os.sched_setaffinity(0, {cpu})
    with socket.create_server(("127.0.0.1", port), backlog=512) as listener:
        Server(listener).run()


if __name__ == "__main__":
    main()
