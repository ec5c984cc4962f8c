"""`256-early` from nothing with other autoencoders and text encoders than the paper's, from pictures to a sample.

Tiny random models of the real classes, on a local server under the names and in the layouts of the hub, and every command
of the way: shard, encode-text, encode-image, train, sample.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import tiny_encoders as tiny
from commands import call
from hub_server import HubServer
from PIL import Image

from commonart.core.data.features.format import Features
from commonart.core.data.shards.manifest import read_manifest
from commonart.core.generation.components import locate
from commonart.core.generation.export import export
from commonart.core.generation.request import ModelSpec
from commonart.core.model.transformer import PixArt
from commonart.core.registry.lookup import find_model
from commonart.core.report.ledger import models_used
from commonart.core.training import checkpoint

TOY = ("layers=1", "heads=2", "head_dim=16", "batch=4", "micro_batch=2", "steps=2", "warmup=1", "resolution=64")
COUNT, TEXTS = 12, ("a red circle on the grass", "草原の上の赤い丸", "a blue star", "小さな青い星")


def llama(folder: Path) -> None:
    tiny.llama(folder)


def sarashina(folder: Path) -> None:
    """As published: a unigram model of sentencepiece under the name of LlamaTokenizer, and no tokenizer.json."""
    tiny.llama(folder, vocabulary=320)
    for file in folder.glob("*token*"):
        file.unlink()
    choose = random.Random(0)
    lines = [" ".join(choose.choices(TEXTS, k=3)) for _ in range(200)]
    tiny.sentencepiece(
        folder,
        lines,
        vocab_size=320,
        byte_fallback=True,
        add_dummy_prefix=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
    )
    (folder / "spiece.model").rename(folder / "tokenizer.model")
    about = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_prefix_space": False, "legacy": False}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps({**about, **special}))


def qwen3_5(folder: Path) -> None:
    """As published: one file of weights, which is called as if it were several."""
    tiny.qwen(folder, "Qwen3_5")
    name = "model.safetensors-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / name)
    from safetensors import safe_open

    with safe_open(folder / name, "pt") as file:
        index = {"metadata": {}, "weight_map": dict.fromkeys(file.keys(), name)}
    (folder / "model.safetensors.index.json").write_bytes(orjson.dumps(index))


def qwen3_vl(folder: Path) -> None:
    tiny.qwen(folder, "Qwen3VL")


def sdxl(folder: Path) -> None:
    tiny.vae(folder, levels=4)


def flux2(folder: Path) -> None:
    """As published: the VAE of a pipeline."""
    tiny.flux2_vae(folder / "vae", levels=4, channels=32)
    (folder / "model_index.json").write_text("{}")


def dc_ae(folder: Path) -> None:
    tiny.dc_ae(folder, levels=6, channels=32)


MAKERS: dict[str, Callable[[Path], None]] = {
    "sdxl-vae": sdxl, "flux2-vae": flux2, "dc-ae-f32c32": dc_ae, "qwen3.5-2b": qwen3_5, "qwen3-vl": qwen3_vl,
    "sarashina2.2-1b": sarashina, "llm-jp-3-1.8b": llama,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running:
        yield running.take_over(monkeypatch, tmp_path / "home")


def publish(hub: HubServer, role: str, name: str, folder: Path) -> None:
    MAKERS[name](folder)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    hub.add(find_model(name, role).hub, files)


def pictures(folder: Path) -> None:
    """Records of pictures in `folder`, with captions in two languages."""
    folder.mkdir()
    with (folder / "records.jsonl").open("wb") as out:
        for n in range(COUNT):
            image = Image.linear_gradient("L").resize((96, 80)).convert("RGB")
            image.paste((20 * n, 90, 255 - 20 * n), (10 + n, 10, 50 + n, 50))
            file = io.BytesIO()
            image.save(file, "PNG")
            (folder / f"{n}.png").write_bytes(file.getvalue())
            captions = [{"text": TEXTS[n % 2 * 2], "lang": "en"}, {"text": TEXTS[n % 2 * 2 + 1], "lang": "ja"}]
            record = {"key": f"p{n}", "image": str(folder / f"{n}.png"), "license": "CC0-1.0", "captions": captions}
            out.write(orjson.dumps(record) + b"\n")


PAIRS = [  # autoencoder, text encoder, layer, patch, shape of a latent, tokens of an image
    ("flux2-vae", "qwen3.5-2b", -2, 2, (32, 8, 8), 16),
    ("dc-ae-f32c32", "qwen3-vl", -1, 1, (32, 2, 2), 4),
    ("flux2-vae", "sarashina2.2-1b", -1, 1, (32, 8, 8), 64),
    ("sdxl-vae", "llm-jp-3-1.8b", -3, 2, (4, 8, 8), 16),
]


@pytest.mark.parametrize(("vae", "text", "layer", "patch", "shape", "tokens"), PAIRS)
def test_256_early_from_nothing(
    hub: HubServer,
    tmp_path: Path,
    vae: str,
    text: str,
    layer: int,
    patch: int,
    shape: tuple[int, int, int],
    tokens: int,
) -> None:
    publish(hub, "autoencoder", vae, tmp_path / "vae")
    publish(hub, "text-encoder", text, tmp_path / "text")
    pictures(tmp_path / "raw")

    def run(*arguments: str) -> None:
        assert call(tmp_path, *arguments, "-q") == 0, arguments

    run("shard", "raw/records.jsonl", "-o", "shards/", "--size", "64")
    options = ["--device", "cpu", "--precision", "fp32"]
    run("encode-text", "shards/", "--model", text, *([] if layer == -1 else ["--layer", str(layer)]), *options)
    run("encode-image", "shards/", "--model", vae, *options)
    sets = [word for each in (*TOY, f"patch={patch}") for word in ("--set", each)]
    run("train", "--stage", "256-early", "--data", "shards/", "-o", "run", *sets, *options)
    told = {} if layer == -1 else {"layer": layer}
    manifest = read_manifest(tmp_path / "shards" / "text" / "00000.tar")
    assert manifest is not None and {k: v for k, v in manifest.settings.items() if k == "layer"} == told
    latents = tiny.stored(Features(tmp_path / "shards" / "image"), "00000")
    assert len(latents) == COUNT and {mean.shape for mean, _ in latents.values()} == {shape}
    assert all((std.max() == 0) == (vae == "dc-ae-f32c32") for _, std in latents.values())

    about = orjson.loads((tmp_path / "run" / "run.json").read_bytes())
    assert (about["recipe"]["optimizer"], about["objective"], about["init"]) == ("CAME", "eps", {"from": "nothing"})
    assert (about["text_encoder"]["name"], about["autoencoder"]["name"]) == (text, vae)
    assert about["text_encoder"]["width"] == tiny.WIDTH and about["text_encoder"].get("layer", -1) == layer
    found = checkpoint.newest(tmp_path / "run")
    assert found is not None
    config = PixArt.load(found.weights).config
    assert (config.in_channels, config.sample_size, config.patch_size) == (shape[0], shape[1], patch)
    assert (config.sample_size // patch) ** 2 == tokens
    used = {each.role: each for each in models_used(about, [], None)}
    assert {used["text encoder"].license, used["autoencoder"].license} <= {"MIT", "Apache-2.0"}
    assert used["text encoder"].trained_on and used["autoencoder"].trained_on

    # The run knows its parts, and which layer it was trained on.
    run("sample", "草原の上の赤い丸", "--model", "run", "-o", "out.png", "--steps", "2", *options)
    assert Image.open(tmp_path / "out.png").size == (64, 64)
    assert locate(ModelSpec(str(tmp_path / "run"))).layer == layer


def test_another_layer_is_another_model(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features of two layers are not mixed, a run does not go on with another one, and diffusers has no such option."""
    publish(hub, "autoencoder", "sdxl-vae", tmp_path / "vae")
    publish(hub, "text-encoder", "llm-jp-3-1.8b", tmp_path / "text")
    pictures(tmp_path / "raw")

    def run(*arguments: str) -> str:
        capsys.readouterr()
        return "" if call(tmp_path, *arguments, "-q") == 0 else capsys.readouterr().err

    encode: Any = ("encode-text", "shards/", "--model", "llm-jp-3-1.8b", "--device", "cpu", "--precision", "fp32")
    sets = [word for each in TOY for word in ("--set", each)]
    train: Any = ("train", "--stage", "256-early", "--data", "shards/", "-o", "run", *sets, "--device", "cpu")
    assert not run("shard", "raw/records.jsonl", "-o", "shards/", "--size", "64")
    assert "has 3 hidden states" in run(*encode, "--layer", "-4") and not (tmp_path / "shards" / "text").exists()
    assert not run(*encode, "--layer", "-2")
    assert "00000.tar was made with other settings (layer)" in run(*encode)
    assert not run("encode-image", "shards/", "--device", "cpu")
    assert not run(*train)
    with pytest.raises(Exception, match=r"reads hidden state -2 .* PixArtSigmaPipeline reads the last"):
        export(str(tmp_path / "run"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    assert not run(*encode, "--overwrite")
    assert "run cannot go on: text_encoder.layer was -2 and is -1" in run(*train, "--set", "steps=4")
    # It is meant where the run is named: a warning, which goes to stderr.
    assert call(tmp_path, *train, "-o", "other", "--init", "run", "-q") == 0
    assert "run was trained with text_encoder llm-jp-3-1.8b (layer -2), and this run has" in capsys.readouterr().err
