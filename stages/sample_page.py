"""A small web page to draw with: `commonart sample --serve 8000 --model nano`, then http://127.0.0.1:8000/.

Prompt, settings, and a gallery of what lies in the folder of -o. No script, nothing from elsewhere: a form, and a frame
that loads itself again while something is being drawn, so that nothing that is being typed is lost. One thread draws;
requests only queue.

Only this machine can reach it, unless HOST:PORT says otherwise. A page of another site cannot draw here: every form
carries a token, and names of hosts that are not ours are refused (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import queue
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.request import MAX_SEED, GenerationConfig
from commonart.core.log import say, warn
from commonart.core.output.html import Field, Page

if TYPE_CHECKING:
    from commonart.core.generation.session import Session
    from commonart.core.generation.worker import GenerationWorker, Job

GALLERY = 60  # pictures on the page, the newest first
FORM_BYTES = 100_000
MOST = 16  # pictures of one request
LIMITS = {"prompt": 5000, "negative": 1000}  # characters; percent-encoded, both stand in one URL of 64 KiB
AREA = 4  # times the model's own area: a larger picture would keep everybody waiting
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
HTML = "text/html; charset=utf-8"
HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """What the page shows: what draws, what every form begins with, and the word that tells our forms from others'."""

    atelier: GenerationWorker
    how: GenerationConfig
    seed: int | None = None
    n: int = 1
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))


def run(
    address: str, *, model: str, out: str, seed: int | None, n: int, batch: int, ending: str, **settings: Any
) -> int:
    """Open `model` and serve the page until Ctrl-C; returns how many pictures were drawn.

    `seed`, `n` and `settings`, the fields of `GenerationConfig`, are what every form begins with; the other settings are what
    `Studio.open` takes.
    """
    from commonart.core.generation.session import Session

    _address(address)
    _folder(out)
    if n > MOST:
        raise UsageError(f"-n {n}: the page draws at most {MOST} pictures at once.", f"Give 1 to {MOST}.")
    how, opening = GenerationConfig.of(settings)
    how.check()
    studio = Session.open(model, **opening)
    with suppress(KeyboardInterrupt):
        serve(studio, how, address, out=out, seed=seed, n=n, batch=batch, ending=ending)
    return studio.drawn


def serve(
    studio: Session,
    how: GenerationConfig,
    address: str,
    *,
    out: str,
    seed: int | None = None,
    n: int = 1,
    batch: int = 8,
    ending: str = "png",
    started: Callable[[ThreadingHTTPServer, str], Any] = lambda server, url: None,
) -> None:
    """Serve the page until interrupted. `address` is PORT (on this machine alone) or HOST:PORT; port 0 takes a free one.

    Args:
        started: called with the server and its URL when it listens.

    Raises:
        UsageError: no such address, or a port that is taken.
    """
    from commonart.core.generation.worker import GenerationWorker

    host, port = _address(address)
    studio.shared(how)  # says now what this model cannot draw
    atelier = GenerationWorker(studio, _folder(out), batch, ending)
    atelier.find(GALLERY)
    handler = type("Handler", (_Handler,), {"site": Site(atelier, how, seed, n), "loopback": _loopback(host)})
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise UsageError(f"--serve {address}: {error.strerror or error}.", "Take another port: --serve 8001.") from None
    server.daemon_threads = True
    url = f"http://{host if ':' not in host else f'[{host}]'}:{server.server_port}/"
    worker = threading.Thread(target=atelier.work, daemon=True)
    worker.start()
    say(f"{studio.engine.parts.name}: open {url} (Ctrl-C ends it); pictures go to {out}/")
    if not _loopback(host):
        warn("everybody who can reach this address can draw here and see the pictures: there is no password")
    started(server, url)
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()
        atelier.close()


def _folder(out: str) -> Path:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {out} is no folder ({error.strerror}).", "Name one for the pictures.") from None
    return Path(out)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--serve {text} is no address.", "Give a port, --serve 8000, or HOST:PORT.")
    return host.strip("[]") or "127.0.0.1", int(port)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _job(form: Mapping[str, str], usual: GenerationConfig, studio: Session) -> Job:
    """What a form asks for. Raises UsageError, in a sentence that the page shows."""
    from commonart.core.generation.worker import Job

    prompt = form.get("prompt", "").strip()
    if not prompt:
        raise UsageError("the prompt is empty.", "Say what the picture should show.")
    for name, most in LIMITS.items():
        if len(form.get(name, "")) > most:
            raise UsageError(f"the {name} prompt has more than {most:,} characters.", "Say it in fewer words.")
    try:
        seed = int(form["seed"]) if form.get("seed", "").strip() else secrets.randbelow(2**31)
        n = int(form.get("n") or 1)
        steps, guidance = int(form.get("steps") or usual.steps), float(form.get("guidance") or usual.guidance)
    except ValueError:
        raise UsageError("seed, pictures, steps and guidance are numbers.", "Mend them.") from None
    if not 0 <= seed <= MAX_SEED - MOST:
        raise UsageError(f"seed {seed} is not possible.", "Give a whole number from 0 to 2^62.")
    if not 1 <= n <= MOST:
        raise UsageError(f"{n} pictures at once are not possible.", f"Ask for 1 to {MOST}.")
    how = GenerationConfig(
        steps=steps, guidance=guidance, negative=form.get("negative", "").strip(), sampler=usual.sampler,
        interval=usual.interval, rescale=usual.rescale, size=form.get("size", "").strip() or usual.size,
        aspect=usual.aspect if not form.get("size", "").strip() else None,
    )  # fmt: skip
    how.check()
    said = studio.shared(how)  # says now what this model cannot draw
    if said["width"] * said["height"] > AREA * studio.engine.size**2:
        raise UsageError(f"{said['width']}x{said['height']} is too large for this page.", "Ask for less.")
    return Job(prompt, how, seed, n)


