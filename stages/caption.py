"""Write captions: every record that has an image gets one caption from each model.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/
    commonart caption --model nano raw/ | commonart translate --to ja > captions.jsonl

A record that already has a model's caption is not captioned by it again, so an interrupted command continues where it
stopped.
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
from commonart.core.errors import CommonArtError, UsageError, check_at_least

if TYPE_CHECKING:
    from commonart.core.model.captioning.captioners import Captioner

MIN_SIDE = 768  # pixels; no captioner here sees more, so JPEGs may be decoded at a fraction of their size


class DecodedRecord(NamedTuple):
    """A record with its image, or with the reason why it has none."""

    record: Record
    pending: tuple[int, ...]  # the models that have not captioned it yet
    image: Image.Image | None = None
    reason: str = ""
    detail: str = ""


def open_models(
    names: str,
    *,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> list[Captioner]:
    """Find the captioners of `--model NAME[,NAME]`; each is loaded on first use.

    Raises:
        UsageError: A name is empty, unknown or given twice, or a model's terms are refused.
        CommonArtError: A model's files cannot be found.
    """
    from commonart.core.model.captioning.captioners import Captioner

    models = [name.strip() for name in names.split(",")]
    if not all(models):
        raise UsageError("--model holds an empty name.", "Give NAME or NAME,NAME.")
    if len(set(models)) != len(models):
        raise UsageError("--model names one model twice.", "Name every model once.")
    return [
        Captioner.open(name, accept_terms=accept_terms, allow_pickle=allow_pickle, device=device, precision=precision)
        for name in models
    ]


def caption(records: Iterable[Record], drop: Drop, *, models: Sequence[Captioner], batch: int = 8) -> Iterator[Record]:
    """Add one caption per model to each record, in the order of the records.

    Failures (counted against --max-failures): no_image, image_unreadable, the reason codes of `decode`, and
    empty_caption where no model wrote anything.

    Args:
        models: from `open_models`.
        batch: images that a model sees at once; halved where the device's memory runs out.

    Raises:
        UsageError: `batch` is below 1.
    """
    check_at_least("--batch", batch, 1)
    with ThreadPoolExecutor(4, thread_name_prefix="decode") as pool:
        waiting: list[Record] = []
        images = 0
        for record in records:
            waiting.append(record)
            images += bool(_pending(record, models))
            # Finished records wait their turn as well, which keeps the order.
            if images == batch or len(waiting) >= 64 * batch:
                yield from _caption_batch(waiting, drop, models, pool)
                waiting, images = [], 0
        yield from _caption_batch(waiting, drop, models, pool)


def _pending(record: Record, models: Sequence[Captioner]) -> tuple[int, ...]:
    done = {c.get("model") for c in captions(record) if not c.get("translated_from")}
    return tuple(i for i, model in enumerate(models) if model.name not in done)


def _decode(record: Record, pending: tuple[int, ...]) -> DecodedRecord:
    if not pending:
        return DecodedRecord(record, pending)
    if not record.get("image"):
        return DecodedRecord(record, pending, reason="no_image")
    try:
        return DecodedRecord(record, pending, decode(read_bytes(record["image"]), at_least=MIN_SIDE))
    except DecodeError as error:
        return DecodedRecord(record, pending, reason=error.reason, detail=error.detail)
    except CommonArtError as error:
        return DecodedRecord(record, pending, reason="image_unreadable", detail=error.what)


def _caption_batch(
    records: Sequence[Record], drop: Drop, models: Sequence[Captioner], pool: ThreadPoolExecutor
) -> Iterator[Record]:
    decoded = list(pool.map(_decode, records, (_pending(record, models) for record in records)))
    captioned: set[int] = set()
    for i, model in enumerate(models):
        inputs = [(n, d.record, d.image) for n, d in enumerate(decoded) if i in d.pending and d.image is not None]
        texts = model.caption([image for _, _, image in inputs])
        for (n, record, _), text in zip(inputs, texts, strict=True):
            if text:
                captioned.add(n)
                add_caption(
                    record, text, lang=model.lang, model=model.name, revision=model.revision,
                    license=model.license, terms_accepted=model.accepted,
                )  # fmt: skip
    for n, d in enumerate(decoded):
        if d.reason:
            drop.failure(d.record, d.reason, d.detail)
        elif d.pending and n not in captioned and len(d.pending) == len(models):
            drop.failure(d.record, "empty_caption")
        else:
            yield d.record
