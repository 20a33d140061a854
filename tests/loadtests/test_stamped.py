"""When an answer is done: when its last byte had arrived, however late the generator reads it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from loadtests import stamped
from loadtests.stamped import Arrival, StampedPool

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
LATE_S = 0.05
_NEAR_S = 0.02  # a busy machine wakes the thread that answers late

Answer = Callable[[socket.socket], None]


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[int]:
    """A server in a thread that answers one connection as told; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while connection.recv(65536):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
    thread.join()


def at_once(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"0123456789")


def in_two(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"01234")
    time.sleep(LATE_S)
    connection.sendall(b"56789")


def sent_and_read_late(arrival: Arrival, port: int) -> tuple[float, float]:
    """Seconds from sending until the answer had arrived, and until it was read."""
    with stamped._Socket(arrival, socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.connect(("127.0.0.1", port))
        sent = time.perf_counter()
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        time.sleep(LATE_S)  # no other greenlet gets a turn: so busy is the generator
        assert connection.recv(4096).endswith(b"0123456789")
        read = time.perf_counter()
    return arrival.done(sent, read) - sent, read - sent


def test_an_answer_is_done_when_it_arrived_not_when_it_was_read() -> None:
    """Fifty milliseconds in which the generator did something else are no latency."""
    with answering(at_once) as port:
        done, read = sent_and_read_late(Arrival(), port)
    assert read >= LATE_S
    assert 0 < done < LATE_S - _NEAR_S


@pytest.mark.parametrize(("answer", "least_s"), [(at_once, 0.0), (in_two, LATE_S)])
def test_the_last_byte_counts(answer: Answer, least_s: float) -> None:
    """Through the client that runs use, on a connection that is kept."""
    arrival = Arrival()
    pool = StampedPool(arrival, concurrency=1)
    with answering(answer) as port:
        for _ in range(3):
            arrival.at = None
            sent = time.perf_counter()
            response = pool.get_client(f"http://127.0.0.1:{port}").get("/")
            assert bytes(response.read()) == b"0123456789"
            read = time.perf_counter()
            assert arrival.at is not None
            done = arrival.done(sent, read)
            assert done < read
            assert done - sent >= least_s
        pool.close()


def test_without_a_stamp_it_is_done_when_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that knows no stamps changes nothing else."""

    def refused(*_: object) -> None:
        raise OSError("Protocol not available")

    monkeypatch.setattr(stamped._Socket, "setsockopt", refused)
    with answering(at_once) as port:
        done, read = sent_and_read_late(Arrival(), port)
    assert done == read >= LATE_S


@pytest.mark.parametrize("off_s", [-3600.0, -0.5, 0.5, 3600.0])
def test_a_clock_that_is_set_meanwhile_is_not_believed(off_s: float) -> None:
    """The stamp is of a clock that may be set; outside of sending and reading it is none."""
    arrival = Arrival()
    sent = time.perf_counter()
    at = time.time_ns() + round(off_s * 1e9)
    data = struct.pack("@ll", at // 10**9, at % 10**9)
    arrival.note([(socket.SOL_SOCKET, stamped._SO_TIMESTAMPNS, data)])
    read = time.perf_counter()
    assert arrival.done(sent, read) == read


def test_messages_of_another_kind_are_no_stamp() -> None:
    """What else a kernel may send along is passed over, and an old stamp is forgotten."""
    arrival = Arrival()
    arrival.at = 1.0
    arrival.note([(socket.SOL_SOCKET, 1, b"\0" * 16), (socket.SOL_SOCKET, 35, b"\0" * 4)])
    assert arrival.at is None


def test_over_tls_connections_stay_as_they_are() -> None:
    """There the bytes are not read from the socket itself."""
    pool = StampedPool(Arrival(), concurrency=1, insecure=True)
    client = pool.get_client("https://127.0.0.1:9")
    assert not isinstance(client._connection_pool, stamped._Connections)
    pool.close()
