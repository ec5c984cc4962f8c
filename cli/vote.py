"""`commonart vote`: which model's images people prefer, by blind pairs of the same prompt."""

from __future__ import annotations

import time
from collections import Counter
from typing import Annotated

import typer

from commonart.cli import options


def vote(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER FOLDER...]", help="Images of the same prompts, one folder for each model."),
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Votes to evaluate, in place of folders to vote on.")
    ] = None,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="A .jsonl for the votes; one of the same images goes on.")
    ] = "votes.jsonl",
    address: Annotated[
        str,
        typer.Option(metavar="[HOST:]PORT", help="Address to listen on; a port alone is open to this machine only."),
    ] = "127.0.0.1:8000",
    n: Annotated[int | None, typer.Option("-n", min=1, help="Most comparisons per voter (default: all).")] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH|URL", help="Public path or URL behind a reverse proxy, such as /vote.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Let people compare images of the same prompts, or evaluate their votes.

    The page shows two images of one prompt, without saying whose they are, in English or Japanese. The report has
    Bradley-Terry strengths, the agreement between voters, and how many votes are still needed.
    Needs the extra `serve`: uv sync --extra serve.

    \b
    commonart vote pictures/a pictures/b
    commonart vote a/ b/ c/ --address 0.0.0.0:8000 -n 100 -o votes.jsonl
    commonart vote --report votes.jsonl
    """
    import orjson

    from commonart.core.data.drops import Summary
    from commonart.core.errors import UsageError
    from commonart.stages import vote as stage

    if report is not None and folders:
        raise UsageError("--report and folders exclude each other.", "For example commonart vote --report votes.jsonl.")
    if report is None:
        if json:
            raise UsageError("--json goes with --report.", "Leave it out, or name the votes: --report FILE.")
        options.finish(stage.run(folders or [], out, address=address, n=n, root_path=root_path))
        return
    started = time.monotonic()
    result = stage.report(report)
    print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode() if json else stage.table(result))
    failed = sum(row["votes"] for row in result["left_out"])
    dropped = Counter(failed_attention_checks=failed) if failed else Counter[str]()
    options.finish(
        Summary("vote", result["votes"] + failed, result["votes"], dropped, seconds=time.monotonic() - started)
    )
