"""What a member of a feature shard holds: plain safetensors, small, exact, and noticed where a bit of it is damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from commonart.core.data.features import format, tensors
from commonart.core.data.record import Record


def record(*texts: str) -> Record:
    return {"key": "k", "captions": [{"text": t, "lang": "en"} for t in texts], "sha256": "b" * 64}


def states(*lengths: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).normal(0, 3, (n, 8)).astype(np.float32) for n in lengths]


def test_packed_files_are_safetensors_that_torch_reads() -> None:
    values = np.array([[1.5, -2.0, 3.0], [0.1, 1e-3, 7e4]], np.float32)
    data = tensors.pack(
        {
            "a": tensors.to_bf16(values),
            "b": values,
            "c": np.array([1, 2], np.int32),
            "d": np.zeros((0, 3), np.float16),
        },
        {"langs": "en,ja"},
    )
    read = load_safetensors(data)
    assert read["a"].dtype == torch.bfloat16 and torch.equal(read["a"], torch.tensor(values).bfloat16())
    assert torch.equal(read["b"], torch.tensor(values)) and read["d"].shape == (0, 3)
    again, metadata = tensors.unpack(data)
    assert metadata == {"langs": "en,ja"} and np.array_equal(again["b"], values)
    assert data == tensors.pack({k: again[k] for k in "dcba"}, metadata)  # the order given does not matter


def test_bf16_rounds_as_torch_does() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.randint(-30, 30, (10_000,))
    expected = values.bfloat16()
    assert torch.equal(torch.from_numpy(tensors.from_bf16(tensors.to_bf16(values.numpy()))), expected.float())


def test_every_damaged_byte_is_noticed() -> None:
    data = tensors.pack({"a": np.arange(5, dtype=np.float32), "b": np.ones(3, np.int8)}, {"langs": "en"})
    assert data == tensors.pack({"a": np.arange(5, dtype=np.float32), "b": np.ones(3, np.int8)}, {"langs": "en"})
    arrays, metadata = tensors.unpack(data)
    for at in range(len(data)):
        for bit in range(8):
            spoilt = bytearray(data)
            spoilt[at] ^= 1 << bit
            try:
                found, about = tensors.unpack(bytes(spoilt))
            except ValueError:
                continue
            # Only the checksum's own name may be lost without a word: what it stood for is as it was.
            assert data[at : at + 1] in b'"_metadata_crc32' and "langs" in about and metadata["langs"] == about["langs"]
            assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_files_without_a_checksum_stay_readable() -> None:
    old = save_safetensors({"a": torch.ones(2, 3)}, {"langs": "en"})
    arrays, metadata = tensors.unpack(old)
    assert np.array_equal(arrays["a"], np.ones((2, 3))) and metadata == {"langs": "en"}


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 40])
def test_damaged_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        tensors.unpack(data)


@pytest.mark.parametrize(("store", "error"), [("bf16", 2**-8), ("fp16", 2**-11), ("int8", 1 / 120)])
def test_text_there_and_back(store: str, error: float) -> None:
    values = states(3, 1, 5)
    read, hashes = format.unpack_text(format.pack_text(values, record("a", "b", "c"), store))
    assert hashes == [format.caption_hash(t) for t in "abc"]
    assert [r.shape for r in read] == [(3, 8), (1, 8), (5, 8)] and read[0].dtype == np.float32
    for a, b in zip(values, read, strict=True):
        # int8 is judged by the largest value of a token, which sets its scale.
        size = np.abs(a).max(axis=1, keepdims=True) if store == "int8" else np.abs(a)
        assert np.all(np.abs(a - b) <= error * size + 1e-7)


def test_int8_survives_a_token_of_zeros() -> None:
    read, _ = format.unpack_text(format.pack_text([np.zeros((2, 4), np.float32)], record("a"), "int8"))
    assert np.array_equal(read[0], np.zeros((2, 4)))


def test_fp16_refuses_what_does_not_fit() -> None:
    with pytest.raises(OverflowError, match="65,504"):
        format.pack_text([np.full((1, 4), 1e5, np.float32)], record("a"), "fp16")


@pytest.mark.parametrize("store", format.STORES["image"])
def test_latents_there_and_back(store: str) -> None:
    mean, std = (np.random.default_rng(n).random((4, 3, 5)).astype(np.float32) for n in (0, 1))
    read = format.unpack_latent(format.pack_latent(mean, std, record(), store))
    for a, b in zip((mean, std), read, strict=True):
        assert b.shape == a.shape and np.allclose(a, b, rtol=2**-8)
