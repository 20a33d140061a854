"""A V2 server that takes exactly as long as each request says, one request at a time.

Shares no code with the product: it is what the generator's figures are held against. The
request's one number, ``service_ms``, is its service time; requests are served first come,
first served. Standard library only, executed by path: PORT CPU.
"""

import contextlib
import json
import os
import queue
import socket
import struct
import sys
import threading
import time

_SPIN_S = 0.0003  # the kernel wakes a sleeper this late, give or take
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


def serve_in_turn(waiting):
    """Take requests in order of arrival; each is done when its time is up, and not before."""
    free_at = 0.0
    while True:
        connection, arrived, service_s = waiting.get()
        free_at = max(arrived, free_at) + service_s
        rest = free_at - time.perf_counter() - _SPIN_S
        if rest > 0:
            time.sleep(rest)
        while time.perf_counter() < free_at:
            pass
        with contextlib.suppress(OSError):
            connection.sendall(_DONE)


def read_requests(connection, waiting):
    """Read one connection's requests; keep-alive, no pipelining."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = b""
    while True:
        while b"\r\n\r\n" not in buffer:
            part = connection.recv(65536)
            if not part:
                return
            buffer += part
        head, _, buffer = buffer.partition(b"\r\n\r\n")
        if head.startswith(b"GET"):
            connection.sendall(_ABOUT)
            continue
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        while len(buffer) < length:
            buffer += connection.recv(65536)
        arrived = time.perf_counter()
        (service_ms,) = struct.unpack("<f", buffer[length - 4 : length])
        buffer = buffer[length:]
        waiting.put((connection, arrived, service_ms / 1e3))


def main():
    """Serve until killed."""
    port, cpu = int(sys.argv[1]), int(sys.argv[2])
    os.sched_setaffinity(0, {cpu})
    sys.setswitchinterval(0.0002)  # the spinning thread must not keep readers waiting
    waiting = queue.SimpleQueue()
    threading.Thread(target=serve_in_turn, args=(waiting,), daemon=True).start()
    with socket.create_server(("127.0.0.1", port), backlog=512) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=read_requests, args=(connection, waiting), daemon=True).start()


if __name__ == "__main__":
    main()
