"""A run as a diffusers folder: diffusers makes the same image of it, without remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders as tiny
import tiny_pipeline
import torch
from safetensors.torch import save_file
from sampling import generate
from transformers import AutoTokenizer

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.components import locate
from commonart.core.generation.export import export
from commonart.core.generation.request import ModelSpec
from commonart.core.generation.session import open_generator
from commonart.core.model import sampler
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt
from commonart.core.training import checkpoint


def run_of(folder: Path, objective: str, shift: float = 1.0) -> Path:
    """A run of two checkpoints, with a language model and an autoencoder that shifts its latents."""
    tiny.llama(folder / "llama")
    tiny.vae(folder / "vae")
    for step in (10, 20):

        def write(part: Path, step: int = step) -> None:
            tiny_pipeline.transformer(part / "transformer", objective, seed=0)
            tiny_pipeline.transformer(part / "ema", objective, seed=step)

        checkpoint.save(folder / "run", step, write, {})
    said = {
        "objective": objective, "flow_shift": shift, "text_encoder": {"name": str(folder / "llama"), "max_tokens": 30},
        "autoencoder": {"name": str(folder / "vae")},
    }  # fmt: skip
    (folder / "run" / "run.json").write_text(json.dumps(said))
    return folder / "run"


def made_by_diffusers(folder: Path, prompt: str, channels: int = 4) -> np.ndarray:
    """What the README.md of the folder says, with our noise."""
    from diffusers import PixArtSigmaPipeline

    pipeline: Any = PixArtSigmaPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    null = (folder / "README.md").read_text().split("negative_prompt='")[1].split("'")[0]
    image = pipeline(
        prompt, negative_prompt=null, num_inference_steps=6, guidance_scale=4.5, max_sequence_length=30,
        clean_caption=False, use_resolution_binning=False, latents=sampler.noise_for([7], (channels, 8, 8)), output_type="np",
    ).images[0]  # fmt: skip
    return (image * 255).round().astype(int)


def made_here(model: Path, prompt: str, **options: Any) -> np.ndarray:
    generator = open_generator(ModelSpec(str(model), device="cpu", precision="fp32", **options))
    return generate(generator, (prompt, 7), steps=6)[0]


@pytest.mark.parametrize(("objective", "shift"), [("eps", 1.0), ("flow", 3.0)])
def test_diffusers_generates_what_we_generate(tmp_path: Path, objective: str, shift: float) -> None:
    run = run_of(tmp_path, objective, shift)
    assert export(str(run), tmp_path / "out") == ["transformer", "text_encoder", "vae"]
    theirs = made_by_diffusers(tmp_path / "out", "赤い丸 a red circle")
    for model in (run, tmp_path / "out"):
        ours = made_here(model, "赤い丸 a red circle")
        # The model's shift of its latents is folded into other weights, and diffusers pads: rounding differs.
        assert np.abs(ours - theirs).max() <= 2, model
    assert theirs.std() > 5
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("tokens", [12, 400])
def test_a_long_prompt_is_cut_where_the_run_cut_it(tmp_path: Path, tokens: int) -> None:
    run, prompt = run_of(tmp_path, "flow"), "a red circle in the middle of a green meadow " * 12  # 540 tokens
    said = json.loads((run / "run.json").read_text())
    said["text_encoder"]["max_tokens"] = tokens
    (run / "run.json").write_text(json.dumps(said))
    export(str(run), tmp_path / "out")
    export(str(tmp_path / "out"), tmp_path / "twice")
    pictures = [made_here(model, prompt) for model in (run, tmp_path / "out", tmp_path / "twice")]
    assert all(np.abs(pictures[0] - other).max() <= 2 for other in pictures[1:])
    assert [locate(ModelSpec(str(tmp_path / name))).max_tokens for name in ("out", "twice")] == [tokens, tokens]
    longer = made_here(run, prompt, max_tokens=300)
    assert tokens > 300 or np.abs(pictures[0] - longer).max() > 2  # the length matters
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert len(theirs(prompt)["input_ids"]) == 540 and theirs.model_max_length == 4096


def test_any_checkpoint_and_precision(tmp_path: Path) -> None:
    run = run_of(tmp_path, "flow")
    export(str(run / "checkpoints" / "step-0000010"), tmp_path / "ten", dtype=torch.bfloat16)
    found = PixArt.load(tmp_path / "ten").state_dict()
    wanted = PixArt.load(run / "checkpoints" / "step-0000010" / "ema").state_dict()
    assert all(torch.equal(found[name], wanted[name].bfloat16()) for name in wanted)
    with pytest.raises(UsageError, match="exists and is not empty"):
        export(str(run), tmp_path / "ten")


def test_the_old_class_becomes_one_that_diffusers_has(tmp_path: Path) -> None:
    from diffusers import PixArtTransformer2DModel

    beta, calm, sdxl = tiny_pipeline.published(tmp_path)
    assert export(str(beta), tmp_path / "alone") == ["transformer"]
    assert not (tmp_path / "alone" / "model_index.json").exists()
    theirs: Any = PixArtTransformer2DModel.from_pretrained(tmp_path / "alone", subfolder="transformer")
    assert sum(p.numel() for p in theirs.parameters()) == PixArt.load(beta).parameters_count
    whole = export(str(beta), tmp_path / "whole", text_encoder=str(calm), autoencoder=str(sdxl))
    assert whole == ["transformer", "text_encoder", "vae"]
    theirs = made_by_diffusers(tmp_path / "whole", "a zebra")
    assert np.abs(made_here(tmp_path / "whole", "a zebra") - theirs).max() <= 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [(tiny.flux2_vae, "does not undo the batch norm of its latents"), (tiny.dc_ae, "asks for block_out_channels")],
)
def test_an_autoencoder_that_diffusers_pipeline_cannot_decode_is_refused(
    tmp_path: Path, make: Any, reason: str
) -> None:
    run = run_of(tmp_path, "flow")
    make(tmp_path / "other")
    with pytest.raises(CommonArtError, match=f"is an Autoencoder.*: diffusers' PixArtSigmaPipeline {reason}"):
        export(str(run), tmp_path / "out", autoencoder=str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


def test_sixteen_channels_are_exported(tmp_path: Path) -> None:
    """Any number of channels of an AutoencoderKL; here with patches of 1."""
    tiny.llama(tmp_path / "llama")
    tiny.vae(tmp_path / "vae", latent_channels=16)
    config = PixArtConfig(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, in_channels=16, out_channels=16, patch_size=1,
        sample_size=8, caption_channels=tiny.WIDTH,
    )  # fmt: skip
    torch.manual_seed(0)
    PixArt(config).save(tmp_path / "bare")
    export(
        str(tmp_path / "bare"),
        tmp_path / "out",
        text_encoder=str(tmp_path / "llama"),
        autoencoder=str(tmp_path / "vae"),
    )
    theirs = made_by_diffusers(tmp_path / "out", "a zebra", 16)
    assert np.abs(made_here(tmp_path / "out", "a zebra") - theirs).max() <= 2


@pytest.mark.parametrize("kind", ["Qwen3_5", "Qwen3VL"])
def test_a_text_encoder_that_sees_is_exported_whole(tmp_path: Path, kind: str) -> None:
    run = run_of(tmp_path, "flow")
    tiny.qwen(tmp_path / "qwen", kind)
    export(str(run), tmp_path / "out", text_encoder=str(tmp_path / "qwen"))
    theirs = made_by_diffusers(tmp_path / "out", "a zebra")
    assert np.abs(made_here(tmp_path / "out", "a zebra") - theirs).max() <= 2


def originals(model: PixArt) -> dict[str, torch.Tensor]:
    """The weights of `model` under the names of PixArt's own repository, as its PixArtMS and its blocks call them."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    out: dict[str, torch.Tensor] = {"pos_embed": model.pos_embed.pos_embed.clone()}
    out["y_embedder.y_embedding"] = torch.zeros(5, model.config.caption_channels)
    for kind in ("weight", "bias"):
        out[f"x_embedder.proj.{kind}"] = state[f"pos_embed.proj.{kind}"]
        out[f"t_block.1.{kind}"] = state[f"adaln_single.linear.{kind}"]
        out[f"final_layer.linear.{kind}"] = state[f"proj_out.{kind}"]
        for n in (1, 2):
            out[f"t_embedder.mlp.{2 * n - 2}.{kind}"] = state[f"adaln_single.emb.timestep_embedder.linear_{n}.{kind}"]
            out[f"y_embedder.y_proj.fc{n}.{kind}"] = state[f"caption_projection.linear_{n}.{kind}"]
    out["final_layer.scale_shift_table"] = state["scale_shift_table"]
    for n in range(model.config.num_layers):
        old, new = f"blocks.{n}", f"transformer_blocks.{n}"
        out[f"{old}.scale_shift_table"] = state[f"{new}.scale_shift_table"]
        for kind in ("weight", "bias"):
            out[f"{old}.attn.qkv.{kind}"] = torch.cat([state[f"{new}.attn1.to_{x}.{kind}"] for x in "qkv"])
            out[f"{old}.attn.proj.{kind}"] = state[f"{new}.attn1.to_out.0.{kind}"]
            out[f"{old}.cross_attn.q_linear.{kind}"] = state[f"{new}.attn2.to_q.{kind}"]
            out[f"{old}.cross_attn.kv_linear.{kind}"] = torch.cat([state[f"{new}.attn2.to_{x}.{kind}"] for x in "kv"])
            out[f"{old}.cross_attn.proj.{kind}"] = state[f"{new}.attn2.to_out.0.{kind}"]
            out[f"{old}.mlp.fc1.{kind}"] = state[f"{new}.ff.net.0.proj.{kind}"]
            out[f"{old}.mlp.fc2.{kind}"] = state[f"{new}.ff.net.2.{kind}"]
    return out


