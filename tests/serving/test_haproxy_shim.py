"""HAProxy's configuration as the shim hands it on."""

from __future__ import annotations

from pathlib import Path

from serving.ray_host.haproxy_shim import ERROR_BODY, rewrite, write_error_page


def test_wildcard_binds_become_loopback() -> None:
    """All three spellings of 'all interfaces' are rewritten; a given host is kept."""
    config = (
        "frontend a\n    bind :9101\n  bind *:8404\n bind 0.0.0.0:1 proto h2\n bind 127.0.0.1:2\n"
    )
    assert rewrite(config) == (
        "frontend a\n    bind 127.0.0.1:9101\n  bind 127.0.0.1:8404\n"
        " bind 127.0.0.1:1 proto h2\n bind 127.0.0.1:2\n"
    )


def test_the_error_page_is_a_v2_error(tmp_path: Path) -> None:
    """HAProxy's own failures carry an 'error' in JSON, with its true length."""
    page = tmp_path / "500.http"
    write_error_page(f"    errorfile 502 {page}\n    errorfile 503 {page}\n")
    head, _, body = page.read_bytes().decode().partition("\r\n\r\n")
    assert body == ERROR_BODY
    assert f"Content-Length: {len(ERROR_BODY)}" in head
