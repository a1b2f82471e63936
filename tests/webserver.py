"""A small real HTTP server on this machine whose behaviour a test scripts."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest


@dataclass
class Site:
    """What the server has and does; `requests` are the (path, Range header) that came."""

    data: bytes = b""
    etag: str | None = '"one"'
    cuts: list[int] = field(default_factory=list)  # the n-th answer breaks off after so many bytes
    answer: Callable[["Handler"], None] | None = None  # does all of it instead
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.server.site
        site.requests.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        if site.answer is not None:
            site.answer(self)
        else:
            self.send_part(site)

    do_HEAD = do_GET

    def send_part(self, site: Site) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and self.headers.get("If-Range", site.etag) == site.etag else 0
        body = site.data[start:]
        headers = {"ETag": site.etag, "Content-Type": "application/octet-stream"}
        if start > 0:
            headers["Content-Range"] = f"bytes {start}-{len(site.data) - 1}/{len(site.data)}"
        cut = site.cuts.pop(0) if site.cuts else len(body)
        self.send_page(body[:cut], 206 if start > 0 else 200, headers, len(body))

    def send_page(self, body: bytes, status: int = 200, headers: dict | None = None, length: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "text/html; charset=utf-8"}).items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    server = _Server(("127.0.0.1", 0), Handler)
    server.site = site
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_as_google(site: Site) -> Iterator[Site]:
    """`serving`; and what this process asks of Google's servers, it asks of `site`."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    def send_here(self, request, **options):
        parts = urlsplit(request.url)
        if (parts.hostname or "").endswith((".google.com", ".googleusercontent.com")):
            request.url = f"{site.url}{parts.path}?{parts.query}"
        return send(self, request, **{**options, "proxies": {}})

    with serving(site), pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", send_here)
        yield site


def closed_address() -> str:
    """An address of this machine where nobody listens."""
    with serving(Site()) as site:
        return site.url
