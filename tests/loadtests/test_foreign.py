"""A server that Tonnage does not manage: what it is asked, and what cannot be asked."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from loadtests import foreign
from loadtests.fleet import Fleet
from loadtests.foreign import ForeignServer
from loadtests.http_call import v2_call
from loadtests.judge import endpoint_faults
from loadtests.payloads import Payloads
from loadtests.records import OVERLOAD, FaultCode, LoadRun
from loadtests.tls import Identity, trusting
from serving.errors import BadInput
from serving.records import Endpoint

METADATA = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
PAYLOADS = Payloads.plain([b"{}"])
SLOW = b"slow"
MIXED = Payloads.join([Payloads.plain([b"{}"] * 8), Payloads.plain([SLOW] * 8)])


class Answering(ThreadingHTTPServer):
    """Says ``metadata`` of every model, infers in ``infer_s``, and keeps the paths asked for.

    A body that is ``SLOW`` takes ``slow_s``.
    """

    daemon_threads = True
    request_queue_size = 512
    metadata: object = METADATA
    infer_s = 0.0
    slow_s = 0.0

    def __init__(self) -> None:
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: object) -> None:
        """Quiet where a client gave up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Answering

    def do_GET(self) -> None:
        self.answer(json.dumps(self.server.metadata).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.slow_s if body == SLOW else self.server.infer_s)
        self.answer(b"{}")

    def answer(self, body: bytes) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[Answering]:
    with Answering() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def client(
    url: str,
    model: str = "m",
    timeout_s: float = 5.0,
    headers: dict[str, str] | None = None,
    **tls: Any,
) -> ForeignServer:
    endpoint = Endpoint(url=url, model_name=model)
    return ForeignServer(endpoint, headers or {}, timeout_s=timeout_s, **tls)


