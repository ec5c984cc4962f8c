"""core.model.transformer against diffusers' PixArtTransformer2DModel: names, outputs, gradients, files."""

import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from commonart.core.errors import CommonArtError
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt, stack_text
from commonart.core.model.weights import INDEX, WEIGHTS

TINY = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "caption_channels": 24}


def tiny(**changes):
    return PixArtConfig(**{**TINY, "sample_size": 8, **changes})


def reference(config):
    """diffusers' model with our config.json, and ours with its weights (random, so that nothing is zero)."""
    torch.manual_seed(0)
    theirs = diffusers.PixArtTransformer2DModel.from_config(config.to_dict())
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = PixArt(config)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def batch(config, height, width, length=7, masked=False):
    torch.manual_seed(1)
    mask = torch.arange(length) < torch.tensor([length, 3])[:, None] if masked else None
    latents = torch.randn(2, config.in_channels, height, width)
    return latents, torch.tensor([7.0, 940.5]), torch.randn(2, length, config.caption_channels), mask


def their_output(theirs, latents, timestep, text, mask):
    return theirs(latents, encoder_hidden_states=text, timestep=timestep, encoder_attention_mask=mask).sample


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("sample_size", "scale", "height", "width", "out"),
    [
        (32, 0.5, 32, 32, 8),  # 256 px
        (64, 1.0, 64, 64, 8),  # 512 px
        (32, 0.5, 64, 64, 8),  # 256 px weights at 512 px
        (64, 1.0, 48, 80, 8),  # not square
        (32, 0.5, 20, 36, 4),  # flow
        (16, 1.0, 16, 16, 4),  # nano
    ],
)
def test_outputs_and_gradients_are_those_of_diffusers(sample_size, scale, height, width, out, masked):
    ours, theirs = reference(tiny(sample_size=sample_size, interpolation_scale=scale, out_channels=out))
    inputs = batch(ours.config, height, width, masked=masked)
    one, two = ours(*inputs), their_output(theirs, *inputs)
    assert one.shape == (2, out, height, width)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    one.square().mean().backward()
    two.square().mean().backward()
    for (name, mine), yours in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # The keys' bias shifts all scores alike: its gradient is zero but for rounding.
        torch.testing.assert_close(mine.grad, yours.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_state_dict_names_and_order_are_those_of_diffusers():
    ours, theirs = reference(tiny())
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


def test_bfloat16_model_agrees_with_diffusers():
    ours, theirs = reference(tiny())
    ours, theirs = ours.bfloat16(), theirs.bfloat16()
    latents, timestep, text, mask = batch(ours.config, 8, 8, masked=True)
    inputs = latents.bfloat16(), timestep, text.bfloat16(), mask
    one, two = ours(*inputs), their_output(theirs, *inputs)
    assert one.dtype == two.dtype == torch.bfloat16
    torch.testing.assert_close(one, two, atol=0.05, rtol=0.05)


def test_autocast_is_near_float32():
    ours, _ = reference(tiny())
    inputs = batch(ours.config, 8, 8, masked=True)
    exact = ours(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(*inputs)
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()


def test_padding_is_never_seen():
    ours, _ = reference(tiny())
    latents, timestep, text, mask = batch(ours.config, 8, 8, masked=True)
    changed = text.masked_fill(~mask[:, :, None], 100.0)
    torch.testing.assert_close(ours(latents, timestep, text, mask), ours(latents, timestep, changed, mask))
    alone = ours(latents[1:], timestep[1:], text[1:, :3])
    torch.testing.assert_close(ours(latents, timestep, text, mask)[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])  # bfloat16 on CPU has an attention of its own
def test_row_without_tokens_is_finite_and_reads_no_padding(autocast):
    ours, _ = reference(tiny())
    latents, timestep, text, _ = batch(ours.config, 8, 8)
    mask = torch.tensor([[True] * 7, [False] * 7])
    changed = text.clone()
    changed[1] = 5.0
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        one = ours(latents, timestep, text, mask)
        two = ours(latents, timestep, changed, mask)
    assert one.isfinite().all()
    torch.testing.assert_close(one, two)
    one.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in ours.parameters())


def test_gradient_checkpointing_changes_nothing():
    ours, _ = reference(tiny())
    inputs = batch(ours.config, 8, 8, masked=True)
    ours(*inputs).sum().backward()
    plain = [parameter.grad.clone() for parameter in ours.parameters()]
    ours.zero_grad()
    ours.gradient_checkpointing = True
    ours(*inputs).sum().backward()
    for mine, before in zip(ours.parameters(), plain, strict=True):
        torch.testing.assert_close(mine.grad, before)


def test_initial_weights_predict_zero_and_learn():
    torch.manual_seed(0)
    model = PixArt(tiny())
    inputs = batch(model.config, 8, 8)
    assert model(*inputs).abs().max() == 0
    assert model.adaln_single.linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.pos_embed.proj.weight.abs().max().item() == pytest.approx((6 / (16 + 32)) ** 0.5, rel=0.05)
    heard = (
        model.transformer_blocks[1].attn2.to_out[0].weight
    )  # half of Xavier's bound: text is heard from the first step
    assert heard.abs().max().item() == pytest.approx(0.5 * (6 / (32 + 32)) ** 0.5, rel=0.05)
    (model(*inputs) - 1).square().mean().backward()
    assert model.proj_out.bias.grad.abs().max() > 0


# --- files -----------------------------------------------------------------------------------------------------


def test_saved_folder_loads_in_diffusers_and_back(tmp_path):
    ours, _ = reference(tiny(sample_size=32))
    ours.save(tmp_path / "transformer")
    inputs = batch(ours.config, 32, 32, masked=True)
    theirs = diffusers.PixArtTransformer2DModel.from_pretrained(tmp_path / "transformer")
    torch.testing.assert_close(ours(*inputs), their_output(theirs, *inputs), atol=1e-5, rtol=0)
    for folder in (tmp_path / "transformer", tmp_path):  # a pipeline folder is taken too
        again = PixArt.load(folder)
        assert again.config == ours.config
        assert torch.equal(again(*inputs), ours(*inputs))
        assert all(parameter.requires_grad for parameter in again.parameters())
    assert not list(tmp_path.rglob("*.part"))


def test_diffusers_folder_loads_here_whole_and_in_shards(tmp_path):
    ours, theirs = reference(tiny())
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert (tmp_path / "shards" / INDEX).exists()
    inputs = batch(ours.config, 8, 8)
    for folder in ("whole", "shards"):
        assert torch.equal(PixArt.load(tmp_path / folder)(*inputs), ours(*inputs))


def test_load_takes_a_dtype(tmp_path):
    PixArt(tiny()).save(tmp_path, dtype=torch.float16)
    assert next(PixArt.load(tmp_path).parameters()).dtype == torch.float16
    model = PixArt.load(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]} == {torch.bfloat16}


