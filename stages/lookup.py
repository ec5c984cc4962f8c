"""Was this in the training set? `find` and `remove` for a command line, `serve` as a page, `recheck` for what changed since.

`core.data.lookup` searches; what is found goes to stdout, a block of lines or (`--json`) a line of JSON for each record.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from commonart.core import log
from commonart.core.data.blocklist import read_blocklist
from commonart.core.data.drops import Summary
from commonart.core.data.lookup.query import Query, query_of
from commonart.core.data.lookup.search import Match, Search
from commonart.core.data.text import printable, printable_json
from commonart.core.errors import EXIT_FAILED, EXIT_USAGE, CommonArtError, ReaderGone, reason, telling
from commonart.core.output import lookup_text

if TYPE_CHECKING:
    import uvicorn

    from commonart.core.data.download.limits import Limits
    from commonart.core.data.download.recheck import Rechecked

SHOWN = 20  # records that people are shown; --json writes all


@contextmanager
def trouble() -> Iterator[None]:
    """Give every failure the exit code of a usage error, for 1 says that nothing was found."""
    try:
        yield
    except ReaderGone:
        raise
    except CommonArtError as error:
        error.code = EXIT_USAGE if error.code == EXIT_FAILED else error.code
        raise
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        what = f"{error.filename or 'The output'} cannot be used: {reason(error)}."
        raise CommonArtError(what, "Check the path, its permissions, and the free space.", EXIT_USAGE) from error


def run(
    query: Query, paths: Sequence[str], *, json: bool = False, blocklist: str | None = None, quiet: bool = False
) -> Summary:
    """Print what matches a query; with a `blocklist` take it out of the shards, too. `Summary.written` counts what was found.

    Raises:
        UsageError: nothing to look in, or an image that cannot be decoded.
        CommonArtError: damaged shards, or a record that could not be taken out.
    """
    summary, started = Summary("lookup"), time.monotonic()
    with trouble(), Search(paths, quiet) as search:
        if blocklist is not None and os.path.exists(blocklist):
            read_blocklist(blocklist)  # what cannot be added to is known before anything is removed
        summary.read, blind = search.count()
        found, matches = list[dict[str, Any]](), list[Match]()
        for match in search.find(query):
            summary.written += 1
            if blocklist is not None:
                matches.append(match)
            if json:
                _print_json(match.as_json())
            elif summary.written <= SHOWN:
                found.append(match.as_json())
                print(lookup_text.block(found[-1]), flush=True)
            elif blocklist is None:  # nobody reads a hundred thousand blocks: the others are counted, and not read
                summary.written = max(summary.written, search.count_exact(query))
                break
        for sentence in lookup_text.conflicts(found):
            print(sentence)
        _print_rest(search, query, summary.written, json)
        if blind and query.kind == "image":
            log.warn(
                f"{blind:,} of {summary.read:,} records have no perceptual hash: near copies of those are not found"
            )
        if query.plain:
            log.warn(f"{query.plain} is too plain for its perceptual hash to tell: copies of other bytes are not found")
        if blocklist is not None:
            _remove(search, matches, query, blocklist, json)
    if blocklist is not None and matches:
        with trouble(), Search(paths, quiet) as search:
            _check_removed(search, query)
    summary.seconds = time.monotonic() - started
    return summary


def _print_json(value: dict[str, Any]) -> None:
    print(printable_json(orjson.dumps(value).decode()), flush=True)


def _print_rest(search: Search, query: Query, found: int, json: bool) -> None:
    """Print what is left to say: how many were found, what was removed before, and features without a record."""
    removed, left = list(search.removed(query)), search.left_features(query)
    if json:
        for each in removed:
            _print_json(each.as_json())
        for member in left:
            _print_json({"match": "features", "where": member})
        return
    for each in removed:
        print(lookup_text.block(each.as_json()))
    for member in left:
        print(f"features without a record: {member}")
    count, _ = search.count()
    folders = ", ".join(str(index.folder) for index in search.indexes.values())
    more = f" ({found - SHOWN:,} more than are shown; --json writes all)" if found > SHOWN else ""
    print(
        f"Found: {found:,} of {count:,} records in {folders}{more}."
        if found
        else f"Not found in {folders}, {count:,} records."
    )
    if query.kind == "image":
        print(lookup_text.COVERS)


def _remove(search: Search, matches: Sequence[Match], query: Query, blocklist: str, json: bool) -> None:
    """Take out what matches; near copies only where an image was asked for, for they may be of somebody else."""
    gone = [match for match in matches if _is_meant(match, query)]
    files, added = search.remove(gone, query, blocklist)
    runs = sorted({each.run for match in gone for each in match.runs if each.trained})
    if json:
        names = [str(path) for path in files]
        _print_json({"removed": len(gone), "files": names, "blocklist": blocklist, "entries": added, "runs": runs})
        return
    print(f"Added to {blocklist}: {added}. Give it to license-filter, shard and train: --blocklist {blocklist}.")
    if gone:
        many = "" if len(gone) == 1 else "s"
        print(f"Removed {len(gone):,} record{many}, features included; {len(files):,} shards were written again.")
    if kept := len(matches) - len(gone):
        print(f"Near copies that were kept: {kept:,}. Remove those by --key or --image.")
    if runs:
        print(
            f"What a model has learned stays in it: {', '.join(runs)} had this in the training data. Train anew without it."
        )


def _is_meant(match: Match, query: Query) -> bool:
    return match.by != "looks" or query.kind == "image"


def _check_removed(search: Search, query: Query) -> None:
    left = [match for match in search.find(query) if _is_meant(match, query)]
    if left or search.left_features(query):
        place = f"{left[0].folder / left[0].row[0]}#{left[0].record['key']}" if left else search.left_features(query)[0]
        raise CommonArtError(f"{place} is still there.", "Run the same command again.", EXIT_USAGE)


def recheck(
    count: int,
    paths: Sequence[str],
    *,
    json: bool = False,
    quiet: bool = False,
    allow_private: bool = False,
    limits: Limits | None = None,
) -> Summary:
    """Ask the sources of `count` records, chosen by chance, whether a licence or opt-out changed since; print what did.

    `limits`: None for `download.recheck.POLITE`, with `allow_private`. `Summary.dropped` counts the changes by their kind.
    Raises as `run`, and CommonArtError where no source answered.
    """
    from commonart.core.data.download import recheck as sources  # here and in `serve`: a lookup starts without them

    summary, started = Summary("lookup"), time.monotonic()
    kinds = Counter[str]()
    with trouble(), Search(paths, quiet) as search:
        total, _ = search.count()
        chosen = list(search.sample(count))
        asked = [record for record in chosen if sources.on_the_web(record)]
        kinds["not_on_the_web"] = len(chosen) - len(asked)
        with log.progress("recheck", total=len(asked), quiet=quiet) as tick:
            for found in sources.recheck(asked, limits or replace(sources.POLITE, allow_private=allow_private)):
                tick()
                summary.read += 1
                summary.written += bool(found.changes)
                kinds.update(_kinds(found))
                if json:
                    _print_json(found.as_json())
                elif found.changes:
                    print(printable(f"{found.record['key']}: {'; '.join(found.changes)}"), flush=True)
    summary.dropped = +kinds
    summary.seconds = time.monotonic() - started
    if not json:
        unknown = (
            ("did not answer", "not_answered"), ("do not state their licence", "licence_not_stated"),
            ("are not on the web and were not asked for", "not_on_the_web"),
        )  # fmt: skip
        parts = [f"{kinds[kind]:,} {what}" for what, kind in unknown if kinds[kind]]
        changed = f"{summary.written:,} of {summary.read:,} works that were asked for changed, of {total:,} records"
        print("; ".join([changed, *parts]) + ".", flush=True)
    if summary.read and kinds["not_answered"] == summary.read and not summary.written:
        with telling(lambda: summary):
            raise CommonArtError(
                "No source answered: whether anything changed is not known.",
                "Check the network; sources on private addresses need --allow-private.",
                EXIT_USAGE,
            )
    return summary


def _kinds(found: Rechecked) -> list[str]:
    flags = {
        "opt_out": found.opt_out,
        "licence": found.license_now,
        "gone": found.gone,
        "another_file": found.other_bytes,
    }
    kinds = [name for name, value in flags.items() if value]
    kinds += ["not_answered"] if found.failed else []
    return kinds or ["same" if found.stated else "licence_not_stated"]


def serve(
    paths: Sequence[str],
    address: str,
    *,
    quiet: bool = False,
    started: Callable[[uvicorn.Server], Any] = lambda server: None,
) -> Summary:
    """Serve a page that answers lookups until Ctrl-C; `started` is called with the server before it runs.

    Raises:
        UsageError: an address that cannot be used, or nothing to look in.
        CommonArtError: Gradio is not installed.
    """
    from commonart.core.output import web

    summary, started_at = Summary("lookup"), time.monotonic()
    with trouble():
        web.check_gradio("commonart lookup --serve")
        with web.listen(address) as listener, web.gradio_cache("lookup"), suppress(KeyboardInterrupt):
            with Search(paths, quiet) as search:
                count, _ = search.count()  # and the index is made before anybody asks
            from commonart.core.output.lookup_page import MAX_UPLOAD, STYLE, TEXTS, page

            def answer(given: Mapping[str, str]) -> tuple[list[dict[str, Any]], int, int, bool]:
                summary.read += 1
                with Search(paths, True) as search:  # SQLite's connections stay in their thread
                    query = query_of(**given)
                    shown = [match.as_json() for match in islice(search.find(query), SHOWN + 1)]
                    found = len(shown) if len(shown) <= SHOWN else max(len(shown), search.count_exact(query))
                    removed = [each.as_json() for each in search.removed(query)]
                    summary.written += bool(found)
                    conflict = bool(lookup_text.conflicts(shown))
                    return [*removed, *shown[:SHOWN]], found, search.count()[0], conflict

            web.run(
                page(answer), listener, texts=TEXTS, css=STYLE, max_upload=MAX_UPLOAD, started=started,
                opened=f"{count:,} records: open {{url}} (Ctrl-C ends it)",
                exposed="everybody who can reach this address can ask what is in these shards: there is no password",
            )  # fmt: skip
    summary.seconds = time.monotonic() - started_at
    return summary
