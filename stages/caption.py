"""Write captions: every record that has an image gets one caption from every model asked.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/
    commonart caption --model nano raw/ | commonart translate --to ja > captions.jsonl

A model that has already captioned a record is not asked again, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from commonart.core.data.drops import Drop
from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.record import Record, add_caption, captions
from commonart.core.data.shards.reader import read_bytes
from commonart.core.errors import CommonArtError, UsageError

if TYPE_CHECKING:
    from commonart.core.model.captioning.captioners import Captioner

ENOUGH = 768  # pixels on a side: no captioner here looks at more, so JPEGs may be decoded at a fraction of their size
BATCH = 8


class Seen(NamedTuple):
    """A record on its way through a batch: its picture, or why there is none; `todo`: the models still to be asked."""

    record: Record
    todo: tuple[int, ...]
    image: Image.Image | None
    reason: str = ""
    detail: str = ""


def open_models(names: str | Sequence[str], **options: object) -> list[Captioner]:
    """The captioners of `--model NAME[,NAME]`, found once for a whole run and loaded when first asked.

    Options are those of `open_captioner`.
    """
    from commonart.core.model.captioning.captioners import open_captioner

    wanted = [n.strip() for n in (names.split(",") if isinstance(names, str) else names)]
    if not all(wanted) or not wanted:
        raise UsageError("--model holds an empty name.", "Give NAME or NAME,NAME.")
    if len(set(wanted)) != len(wanted):
        raise UsageError("--model names one model twice.", "Name every model once.")
    return [open_captioner(name, **options) for name in wanted]  # type: ignore[arg-type]


def caption(
    records: Iterable[Record], drop: Drop, *, models: Sequence[Captioner], batch: int = BATCH
) -> Iterator[Record]:
    """Add one caption per model to each record, in the order of the records.

    Args:
        models: from `open_models`.
        batch: images that a model sees at once; halved by itself where the device's memory runs out.

    Failures (counted against --max-failures): no_image, image_unreadable, the reason codes of `decode`, and
    empty_caption where no model wrote anything.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch} is no batch.", "Give 1 or more.")
    with ThreadPoolExecutor(4, thread_name_prefix="decode") as pool:
        waiting: list[Record] = []
        todo = 0
        for record in records:
            waiting.append(record)
            todo += bool(_todo(record, models))
            # Records that are finished wait their turn too: the order of the records is kept.
            if todo == batch or len(waiting) >= 64 * batch:
                yield from _batch(waiting, drop, models, pool)
                waiting, todo = [], 0
        yield from _batch(waiting, drop, models, pool)


def _todo(record: Record, models: Sequence[Captioner]) -> tuple[int, ...]:
    there = {c.get("model") for c in captions(record) if not c.get("translated_from")}
    return tuple(i for i, model in enumerate(models) if model.name not in there)


def _look(record: Record, todo: tuple[int, ...]) -> Seen:
    if not todo:
        return Seen(record, todo, None)
    if not record.get("image"):
        return Seen(record, todo, None, "no_image")
    try:
        return Seen(record, todo, decode(read_bytes(record["image"]), at_least=ENOUGH))
    except DecodeError as error:
        return Seen(record, todo, None, error.reason, error.detail)
    except CommonArtError as error:
        return Seen(record, todo, None, "image_unreadable", error.what)


def _batch(
    records: Sequence[Record], drop: Drop, models: Sequence[Captioner], pool: ThreadPoolExecutor
) -> Iterator[Record]:
    seen = list(pool.map(_look, records, (_todo(r, models) for r in records)))
    written: set[int] = set()
    for i, model in enumerate(models):
        ask = [(n, s) for n, s in enumerate(seen) if i in s.todo and s.image is not None]
        texts = model.caption([s.image for _, s in ask if s.image is not None])
        for (n, s), text in zip(ask, texts, strict=True):
            if text:
                written.add(n)
                _add(s.record, text, model)
    for n, s in enumerate(seen):
        if s.reason:
            drop.failure(s.record, s.reason, s.detail)
        elif s.todo and n not in written and len(s.todo) == len(models):
            drop.failure(s.record, "empty_caption")
        else:
            yield s.record


def _add(record: Record, text: str, model: Captioner) -> None:
    add_caption(record, text, lang=model.lang, model=model.name, revision=model.revision, license=model.license)
    if model.accepted:
        record["captions"][-1]["terms_accepted"] = True  # refused by the registry; the user answers for it
