"""Records by URL, hash, key or author, images by what they look like, and the runs that had them in their data.

with Search(["runs/", "shards/"]) as search:
    found = list(search.find(query_of(url="https://example.org/p/1")))
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core import log
from commonart.core.data import blocklist as blocklists
from commonart.core.data.files import lock
from commonart.core.data.lookup.index import KINDS, LookupIndex, Row, fingerprint_of
from commonart.core.data.lookup.query import Query, colors_fit
from commonart.core.data.lookup.removal import Removal, read_log, remove
from commonart.core.data.lookup.runs import Run, Trained, find_runs, had_record, moved, read_run, removed_since
from commonart.core.data.record import Record
from commonart.core.errors import CommonArtError, UsageError

DEFAULT = ("runs", "shards")
SHOWN = ("key", "sha256", "title", "author", "author_url", "license", "license_url", "license_observed_at", "opt_out", "source",
         "source_url", "image_url", "split", "captions")  # fmt: skip


class Match(NamedTuple):
    """A record that was found: `by` a kind, or by its looks, in how many `bits` of the perceptual hash it differs."""

    folder: Path
    row: Row
    record: Record
    by: str
    bits: int
    features: list[str]
    runs: list[Trained]

    def as_json(self) -> dict[str, Any]:
        """Return the line of `--json`."""
        return {
            "match": "near" if self.by == "looks" else "exact", "by": self.by, "bits": self.bits,
            "where": f"{self.folder / self.row[0]}#{self.record['key']}",
            **{name: self.record[name] for name in SHOWN if name in self.record},
            "features": self.features, "runs": [each._asdict() for each in self.runs],
        }  # fmt: skip


class Removed(NamedTuple):
    """What was taken out before: where, the line of its log, and the runs that had it in their data."""

    folder: Path
    removal: Removal
    runs: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the line of `--json`."""
        keys = [each["key"] for each in self.removal.records]
        return {"match": "removed", "where": str(self.folder), "at": self.removal.at, "keys": keys, "runs": self.runs}


