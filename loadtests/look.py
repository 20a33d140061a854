"""A look at a server that was just started: whether it answers what it will be asked."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from urllib.parse import urlsplit

from loadtests.http_call import HttpCall
from serving.command_host import Seen

_SHOWN = 160
_TIMEOUT_S = 10.0  # that of a request in a load run


def ready_when_answered(call: HttpCall, body: bytes, health: str | None) -> Callable[[str], Seen]:
    """A look that asks the health path first, where there is one, then the request itself.

    With a locustfile there is no request of ours, and any answer at the health path, or at
    ``/``, is one.
    """

    def look(url: str) -> Seen:
        if health is not None:
            status, text = _ask(url, "GET", health, b"", {})
            if not 200 <= status < 300:
                return Seen(ready=False, text=_words("GET", health, status, text))
        if call.locustfile is not None:
            status, text = _ask(url, "GET", health or "/", b"", {})
            return Seen(ready=status > 0, text=text.decode(errors="replace"))
        status, text = _ask(url, call.method, call.path, body, call.headers)
        if status not in call.check.statuses:
            said = _words(call.method, call.path, status, text)
            return Seen(ready=False, text=said, wrong=status not in (0, 503))
        failure = call.check.failure(text)
        if failure is not None:
            said = f"the answer to {call.method} {call.path} {failure}: {_first_line(text)}"
            return Seen(ready=False, text=said, wrong=True)
        return Seen(ready=True)

    return look


def _ask(
    url: str, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Status and body; status 0 with the reason where there was no answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port, timeout=_TIMEOUT_S
    )
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error or type(error).__name__).encode()
    finally:
        connection.close()


def _words(method: str, path: str, status: int, text: bytes) -> str:
    if not status:
        return f"{method} {path}: {_first_line(text)}"
    return f"{method} {path} is answered with {status}: {_first_line(text)}"


def _first_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[0][:_SHOWN] if lines else "an empty body"
