"""A web page to generate images with (core/generation/page.py): `commonart serve`, then http://127.0.0.1:8000/.

Only this machine can reach it, unless HOST:PORT says otherwise. Nothing is requested from elsewhere: analytics are off,
fonts are the system's, and a content security policy forbids the browser the rest. Another site can neither read the
page nor generate with it: foreign origins are refused, and on loopback foreign host names too (DNS rebinding).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from commonart.core.data.drops import Summary
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.request import ModelSpec
from commonart.core.log import say, warn
from commonart.core.output import metadata
from commonart.core.output.metadata import MarkOptions

if TYPE_CHECKING:
    import uvicorn

    from commonart.core.generation.session import Session

Message = MutableMapping[str, Any]  # of ASGI
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def run(
    spec: ModelSpec, address: str, marks: MarkOptions, *, out: str, batch: int, ending: str, root_path: str = ""
) -> Summary:
    """Open a model and serve the page until Ctrl-C.

    Args:
        address: PORT (on this machine alone) or HOST:PORT; port 0 takes a free one.
        out: folder of the images, which is created.
        root_path: path or URL under which a reverse proxy publishes the page.

    Raises:
        UsageError: an address or folder that cannot be used.
        CommonArtError: Gradio is not installed, or the model cannot be found.
    """
    if find_spec("gradio") is None:
        what = "`commonart serve` needs Gradio, which is not installed."
        raise CommonArtError(what, "Install it: uv sync --extra serve.")
    metadata.format_of(f"image.{ending}", "--format")
    folder = _folder(out)
    began = time.monotonic()
    with _listen(address) as listener:
        from commonart.core.generation.session import Session

        session = Session.open(spec, marks)
        with suppress(KeyboardInterrupt):
            serve(session, folder, listener, batch=batch, ending=ending, root_path=root_path)
    return Summary("serve", session.generated, session.generated, seconds=time.monotonic() - began)


def serve(
    session: Session,
    folder: Path,
    listener: socket.socket,
    *,
    batch: int = 8,
    ending: str = "png",
    root_path: str = "",
    started: Callable[[uvicorn.Server], Any] = lambda server: None,
) -> None:
    """Serve the page on a socket that listens, until interrupted; `started` is called with the server before it runs."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    with tempfile.TemporaryDirectory(prefix="commonart-serve-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache  # Gradio serves copies from here, and nothing of the folder itself
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI

        from commonart.core.generation.page import FONTS, TEXTS, font_face, page
        from commonart.core.generation.worker import GenerationWorker

        worker = GenerationWorker(session, folder, Path(cache).resolve(), batch, ending)
        worker.find()
        app = gr.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page(worker), path="/", server_name=host,
            server_port=port, footer_links=[], run_history=False, root_path=root_path or None, ssr_mode=False,
            pwa=False, mcp_server=False, enable_monitoring=False, i18n=gr.I18n(**TEXTS),
            theme=gr.themes.Default(font=FONTS, font_mono=("ui-monospace", *FONTS)), css=font_face(), max_file_size=0,
        )  # fmt: skip
        guarded = Guard(app, loopback=_loopback(name), public=urlsplit(root_path).netloc)
        config = uvicorn.Config(guarded, log_level="critical", access_log=False, timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        say(f"{worker.name}: open http://{name}:{port}/ (Ctrl-C ends it); images go to {folder}/")
        if not guarded.loopback:
            warn("everybody who can reach this address can generate images here and see them: there is no password")
        started(server)
        try:
            server.run(sockets=[listener])
        finally:
            worker.stop_all()


@dataclass(frozen=True, slots=True)
class Guard:
    """ASGI middleware that refuses requests of other sites, and adds HEADERS to every response."""

    app: Any
    loopback: bool  # only names of this machine may be asked, and `public`
    public: str  # host[:port] under which a proxy publishes the page, where --root-path names it

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *ours]
            await send(message)

        if self._allowed(headers):
            return await self.app(scope, receive, send_with_headers)
        plain = [(b"content-type", b"text/plain")]
        await send_with_headers({"type": "http.response.start", "status": 403, "headers": plain})
        await send({"type": "http.response.body", "body": b"this page is not for other sites"})

    def _allowed(self, headers: dict[str, str]) -> bool:
        host = headers.get("host", "")
        if self.loopback and not _loopback(host) and (not host or host != self.public):
            return False
        known = {host, headers.get("x-forwarded-host", ""), self.public} - {""}
        return "origin" not in headers or urlsplit(headers["origin"]).netloc in known


def _loopback(host: str) -> bool:
    """Return whether `host[:port]` names this machine alone."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {out} is not a folder ({error.strerror}).", "Name one for the images.") from None
    metadata.check_folder(folder)
    return folder


def _listen(address: str) -> socket.socket:
    """Return a socket that listens on [HOST:]PORT; IPv6 as [::1]:8000. Raises UsageError where none can."""
    host, _, number = address.rpartition(":")
    if not number.isascii() or not number.isdecimal() or int(number) > 65535:
        raise UsageError(f"{address!r} is not an address.", "Give a port, 8000, or HOST:PORT; for IPv6 [::1]:8000.")
    host, port = host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(number)
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"{address}: the host {host} is unknown.", "Check its name, or give an IP address.") from None
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"{address}: {error.strerror}.", "This machine lacks that protocol: use 127.0.0.1.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(sockaddr)
        listener.listen()
    except OSError as error:
        listener.close()
        advice = {
            errno.EADDRINUSE: "Another program listens there: choose another port.",
            errno.EADDRNOTAVAIL: "It is not an address of this machine: use 127.0.0.1, ::1 or 0.0.0.0.",
            errno.EACCES: "Ports below 1024 need privileges: choose a higher one.",
        }.get(error.errno or 0, "Choose another address.")
        raise UsageError(f"{address}: {error.strerror}.", advice) from None
    return listener
