"""Caches of attention that copy less than those of transformers, and hold the same numbers.

Those of `generate` copy all keys and values for each token that is written, and in beam search those of the image, too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation.utils import GenerateDecoderOnlyOutput

SPARE = 64  # tokens for which room is made at once
# The name of the argument; it changed in transformers 5.20.
NAME = (
    "cache" if "cache" in {field.name for field in dataclasses.fields(GenerateDecoderOnlyOutput)} else "past_key_values"
)


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, with room behind them for those of the next tokens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rooms: list[torch.Tensor] = []  # keys, values: [batch, heads, tokens + room, channels]
        self._shown: tuple[Any, ...] = ()  # the views of them that stand in `keys` and `values`

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens, and return all."""
        if self.get_seq_length() == 0 or self.keys is None or self.values is None:
            return super().update(key_states, value_states, *args, **kwargs)
        # Other methods of the base class put other tensors into `keys` and `values`.
        known = self._shown and self.keys is self._shown[0] and self.values is self._shown[1]
        start, added = self.keys.shape[-2], key_states.shape[-2]
        if not known or start + added > self._rooms[0].shape[-2]:
            self._rooms = [
                torch.cat([old, new, new.new_empty(*new.shape[:-2], SPARE, new.shape[-1])], -2)
                for old, new in ((self.keys, key_states), (self.values, value_states))
            ]
        else:
            for room, new in zip(self._rooms, (key_states, value_states), strict=True):
                room[..., start : start + added, :] = new
        return self._show(start + added)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put other rows in place of each, as a beam search asks; the room behind them stays."""
        if not self._shown or self.keys is not self._shown[0] or self.values is not self._shown[1]:
            super().reorder_cache(beam_idx)
            return
        self._rooms = [room.index_select(0, beam_idx.to(room.device)) for room in self._rooms]
        self._show(self.keys.shape[-2])

    def _show(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = self._shown = tuple(room[..., :tokens, :] for room in self._rooms)
        return self.keys, self.values


class BeamCache(EncoderDecoderCache):
    """The cache of an encoder-decoder, whose beams of one input look at the same encoded input."""

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put other beams in place of each: those of what was written alone."""
        self.self_attention_cache.reorder_cache(beam_idx)


def new_cache(model: Any) -> dict[str, Cache]:
    """Return the argument of `generate` with an empty cache for a model; none where it needs one of its own kind."""
    if not getattr(model, "_supports_default_dynamic_cache", bool)():
        return {}
    config = model.config.get_text_config(decoder=True)
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return {NAME: BeamCache(cache, DynamicCache(config=config)) if model.config.is_encoder_decoder else cache}
