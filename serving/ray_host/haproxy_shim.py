"""Start HAProxy the way a loopback tool must: bound to loopback, dying with its parent.

Ray Serve renders HAProxy's configuration and has no setting for the host of its
metrics listener; it takes a path to the binary instead. This script is that binary: it
rewrites the listeners that bind all interfaces, swaps the error page for a V2 error,
and execs the real one. Standard library only, executed by path; the settings come in
through TONNAGE_HAPROXY_* variables.
"""

import ctypes
import os
import re
import signal
import sys

ERROR_BODY = '{"error":"no replica could answer (ingress)"}'


def rewrite(config: str) -> str:
    """The configuration with every wildcard ``bind`` moved to 127.0.0.1.

    >>> rewrite("    bind :9101")
    '    bind 127.0.0.1:9101'
    >>> rewrite("  bind *:8404")
    '  bind 127.0.0.1:8404'
    >>> rewrite("  bind 127.0.0.1:80")
    '  bind 127.0.0.1:80'
    """
    return re.sub(r"(?m)^(\s*bind )(?:\*|0\.0\.0\.0)?(?=:\d)", r"\g<1>127.0.0.1", config)


def write_error_page(config: str) -> None:
    """Make the page behind ``errorfile`` a V2 error; Ray's is plain text."""
    page = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(ERROR_BODY)}\r\n"
        "\r\n" + ERROR_BODY
    )
    for path in set(re.findall(r"errorfile \d+ (\S+)", config)):
        with open(path, "w", newline="") as stream:
            stream.write(page)


def main() -> None:
    """Rewrite, then exec the real HAProxy with the same arguments."""
    arguments = sys.argv[1:]
    if "-f" in arguments:
        at = arguments.index("-f") + 1
        with open(arguments[at]) as stream:
            config = stream.read()
        write_error_page(config)
        arguments[at] += ".loopback"
        with open(arguments[at], "w") as stream:
            stream.write(rewrite(config))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG survives the exec below
    binary = os.environ["TONNAGE_HAPROXY_BINARY"]
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main()