def page(site: Site, form: Mapping[str, str], trouble: str = "") -> str:
    """The page's HTML; `form` fills the fields again."""
    how, engine = site.how, site.atelier.studio.engine
    own = site.atelier.studio.shared(how)
    made = Page(
        "commonart",
        f"{engine.parts.name}, on {engine.device}. Pictures carry the mark of synthetic media, their prompt and their "
        "settings.",
    )
    usual = {
        "negative": how.negative,
        "steps": how.steps,
        "guidance": how.guidance,
        "size": how.size or "",
        "n": site.n,
    }
    usual |= {"prompt": "", "seed": "" if site.seed is None else site.seed}
    value = {name: form.get(name, str(text)) for name, text in usual.items()}
    made.form(
        "/draw",
        [
            Field("prompt", "Prompt", value["prompt"], "text", long=True),
            Field("negative", "Not", value["negative"], "text"),
            Field("steps", "Steps", value["steps"], "number"),
            Field("guidance", "Guidance", value["guidance"], "number"),
            Field("seed", "Seed (empty: a new one)", value["seed"], "number"),
            Field("size", f"Size (empty: {own['width']}x{own['height']})", value["size"], "text"),
            Field("n", f"Pictures (1 to {MOST})", value["n"], "number"),
        ],
        "Draw",
        {"token": site.token},
    )
    if trouble:
        made.text(trouble, alert=True)
    made.frame("/gallery", "What is being drawn, and what was drawn")
    return made.html()


def gallery(site: Site) -> str:
    """The frame: how far the drawing is, what went wrong, and the pictures, the newest first."""
    atelier = site.atelier
    now, waiting = atelier.now, atelier.jobs.qsize()
    made = Page("commonart", refresh=1 if now is not None or waiting else None, framed=True)
    for trouble in atelier.troubles:
        made.text(trouble, alert=True)
    if now is not None:
        step = f"step {atelier.step} of {now.how.steps}" if atelier.step else "the model is being loaded"
        made.text(f"Drawing {now.prompt[:200]}: {atelier.done} of {now.n} done, {step}; {waiting} more in the queue")
        made.progress(atelier.step, now.how.steps, "steps")
        made.form("/stop", [], "Stop", {"token": site.token})
    for name, said in reversed(list(atelier.pictures.items())[-GALLERY:]):
        again = {
            k: said[k] for k in ("prompt", "negative", "steps", "guidance", "seed") if said.get(k) not in (None, "")
        }
        if {"width", "height"} <= said.keys():
            again["size"] = f"{said['width']}x{said['height']}"
        made.picture(
            f"pictures/{name}",
            f"{said.get('prompt', name)} (seed {said.get('seed', '?')})",
            link=f"/?{urlencode(again)}",
        )
    return made.html()


class _Handler(BaseHTTPRequestHandler):
    site: Site
    loopback: bool
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self._known_host():
            return
        url = urlsplit(self.path)
        name = unquote(url.path.removeprefix("/pictures/"))
        if url.path == "/":
            form = {k: v[0] for k, v in parse_qs(url.query).items()}
            self._send(200, page(self.site, form).encode(), HTML)
        elif url.path == "/gallery":
            self._send(200, gallery(self.site).encode(), HTML)
        elif url.path.startswith("/pictures/") and name in self.site.atelier.pictures:
            try:
                data = (self.site.atelier.folder / name).read_bytes()
            except OSError:
                return self._send(404, b"gone")
            # The frame loads itself again each second; a name stands for all that its picture was drawn with.
            self._send(200, data, TYPES[Path(name).suffix.lower()], {"Cache-Control": "private, max-age=3600"})
        else:
            self._send(404, b"there is nothing here")

    def do_POST(self) -> None:
        if not self._known_host():
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > FORM_BYTES:
            self.close_connection = True
            return self._send(413, b"this form is too long")
        form = {k: v[0] for k, v in parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace")).items()}
        if self.path not in ("/draw", "/stop"):
            return self._send(404, b"there is nothing here")
        origin = self.headers.get("Origin")
        theirs = origin not in (None, "null") and urlsplit(origin or "").netloc != self.headers.get("Host")
        if theirs or not hmac.compare_digest(form.get("token", "").encode(), self.site.token.encode()):
            return self._send(403, b"this form is not from this page: load it again")
        if self.path == "/stop":
            self.site.atelier.stop.set()
            return self._send(303, b"", more={"Location": "/gallery"})
        try:
            self.site.atelier.jobs.put_nowait(_job(form, self.site.how, self.site.atelier.studio))
            self.site.atelier.troubles.clear()
        except queue.Full:
            return self._page(429, form, "Too many drawings wait already. Try again later.")
        except CommonArtError as error:
            return self._page(400, form, f"{error.what} {error.fix}")
        kept = {k: form[k] for k in ("prompt", "negative", "steps", "guidance", "size", "n") if form.get(k)}
        self._send(303, b"", more={"Location": "/?" + urlencode(kept, quote_via=quote)})

    def _page(self, status: int, form: Mapping[str, str], trouble: str) -> None:
        self._send(status, page(self.site, form, trouble).encode(), HTML)

    def _known_host(self) -> bool:
        """On loopback, only names of this machine: another site's name that was pointed here reads nothing."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            host = ""
        if self.loopback and not _loopback(host):
            self.close_connection = True
            self._send(403, b"this page is for 127.0.0.1 and localhost")
            return False
        return True

    def _send(
        self, status: int, data: bytes, kind: str = "text/plain; charset=utf-8", more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {**HEADERS, **(more or {}), "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)
