"""A small web page to draw with: `commonart sample --serve 8000 --model nano`, then http://127.0.0.1:8000/.

Prompt, settings, and a gallery of what lies in the folder of -o. No script, nothing from elsewhere: a form, and a page
that loads itself again while something is being drawn. One thread draws; requests only queue.

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

from commonart.core import provenance
from commonart.core.data.drawings import MAX_SEED, How, plan
from commonart.core.data.prompts import Prompt
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.log import say, warn
from commonart.core.page import Field, Page

if TYPE_CHECKING:
    from commonart.core.model.drawing.studio import Studio

WAITING = 32  # jobs in the queue; more are refused
GALLERY = 60  # pictures on the page, the newest first
FORM_BYTES = 100_000
MOST = 16  # pictures of one request
LIMITS = {"prompt": 5000, "negative": 1000}  # characters; percent-encoded, both stand in one URL of 64 KiB
AREA = 4  # times the model's own area: a larger picture would keep everybody waiting
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    prompt: str
    how: How
    seed: int
    n: int


@dataclass(slots=True)
class Atelier:
    """What the page knows. `pictures` are the names it hands out: no other file of the folder can be asked for."""

    studio: Studio
    how: How
    folder: Path
    draw: Callable[[Job], list[Path]]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    jobs: queue.Queue[Job | None] = field(default_factory=lambda: queue.Queue(WAITING))
    now: Job | None = None
    trouble: str = ""
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> settings, the oldest first

    def add(self, path: Path) -> None:
        """Take a picture into the gallery, with what its marks say."""
        try:
            path.name.encode()
            said = provenance.read(path).settings or {}
        except (CommonArtError, UnicodeEncodeError):
            return
        plain = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in said.items()}
        self.pictures[path.name] = plain

    def work(self) -> None:
        """Draw job after job, until None comes."""
        while (job := self.jobs.get()) is not None:
            self.now = job
            try:
                for path in self.draw(job):
                    self.add(path)
            except CommonArtError as error:
                self.trouble = f"{error.what} {error.fix}"
            except Exception as error:  # a bug must not end the page; its text goes to the terminal, whole
                self.trouble = f"{type(error).__name__}: {error}"
                warn(f"drawing {job.prompt[:60]!r} failed: {self.trouble}")
            finally:
                self.now = None


def run(address: str, *, model: str, out: str, batch: int, ending: str, **settings: Any) -> int:
    """Open `model` and serve the page until Ctrl-C; returns how many pictures were drawn.

    `settings` are the fields of `How`, what every form begins with, and what `Studio.open` takes.
    """
    from commonart.core.model.drawing.studio import Studio

    _address(address)
    _folder(out)
    how, opening = How.of(settings)
    how.check()
    studio = Studio.open(model, **opening)
    with suppress(KeyboardInterrupt):
        serve(studio, how, address, out=out, batch=batch, ending=ending)
    return studio.drawn


def serve(
    studio: Studio,
    how: How,
    address: str,
    *,
    out: str,
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
    host, port = _address(address)

    def draw(job: Job) -> list[Path]:
        shared = studio.shared(job.how)
        wanted = plan([Prompt(job.prompt, {})], shared, seed=job.seed, n=job.n, out=out, ending=ending)
        found = studio.draw(wanted, job.how, batch=batch, images=False)
        return [path for picture, _ in found if (path := picture.path) is not None]

    studio.shared(how)
    state = Atelier(studio, how, _folder(out), draw)
    old = [p for p in state.folder.iterdir() if p.suffix.lower() in TYPES and not p.name.startswith(".")]
    for path in sorted(old, key=lambda p: p.stat().st_mtime_ns)[-GALLERY:]:
        state.add(path)
    handler = type("Handler", (_Handler,), {"state": state, "loopback": _loopback(host)})
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise UsageError(f"--serve {address}: {error.strerror or error}.", "Take another port: --serve 8001.") from None
    server.daemon_threads = True
    url = f"http://{host if ':' not in host else f'[{host}]'}:{server.server_port}/"
    worker = threading.Thread(target=state.work, daemon=True)
    worker.start()
    say(f"{studio.engine.parts.name}: open {url} (Ctrl-C ends it); pictures go to {out}/")
    if not _loopback(host):
        warn("everybody who can reach this address can draw here and see the pictures: there is no password")
    started(server, url)
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()
        while not state.jobs.empty():  # what has not begun is given up
            state.jobs.get_nowait()
        state.jobs.put(None)


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


def _job(form: Mapping[str, str], usual: How) -> Job:
    """What a form asks for. Raises UsageError, in a sentence that the page shows."""
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
    how = How(
        steps=steps, guidance=guidance, negative=form.get("negative", "").strip(), sampler=usual.sampler,
        interval=usual.interval, rescale=usual.rescale, size=form.get("size", "").strip() or usual.size,
        aspect=usual.aspect if not form.get("size", "").strip() else None,
    )  # fmt: skip
    how.check()
    return Job(prompt, how, seed, n)


def page(state: Atelier, form: Mapping[str, str], trouble: str = "") -> str:
    """The page's HTML; `form` fills the fields again."""
    busy = state.now is not None or not state.jobs.empty()
    made = Page(
        "commonart",
        f"{state.studio.engine.parts.name}, on {state.studio.engine.device}. Pictures carry the mark of synthetic media, "
        "their prompt and their settings.",
        refresh=2 if busy else None,
    )
    how = state.how
    usual = {"steps": how.steps, "guidance": how.guidance, "negative": how.negative, "size": how.size or "", "n": 1}
    value = {name: form.get(name, str(usual.get(name, ""))) for name in ("prompt", "seed", *usual)}
    made.form(
        "/draw",
        [
            Field("prompt", "Prompt", value["prompt"], "text", long=True),
            Field("negative", "Not", value["negative"], "text"),
            Field("steps", "Steps", value["steps"], "number"),
            Field("guidance", "Guidance", value["guidance"], "number"),
            Field("seed", "Seed", value["seed"], "number"),
            Field("size", f"Size ({state.studio.engine.size})", value["size"], "text"),
            Field("n", "Pictures", value["n"], "number"),
        ],
        "Draw",
        {"token": state.token},
    )
    if trouble or state.trouble:
        made.text(trouble or state.trouble, alert=True)
    if state.now is not None:
        made.text(f"Drawing: {state.now.prompt[:200]} ({state.jobs.qsize()} waiting)", soft=True)
    entries = list(state.pictures.items())[-GALLERY:]
    for name, said in reversed(entries):
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
    state: Atelier
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
            self._send(200, page(self.state, form).encode(), "text/html; charset=utf-8")
        elif url.path.startswith("/pictures/") and name in self.state.pictures:
            try:
                data = (self.state.folder / name).read_bytes()
            except OSError:
                return self._send(404, b"gone")
            self._send(200, data, TYPES[Path(name).suffix.lower()])
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
        if self.path != "/draw":
            return self._send(404, b"there is nothing here")
        origin = self.headers.get("Origin")
        theirs = origin not in (None, "null") and urlsplit(origin or "").netloc != self.headers.get("Host")
        if theirs or not hmac.compare_digest(form.get("token", "").encode(), self.state.token.encode()):
            return self._send(403, b"this form is not from this page: load it again")
        try:
            job = _job(form, self.state.how)
            said = self.state.studio.shared(job.how)  # says now what this model cannot draw
            if said["width"] * said["height"] > AREA * self.state.studio.engine.size**2:
                raise UsageError(f"{said['width']}x{said['height']} is too large for this page.", "Ask for less.")
            self.state.jobs.put_nowait(job)
            self.state.trouble = ""
        except queue.Full:
            return self._page(429, form, f"{WAITING} drawings wait already. Try again later.")
        except CommonArtError as error:
            return self._page(400, form, f"{error.what} {error.fix}")
        kept = {k: form[k] for k in ("prompt", "negative", "steps", "guidance", "size", "n") if form.get(k)}
        self._send(303, b"", more={"Location": "/?" + urlencode(kept, quote_via=quote)})

    def _page(self, status: int, form: Mapping[str, str], trouble: str) -> None:
        self._send(status, page(self.state, form, trouble).encode(), "text/html; charset=utf-8")

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
