"""Captions to hidden states, stored beside the shards: `commonart encode-text shards/ --model calm2-7b`.

Every caption of every record, trimmed to its true length. Without this, `train` encodes on the fly; with it, the
language model need not lie beside the transformer on the GPU. Cost (CALM2-7B, bf16): 1 MB per caption of 120 tokens;
`--store int8` halves that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from commonart.core.data import feature_writer, features
from commonart.core.data.record import Record, captions
from commonart.core.data.stream import Drop, Summary
from commonart.core.data.tasks import Task, this_task
from commonart.core.log import warn
from commonart.core.registry import check_terms, find

if TYPE_CHECKING:
    from commonart.core.model.text_encoder import TextEncoder

WINDOW = 8  # batches that are sorted by length together, and held in memory


def encode_text(
    source: str,
    out: str | None = None,
    *,
    model: str = "calm2-7b",
    quantize: str | None = None,
    store: str = "bf16",
    precision: str = "auto",
    device: str = "auto",
    max_tokens: int = 300,
    batch: int = 32,
    task: Task | None = None,
    overwrite: bool = False,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    rejects: str | None = None,
    max_failures: float = 0.5,
    quiet: bool = False,
) -> Summary:
    """Write the hidden states of every caption of SOURCE to `out` (SOURCE/text), one feature shard per image shard.

    Args:
        model: a name of the registry, a local folder or a hub id; a causal language model or T5.
        store: bf16, fp16, or int8 with one scale per token.
        precision: what the encoder runs in; recorded, and the same is needed to sample.

    Raises:
        CommonArtError: no shards; features that are stale or were made otherwise; a disk that is too small; a
            model that cannot be loaded.
        TooManyFailures: more than `max_failures` of the records failed.
    """
    from commonart.core.model.device import pick_device, pick_dtype
    from commonart.core.model.hub import resolve
    from commonart.core.model.text_encoder import TextEncoder, precision_name

    features.check_store("text", store)
    feature_writer.shards_of("encode-text", source)
    row = find(model, "text-encoder")
    check_terms(row, accept_terms)
    task = task or this_task()
    found = resolve(row, allow_pickle=allow_pickle)
    place = pick_device(device)
    dtype = pick_dtype(precision, place)
    settings = {
        "model": found.name, "revision": found.revision, "precision": precision_name(dtype, quantize),
        "store": store, "max_tokens": max_tokens,
    }  # fmt: skip
    work = feature_writer.plan("encode-text", "text", source, out, settings, task, overwrite)
    if not work.todo:
        return feature_writer.write(work, None, rejects=rejects, max_failures=max_failures, quiet=quiet)

    encoder = TextEncoder.load(found.folder, dtype, quantize, device=place, max_tokens=max_tokens)
    meta = features.Meta(
        "text",
        found.name,
        found.revision,
        encoder.precision,
        store,
        encoder.width,
        {"max_tokens": max_tokens},
    )
    feature_writer.require_space(work.out, _estimate(work, encoder, store), "Text features of all shards")
    feature_writer.write_meta(work.out, meta, encoder.null().float().cpu().numpy(), overwrite)

    def encode(records: Iterable[Record], drop: Drop) -> Iterator[tuple[str, bytes]]:
        return hidden_states(records, drop, encoder=encoder, store=store, batch=batch)

    summary = feature_writer.write(work, encode, rejects=rejects, max_failures=max_failures, quiet=quiet)
    if encoder.truncated:
        warn(f"{encoder.truncated:,} of {encoder.texts:,} captions were cut at {max_tokens} tokens (--max-tokens).")
    return summary


def hidden_states(
    records: Iterable[Record], drop: Drop, *, encoder: TextEncoder, store: str, batch: int
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, member) for each record that has captions; drops `no_captions` and `not_finite`."""
    import torch

    remaining = iter(records)
    while window := list(islice(remaining, WINDOW * batch)):
        texts = [c["text"] for record in window for c in captions(record)]
        states = iter(encoder.encode(texts, batch))
        for record in window:
            own = list(islice(states, len(captions(record))))
            if not own:
                drop(record, "no_captions")
            elif not all(bool(torch.isfinite(s).all()) for s in own):
                drop.failure(record, "not_finite", f"{encoder.precision} overflows; try --precision bf16 or fp32")
            else:
                try:
                    yield (
                        record["key"],
                        features.pack_text([s.float().cpu().numpy() for s in own], record, store),
                    )
                except OverflowError as error:
                    drop.failure(record, "not_finite", f"{error}; use --store bf16")


def _estimate(work: feature_writer.Plan, encoder: TextEncoder, store: str) -> int:
    """Bytes that all unfinished shards will take, if all are like the first."""
    per_token = encoder.width * features.BYTES[store] + (4 if store == "int8" else 0)
    records = work.first_records()
    ids, _ = encoder.tokenize([c["text"] for record in records for c in captions(record)])
    return work.left * (sum(map(len, ids)) * per_token + len(records) * features.MEMBER_OVERHEAD)
