"""A web page to generate images with (core/generation/page.py): `commonart serve`, then http://127.0.0.1:8000/.

`core.output.web` says who may ask, and that nothing is requested from elsewhere.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.drops import Summary
from commonart.core.errors import UsageError
from commonart.core.generation.request import ModelSpec
from commonart.core.output import metadata, web
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
    web.check_gradio("commonart serve")
    metadata.format_of(f"image.{ending}", "--format")
    folder = _folder(out)
    began = time.monotonic()
    with web.listen(address) as listener:
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
    with web.gradio_cache("serve") as cache:
        from commonart.core.generation.page import TEXTS, page
        from commonart.core.generation.worker import GenerationWorker

        worker = GenerationWorker(session, folder, cache, batch, ending)
        worker.find()
        try:
            web.run(
                page(worker), listener, texts=TEXTS, root_path=root_path, started=started,
                opened=f"{worker.name}: open {{url}} (Ctrl-C ends it); images go to {folder}/",
                exposed="everybody who can reach this address can generate images here and see them: there is no password",
            )  # fmt: skip
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