def certified(folder: Path, common_name: str) -> tuple[Path, Path]:
    """A certificate that signed itself, and its key, as PEM files named after it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / f"{common_name}.pem", folder / f"{common_name}.key"
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret


def behind_tls(
    answering: Answering, folder: Path, knows: Path | None = None, **limits: Any
) -> tuple[str, Path]:
    """Have it speak TLS: its new address and certificate. It wants one that ``knows`` vouches for.

    ``limits`` are attributes of its context.
    """
    pem, secret = certified(folder, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    if knows is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(knows)
    for name, value in limits.items():
        setattr(context, name, value)
    answering.socket = context.wrap_socket(answering.socket, server_side=True)
    return f"https://127.0.0.1:{answering.server_port}", pem


@pytest.fixture
def vouched(answering: Answering, tmp_path: Path) -> tuple[str, Path]:
    """The address of the same server behind TLS, and the certificate that it signed itself."""
    return behind_tls(answering, tmp_path)


def test_a_certificate_is_held_against_its_authority(vouched: tuple[str, Path]) -> None:
    """Unknown authorities are refused and say what to give; with it, or unchecked, all is well."""
    url, pem = vouched
    with pytest.raises(BadInput, match=r"not trusted \(self.signed certificate\); .*--cacert"):
        client(url).inputs()
    for given in ({"cacert": pem}, {"insecure": True}):
        assert [spec.name for spec in client(url, **given).inputs()] == ["x"]


def test_tls_options_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """No file, no certificates in it, both at once, or a server without TLS."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for given, says in (
        ({"cacert": tmp_path / "none.pem"}, r"--cacert .*none.pem: no certificates in PEM"),
        ({"cacert": empty}, r"--cacert .*empty.pem: no certificates in PEM"),
        ({"cacert": empty, "insecure": True}, "give one of them"),
    ):
        with pytest.raises(BadInput, match=says):
            client("https://127.0.0.1:9", **given)
    for given, says in (
        ({"insecure": True}, "--insecure"),
        ({"cacert": empty}, "--cacert"),
        ({"identity": Identity(empty)}, "--cert"),
    ):
        with pytest.raises(BadInput, match=f"{says} belongs to https"):
            client("http://127.0.0.1:9", **given)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_asks_who_we_are_is_told(
    answering: Answering, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Without a certificate, or with a stranger's, the error names the option; ours is let in.

    Whether its key lies beside it or in the same file.
    """
    ours, stranger = certified(tmp_path, "ours"), certified(tmp_path, "stranger")
    url, pem = behind_tls(answering, tmp_path, ours[0], maximum_version=version)
    with pytest.raises(BadInput, match=r"asks for a client.s certificate.* --cert"):
        client(url, cacert=pem).inputs()
    with pytest.raises(BadInput, match=r"--cert"):
        client(url, cacert=pem, identity=Identity(*stranger)).inputs()
    assert answering.paths == []
    both = tmp_path / "both.pem"
    both.write_bytes(ours[0].read_bytes() + ours[1].read_bytes())
    for identity in (Identity(*ours), Identity(both)):
        for given in ({"cacert": pem}, {"insecure": True}):
            assert client(url, identity=identity, **given).inputs()[0].name == "x"


def test_a_certificate_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    """A file that is missing, a folder, or no PEM; a key that is locked or does not fit."""
    ours, other = certified(tmp_path, "ours"), certified(tmp_path, "other")
    missing, empty, locked, cut = (tmp_path / name for name in ("no.pem", "empty", "locked", "cut"))
    empty.touch()
    cut.write_bytes(ours[0].read_bytes()[:200])
    secret = serialization.load_pem_private_key(ours[1].read_bytes(), None)
    locked.write_bytes(
        secret.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
        )
    )
    for cert, key, says in (
        (missing, ours[1], r"--cert .*no\.pem: No such file"),
        (tmp_path, ours[1], r"--cert .*: Is a directory"),
        (ours[0], missing, r"--key .*no\.pem: No such file"),
        (empty, ours[1], r"--cert .*empty: no certificate in PEM form$"),
        (ours[0], empty, r"--key .*empty: no private key in PEM form$"),
        (ours[0], None, r"--cert .*ours\.pem: no private key in PEM form; give it with --key"),
        (ours[0], other[1], r"--key .*other\.key: the key does not fit .*--cert .*ours\.pem"),
        (ours[0], locked, r"--key .*locked: its key has a password; give one without"),
        (cut, ours[1], r"certificate and key cannot be read"),
    ):
        with pytest.raises(BadInput, match=says):
            client("https://127.0.0.1:9", identity=Identity(cert, key))
    with pytest.raises(BadInput, match="--key belongs to --cert"):
        Identity.given(None, ours[1])
    assert Identity.given(None, None) is None
    assert Identity.given(*ours) == Identity(*ours)


def test_an_error_that_no_certificate_changes_names_none() -> None:
    """Nobody listens there: that is all that is said."""
    with pytest.raises(BadInput, match="cannot be reached") as caught:
        client("https://127.0.0.1:9").inputs()
    assert "--cert" not in str(caught.value)


@pytest.mark.starts
def test_the_load_shows_what_the_metadata_show(answering: Answering, tmp_path: Path) -> None:
    """All requests of a closed loop are answered by a server that demands our certificate."""
    ours = certified(tmp_path, "ours")
    url, pem = behind_tls(answering, tmp_path, ours[0])
    run = LoadRun(mode="closed", batch=1, duration_s=0.5, users=1, timeout_s=2)
    for identity in (Identity(*ours), None):
        with trusting(pem), Fleet(tmp_path / "locust.log") as fleet:
            stored = fleet.store("payloads", PAYLOADS)
            endpoint = Endpoint(url=url, model_name="m")
            result = fleet.run(run, endpoint, stored, identity=identity)
        assert (result.ok > 0) == (identity is not None)
        assert bool(result.errors) != (identity is not None)


@pytest.mark.starts
def test_the_load_trusts_whom_the_metadata_trust(vouched: tuple[str, Path], tmp_path: Path) -> None:
    """All requests of a closed loop are answered over TLS, by the authority that was given."""
    url, pem = vouched
    run = LoadRun(mode="closed", batch=1, duration_s=0.5, users=1, timeout_s=2)
    before = os.environ.get("SSL_CERT_FILE")
    for given, answered in ((pem, True), (None, False)):
        with trusting(given), Fleet(tmp_path / "locust.log") as fleet:
            stored = fleet.store("payloads", PAYLOADS)
            result = fleet.run(run, Endpoint(url=url, model_name="m"), stored)
        assert (result.ok > 0) == answered
        assert bool(result.errors) != answered
    assert os.environ.get("SSL_CERT_FILE") == before


IMPOSSIBLE: dict[str, tuple[Callable[[], object], str]] = {
    "port too high": (lambda: client("http://h:99999"), "http://host:port"),
    "port no number": (lambda: client("http://h:abc"), "http://host:port"),
    "half an IPv6 address": (lambda: client("http://[::1"), "http://host:port"),
    "query": (lambda: client("http://h/?key=1"), "http://host:port"),
    "host with an empty label": (lambda: client("http://a..b").inputs(), "check host"),
    "model beyond ASCII": (lambda: client("http://h", "modèle").inputs(), "--model"),
    "header beyond Latin-1": (
        lambda: client("http://h", headers={"x": "\N{SNOWMAN}"}).inputs(),
        "--header",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_http_cannot_say_is_bad_input(case: str) -> None:
    """An address, a model or a header that cannot be sent is refused, and says which."""
    ask, says = IMPOSSIBLE[case]
    with pytest.raises(BadInput, match=says):
        ask()


@pytest.mark.parametrize("question", [ForeignServer.inputs, ForeignServer.model_sha256])
def test_a_silent_host_is_bad_input(
    question: Callable[[ForeignServer], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that takes a connection and never answers is one that cannot be reached."""
    monkeypatch.setattr(foreign, "_PATIENCE_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BadInput, match=r"cannot be reached \(no answer within 0.05 s\)"):
            question(client(url, timeout_s=0.05))


def test_a_timeout_below_the_service_time_is_refused(answering: Answering) -> None:
    """The timeout holds for inference, not for metadata, which any server may be slower to say."""
    answering.infer_s = 0.3
    server = client(answering.url, timeout_s=0.1)
    assert [spec.shape for spec in server.inputs()] == [(-1, 4)]
    with pytest.raises(BadInput, match="shorter than the service time"):
        server.round_trip_s(PAYLOADS)


def test_every_class_is_tried(answering: Answering) -> None:
    """A mix is as slow as its slowest class: the timeout and the first rate go by that one."""
    answering.slow_s = 0.1
    found = client(answering.url).round_trip_s(MIXED)
    assert 0.1 <= found < 0.2
    answering.slow_s = 0.6
    with pytest.raises(
        BadInput, match=r"request of class 2 of 2 within --timeout 0.2 s; .*shorter"
    ):
        client(answering.url, timeout_s=0.2).round_trip_s(MIXED)


def test_many_classes_take_few_requests(answering: Answering) -> None:
    """Of a hundred classes each gets two requests, not five."""
    many = Payloads.join([PAYLOADS] * 100)
    client(answering.url).round_trip_s(many)
    assert len(answering.paths) == 200


def test_a_path_in_the_url_precedes_every_request(answering: Answering) -> None:
    """Metadata and single requests go where the load goes: the URL, then the path of V2."""
    endpoint = Endpoint(url=f"{answering.url}/team/a", model_name="m")
    server = ForeignServer(endpoint, {}, timeout_s=5)
    server.inputs()
    server.round_trip_s(PAYLOADS)
    assert {answering.url + path for path in answering.paths} == {
        f"{endpoint.url}/v2/models/m",
        endpoint.url + v2_call(endpoint).path,
    }


def test_outputs_are_what_metadata_name(answering: Answering) -> None:
    """Names and types; a server that says nothing of its outputs has none to be held to."""
    assert client(answering.url).outputs() == ()
    output = {"name": "y", "datatype": "FP32", "shape": "unknown"}
    answering.metadata = {**METADATA, "outputs": [output, {"name": "z"}]}
    assert [(spec.name, spec.datatype) for spec in client(answering.url).outputs()] == [
        ("y", "FP32")
    ]


SHAPELESS: dict[str, object] = {
    "no inputs named": {"name": "m"},
    "no object": ["m"],
    "no shape": {"inputs": [{"name": "x", "datatype": "FP32"}]},
    "shape is null": {"inputs": [{"name": "x", "datatype": "FP32", "shape": None}]},
    "shape in words": {"inputs": [{"name": "x", "datatype": "FP32", "shape": ["batch", 4]}]},
    "unknown type": {"inputs": [{"name": "x", "datatype": "FP7", "shape": [1]}]},
    "empty": {"inputs": []},
}


@pytest.mark.parametrize("case", SHAPELESS)
def test_metadata_without_shapes_are_bad_input(answering: Answering, case: str) -> None:
    """A server that does not say what it takes is refused, with the address that was asked."""
    answering.metadata = SHAPELESS[case]
    with pytest.raises(BadInput, match=f"{answering.url}/v2/models/m: its metadata "):
        client(answering.url).inputs()


@pytest.mark.slow
def test_a_slow_server_without_limits_is_measured_as_it_is(
    answering: Answering, generator: Fleet
) -> None:
    """1 s each and 300 req/s: 300 are under way at once, and nothing speaks against that."""
    answering.infer_s = 1.0
    run = LoadRun(mode="open", batch=1, duration_s=4, rate_rps=300)
    stored = generator.store("payloads", PAYLOADS)
    result = generator.run(run, Endpoint(url=answering.url, model_name="m"), stored)
    assert result.ok == result.offered > 1100
    assert (result.waited, result.unsent) == (0, 0)
    assert 1.0 <= result.due_to_done.quantile_s(0.5) < 1.1
    beside = {FaultCode.DISPATCH_LAG, FaultCode.GENERATOR_AT_LIMIT}  # a busy host
    assert {fault.code for fault in endpoint_faults(run, result)} <= beside


@pytest.mark.slow
def test_requests_that_found_no_connection_are_counted(
    answering: Answering, generator: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 connections of 0.3 s each cannot send 800 req/s: what is left is unsent, not lost.

    It is the generator that ended there; nothing is said of the server.
    """
    monkeypatch.setattr("loadtests.fleet.MOST_CONNECTIONS", 150)
    answering.infer_s = 2.0
    run = LoadRun(mode="open", batch=1, duration_s=1.5, rate_rps=800, timeout_s=0.3)
    stored = generator.store("payloads", PAYLOADS)
    result = generator.run(run, Endpoint(url=answering.url, model_name="m"), stored)
    assert result.offered > 1000
    assert result.connections == 150
    assert result.unsent > 100
    assert result.ok == 0
    assert result.unsent + sum(result.errors.values()) == result.offered
    codes = {fault.code for fault in endpoint_faults(run, result)}
    assert FaultCode.GENERATOR_AT_LIMIT in codes
    assert not codes & OVERLOAD
