"""Downloads that run ahead of the shard that is being written, and the last pass over what failed.

While a shard waits for its last image, from some slow host, the images of the next ones are already on their way.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import TRANSIENT
from commonart.core.data.download.request import Request
from commonart.core.data.drops import Drop, Sample, Summary
from commonart.core.data.record import Record
from commonart.core.data.shards import reader
from commonart.core.data.shards.manifest import finished, manifest_path, write_manifest
from commonart.core.data.shards.runner import read_rejects, write_rejects
from commonart.core.data.shards.writer import ShardWriter

SHARDS_AHEAD = 2  # their bytes wait within Limits.buffer
RETRIED_AT_ONCE = 4000  # records that the last pass has on their way
REJECTED = ("row", "reason", "reason_detail")  # what a rejected record carries besides itself

Pair = tuple[Record, Request | None]
Resolve = Callable[[Iterable[Pair], Drop, Iterable[int]], Iterator[Sample]]  # (records, drop, their rows) -> samples


def on_the_web(record: Record) -> bool:
    """Return whether a record's pixels have to be downloaded by the client."""
    return str(record.get("image_url", "")).lower().startswith(("http:", "https:")) and not record.get("image")


class Prefetcher:
    """The records of a run, in order; those of the next shards, of `size` each, are asked for before they are read.

    Args:
        needs_shard: whether shard number n is to be made by this process.
        needs_download: whether a record's image is to be downloaded.
    """

    def __init__(
        self,
        records: Iterable[Record],
        client: DownloadClient,
        size: int,
        needs_shard: Callable[[int], bool],
        needs_download: Callable[[Record], bool] = on_the_web,
    ) -> None:
        self.client, self.size, self.needs_shard, self.needs_download = client, size, needs_shard, needs_download
        self._records = iter(records)
        self._pending: dict[int, tuple[Record, Request]] = {}  # by the record's identity: keys may stand twice

    def __iter__(self) -> Iterator[Record]:
        waiting: deque[list[Record]] = deque()
        number = 0
        stopped: Exception | None = None
        while True:
            while len(waiting) <= SHARDS_AHEAD and stopped is None:
                try:
                    group = list(islice(self._records, self.size))
                except Exception as error:  # of the source: the whole shards before it are written first
                    stopped = error
                    break
                if not group:
                    break
                if self.needs_shard(number):
                    for record in filter(self.needs_download, group):
                        self._pending[id(record)] = (record, self.client.submit(record["image_url"]))
                number += 1
                waiting.append(group)
            if not waiting:
                if stopped is not None:
                    raise stopped
                return
            yield from waiting.popleft()

    def pair(self, record: Record) -> Pair:
        """Return a record with the download of its image, which starts now when it did not before."""
        _, pending = self._pending.pop(id(record), (record, None))
        if pending is None and self.needs_download(record):
            pending = self.client.submit(record["image_url"])
        return record, pending


def retry_failed(tars: Sequence[Path], summary: Summary, client: DownloadClient, resolve: Resolve) -> None:
    """Ask once more for everything in these shards that failed for a transient reason; `summary` is corrected."""
    waiting: deque[tuple[Path, list[Record], list[Pair]]] = deque()
    unfinished = (tar for tar in tars if (m := finished(tar)) is not None and TRANSIENT & m.dropped.keys())
    on_the_way = 0
    client.forget_errors()
    while True:
        while on_the_way < RETRIED_AT_ONCE and (tar := next(unfinished, None)) is not None:
            rejects = list(read_rejects(tar))
            if not all("row" in record for record in rejects):
                continue  # not written by `fetch`: where an image belongs is not known
            retried: list[Pair] = [(as_listed(r), client.submit(r["image_url"])) for r in rejects if _due(r)]
            waiting.append((tar, rejects, retried))
            on_the_way += len(retried)
        if not waiting:
            return
        tar, rejects, due = waiting.popleft()
        on_the_way -= len(due)
        _rewrite(tar, rejects, due, summary, resolve)


def _due(record: Record) -> bool:
    return record["reason"] in TRANSIENT and on_the_web(record)


def as_listed(record: Record) -> Record:
    """Return a record of `--rejects` as it was before it was rejected, and any other as it is."""
    return {k: v for k, v in record.items() if k not in REJECTED} if "reason" in record else record


def _rewrite(tar: Path, rejects: list[Record], due: list[Pair], summary: Summary, resolve: Resolve) -> None:
    """Put what arrived into its place in the shard; nothing is written when nothing changed."""
    old = finished(tar)
    assert old is not None
    refused: list[Record] = []
    drop = Drop(refused.append)
    rows = [record["row"] for record in rejects if _due(record)]
    arrived: dict[int, Sample] = {sample.record.pop("row"): sample for sample in resolve(due, drop, rows)}
    before = {record["row"]: record for record in rejects}
    after = {row: record for row, record in before.items() if row not in rows} | {r["row"]: r for r in refused}
    if not arrived and all(after[row]["reason"] == before[row]["reason"] for row in rows):
        return
    manifest_path(tar).unlink()  # from here to the new manifest the shard counts as unfinished
    with ShardWriter(tar) as writer:
        members = reader.read_members(tar)
        for row in range(old.read):
            if row in arrived:
                writer.add_record(*arrived[row])
            elif row not in after:
                key, group = next(members)
                writer.add(key, {ext: reader.read_span(tar, span) for ext, span in group.items()})
    write_rejects(tar, (after[row] for row in sorted(after)))
    failed = old.failed - len(rows) + drop.failures
    dropped = Counter(record["reason"] for record in after.values())
    new = write_manifest(
        tar, old, read=old.read, written=writer.count, dropped=dropped, failed=failed, sha256=writer.sha256
    )
    summary.written += new.written - old.written
    summary.failures += new.failed - old.failed
    summary.dropped.subtract(old.dropped)
    summary.dropped.update(new.dropped)
    summary.dropped = +summary.dropped  # reasons that are gone
