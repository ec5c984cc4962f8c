"""Caches with room behind them hold what those of transformers hold."""

from __future__ import annotations

import torch
from transformers import BartConfig, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from commonart.core.model.captioning.cache import NAME, SPARE, BeamCache, GrowingLayer, new_cache

BATCH, HEADS, CHANNELS = 4, 2, 3


def tokens(count: int, seed: int, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, HEADS, count, CHANNELS, generator=made) for _ in range(2))  # type: ignore[return-value]


def same(one: DynamicLayer, other: DynamicLayer) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def test_a_layer_holds_what_that_of_transformers_holds() -> None:
    """Through all that `generate` does to it, and over the end of its room."""
    ours, theirs = GrowingLayer(), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(*tokens(7, 0))
    for step in range(SPARE + 9):
        shown = [layer.update(*tokens(1, step + 1, layer.keys.shape[0])) for layer in (ours, theirs)]
        assert torch.equal(shown[0][0], shown[1][0]) and torch.equal(shown[0][1], shown[1][1])
        for layer in (ours, theirs):
            if step % 3 == 1:
                layer.reorder_cache(torch.tensor([1, 1, 0, 3])[: layer.keys.shape[0]].clamp(max=len(layer.keys) - 1))
            if step == 20:
                layer.batch_select_indices(torch.tensor([0, 2, 3]))
            if step == 30:
                layer.crop(-2)
            if step == 40:
                layer.batch_repeat_interleave(2)
            if step == 41:
                layer.batch_select_indices(torch.tensor([5, 0, 1, 1]))
        assert same(ours, theirs), step
    assert ours.get_seq_length() == theirs.get_seq_length() == 7 + SPARE + 9 - 2


def test_a_token_copies_nothing_but_itself() -> None:
    layer = GrowingLayer()
    layer.update(*tokens(7, 0))
    layer.update(*tokens(1, 1))
    place = layer.keys.data_ptr(), layer.values.data_ptr()
    for step in range(SPARE):
        layer.update(*tokens(1, step))
        assert (layer.keys.data_ptr(), layer.values.data_ptr()) == place
    layer.update(*tokens(1, 2))
    assert layer.keys.data_ptr() != place[0], "the room is full"


class Model:
    config = BartConfig(decoder_layers=2, is_encoder_decoder=True)

    def _supports_default_dynamic_cache(self) -> bool:
        return True


def test_beams_change_what_was_written_and_not_what_was_read() -> None:
    cache = new_cache(Model())[NAME]
    assert isinstance(cache, BeamCache)
    plain = EncoderDecoderCache(DynamicCache(), DynamicCache())
    encoded = [torch.repeat_interleave(part, 2, 0) for part in tokens(5, 9, BATCH // 2)]  # two beams of each input
    for each in (cache, plain):
        each.self_attention_cache.update(*tokens(3, 1), 0)
        each.self_attention_cache.update(*tokens(1, 2), 0)
        each.cross_attention_cache.update(*encoded, 0)
    before = cache.cross_attention_cache.layers[0].keys
    for each in (cache, plain):
        each.reorder_cache(torch.tensor([1, 0, 2, 2]))
    for name in ("self_attention_cache", "cross_attention_cache"):
        assert same(getattr(cache, name).layers[0], getattr(plain, name).layers[0])
    assert cache.cross_attention_cache.layers[0].keys is before


def test_models_with_a_cache_of_their_own_keep_it() -> None:
    assert new_cache(object()) == {}
