"""Where the parts of a model are found, and that a picture depends on its prompt and seed alone."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import tiny_pipeline
import torch

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.components import locate
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import GenerationConfig, ImageRequest, ModelSpec
from commonart.core.model.config import PixArtConfig
from commonart.core.model.onednn import PackedLinear, pack
from commonart.core.model.transformer import PixArt
from commonart.core.registry import hub, lookup
from commonart.core.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny")


def opened(folder, keep: bool | None = None, **options) -> Pipeline:
    spec = ModelSpec(str(folder), **{"device": "cpu", "precision": "fp32", **options})
    return Pipeline.open(locate(spec), spec, keep=keep)


def generate(pipeline, requests, *, batch=8, **config) -> list[np.ndarray]:
    images = pipeline.generate(requests, GenerationConfig(**{"steps": 4, **config}), batch=batch)
    return [np.asarray(image) for image in images]


def test_an_exported_folder(folder):
    parts = locate(ModelSpec(str(folder)))
    assert (parts.objective, parts.shift) == ("flow", 1.0)
    assert parts.revision.startswith("sha256:")
    pipeline = opened(folder)
    assert (pipeline.size, pipeline.multiple, pipeline.keep) == (32, 8, True)
    assert generate(pipeline, [ImageRequest("a red circle", 0)])[0].shape == (32, 32, 3)


def test_the_scheduler_tells_objective_and_shift(tmp_path):
    parts = locate(ModelSpec(str(tiny_pipeline.pipeline(tmp_path / "a", "flow", shift=3.0))))
    assert (parts.objective, parts.shift) == ("flow", 3.0)
    eps = tiny_pipeline.pipeline(tmp_path / "b", "eps")
    assert locate(ModelSpec(str(eps))).objective == "eps"
    (eps / "scheduler" / "scheduler_config.json").unlink()
    assert locate(ModelSpec(str(eps))).objective == "eps"  # by its channels
    (eps / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(CommonArtError, match="v_prediction"):
        locate(ModelSpec(str(eps)))


def test_a_picture_does_not_depend_on_batch_and_order(folder):
    requests = [
        ImageRequest("a red circle", 1),
        ImageRequest("赤い丸のある草原", 2),
        ImageRequest("a", 1),
        ImageRequest("", 3),
        ImageRequest("a red circle", 2),
    ]
    pipeline = opened(folder)
    alone = [generate(pipeline, [job], batch=1)[0] for job in requests]
    together = generate(pipeline, requests, batch=8)
    reversed_ = generate(pipeline, requests[::-1], batch=2)[::-1]
    for one, two, three in zip(alone, together, reversed_, strict=True):
        # Matrix products of other shapes round otherwise: one level of 255 at most.
        assert np.abs(one.astype(int) - two).max() <= 1
        assert np.abs(one.astype(int) - three).max() <= 1
    assert np.abs(alone[0].astype(int) - alone[4]).max() > 5, "another seed is another picture"
    assert np.abs(alone[0].astype(int) - alone[2]).max() > 1, "another prompt is another picture"


def test_parts_that_are_freed_draw_the_same(folder):
    requests = [ImageRequest("a red circle", 1), ImageRequest("a blue square", 2)]
    pipeline = opened(folder, keep=False)
    freed = generate(pipeline, requests)
    assert not pipeline._loaded
    assert all(np.array_equal(a, b) for a, b in zip(freed, generate(opened(folder), requests), strict=True))


@pytest.mark.slow
def test_a_compiled_transformer_draws_the_same(folder, monkeypatch):
    """Traced as for a real backend, run eagerly: what a compiler would make of it is torch's business."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend="eager"))
    requests = [ImageRequest("a red circle", 1), ImageRequest("a blue square", 2)]
    pipeline = opened(folder, compiled=True)
    for one, two in zip(generate(pipeline, requests), generate(opened(folder), requests), strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1
    assert type(pipeline.transformer()).__name__ == "OptimizedModule"


def takes_bfloat16() -> bool:
    """Whether oneDNN itself lays out weights in bfloat16 on this CPU."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.ones(8, 8, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError):
        return False
    return True


def test_packed_weights_draw_as_exactly_as_plain_ones():
    torch.manual_seed(0)
    exact = PixArt(PixArtConfig(num_layers=2, num_attention_heads=2, caption_channels=24, sample_size=16))
    torch.nn.init.normal_(exact.proj_out.weight)
    exact = exact.eval().requires_grad_(False)
    plain, packed = (copy.deepcopy(exact).bfloat16() for _ in range(2))
    assert pack(packed) is packed
    assert any(isinstance(module, PackedLinear) for module in packed.modules()) == takes_bfloat16()
    assert not any(isinstance(module, PackedLinear) for module in pack(exact).modules())  # float32 stays as it is
    inputs = torch.randn(2, 4, 16, 16), torch.tensor([900.0, 20.0]), torch.randn(2, 5, 24)
    truth = exact(*inputs)
    low = [part.bfloat16() for part in inputs]
    errors = [(model(*low).float() - truth).square().mean().sqrt() for model in (plain, packed)]
    assert errors[1] <= 1.1 * errors[0] < 0.05 * truth.std()


def test_a_cpu_without_bfloat16_in_onednn_draws_all_the_same(folder, monkeypatch):
    monkeypatch.setattr("commonart.core.model.onednn.can_pack", lambda: False)
    pipeline = opened(folder, precision="bf16")
    assert not any(isinstance(module, PackedLinear) for module in pipeline.transformer().modules())
    assert generate(pipeline, [ImageRequest("a red circle", 1)])[0].shape[2] == 3


def test_a_negative_prompt_makes_another_image(folder):
    pipeline = opened(folder)
    requests = [ImageRequest("a red circle", 1)]
    plain, negative, again = (generate(pipeline, requests, negative=text)[0] for text in ("", "blue", ""))
    assert np.array_equal(plain, again) and np.abs(plain.astype(int) - negative).max() > 1


def test_other_sizes(folder):
    assert generate(opened(folder), [ImageRequest("a", 0)], size=(48, 24))[0].shape == (24, 48, 3)


def test_a_long_prompt_is_cut_and_said(folder, capsys):
    pipeline = opened(folder, max_tokens=10)
    generate(pipeline, [ImageRequest("a red circle on a hill", 0)])
    assert pipeline.truncated == {"a red circle on a hill": "a red circ"}
    assert "cut at 10 tokens; kept: a red circ\n" in capsys.readouterr().err, "what is short is shown once"


def test_a_run_is_sampled_with_its_average(tmp_path, folder):
    run = tmp_path / "run"

    def write(part: Path) -> None:
        tiny_pipeline.transformer(part / "transformer", seed=1)
        tiny_pipeline.transformer(part / "ema", seed=2)

    checkpoint.save(run, 10, write, {})
    named = {"name": str(folder)}
    said = {"objective": "flow", "flow_shift": 1.0, "text_encoder": named, "autoencoder": named}
    (run / "run.json").write_text(json.dumps(said))
    parts = locate(ModelSpec(str(run)))
    assert parts.revision == "step-10" and parts.transformer.name == "ema"
    trained = PixArt.load(parts.transformer).state_dict()
    assert torch.equal(trained["proj_out.weight"], PixArt.load(run / "checkpoints/step-0000010/ema").proj_out.weight)
    assert generate(opened(run), [ImageRequest("a", 0)])[0].shape == (32, 32, 3)


def run_of(folder: Path, partners: Path, seed: int = 1) -> Path:
    """A run at step 10 whose weights follow from the seed."""
    checkpoint.save(folder, 10, lambda part: tiny_pipeline.transformer(part / "transformer", seed=seed) and None, {})
    named = {"name": str(partners)}
    recorded = {"objective": "flow", "flow_shift": 1.0, "text_encoder": named, "autoencoder": named}
    (folder / "run.json").write_text(json.dumps(recorded))
    return folder


def test_a_run_that_was_trained_anew_under_its_name_has_another_fingerprint(tmp_path, folder):
    spec = ModelSpec(str(run_of(tmp_path / "run", folder)))
    before = locate(spec)
    assert locate(spec).fingerprint == before.fingerprint
    shutil.rmtree(tmp_path / "run")
    run_of(tmp_path / "run", folder, seed=2)
    assert locate(spec).revision == before.revision == "step-10" and locate(spec).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", None),
        ("text_encoder/model.safetensors", None),
        ("vae/diffusion_pytorch_model.safetensors", None),
        ("vae/config.json", {"scaling_factor": 0.5}),
        ("tokenizer/tokenizer_config.json", {"add_bos_token": True}),
        ("scheduler/scheduler_config.json", {"flow_shift": 2.0}),
    ],
)
def test_every_component_is_in_the_fingerprint(tmp_path, folder, file, change):
    copied = tiny_pipeline.copy(folder, tmp_path / "copy")
    assert locate(ModelSpec(str(copied))).fingerprint == locate(ModelSpec(str(folder))).fingerprint
    path = copied / file
    if change is None:
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert locate(ModelSpec(str(copied))).fingerprint != locate(ModelSpec(str(folder))).fingerprint


def test_a_run_without_a_good_checkpoint(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CommonArtError, match="no good checkpoint"):
        locate(ModelSpec(str(tmp_path)))


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, folder, capsys):
    run = tmp_path / "run"
    for step in (10, 20):
        checkpoint.save(run, step, lambda part: tiny_pipeline.transformer(part / "transformer") and None, {})
    (run / "run.json").write_text(json.dumps({key: {"name": str(folder)} for key in ("text_encoder", "autoencoder")}))
    weights = run / "checkpoints/step-0000020/transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert locate(ModelSpec(str(run))).revision == "step-10"
    assert "step-0000020" in capsys.readouterr().err


def test_the_published_layout_of_commonart_beta(tmp_path, monkeypatch):
    """The registry's row as it is; only where the three repositories lie is this machine's."""
    beta, calm2, sdxl = tiny_pipeline.published(tmp_path)
    where = {"aipicasso/commonart-beta": beta, "cyberagent/calm2-7b": calm2, "stabilityai/sdxl-vae": sdxl}
    commit = "0123456789abcdef0123456789abcdef01234567"

    def resolve(model, **_):
        return hub.ResolvedModel(where[model.hub], commit, model.name, model)

    monkeypatch.setattr(hub, "resolve_model", resolve)
    parts = locate(ModelSpec("commonart-beta"))
    assert (parts.objective, parts.revision, parts.text_encoder) == ("eps", commit, calm2)
    pipeline = Pipeline.open(parts, ModelSpec(device="cpu", precision="fp32"))
    assert generate(pipeline, [ImageRequest("草原のシマウマ", 0)])[0].shape == (32, 32, 3)


def test_without_a_hub_the_error_says_what_and_what_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CommonArtError) as error:
        locate(ModelSpec("commonart-beta"))
    for part in ("aipicasso/commonart-beta", "cyberagent/calm2-7b", "stabilityai/sdxl-vae", "the model `nano`"):
        assert part in error.value.fix, part


def test_a_bare_transformer_needs_the_others_named(tmp_path, folder):
    tiny_pipeline.transformer(tmp_path / "bare")
    with pytest.raises(UsageError, match="a transformer alone") as error:
        locate(ModelSpec(str(tmp_path / "bare")))
    assert "--text-encoder" in error.value.fix
    parts = locate(ModelSpec(str(tmp_path / "bare"), text_encoder=str(folder), autoencoder=str(folder)))
    assert parts.objective == "flow"


@pytest.mark.parametrize("kind", ["text", "latents"])
def test_parts_that_do_not_fit(tmp_path, folder, kind):
    if kind == "text":
        tiny_encoders.llama(tmp_path / "other", width=64)
        pipeline = opened(folder, text_encoder=str(tmp_path / "other"))
        with pytest.raises(CommonArtError, match="64 wide"):
            generate(pipeline, [ImageRequest("a", 0)])
    else:
        config = tiny_pipeline.copy(folder, tmp_path / "copy") / "vae" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"latent_channels": 16}))
        with pytest.raises(CommonArtError, match="16 latent channels"):
            opened(tmp_path / "copy")


DAMAGE = [(f"{part}/{name}", to) for part, name in (
    ("transformer", "diffusion_pytorch_model.safetensors"), ("vae", "diffusion_pytorch_model.safetensors"),
    ("text_encoder", "model.safetensors"), ("text_encoder", "config.json"), ("vae", "config.json"),
) for to in ("cut", "empty")]  # fmt: skip


@pytest.mark.parametrize(("file", "to"), DAMAGE)
def test_a_damaged_file_is_named(tmp_path, folder, file, to):
    broken = tiny_pipeline.copy(folder, tmp_path / "broken") / file
    broken.write_bytes(broken.read_bytes()[:-20] if to == "cut" else b"")
    with pytest.raises(CommonArtError, match=file.split("/")[0]) as error:
        generate(opened(tmp_path / "broken"), [ImageRequest("a", 0)], steps=1)
    assert error.value.fix


@pytest.mark.parametrize(("field", "value"), [("latent_channels", "x"), ("block_out_channels", 5)])
def test_an_autoencoder_whose_config_makes_no_sense(tmp_path, folder, field, value):
    config = tiny_pipeline.copy(folder, tmp_path / "odd") / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {field: value}))
    with pytest.raises(CommonArtError, match="is damaged"):
        opened(tmp_path / "odd")


def test_weights_that_are_not_finite_draw_nothing(folder):
    pipeline = opened(folder)
    pipeline.transformer().proj_out.weight.data.fill_(float("nan"))
    with pytest.raises(CommonArtError, match="not finite"):
        generate(pipeline, [ImageRequest("a", 0)])


def test_what_is_no_text_to_image_model(tmp_path):
    tiny_encoders.llama(tmp_path / "llama")
    with pytest.raises(CommonArtError):
        locate(ModelSpec(str(tmp_path / "llama"), text_encoder="nano", autoencoder="nano"))
    with pytest.raises(UsageError, match="not a transformer model"):
        locate(ModelSpec("no-such-model"))
    assert "nano" in lookup.model_names("transformer")
