"""A web server on this machine that serves pictures, or misbehaves as it is told.

    with Site() as site:
        url = site.image("/a.jpg", picture())

`asked` holds the paths of images it was asked for, in order; `rules` those of robots.txt and tdmrep.json.
"""

from __future__ import annotations

import http.server
import io
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from PIL import Image

Handler = http.server.BaseHTTPRequestHandler
RULES = ("/robots.txt", "/.well-known/tdmrep.json")


def picture(seed: int = 0, format: str = "JPEG", size: tuple[int, int] = (40, 30), **save: Any) -> bytes:
    """A small picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **save)
    return out.getvalue()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that go away are part of the tests."""


class Served:
    """A server that answers, from a thread, as long as the `with` block lasts."""

    server: http.server.ThreadingHTTPServer

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Site(Served):
    """The server, on a free port of `address`; use as a context manager."""

    def __init__(self, address: str = "127.0.0.1", every: Callable[[str], bytes | None] | None = None) -> None:
        self.asked: list[str] = []
        self.rules: list[str] = []
        self.headers: dict[str, str] = {}
        self.connections = 0
        self.pages: dict[str, Callable[[Handler], None]] = {}
        self.every = every  # path -> bytes, for what `pages` does not hold
        site = self

        class Page(Handler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                site.connections += 1
                super().setup()

            def do_GET(self) -> None:
                (site.rules if self.path in RULES else site.asked).append(self.path)
                site.headers = dict(self.headers)
                page = site.pages.get(self.path)
                data = site.every(self.path) if page is None and site.every and self.path not in RULES else None
                if page is not None:
                    page(self)
                else:
                    answer(self, 404 if data is None else 200, data or b"")

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: stderr belongs to the test."""

        self.server = _Server((address, 0), Page)
        self.address, self.port = address, int(self.server.server_address[1])

    def url(self, path: str) -> str:
        """The address of a path here."""
        return f"http://{self.address}:{self.port}{path}"

    def image(self, path: str, data: bytes, status: int = 200, **headers: str) -> str:
        """Answer `path` with these bytes and headers (`X_Robots_Tag="noai"`)."""
        self.pages[path] = lambda handler: answer(handler, status, data, **headers)
        return self.url(path)

    def in_turn(self, path: str, *answers: tuple[int, bytes] | tuple[int, bytes, dict[str, str]]) -> str:
        """Answer `path` with each of these once, then with the last of them again and again."""
        left = list(answers)

        def page(handler: Handler) -> None:
            status, data, *headers = left.pop(0) if len(left) > 1 else left[0]
            answer(handler, status, data, **(headers[0] if headers else {}))

        self.pages[path] = page
        return self.url(path)


def answer(handler: Handler, status: int, data: bytes, **headers: str) -> None:
    """Send one whole answer."""
    handler.send_response(status)
    for name, value in {
        "Content-Length": str(len(data)),
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
    if headers.get("Content_Length", str(len(data))) != str(len(data)):
        handler.close_connection = True


class Trap:
    """A socket that counts who connects to it: nobody may. Use as a context manager."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_server((address, 0))
        self.socket.settimeout(0.0)
        self.port = int(self.socket.getsockname()[1])

    def __enter__(self) -> Trap:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def visitors(self) -> int:
        """How many have connected since the last call."""
        count = 0
        while True:
            try:
                self.socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1
