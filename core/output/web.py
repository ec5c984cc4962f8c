"""What the web pages of commonart share: who may ask, what is refused, and the server that runs them.

Only this machine can reach a page, unless HOST:PORT says otherwise. Nothing is requested from elsewhere: analytics are
off, fonts are the system's, and a content security policy forbids the browser the rest. Another site can neither read a
page nor act on it: foreign origins are refused, and on loopback foreign host names too (DNS rebinding).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.log import say, warn
from commonart.core.output import contact_sheet, html

if TYPE_CHECKING:
    import gradio as gr
    import uvicorn

Message = MutableMapping[str, Any]  # of ASGI
FONTS = (*html.FONTS[:-1], "commonart-ja", html.FONTS[-1])
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Chromium keeps the boxes that stood for letters before their font came, until the style of the element itself changes.
FONT_JS = """document.fonts.addEventListener('loadingdone', event => {
  if (event.fontfaces.some(face => face.family.includes('commonart-ja'))) document.documentElement.classList.add('ja-font');
});"""
FONT_CSS = ".ja-font * { text-rendering: geometricPrecision }"


def check_gradio(command: str) -> None:
    """Raise CommonArtError where Gradio, which the page of `command` is built with, is not installed."""
    if find_spec("gradio") is None:
        what = f"`{command}` needs Gradio, which is not installed."
        raise CommonArtError(what, "Install it: uv sync --extra serve.")


@contextmanager
def gradio_cache(name: str) -> Iterator[Path]:
    """Prepare Gradio, before it is imported: no analytics, and a folder for what it serves, which ends with the block."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    with tempfile.TemporaryDirectory(prefix=f"commonart-{name}-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache  # Gradio serves copies from here, and nothing else
        yield Path(cache).resolve()


def run(
    page: gr.Blocks,
    listener: socket.socket,
    *,
    texts: Mapping[str, Mapping[str, str]],
    opened: str,
    exposed: str,
    root_path: str = "",
    css: str = "",
    js: str | None = None,
    max_upload: int = 0,
    started: Callable[[uvicorn.Server], Any] = lambda server: None,
) -> None:
    """Serve a page on a socket that listens, until interrupted.

    Args:
        texts: the page's words by language, as `gr.I18n` takes them.
        opened: what is said with the page's address in place of `{url}`.
        exposed: the warning where others than this machine can reach the page.
        root_path: path or URL under which a reverse proxy publishes the page.
        max_upload: bytes of a file that a visitor may upload.
        started: is called with the server before it runs.
    """
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, path="/", server_name=host,
        server_port=port, footer_links=[], run_history=False, root_path=root_path or None, ssr_mode=False,
        pwa=False, mcp_server=False, enable_monitoring=False, i18n=gr.I18n(**{k: dict(v) for k, v in texts.items()}),
        theme=gr.themes.Default(font=FONTS, font_mono=("ui-monospace", *FONTS)), css=font_face() + css,
        js=f"() => {{ {FONT_JS} {f'({js})()' if js else ''} }}",
        max_file_size=max_upload,
    )  # fmt: skip
    guarded = Guard(app, loopback=loopback(name), public=urlsplit(root_path).netloc)
    config = uvicorn.Config(guarded, log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    say(opened.replace("{url}", f"http://{name}:{port}/"))  # a folder may have braces in its name
    if not guarded.loopback:
        warn(exposed)
    started(server)
    server.run(sockets=[listener])


def font_face() -> str:
    """Return the style that offers this machine's Japanese font to browsers that have none of their own."""
    import gradio as gr

    font = contact_sheet.japanese_font()
    if font is None or not font.endswith((".ttf", ".otf")):
        return ""
    gr.set_static_paths([font])
    source, letters = f"url('./gradio_api/file={quote(font)}')", "U+3000-30FF, U+3400-9FFF, U+FF00-FFEF"
    return f"@font-face {{ font-family: 'commonart-ja'; src: {source}; unicode-range: {letters} }} {FONT_CSS}"


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
        if self.loopback and not loopback(host) and (not host or host != self.public):
            return False
        known = {host, headers.get("x-forwarded-host", ""), self.public} - {""}
        return "origin" not in headers or urlsplit(headers["origin"]).netloc in known


def loopback(host: str) -> bool:
    """Return whether `host[:port]` names this machine alone."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def listen(address: str, flag: str = "--address") -> socket.socket:
    """Return a socket that listens on [HOST:]PORT, which `flag` named; IPv6 as [::1]:8000. Raises UsageError where none can."""
    host, _, number = address.rpartition(":")
    if not number.isascii() or not number.isdecimal() or int(number) > 65535:
        raise UsageError(
            f"{flag} {address!r} is not an address.", "Give a port, 8000, or HOST:PORT; for IPv6 [::1]:8000."
        )
    host, port = host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(number)
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(
            f"{flag} {address}: the host {host} is unknown.", "Check its name, or give an IP address."
        ) from None
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"{flag} {address}: {error.strerror}.", "This machine lacks that protocol: use 127.0.0.1."
        ) from None
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
        raise UsageError(f"{flag} {address}: {error.strerror}.", advice) from None
    return listener