def test_old_files_with_stored_positions_load(tmp_path):
    model = PixArt(tiny())
    model.save(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    save_file({**state, "pos_embed.pos_embed": torch.zeros(1, 16, 32)}, tmp_path / WEIGHTS)
    assert torch.equal(PixArt.load(tmp_path).pos_embed.pos_embed, model.pos_embed.pos_embed)


def spoil(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("transformer_blocks.1.attn1.to_q.bias"), "lack transformer_blocks.1.attn1.to_q.bias"),
        (lambda s: s.update(proj_out_2=torch.zeros(1)), "hold proj_out_2"),
        (lambda s: s.update({"proj_out.bias": torch.zeros(16)}), r"proj_out.bias has the shape \(16,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, words):
    PixArt(tiny()).save(tmp_path)
    spoil(tmp_path, change)
    with pytest.raises(CommonArtError, match=words):
        PixArt.load(tmp_path)


def test_broken_folders_are_said(tmp_path):
    with pytest.raises(CommonArtError, match="does not exist"):
        PixArt.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CommonArtError, match="is not JSON"):
        PixArt.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny().to_dict()))
    with pytest.raises(CommonArtError, match="safetensors"):
        PixArt.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"half")
    with pytest.raises(CommonArtError, match="cannot be read"):
        PixArt.load(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(CommonArtError, match="elsewhere"):
        PixArt.load(tmp_path)


@pytest.mark.parametrize("layout", ["half", "half in parts", "torch.compile", "a compiled block", "DDP", "BOM"])
def test_what_other_tools_leave_is_read(tmp_path, layout):
    """Half precision alone, in one file or in several; prefixes of wrappers; a config.json that begins with a BOM."""
    model = PixArt(tiny())
    model.save(tmp_path)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    renamed = {
        "torch.compile": lambda name: f"_orig_mod.{name}",
        "a compiled block": lambda name: name.replace("transformer_blocks.0.", "transformer_blocks.0._orig_mod."),
        "DDP": lambda name: f"module.{name}",
    }.get(layout, lambda name: name)
    (tmp_path / WEIGHTS).unlink()
    if layout == "half":
        save_file(state, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    elif layout == "half in parts":
        names = sorted(state)
        parts = {f"diffusion_pytorch_model-0000{n + 1}-of-00002.fp16.safetensors": names[n::2] for n in range(2)}
        for file, own in parts.items():
            save_file({name: state[name] for name in own}, tmp_path / file)
        weight_map = {name: file for file, own in parts.items() for name in own}
        (tmp_path / f"{WEIGHTS}.index.fp16.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        save_file({renamed(name): tensor for name, tensor in state.items()}, tmp_path / WEIGHTS)
    if layout == "BOM":
        config = tmp_path / "config.json"
        config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    loaded = PixArt.load(tmp_path).state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


# --- inputs ----------------------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit_are_said():
    model = PixArt(tiny())
    latents, timestep, text, _ = batch(model.config, 8, 8)
    with pytest.raises(CommonArtError, match="caption_channels 24"):
        model(latents, timestep, text[:, :, :20])
    with pytest.raises(CommonArtError, match="4 x 8 x 7"):
        model(latents[:, :, :, :7], timestep, text)


def test_stack_text():
    text, mask = stack_text([torch.ones(2, 5), torch.ones(3, 5)])
    assert text.shape == (2, 3, 5)
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert text[0, 2].abs().max() == 0
    assert stack_text([torch.ones(2, 5)])[1] is None
    with pytest.raises(CommonArtError, match="no tokens"):
        stack_text([torch.ones(0, 5)])