@dataclass(slots=True)
class Search:
    """The runs and folders of shards that are searched. Use as a context manager, which closes the indexes."""

    paths: Sequence[str] = ()
    quiet: bool = False
    runs: list[Run] = field(default_factory=list)
    indexes: dict[Path, LookupIndex] = field(default_factory=dict)  # by the resolved folder
    _since: list[list[Removal] | None] = field(default_factory=list)  # of each run
    _logs: dict[Path, list[Removal]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Search:
        folders = self._find()
        with log.progress("index", quiet=self.quiet) as tick:
            for folder in folders:
                self.indexes[folder.resolve()] = self._stack.enter_context(LookupIndex(folder, tick))
        self._logs = {folder: read_log(index.folder) for folder, index in self.indexes.items()}
        identities = {folder: index.identities() for folder, index in self.indexes.items() if self.runs}
        self.runs = [moved(run, folders, identities, self._logs) for run in self.runs]
        for one in self.runs:
            if one.missing:
                log.warn(f"{one.path} was trained on {one.missing}, which is not there.")
        self._since = [removed_since(run, identities, self._logs) for run in self.runs]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _find(self) -> list[Path]:
        """Read the runs, and return the folders of shards: those that are named, and those that the runs name."""
        named = self.paths or [path for path in DEFAULT if Path(path).is_dir()]
        if not named:
            raise UsageError("there is no runs/ and no shards/ here to look in.", "Name a run or a folder of shards.")
        folders = list[Path]()
        for path in map(Path, named):
            runs = find_runs(path)
            if not path.is_dir():
                raise UsageError(f"{path} is not a folder.", "Name a run or a folder of shards.")
            if any(path.glob("*.tar")):
                folders.append(path)
            elif not runs and self.paths:
                raise UsageError(f"{path} is neither a run nor a folder of shards.", "Name one of those.")
            for run in runs:
                try:
                    self.runs.append(read_run(run))
                except CommonArtError as error:
                    log.warn(f"{error.what} It is left out.")
        for one in self.runs:
            folders += [folder for folder, _ in one.sets]
        if not folders:
            raise UsageError(
                f"{' and '.join(map(str, named))} leads to no shards to look in.", "Name a folder of shards."
            )
        return list({folder.resolve(): folder for folder in folders}.values())

    def count(self) -> tuple[int, int]:
        """Return how many records are searched, and how many of them have no perceptual hash."""
        counts = [index.count() for index in self.indexes.values()]
        return sum(count for count, _ in counts), sum(blind for _, blind in counts)

    def sample(self, count: int) -> Iterator[Record]:
        """Yield `count` records by chance, or all where there are fewer, in the order of the shards."""
        shards = [(index, name, number) for index in self.indexes.values() for name, number in index.counts()]
        total = sum(number for *_, number in shards)
        chosen = iter(sorted(random.sample(range(total), min(count, total))))
        start, row = 0, next(chosen, None)
        for index, name, number in shards:
            rows = list[Row]()
            while row is not None and row < start + number:
                rows.append((name, row - start))
                row = next(chosen, None)
            yield from (record for _, record in index.records(rows))
            start += number

    def find(self, query: Query) -> Iterator[Match]:
        """Yield what matches a query, then the same files in other records, then near copies of the image, or of those found.

        Neither of the two is looked for of an author's works.
        """
        seen = set[tuple[Path, Row]]()
        prints = {query.print} - {0}
        colors = [query.colors] if query.print else []
        of_author = query.kind == "author"
        # Records of the same file are the same work, also where the first of them was removed before.
        hashes = {} if of_author else dict.fromkeys(self._removed_hashes(query))
        for folder, index in self.indexes.items():
            for row, record, by in self._exact(index, query):
                seen.add((folder, row))
                if not of_author:
                    hashes |= {record["sha256"]: None} if record.get("sha256") else {}
                if not of_author and (value := fingerprint_of(record)):
                    prints.add(value)
                    colors.append(record.get("chroma") or "")
                yield self._match(index, row, record, by, 0)
        for sha256 in hashes:
            for folder, index in self.indexes.items():
                for row, record, by in self._exact(index, Query("sha256", sha256)):
                    if (folder, row) not in seen:
                        seen.add((folder, row))
                        yield self._match(index, row, record, by, 0)
        for folder, index in self.indexes.items() if prints else ():
            near = {each.row: each.bits for each in index.near(sorted(prints)) if (folder, each.row) not in seen}
            for row, record in index.records(near):
                if not colors_fit(record.get("chroma") or "", colors):
                    continue
                yield self._match(index, row, record, "looks", near[row])

    def count_exact(self, query: Query) -> int:
        """Return how many rows match a query exactly, by 32 bits of a hash: nothing is read, and few are counted by chance."""
        kind = "sha256" if query.kind == "image" else query.kind
        rows = (row for index in self.indexes.values() for row in index.candidates(kind, [query.value]))
        return sum("/" not in name for name, _ in rows)

    def _exact(self, index: LookupIndex, query: Query) -> Iterator[tuple[Row, Record, str]]:
        kind = "sha256" if query.kind == "image" else query.kind
        wanted = blocklists.plain(kind, query.value)
        rows = (row for row in index.candidates(kind, [query.value]) if "/" not in row[0])
        for row, record in index.records(rows):
            if any(
                blocklists.plain(kind, value) == wanted
                for name in KINDS[kind]
                if type(value := record.get(name)) is str
            ):
                yield row, record, kind

    def _match(self, index: LookupIndex, row: Row, record: Record, by: str, bits: int) -> Match:
        folder = index.folder.resolve()
        runs = [
            had_record(run, since, record)
            for run, since in zip(self.runs, self._since, strict=True)
            if run.missing or folder in [each.resolve() for each, _ in run.sets]
        ]
        return Match(index.folder, row, record, by, bits, index.features(row[0], record["key"]), runs)

    def removed(self, query: Query) -> Iterator[Removed]:
        """Yield what was taken out of these shards for a query like this one."""
        entry = _entry(query)
        for folder, index in self.indexes.items():
            for removal in self._logs[folder]:
                known = {each["key"] for each in removal.records if query.kind == "key"}
                known |= {each["sha256"] for each in removal.records if query.kind in ("sha256", "image")}
                if entry in removal.entries or query.value in known:
                    both = zip(self.runs, self._since, strict=True)
                    runs = [str(run.path) for run, since in both if run.begun and since and removal in since]
                    yield Removed(index.folder, removal, runs)

    def _removed_hashes(self, query: Query) -> list[str]:
        """The hashes of what was removed for this query, or as what it asks for."""
        entry = _entry(query)
        return [
            each["sha256"]
            for removed in self.removed(query)
            for each in removed.removal.records
            if each["sha256"] and (entry in removed.removal.entries or query.value in (each["key"], each["sha256"]))
        ]

    def left_features(self, query: Query) -> list[str]:
        """Return members of feature shards whose record is in no shard: of a key, or of what was removed for a query."""
        keys = {each["key"] for removed in self.removed(query) for each in removed.removal.records}
        keys |= {query.value} if query.kind == "key" else set()
        found = []
        for index in self.indexes.values() if keys else ():
            rows = set(index.candidates("key", sorted(keys)))
            there = {record["key"] for _, record in index.records(sorted(row for row in rows if "/" not in row[0]))}
            for name in sorted({name.rpartition("/")[2] for name, _ in rows if "/" in name}):
                found += [member for key in sorted(keys - there) for member in index.features(name, key)]
        return found

    def remove(self, matches: Sequence[Match], query: Query, blocklist: str) -> tuple[list[Path], int]:
        """Put a query and the images found on a blocklist, and take these records out of the shards and their features.

        Returns the tars that were written again, and the number of new entries in the blocklist.

        Raises CommonArtError where a run trains on these shards now, or another process writes them.
        """
        entries = [_entry(query)]
        if query.kind != "author":  # whose entry holds for all of them
            entries += [f"sha256: {each.record['sha256']}" for each in matches if each.record.get("sha256")]
            entries += [f"key: {each.record['key']}" for each in matches if not each.record.get("sha256")]
        day = datetime.now(UTC).date()
        added = blocklists.append_entries(blocklist, list(dict.fromkeys(entries)), f"commonart lookup --remove, {day}")
        written = list[Path]()
        with ExitStack() as held:
            for run in self.runs:  # it would read its shards where their records no longer lie
                held.enter_context(lock(run.path))
            for folder in {match.folder: None for match in matches}:
                records: dict[str, list[Record]] = {}
                for match in matches:
                    if match.folder == folder:
                        records.setdefault(match.row[0], []).append(match.record)
                written += remove(folder, records, entries)
        return written, added


def _entry(query: Query) -> str:
    return f"{'sha256' if query.kind == 'image' else query.kind}: {query.value}"
