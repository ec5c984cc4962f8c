"""Write captions: each model describes each image, once in every language and length that is asked for.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/
    commonart caption --model qwen3-vl --lang en,ja --length short,long --min-captions 2 raw/ -o captioned/
    commonart caption --model nano raw/ | commonart translate --to ja > captions.jsonl

Into a folder, finished shards are kept, and the same command continues where it was stopped. JSONL and pipes keep nothing
of an interrupted run. A caption that stands in a record, of the same model and settings, is not written again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from commonart.core.data import stream
from commonart.core.data.drops import Drop, Problem
from commonart.core.data.images.decode import DecodeError, decode_within
from commonart.core.data.record import Record, add_caption, captions
from commonart.core.data.shards.reader import list_shards, members, read_bytes, read_shard
from commonart.core.data.text import count_words
from commonart.core.data.threads import cpu_count, map_ordered
from commonart.core.errors import CommonArtError, UsageError, check_at_least, with_class
from commonart.core.model.captioning.requests import Request, Tally

if TYPE_CHECKING:
    from commonart.core.model.captioning.captioners import Captioner
    from commonart.core.model.captioning.endpoint import Endpoint

WINDOW = 128  # images that are sorted by size for the batches of one model; as many are decoded meanwhile
FEW = 8  # images of one length that are worth a batch of their own
GIVE_UP = 64  # images of which a model has described none: it will not describe a million others


class Caption(NamedTuple):
    """A caption that is good enough, and the prompt that it answers."""

    text: str
    prompt: str


@dataclass(slots=True)
class Item:
    """A record on its way: its image, or why it has none, and what the models made of it."""

    record: Record
    pending: tuple[int, ...]  # the requests that it has no caption of yet
    image: Image.Image | None = None
    problem: Problem | None = None
    missing: list[Problem] = field(default_factory=list)


def caption(
    records: Iterable[Record],
    drop: Drop,
    *,
    requests: Sequence[Request],
    batch: int | None = None,
    min_captions: int = 1,
    min_words: int = 0,
    tally: Tally | None = None,
) -> Iterator[Record]:
    """Add a caption for each request to each record, in the order of the records.

    An answer that is not good enough is asked for again: with other decoding, then with the other texts of the prompt. What
    is still missing is counted by reason. Records without an image fail (no_image, image_unreadable, the codes of
    `decode`), and those with fewer than `min_captions` synthetic captions (too_few_captions).

    Args:
        requests: from `open_requests`.
        batch: images that a model sees at once; None: the most that fit into the memory, found once.
        min_words: shorter captions are not good enough (too_short).
        tally: counts what is written.

    Raises:
        UsageError: `batch` is below 1.
        CommonArtError: A model cannot be loaded, or describes nothing.
    """
    check_at_least("--batch", batch, 1)
    work = _Work(requests, batch, min_captions, min_words, tally or Tally())
    size = max(WINDOW, batch or 0)
    items: list[Item] = []
    images = 0
    started = time.monotonic()
    for item in map_ordered(work.open, records, min(8, cpu_count()), ahead=size):
        items.append(item)
        images += item.image is not None
        # Finished records wait their turn as well, which keeps the order.
        if images == size or len(items) >= 16 * size:
            yield from work.finish(items, drop, started)
            items, images, started = [], 0, time.monotonic()
    yield from work.finish(items, drop, started)


class _Work:
    """What a run of the stage asks of whom, and how that went so far."""

    def __init__(
        self, requests: Sequence[Request], batch: int | None, min_captions: int, min_words: int, tally: Tally
    ) -> None:
        self.requests, self.batch, self.tally = requests, batch, tally
        self.min_captions, self.min_words = min_captions, min_words
        self.fields = [request.fields() for request in requests]
        self.side = max((int(fields.get("side", 0)) for fields in self.fields), default=0)
        self.refused: list[Counter[str] | None] = [Counter() for _ in requests]  # None once something was good

    def open(self, record: Record) -> Item:
        """Find out what a record lacks, and decode its image where it lacks something."""
        written = [caption for caption in captions(record) if not caption.get("translated_from")]
        pending = tuple(
            n for n, (request, fields) in enumerate(zip(self.requests, self.fields, strict=True))
            if not any(c.items() >= fields.items() and c.get("prompt") in request.prompt.texts for c in written)
        )  # fmt: skip
        item = Item(record, pending)
        if not pending:
            return item
        if not record.get("image"):
            item.problem = Problem("no_image", "")
            return item
        try:
            item.image = decode_within(read_bytes(record["image"]), self.side)
        except DecodeError as error:
            item.problem = Problem(error.reason, error.detail)
        except CommonArtError as error:
            item.problem = Problem("image_unreadable", error.what)
        except Exception as error:  # whatever one image causes costs that image
            item.problem = Problem("image_unreadable", with_class(error))
        return item

    def finish(self, items: Sequence[Item], drop: Drop, started: float) -> Iterator[Record]:
        """Have the images of a window described, and pass its records on."""
        shown = 0
        for n, request in enumerate(self.requests):
            if asked := [item for item in items if item.image is not None and n in item.pending]:
                loading = time.monotonic()
                batch = self.batch or request.engine.largest_batch
                started += time.monotonic() - loading
                self._ask(n, asked, batch)
                shown = max(shown, len(asked))
        self.tally.images += shown
        self.tally.seconds += time.monotonic() - started
        for item in items:
            yield from self._judged(item, drop)

    def _ask(self, n: int, items: Sequence[Item], batch: int) -> None:
        """Add what request `n` writes about each item, or why it has not."""
        request, engine = self.requests[n], self.requests[n].engine
        first, *others = request.prompt.texts
        left, refused, failed = list(items), {}, set[int]()
        for prompt, retry in ((first, False), (first, True), *((text, False) for text in others)):
            parts, left = _parts(engine, left, batch), []
            for part, answers in _answers(engine, parts, prompt, retry):
                for item, answer in zip(part, answers, strict=True):
                    if isinstance(answer, Problem):  # the same would happen again
                        refused[id(item)] = answer
                        failed.add(id(item))
                        continue
                    self.tally.tokens += answer.tokens
                    judged = self._judge(request, answer.text, answer.finished, prompt)
                    if isinstance(judged, Problem):
                        refused[id(item)] = judged
                        left.append(item)
                    else:
                        refused.pop(id(item), None)
                        self._add(item, n, judged)
                self._check_works(n, [answer for answer in answers if isinstance(answer, Problem)])
        # Answers that are not good enough count when every try has been made.
        self._check_works(n, [refused[id(item)] for item in items if id(item) in refused and id(item) not in failed])
        for item in items:
            if problem := refused.get(id(item)):
                item.missing.append(Problem(problem.reason, f"{request.name}: {problem.detail}"))

    def _judge(self, request: Request, text: str, finished: bool, prompt: str) -> Caption | Problem:
        from commonart.core.model.captioning import guards

        text = guards.clean(text, prompt)
        reason = guards.problem(text, lang=request.prompt.lang, finished=finished, prompt=prompt)
        reason = reason or ("too_short" if count_words(text) < self.min_words else "")
        return Problem(reason, text[:200]) if reason else Caption(text, prompt)

    def _add(self, item: Item, n: int, judged: Caption) -> None:
        engine = self.requests[n].engine
        add_caption(
            item.record, judged.text, license=engine.license, terms_accepted=engine.accepted, prompt=judged.prompt,
            **self.fields[n],
        )  # fmt: skip
        self.tally.add(self.requests[n], judged.text)
        self.refused[n] = None

    def _check_works(self, n: int, problems: Sequence[Problem]) -> None:
        """Raise CommonArtError where a model has described none of its first GIVE_UP images."""
        refused = self.refused[n]
        if refused is None or not problems:
            return
        refused.update(problem.reason for problem in problems)
        if refused.total() >= GIVE_UP:
            reasons = ", ".join(f"{reason} {count}" for reason, count in refused.most_common())
            raise CommonArtError(
                f"{self.requests[n].name}: none of {refused.total()} answers is a caption ({reasons}); the last: "
                f"{problems[-1].detail}",
                "Try a few images with --rejects FILE, another --model or --precision.",
            )

    def _judged(self, item: Item, drop: Drop) -> Iterator[Record]:
        if item.problem:
            drop.failure(item.record, item.problem.reason, item.problem.detail)
            return
        count = sum(c.get("synthetic") is not False and not c.get("translated_from") for c in captions(item.record))
        enough = count >= self.min_captions
        if not enough:
            details = "; ".join(f"{problem.reason}: {problem.detail}" for problem in item.missing)
            (drop.failure if item.missing else drop)(item.record, "too_few_captions", details)
        for problem in item.missing:
            drop.missing(item.record, problem.reason, problem.detail)
        if enough:
            yield item.record


def _parts(engine: Captioner | Endpoint, items: Sequence[Item], batch: int) -> list[list[Item]]:
    """Cut items into batches. Those of one length stand together where there are some: padding costs time and a mask, too."""
    by_length: dict[int, list[Item]] = {}
    lengths: dict[tuple[int, int], int] = {}
    for item in items:
        size = item.image.size if item.image is not None else (0, 0)
        if size not in lengths:
            lengths[size] = engine.image_tokens(size)
        by_length.setdefault(lengths[size], []).append(item)
    groups = [by_length[length] for length in sorted(by_length)]
    few = [item for group in groups if len(group) < FEW for item in group]
    return [
        group[start : start + batch]
        for group in (*(group for group in groups if len(group) >= FEW), few)
        for start in range(0, len(group), batch)
    ]


def _answers(
    engine: Captioner | Endpoint, parts: Sequence[Sequence[Item]], prompt: str, retry: bool
) -> Iterator[tuple[Any, Any]]:
    """Yield (part, its answers): the processor works on a part while the device generates for the one before."""

    def prepare(part: Sequence[Item]) -> tuple[Sequence[Item], list[Image.Image], Any]:
        images = [item.image for item in part if item.image is not None]
        try:
            return part, images, engine.prepare(images, prompt)
        except Exception:  # it is asked again, image by image, where the one is found that causes it
            return part, images, None

    for part, images, inputs in map_ordered(prepare, parts, 1, ahead=2):
        keys = [item.record["key"] for item in part]
        yield part, engine.caption(images, prompt, keys=keys, retry=retry, inputs=inputs)


def estimate(
    source: str, requests: Sequence[Request], sample: int, *, tasks: int = 1, **options: Any
) -> dict[str, Any]:
    """Return what captioning all of SOURCE takes, from the time that `sample` of its images take here. Nothing is written.

    Args:
        tasks: devices that share the work.
        options: of `caption`.

    Raises:
        UsageError: SOURCE is stdin, which could be read but once.
        CommonArtError: It is missing or empty, or as `caption` raises it.
    """
    check_at_least("--calibrate", sample, 1)
    if source == "-":
        raise UsageError(
            "--dry-run cannot count what comes from stdin.", "Give a folder of shards, a .tar or a .jsonl."
        )
    total, records = _sampled(source, sample)
    if not records:
        raise CommonArtError(f"{source} holds no records.", "Fetch images first: commonart fetch SOURCE -o raw/.")
    tally, drop = Tally(), Drop()
    for request in requests:  # loaded and warm: an hour of work loads a model once
        _ = options.get("batch") or request.engine.largest_batch
    started = time.monotonic()
    written = sum(1 for _ in caption(records, drop, requests=requests, tally=tally, **options))
    seconds = time.monotonic() - started
    device_hours = total * seconds / len(records) / 3600
    return {
        "source": source, "records": total, "requests": [request.name for request in requests],
        "sample": len(records), "sample_seconds": round(seconds, 2), "sample_written": written,
        "dropped": dict(drop.reasons), "missing": dict(drop.missing_reasons), **tally.as_json(),
        "device_hours": float(f"{device_hours:.3g}"), "tasks": tasks, "hours": float(f"{device_hours / tasks:.3g}"),
    }  # fmt: skip


def _sampled(source: str, count: int) -> tuple[int, list[Record]]:
    """(the number of records of a source, `count` of them: of shards the first ones of some that lie evenly apart)."""
    if not os.path.isdir(source) and not source.endswith(".tar"):
        listed = stream.read(source)
        records = list(islice(listed, count))
        return len(records) + sum(1 for _ in listed), records
    tars = list_shards(source) if os.path.isdir(source) else [Path(source)]
    total = sum(sum(name.endswith(".json") for name in members(tar)) for tar in tars)
    chosen = tars[:: max(1, len(tars) // count)][:count]
    each = -(-count // len(chosen))
    records = [record for tar in chosen for record in islice(read_shard(tar), each)]
    return total, records[:count]