def sigma() -> PixArt:
    torch.manual_seed(3)
    model = PixArt(PixArtConfig(num_layers=2, num_attention_heads=2, attention_head_dim=16, caption_channels=12))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def test_names_of_pixarts_own_repository(tmp_path: Path) -> None:
    model = sigma()
    save_file(originals(model), tmp_path / "sigma.safetensors")
    assert export(str(tmp_path / "sigma.safetensors"), tmp_path / "out", heads=2) == ["transformer"]
    again = PixArt.load(tmp_path / "out")
    assert again.config == model.config and again.config.interpolation_scale == 0.5
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update({"blocks.0.attn.q_norm.weight": torch.ones(1)}), "blocks.0.attn.q_norm.weight"),
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), "lack transformer_blocks.1.ff.net.2.bias"),
        (lambda s: s.pop("pos_embed"), "lacks pos_embed"),
        (lambda s: s.pop("x_embedder.proj.weight"), "names of PixArt's repository"),
    ],
)
def test_files_that_are_not_pixarts(tmp_path: Path, change: Any, words: str) -> None:
    state = originals(sigma())
    change(state)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CommonArtError, match=words):
        export(str(tmp_path / "x.safetensors"), tmp_path / "out", heads=2)
    assert not (tmp_path / "out").exists()
