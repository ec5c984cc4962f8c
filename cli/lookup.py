"""`commonart lookup`: was this in the training set?"""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def lookup(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN|SHARDS]...", help="Runs and folders of shards (default: runs/ and shards/)."),
    ] = None,
    url: Annotated[str, typer.Option(metavar="URL", help="Address of an image, of its page, or of its author.")] = "",
    sha256: Annotated[str, typer.Option(metavar="HASH", help="SHA-256 of an image's file.")] = "",
    image: Annotated[
        str, typer.Option(metavar="FILE", help="Image; copies that were resized or saved again are found, too.")
    ] = "",
    author: Annotated[str, typer.Option(metavar="NAME", help="Author, whole name; case and width do not count.")] = "",
    key: Annotated[str, typer.Option(metavar="KEY", help="Key of a record.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Put it on the blocklist, and take it out of shards and features.")
    ] = False,
    blocklist: Annotated[str, typer.Option(metavar="FILE", help="Blocklist that --remove adds to.")] = "blocklist.txt",
    recheck: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Works, by chance, whose sources are asked again for licence and opt-outs."
        ),
    ] = None,
    allow_private: options.AllowPrivate = False,
    serve: Annotated[bool, typer.Option("--serve", help="Answer on a web page; needs the extra `serve`.")] = False,
    address: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Address of the page; a port alone is open to this machine only.")
    ] = "127.0.0.1:8000",
    quiet: options.Quiet = False,
) -> None:
    """Find out whether an image was in the training set.

    Exits with 0 where it is found, 1 where it is not, and 2 where it could not be looked for.

    \b
    commonart lookup --url https://example.org/photo.jpg
    commonart lookup --image photo.jpg runs/512 --json
    commonart lookup --author "Jane Doe" --remove
    commonart lookup --recheck 100 shards/
    """
    from commonart.core.data.lookup.query import query_of
    from commonart.core.errors import UsageError
    from commonart.stages import lookup as stage

    given = {"--url": url, "--sha256": sha256, "--image": image, "--author": author, "--key": key, "--remove": remove}
    tasks = {"--recheck": recheck is not None, "--serve": serve}
    if any(tasks.values()) and len(several := [name for name, value in {**tasks, **given}.items() if value]) > 1:
        raise UsageError(f"{' and '.join(several)} do not go together.", "Give one of them.")
    if serve:
        options.finish(stage.serve(paths or (), address, quiet=quiet), quiet)
        return
    if recheck is not None:
        options.finish(stage.recheck(recheck, paths or (), json=json, quiet=quiet, allow_private=allow_private), quiet)
        return
    if allow_private:
        raise UsageError("--allow-private is for --recheck.", "Leave it out.")
    query = query_of(url=url, sha256=sha256, image=image, author=author, key=key)
    summary = stage.run(query, paths or (), json=json, blocklist=blocklist if remove else None, quiet=quiet)
    options.finish(summary, quiet)
    if not summary.written:
        raise typer.Exit(1)
