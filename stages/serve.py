"""A web page to generate images with (core/generation/page.py): `commonart serve`, then http://127.0.0.1:8000/.

Only this machine can reach it, unless HOST:PORT says otherwise; `core.output.web_page` keeps other sites out.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.drops import Summary
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.request import ModelSpec
from commonart.core.log import say, warn
from commonart.core.output import metadata, web_page
from commonart.core.output.metadata import MarkOptions

if TYPE_CHECKING:
    import uvicorn

    from commonart.core.generation.session import Session


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
    with web_page.listen(address) as listener:
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
    with web_page.gradio_cache() as cache:
        from commonart.core.generation.page import TEXTS, page
        from commonart.core.generation.worker import GenerationWorker

        worker = GenerationWorker(session, folder, cache, batch, ending)
        worker.find()
        say(f"{worker.name}: open {web_page.url_of(listener)} (Ctrl-C ends it); images go to {folder}/")
        if not web_page.is_loopback(listener):
            warn("everybody who can reach this address can generate images here and see them: there is no password")
        try:
            web_page.serve_blocks(page(worker), TEXTS, listener, root_path=root_path, started=started)
        finally:
            worker.stop_all()


def _folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {out} is not a folder ({error.strerror}).", "Name one for the images.") from None
    metadata.check_folder(folder)
    return folder
