"""Who a server of somebody else's is taken to be, and who we are to it: certificates."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from serving.errors import BadInput

_VARIABLE = "SSL_CERT_FILE"
_HUNG_UP = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")  # alerts that a server sends


class Identity(NamedTuple):
    """PEM files that a client is known by: its certificate, and the private key that fits it.

    Without ``key`` the certificate's file holds both.
    """

    cert: Path
    key: Path | None = None

    @classmethod
    def given(cls, cert: Path | None, key: Path | None) -> Self | None:
        """That of ``--cert`` and ``--key``, or None; BadInput for a key without a certificate."""
        if cert is None and key is not None:
            raise BadInput("--key belongs to --cert, the certificate that it fits")
        return None if cert is None else cls(cert, key)

    def shown_by(self, context: ssl.SSLContext) -> None:
        """Have ``context`` show it to servers that ask.

        BadInput for a file that cannot be read or is not PEM, a key with a password, and one
        that does not fit.
        """
        holds_key, option = self.key or self.cert, "--cert" if self.key is None else "--key"
        for path, named, mark, what in (
            (self.cert, "--cert", b"BEGIN CERTIFICATE", "certificate"),
            (holds_key, option, b"PRIVATE KEY", "private key"),
        ):
            try:
                text = path.read_bytes()
            except OSError as error:
                raise BadInput(f"{named} {path}: {error.strerror or error}") from None
            if mark not in text:
                hint = "; give it with --key" if (what, self.key) == ("private key", None) else ""
                raise BadInput(f"{named} {path}: no {what} in PEM form{hint}")
        locked = list[bool]()

        def password() -> str:
            locked.append(True)
            return ""

        try:
            context.load_cert_chain(self.cert, self.key, password)
        except (OSError, ValueError) as error:
            if locked:
                why = "its key has a password; give one without"
            elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                why = f"the key does not fit the certificate of --cert {self.cert}"
            else:
                why = f"certificate and key cannot be read ({error})"
            raise BadInput(f"{option} {holds_key}: {why}") from None


def client_context(
    *, insecure: bool, cacert: Path | None, identity: Identity | None = None
) -> ssl.SSLContext:
    """A client's context: certificates are held against those in ``cacert``, or the system's.

    ``identity`` is shown to servers that ask who we are. BadInput for a file that has none, and
    where there would be nothing to hold against it.
    """
    if insecure and cacert is not None:
        raise BadInput("--cacert: --insecure checks no certificate; give one of them")
    try:
        context = ssl.create_default_context(cafile=cacert)
    except (OSError, ValueError) as error:
        raise BadInput(f"--cacert {cacert}: no certificates in PEM form ({error})") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if identity is not None:
        identity.shown_by(context)
    return context


def refused_identity(error: OSError, shown: Identity | None) -> str | None:
    """What to change where a server ended a TLS connection for who we are; None for other errors.

    Servers of TLS 1.2 say only that no handshake came about, and one that hangs up at once may
    say nothing: that can have other reasons, too.
    """
    reason = getattr(error, "reason", None) or ""
    if shown is None and "CERTIFICATE_REQUIRED" in reason:
        return "it asks for a client's certificate; give one with --cert and --key"
    if shown is not None and "ALERT" in reason and any(one in reason for one in _OF_CERTIFICATES):
        named = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
        return f"it does not accept the certificate of --cert {shown.cert} ({named})"
    if "HANDSHAKE_FAILURE" in reason or isinstance(error, _HUNG_UP):
        given = "another one than --cert" if shown else "--cert and --key"
        return f"cannot be reached ({error}); if it asks for a client's certificate, give {given}"
    return None


@contextmanager
def trusting(cacert: Path | None) -> Iterator[None]:
    """Processes started inside trust ``cacert`` in the place of the system's certificates.

    The generator's client reads them where OpenSSL does, so both clients ask the same ones.
    """
    before = os.environ.get(_VARIABLE)
    if cacert is not None:
        os.environ[_VARIABLE] = str(cacert.resolve())
    try:
        yield
    finally:
        if before is not None:
            os.environ[_VARIABLE] = before
        elif cacert is not None:
            del os.environ[_VARIABLE]
