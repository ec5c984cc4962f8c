"""Tokens that skip blocks, and tokens that are aligned with latents: their equations, one image at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from commonart.core.model import alignment, diffusion, masking, repa, sra, tread
from commonart.core.model.config import PixArtConfig
from commonart.core.model.layers import unpatch
from commonart.core.model.transformer import PixArt, stack_text
from commonart.core.model.tread import Route
from commonart.core.training import cost

CONFIG = PixArtConfig(
    num_attention_heads=2, attention_head_dim=8, num_layers=4, out_channels=4, caption_channels=6, sample_size=8
)
TOKENS = 16


def model_of() -> PixArt:
    torch.manual_seed(0)
    model = PixArt(CONFIG)
    torch.nn.init.normal_(model.proj_out.weight, std=0.1)  # else it predicts zero
    return model


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    text, mask = stack_text([torch.randn(2 + n, 6, generator=generator) for n in range(count)])
    latents = torch.randn(count, 4, 8, 8, generator=generator)
    return latents, 1000 * torch.rand(count, generator=generator), text, mask


def route_of(count: int = 3, share: float = 0.5, first: int = 1, stop: int = 3) -> Route:
    numbers = torch.rand(count, TOKENS, generator=torch.Generator().manual_seed(2))
    return Route(tread.choose(numbers, share), first, stop)


def test_what_is_kept() -> None:
    numbers = torch.rand(500, TOKENS, generator=torch.Generator().manual_seed(0))
    kept = tread.choose(numbers, 0.75)
    assert kept.shape == (500, 4) and bool((kept.diff(dim=1) > 0).all())
    assert len({tuple(row) for row in kept.tolist()}) > 400  # every image by itself
    often = torch.bincount(kept.flatten(), minlength=TOKENS) / 500
    assert float(often.min()) > 0.17 and float(often.max()) < 0.33  # each as often: 0.25, within four deviations
    lowest = numbers.topk(4, largest=False).indices.sort(1).values
    assert torch.equal(kept, lowest)
    assert [tread.kept_tokens(16, share) for share in (0.0, 0.5, 0.7, 0.99)] == [16, 8, 5, 1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_skipped_tokens_pass_no_block_of_the_route(checkpointing: bool) -> None:
    model, route = model_of(), route_of()
    latents, time, text, mask = inputs()
    model.gradient_checkpointing = checkpointing
    routed = model(latents, time, text, mask, route)
    routed.square().sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
    model.zero_grad()
    blocks: Any = model.transformer_blocks
    out = []
    for n in range(3):  # by hand: each image alone, its text without padding
        x, kept = model.pos_embed(latents[n : n + 1]), route.kept_BK[n]
        time_B6D, time_BD = model.adaln_single(time[n : n + 1])
        words = model.caption_projection(text[n : n + 1, : 2 + n])
        x = blocks[0](x, words, time_B6D, None)
        through = blocks[2](blocks[1](x[:, kept], words, time_B6D, None), words, time_B6D, None)
        rows = [through[:, kept.tolist().index(p)] if p in kept.tolist() else x[:, p] for p in range(TOKENS)]
        x = blocks[3](torch.stack(rows, 1), words, time_B6D, None)
        shift, scale = (model.scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        tokens = model.proj_out(functional.layer_norm(x, (16,), eps=1e-6) * (1 + scale) + shift)
        out.append(torch.einsum("nhwpqc->nchpwq", tokens.reshape(1, 4, 4, 2, 2, 4)).reshape(1, 4, 8, 8))
    by_hand = torch.cat(out)
    torch.testing.assert_close(routed, by_hand, rtol=1e-4, atol=1e-5)
    by_hand.square().sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
    assert float((gradient - expected).norm() / expected.norm()) < 1e-5


def test_a_route_that_keeps_all_is_none_and_the_text_of_several_images_is_shared() -> None:
    model, (latents, time, text, mask) = model_of(), inputs()
    whole = model(latents, time, text, mask)
    torch.testing.assert_close(model(latents, time, text, mask, route_of(share=0.0)), whole)
    assert not torch.allclose(model(latents, time, text, mask, route_of()), whole, atol=1e-3)
    assert mask is not None
    twice, route = (latents.repeat_interleave(2, 0), time.repeat_interleave(2, 0)), route_of(6)
    own = model(*twice, text.repeat_interleave(2, 0), mask.repeat_interleave(2, 0), route)
    torch.testing.assert_close(model(*twice, text, mask, route), own, rtol=1e-4, atol=1e-5)


def test_few_tokens_are_warned_of() -> None:
    assert tread.warning(0.5, 1024) == tread.warning(0.0, 64) == ""
    assert tread.warning(0.5, 256).startswith("tread=0.5: images of 256 tokens are few")


def test_a_route_costs_what_it_is_said_to_cost() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, (latents, time, text, _) = model_of(), inputs()

    def counted(*more: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(latents[:1], time[:1], text[:1], None, *more)
        return counter.get_total_flops()

    route = route_of(1)
    spared = counted() - counted(route)
    said = cost.flops_per_image(CONFIG, 8, text.shape[1]) - cost.flops_per_image(
        CONFIG, 8, text.shape[1], few=2, passing=8
    )
    assert said == pytest.approx(spared, rel=1e-6) and said > 0


@pytest.mark.parametrize("block", [1, 2, 4])
def test_aligned_tokens_are_those_after_their_block(block: int) -> None:
    model, (latents, time, text, mask) = model_of(), inputs()
    plain = model(latents, time, text, mask)
    model.alignment = alignment.make_head(sra.widths(CONFIG), block, seed=3)
    output, tokens = model(latents, time, text, mask)
    assert torch.equal(output, plain) and tokens.shape == (3, 16, 16)
    seen: list[Tensor] = []
    model.transformer_blocks[block - 1].register_forward_hook(lambda *called: seen.append(called[-1]))
    model(latents, time, text, mask)
    x = seen[0]
    for n, layer in enumerate(model.alignment.layers):
        x = layer(x if n == 0 else functional.silu(x))
    torch.testing.assert_close(tokens, x)
    assert torch.equal(model.eval()(latents, time, text, mask), plain)


def test_inside_a_route_the_kept_tokens_alone_are_aligned() -> None:
    model, route, (latents, time, text, mask) = model_of(), route_of(), inputs()
    for block, covered in ((1, False), (2, True), (3, False), (4, False)):
        assert route.covers(block) == covered
    model.alignment = alignment.make_head(sra.widths(CONFIG), 2, seed=3)
    found = unpatch(model(latents, time, text, mask, route)[1], 8, 8, 2)
    weight = masking.weight(route.kept_BK, (8, 8), 2)
    loss = sra.loss(tokens_of(found), latents, 2, weight)
    far = functional.smooth_l1_loss(found, latents, reduction="none", beta=0.05)
    for n in range(3):
        patches = [far[n, :, 2 * (p // 4) : 2 * (p // 4) + 2, 2 * (p % 4) : 2 * (p % 4) + 2] for p in route.kept_BK[n]]
        torch.testing.assert_close(loss[n], torch.stack(patches).mean())
    gradient = torch.autograd.grad(loss.sum(), found)[0]
    assert float((gradient != 0).float().mean()) == 0.5


@pytest.mark.parametrize("objective", ["flow", "eps"])
def test_a_masked_image_has_the_loss_of_its_kept_patches(objective: diffusion.Objective) -> None:
    """On an image that is not square: where the output is wrong in a place, that counts only where its token is kept."""
    latents, noise = torch.randn(2, 3, 4, 4, 8, generator=torch.Generator().manual_seed(4)).unbind(0)
    time = torch.tensor([100, 500, 0]) if objective == "eps" else torch.tensor([0.1, 0.5, 0.9])
    kept = tread.choose(torch.rand(3, 8, generator=torch.Generator().manual_seed(5)), 0.75)
    weight = masking.weight(kept, (4, 8), 2)
    assert weight.shape == (3, 1, 4, 8) and weight.mean((1, 2, 3)).tolist() == [1.0] * 3
    assert set(weight.unique().tolist()) == {0.0, 4.0}

    def loss(wrong: Tensor, weight: Tensor | None) -> Tensor:
        def model(noisy: Tensor, *_: Any) -> Tensor:
            right = diffusion.target(latents, noise, objective)
            return torch.cat([right + wrong, right * 0], 1) if objective == "eps" else right + wrong

        text = torch.ones(3, 1, 6)
        return diffusion.loss(
            model, latents, text, None, objective, noise_BCHW=noise, time_B=time, weight_B1HW=weight
        )[0]  # fmt: skip

    nothing = torch.zeros_like(latents)
    for n in range(3):
        for p in range(8):
            wrong = nothing.clone()
            wrong[n, :, 2 * (p // 4) : 2 * (p // 4) + 2, 2 * (p % 4) : 2 * (p % 4) + 2] = 1.0
            more = loss(wrong, weight) - loss(nothing, weight)
            plain = loss(wrong, None) - loss(nothing, None)
            torch.testing.assert_close(
                more[n], (4 * plain[n] if p in kept[n].tolist() else plain[n] * 0), rtol=1e-3, atol=1e-4
            )
            assert float(more.abs().sum() - more[n].abs()) == 0


def test_masked_tokens_end_after_the_first_blocks() -> None:
    model, (latents, time, text, mask) = model_of(), inputs()
    route = route_of(share=0.75, first=2, stop=4)
    seen: list[int] = []
    for block in model.transformer_blocks:
        block.register_forward_hook(lambda *called: seen.append(called[-1].shape[1]))
    masked = model(latents, time, text, mask, route)
    assert seen == [16, 16, 4, 4]
    weight = masking.weight(route.kept_BK, (8, 8), 2) > 0
    (masked * weight).sum().backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in model.transformer_blocks.parameters())  # type: ignore[union-attr]
    # What a masked token would say of its patch is not asked for; kept ones know it from the blocks that saw it.
    hidden, hit = latents.clone().requires_grad_(True), weight.expand_as(latents)
    (gradient,) = torch.autograd.grad((model(hidden, time, text, mask, route) * weight).sum(), hidden)
    assert float(gradient[~hit].abs().min()) > 0


def tokens_of(found_BCHW: Tensor) -> Tensor:
    """Latents as tokens of 2 x 2 of them."""
    B, C, H, W = found_BCHW.shape
    return torch.einsum("nchpwq->nhwpqc", found_BCHW.reshape(B, C, H // 2, 2, W // 2, 2)).reshape(B, -1, 4 * C)


def test_tokens_are_put_back_where_their_patches_were() -> None:
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    assert torch.equal(unpatch(tokens_of(latents), 4, 6, 2), latents)


def test_the_loss_of_the_alignment() -> None:
    """Squared below 0.05, absolute above, and the mean over an image."""
    latents = torch.zeros(2, 1, 2, 2)
    found = torch.tensor([0.01, -0.03, 0.05, -2.0]).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    expected = (0.01**2 / 0.1 + 0.03**2 / 0.1 + 0.05**2 / 0.1 + (2 - 0.025)) / 4
    torch.testing.assert_close(sra.loss(tokens_of(found), latents, 2), torch.full((2,), expected))


def test_the_head_has_the_size_that_the_paper_states_and_is_a_function_of_the_seed(tmp_path: Path) -> None:
    largest = PixArtConfig(out_channels=4)  # the width, patch and latents of SiT-XL/2
    assert 18e6 < alignment.count_weights(sra.widths(largest)) < 19e6
    head, again, other = (alignment.make_head(sra.widths(CONFIG), 1, seed) for seed in (1, 1, 2))
    assert torch.equal(head.layers[0].weight, again.layers[0].weight)  # type: ignore[arg-type]
    assert not torch.equal(head.layers[0].weight, other.layers[0].weight)  # type: ignore[arg-type]
    model = model_of()
    before = model.parameters_count
    model.alignment = head
    assert {name for name in model.state_dict() if name.startswith(alignment.PREFIX)} == {
        f"alignment.layers.{n}.{kind}" for n in range(5) for kind in ("weight", "bias")
    }
    assert model.parameters_count - before == alignment.count_weights(sra.widths(CONFIG))


def test_the_loss_of_what_an_encoder_sees_is_the_angle_to_it() -> None:
    """0 for the same direction whatever the length, 1 at a right angle, 2 for the opposite; the mean of the weighed tokens."""
    seen = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, -1.0]]])
    found = torch.tensor([[[5.0, 0.0], [1.0, 0.0], [-1.0, -1.0], [1.0, -1.0]]])
    angles = torch.tensor([0.0, 1.0, 2.0, 1 - 0.5**0.5])
    torch.testing.assert_close(repa.loss(found, seen), angles.mean()[None])
    weight = torch.tensor([[2.0, 0.0, 2.0, 0.0]])
    torch.testing.assert_close(repa.loss(found, seen, weight), torch.tensor([1.0]))
    assert repa.widths(PixArtConfig(), 7) == [1152, 2048, 2048, 7]  # the paper's
    assert repa.widths(CONFIG, 7) == [CONFIG.hidden, 4 * CONFIG.hidden, 4 * CONFIG.hidden, 7] and CONFIG.hidden < 512
