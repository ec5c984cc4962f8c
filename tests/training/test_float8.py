"""Runs whose blocks multiply in 8 bits (`--precision fp8`), emulated by rounding: the same numbers without the hardware."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import lines, refused, shards, start, state
from torch.nn import functional

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt
from commonart.core.settings import Settings
from commonart.core.training import checkpoint, float8
from commonart.core.training.run import read
from commonart.stages import train as train_stage

__all__ = ["shards"]  # the fixture
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
CPU = torch.device("cpu")
# Three tokens of text: no multiple of 16, which the hardware asks for.
CONFIG = PixArtConfig(num_layers=1, num_attention_heads=2, attention_head_dim=16, sample_size=8, caption_channels=24)
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def rounded(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """As 8-bit floats with one scale, which makes the largest the format's largest."""
    scale = LARGEST[kind] / x.abs().max().double()
    return ((x * scale).to(kind).double() / scale).to(x.dtype)


@needs_torchao
def test_products_are_those_of_rounded_matrices() -> None:
    torch.manual_seed(0)
    model = PixArt(CONFIG)
    float8.convert(model, CPU)
    layer: Any = model.get_submodule("transformer_blocks.0.attn1.to_q")
    x = torch.randn(8, 32, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(8, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.backward(gradient)
    x8 = rounded(x.detach().float(), torch.float8_e4m3fn)
    w8 = rounded(layer.weight.detach(), torch.float8_e4m3fn)
    g8 = rounded(gradient.float(), torch.float8_e5m2)
    near: Any = {"rtol": 0.02, "atol": 0.02}  # the result is rounded to bfloat16
    torch.testing.assert_close(out.float(), functional.linear(x8, w8, layer.bias.detach()), **near)
    assert x.grad is not None
    torch.testing.assert_close(x.grad.float(), g8 @ w8, **near)
    torch.testing.assert_close(layer.weight.grad, g8.T @ x8, **near)


@needs_torchao
def test_only_the_blocks_are_converted_and_names_and_weights_stay() -> None:
    model = PixArt(CONFIG)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    float8.convert(model, CPU)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    converted = {name for name, kind in kinds.items() if kind == "Float8Linear"}
    inside = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v")
    inside = (*inside, "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
    assert converted == {f"transformer_blocks.0.{name}" for name in inside}
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@needs_torchao
def test_a_run_learns_as_in_bf16_and_a_continued_one_is_the_same(shards: Path, tmp_path: Path) -> None:
    start(shards, tmp_path / "whole", precision="fp8")
    start(shards, tmp_path / "cut", {"steps": 3}, precision="fp8")
    start(shards, tmp_path / "cut", precision="fp8")
    start(shards, tmp_path / "bf16", precision="bf16")
    assert state(tmp_path / "cut") == state(tmp_path / "whole")
    described = read(tmp_path / "whole")
    assert described["precision"] == "float8" and described["versions"]["torchao"]
    assert "torchao" not in read(tmp_path / "bf16")["versions"]
    eight, sixteen = (lines(tmp_path / name)[-1]["loss"] for name in ("whole", "bf16"))
    assert eight != sixteen
    assert eight == pytest.approx(sixteen, rel=0.02)
    what = "was started with precision float8, and now it is bfloat16"
    refused(CommonArtError, 1, what, "", lambda: start(shards, tmp_path / "whole", precision="bf16"))
    saved = checkpoint.newest(tmp_path / "whole")
    assert saved is not None
    PixArt.load(saved.transformer)  # a transformer like any other


@needs_torchao
def test_what_samples_and_measures_is_not_in_8_bits(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[str] = set()

    @torch.inference_mode()  # as the sampler; torchao's layers cannot
    def look(model: PixArt, step: int) -> None:
        kinds.update(type(module).__name__ for module in model.modules())
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(2, 4, 4, 4), torch.tensor([500.0]), torch.randn(2, 3, 8))

    monkeypatch.setattr(train_stage, "_preview", lambda *_: look)
    start(shards, tmp_path / "run", precision="fp8", sample_every=3)
    assert "Linear" in kinds and "Float8Linear" not in kinds
    start(shards, tmp_path / "plain", precision="fp8")
    assert state(tmp_path / "run") == state(tmp_path / "plain")  # to sample changes nothing


def test_what_cannot_be_is_a_sentence(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = "--precision fp8 does not apply to stage captioner, which trains a captioner"
    refused(UsageError, 2, what, "bf16", Settings("captioner", data=str(shards), precision="fp8").check)
    monkeypatch.setitem(sys.modules, "torchao", None)
    for name in ("fp9", "fp16"):  # gradients underflow in float16
        what = f"--precision {name} is not a precision of training"
        refused(UsageError, 2, what, "fp8", Settings("nano", data=str(shards), precision=name).check)
    what = "--precision fp8 needs torchao, which is not installed"
    refused(CommonArtError, 1, what, "--extra torchao", Settings("nano", data=str(shards), precision="fp8").check)
