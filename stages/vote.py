"""A vote of people on images of one prompt by two models or more, and what the votes say: `commonart vote A/ B/`.

`core.voting` knows how images are matched, shown and counted; `core.output.web` who may ask the page.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.data.drops import Summary
from commonart.core.errors import UsageError
from commonart.core.log import say, warn
from commonart.core.output import metadata, web
from commonart.core.voting.study import Study, open_study
from commonart.core.voting.votes import VoteFile, read_votes

if TYPE_CHECKING:
    import uvicorn


def run(
    folders: Sequence[str], out: str = "votes.jsonl", *, address: str, n: int | None = None, root_path: str = ""
) -> Summary:
    """Match the images of folders and serve the page until Ctrl-C.

    Args:
        folders: as `core.voting.study.open_study` takes them.
        out: file of the votes; one of the same study is continued.
        address: as `core.output.web.listen` takes it.
        n: the most comparisons of one voter, attention checks not counted.
        root_path: path or URL under which a reverse proxy publishes the page.

    Raises:
        UsageError: folders or an address that cannot be used.
        CommonArtError: Gradio is not installed, nothing matches, or `out` cannot be written or is another study's.
    """
    if Path(out).suffix != ".jsonl":
        raise UsageError(f"-o {out}: votes are kept in a .jsonl.", "Name one: -o votes.jsonl.")
    web.check_gradio("commonart vote")
    began = time.monotonic()
    if not Path(out).exists():
        metadata.check_output(out, "-o", False)
    study = open_study(folders, n)
    if study.unmatched:
        warn(f"{study.unmatched:,} images have no partner of the same {study.matched_by}, and are not shown")
    with web.listen(address) as listener:
        file = VoteFile(out, study.id)
        try:
            with suppress(KeyboardInterrupt):
                serve(study, file, listener, root_path=root_path)
        finally:
            file.close()
    return Summary("vote", len(study.pairs), file.count, seconds=time.monotonic() - began)


def serve(
    study: Study,
    file: VoteFile,
    listener: socket.socket,
    *,
    root_path: str = "",
    started: Callable[[uvicorn.Server], Any] = lambda server: None,
) -> None:
    """Serve the page on a socket that listens, until interrupted; `started` is called with the server before it runs."""
    with web.gradio_cache("vote") as cache:
        from commonart.core.voting.page import CSS, JS, TEXTS, page

        say(f"study {study.id}: {len(study.pairs):,} pairs of {', '.join(study.models)}, matched by {study.matched_by}")
        web.run(
            page(study, file, cache), listener, texts=TEXTS, root_path=root_path, css=CSS, js=JS, started=started,
            opened=f"open {{url}} (Ctrl-C ends it); votes go to {file.path}",
            exposed="everybody who can reach this address can vote here, under any name: there is no password",
        )  # fmt: skip


def report(path: str) -> dict[str, Any]:
    """Return what the votes of a file say. Raises as `read_votes` and `core.voting.report.report` do."""
    from commonart.core.voting import report as reporting

    return reporting.report(read_votes(path))


def table(result: dict[str, Any]) -> str:
    """Return a report as text."""
    from commonart.core.voting import report as reporting

    return reporting.table(result)
