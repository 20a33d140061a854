"""Whom a server of somebody else's is taken to be: its certificate, and who vouches for it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import BadInput

_VARIABLE = "SSL_CERT_FILE"


def client_context(*, insecure: bool, cacert: Path | None) -> ssl.SSLContext:
    """A client's context: certificates are held against those in ``cacert``, or the system's.

    BadInput for a file that has none, and where there would be nothing to hold against it.
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
    return context


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
