"""Captions to hidden states, stored beside the shards: every caption of every record, trimmed to its true length.

Cost (CALM2-7B, bf16): 1 MB per caption of 120 tokens; `--store int8` halves that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from commonart.core.data.drops import Drop, Summary
from commonart.core.data.features import format
from commonart.core.data.record import Record, captions
from commonart.core.log import warn

if TYPE_CHECKING:
    import torch

    from commonart.core.model.feature_encoding import LoadedEncoder
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
    max_tokens: int = 300,
    layer: int = -1,
    batch: int = 32,
    **options: Any,
) -> Summary:
    """Write the hidden states of every caption of SOURCE to `out` (SOURCE/text), one feature shard per image shard.

    Args:
        model: a causal language model or T5.
        quantize: one of `core.settings.QUANTIZERS`.
        store: bf16, fp16, or int8 with one scale per token.
        layer: of `hidden_states`: -1 is the last.
        options: as `core.model.feature_encoding.encode_features` takes them. Raises as it does.
    """
    from commonart.core.model import quantize as quantizing
    from commonart.core.model.device import pick_dtype
    from commonart.core.model.feature_encoding import LoadedEncoder, encode_features
    from commonart.core.model.text_encoder import TextEncoder

    quantizing.check(quantize)
    encoders: list[TextEncoder] = []
    empty = 0
    about = {"max_tokens": max_tokens, **({} if layer == -1 else {"layer": layer})}  # as folders of before it keep it

    def counted(records: Iterable[Record]) -> Iterator[Record]:
        nonlocal empty
        for record in records:
            empty += sum(not c["text"].strip() for c in captions(record))
            yield record

    def pick(folder: Path, device: torch.device) -> dict[str, Any]:
        name = quantizing.precision_name(pick_dtype(precision, device), quantize)
        return {"precision": name, **about}

    def load(folder: Path, device: torch.device) -> LoadedEncoder:
        encoder = TextEncoder.load(folder, precision, quantize, device=device, max_tokens=max_tokens, layer=layer)
        encoders.append(encoder)
        return LoadedEncoder(
            encoder.precision, encoder.width, about, encoder.null().float().cpu().numpy(),
            lambda records: sizes(records, encoder, store),
            lambda records, drop: hidden_states(counted(records), drop, encoder=encoder, store=store, batch=batch),
        )  # fmt: skip

    summary = encode_features("encode-text", source, out, model=model, store=store, pick=pick, load=load, **options)
    for encoder in encoders:
        if encoder.truncated:
            warn(f"{encoder.truncated:,} of {encoder.texts:,} captions were cut at {max_tokens} tokens (--max-tokens).")
    if empty:
        warn(f"Empty captions, encoded as they are: {empty:,}. Leave them out before commonart shard.")
    if summary.read and summary.dropped.get("no_captions") == summary.read:
        warn(f"No record of {source} has a caption: commonart caption --model NAME, then commonart shard.")
    return summary


def hidden_states(
    records: Iterable[Record], drop: Drop, *, encoder: TextEncoder, store: str, batch: int
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, member) for each record that has captions; drops `no_captions` and `not_finite`."""
    remaining = iter(records)
    while window := list(islice(remaining, WINDOW * batch)):
        states = iter(encoder.encode([c["text"] for record in window for c in captions(record)], batch))
        for record in window:
            of_record = [s.float().cpu().numpy() for s in islice(states, len(captions(record)))]
            if not of_record:
                drop(record, "no_captions")
            elif not all(bool(np.isfinite(s).all()) for s in of_record):
                drop.failure(record, "not_finite", f"{encoder.precision} overflows; try --precision bf16 or fp32")
            else:
                try:
                    yield record["key"], format.pack_text(of_record, record, store)
                except OverflowError as error:
                    drop.failure(record, "not_finite", f"{error}; use --store bf16")


def sizes(records: list[Record], encoder: TextEncoder, store: str) -> list[int]:
    """Return the bytes that each record's member will have; 0 for one without captions."""
    ids, _ = encoder.tokenize([c["text"] for record in records for c in captions(record)])
    lengths = iter(map(len, ids))

    def size(record: Record) -> int:
        of_record = list(islice(lengths, len(captions(record))))
        return format.text_size(of_record, encoder.width, record, store) if of_record else 0

    return [size(record) for record in records]
