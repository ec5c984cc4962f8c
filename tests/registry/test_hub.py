"""core/registry/hub.py against a local server with the hub's interface, through the hub's own client."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from commonart.core.errors import CommonArtError
from commonart.core.registry import hub
from commonart.core.registry.catalogue import Model
from commonart.core.registry.lookup import find_model
from commonart.core.registry.pickle_conversion import convert
from commonart.core.registry.repository_files import select_files

CONFIG = json.dumps({"architectures": ["Florence2ForConditionalGeneration"]}).encode()
WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running:
        yield running.take_over(monkeypatch, tmp_path / "home")


def safetensors(tmp_path: Path, values: dict[str, torch.Tensor] = WEIGHTS) -> bytes:
    save_file(values, tmp_path / "one.safetensors", metadata={"format": "pt"})
    return (tmp_path / "one.safetensors").read_bytes()


def pickled(tmp_path: Path, value: object = WEIGHTS) -> bytes:
    torch.save(value, tmp_path / "one.bin")
    return (tmp_path / "one.bin").read_bytes()


def model(name: str = "owner/captioner", **fields: object) -> Model:
    return Model(name, "caption", name, "Florence2ForConditionalGeneration", "MIT", **fields)  # type: ignore[arg-type]


def test_download_takes_safetensors_and_text_only(server: HubServer, tmp_path: Path) -> None:
    repo = server.add(
        "owner/captioner",
        {
            "config.json": CONFIG, "tokenizer.json": b"{}", "spiece.model": b"x", "chat_template.jinja": b"y",
            "model.safetensors": safetensors(tmp_path), "model.fp16.safetensors": b"twice",
            "pytorch_model.bin": b"pickle", "modeling.py": b"code", "training_args.bin": b"pickle", "img.png": b"x",
        },
    )  # fmt: skip
    found = hub.resolve_model(model())
    names = sorted(p.name for p in found.folder.iterdir())
    assert names == ["chat_template.jinja", "config.json", "model.safetensors", "spiece.model", "tokenizer.json"]
    assert found.revision == repo.sha and found.name == "owner/captioner"
    assert server.fetched() == names
    server.log.clear()
    assert hub.resolve_model(model()).folder == found.folder
    assert server.fetched() == [], "a second time everything is there"


def test_one_part_of_a_pipeline(server: HubServer, tmp_path: Path) -> None:
    server.add(
        "owner/pipe",
        {
            "model_index.json": b"{}", "vae/config.json": b"{}", "tokenizer/tokenizer.json": b"{}",
            "vae/diffusion_pytorch_model.safetensors": safetensors(tmp_path),
            "transformer/config.json": b"{}", "transformer/diffusion_pytorch_model.safetensors": b"large",
        },
    )  # fmt: skip
    found = hub.resolve_model(find_model("owner/pipe", "autoencoder"))
    assert found.folder.name == "vae" and (found.folder.parent / "tokenizer").is_dir()
    assert not (found.folder.parent / "transformer").exists()


def test_a_pinned_commit_and_an_unknown_one(server: HubServer, tmp_path: Path) -> None:
    old = server.add("owner/captioner", {"config.json": CONFIG, "model.safetensors": safetensors(tmp_path)}).sha
    found = hub.resolve_model(find_model(f"owner/captioner@{old}", "caption"))
    assert found.revision == old and found.model.cls == "Florence2ForConditionalGeneration"
    assert found.model.prompts[0].texts[0] == "<MORE_DETAILED_CAPTION>" and found.model.langs == ("en",)
    with pytest.raises(CommonArtError, match="has no commit 1{40}"):
        hub.resolve_model(model(revision="1" * 40))


def test_offline_uses_the_cache_and_says_what_is_missing(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = server.add(
        "owner/captioner", {"config.json": CONFIG, "model.safetensors": safetensors(tmp_path), "x.bin": b""}
    )
    found = hub.resolve_model(model())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve_model(model()) == found
    assert hub.resolve_model(model(revision=repo.sha)).folder == found.folder
    with pytest.raises(CommonArtError) as caught:
        hub.resolve_model(model("owner/other"))
    assert "HF_HUB_OFFLINE is set" in caught.value.what
    assert "hf download owner/other" in caught.value.fix and "the model `nano`" in caught.value.fix
    (found.folder / "model.safetensors").unlink()
    with pytest.raises(CommonArtError, match="is not complete in the cache"):
        hub.resolve_model(model())


def test_a_hub_that_is_down(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("owner/captioner", {"config.json": CONFIG, "model.safetensors": safetensors(tmp_path)})
    found = hub.resolve_model(model())
    server.broken = True
    assert hub.resolve_model(model()).folder == found.folder
    with pytest.raises(CommonArtError, match=rf"the hub at {server.url} cannot be reached"):
        hub.resolve_model(model("owner/other"))


def test_an_interrupted_download_goes_on(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    data = safetensors(tmp_path, {"a": torch.arange(200_000.0)})
    server.add("owner/captioner", {"config.json": CONFIG, "model.safetensors": data}).cut["model.safetensors"] = 300_000
    found = hub.resolve_model(model())
    assert (found.folder / "model.safetensors").read_bytes() == data
    assert server.ranges and server.ranges[0].startswith("model.safetensors from ")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ({"gated": True}, "owner/captioner is gated"),
        ({"private": True}, "The hub has no model owner/captioner, or it is private"),
    ],
)
def test_no_access(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, bool], sentence: str
) -> None:
    server.add("owner/captioner", {"config.json": CONFIG, "model.safetensors": safetensors(tmp_path)}, **kind)
    with pytest.raises(CommonArtError, match=sentence) as caught:
        hub.resolve_model(model())
    assert "HF_TOKEN" in caught.value.fix
    monkeypatch.setenv("HF_TOKEN", HubServer.TOKEN)
    assert (hub.resolve_model(model()).folder / "model.safetensors").is_file()


def test_pickles_are_refused_unless_allowed(server: HubServer, tmp_path: Path) -> None:
    server.add("owner/captioner", {"config.json": CONFIG, "pytorch_model.bin": pickled(tmp_path)})
    with pytest.raises(CommonArtError, match="only as pickles") as caught:
        hub.resolve_model(model())
    assert "--allow-pickle" in caught.value.fix
    assert server.fetched() == [], "nothing was downloaded to find that out"


def test_pickles_are_converted_once(server: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.add("owner/captioner", {"config.json": CONFIG, "pytorch_model.bin": pickled(tmp_path)})
    found = hub.resolve_model(model(pickle_only=True))
    assert sorted(p.name for p in found.folder.iterdir()) == ["config.json", "model.safetensors"]
    made = load_file(found.folder / "model.safetensors")
    assert all(torch.equal(made[k], v) for k, v in WEIGHTS.items())
    assert "converting it once" in capfd.readouterr().err
    assert hub.resolve_model(model(), allow_pickle=True).folder == found.folder
    assert "converting" not in capfd.readouterr().err


def test_sharded_pickles(tmp_path: Path) -> None:
    (made := tmp_path / "made").mkdir()
    files = {name: f"pytorch_model-0000{n}-of-00002.bin" for n, name in enumerate(WEIGHTS, 1)}
    for name, file in files.items():
        (tmp_path / file).write_bytes(pickled(tmp_path, {name: WEIGHTS[name]}))
    (tmp_path / "one.bin").unlink()
    index = {"metadata": {}, "weight_map": files}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    convert(tmp_path, made)
    index = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    assert torch.equal(load_file(made / index["b"])["b"], WEIGHTS["b"])


class Trap:
    """What a hostile pickle holds."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


def test_a_pickle_with_code_is_not_run(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server.add("owner/captioner", {"config.json": CONFIG, "pytorch_model.bin": pickled(tmp_path, {"a": Trap()})})
    with pytest.raises(CommonArtError, match="could not be converted"):
        hub.resolve_model(model(), allow_pickle=True)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(pickle.UnpicklingError):
        convert(tmp_path, tmp_path)
    assert not (tmp_path / "PWNED").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_repository_without_weights(server: HubServer) -> None:
    server.add("owner/captioner", {"config.json": CONFIG})
    with pytest.raises(CommonArtError, match="no weights that can be loaded here"):
        hub.resolve_model(model())


SELECTED = [  # (files of a repository, the weights among them that are downloaded)
    ("model.safetensors model.fp16.safetensors", "model.safetensors"),
    ("model.fp16.safetensors", "model.fp16.safetensors"),
    ("model.bf16.safetensors model.fp16.safetensors", "model.fp16.safetensors"),
    ("model.bf16.safetensors model.fp16.safetensors pytorch_model.bin", "model.fp16.safetensors"),
    ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
    ("diffusion_pytorch_model.non_ema.safetensors diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
    ("open_clip_model.safetensors model.safetensors", "open_clip_model.safetensors"),
    ("flux1-dev.safetensors", "flux1-dev.safetensors"),
    ("model.safetensors.index.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.fp16.safetensors",
     "model-00001-of-00002.safetensors model-00002-of-00002.safetensors"),
    ("model.safetensors.index.fp16.json model.fp16-00001-of-00002.safetensors model.fp16-00002-of-00002.safetensors",
     "model.fp16-00001-of-00002.safetensors model.fp16-00002-of-00002.safetensors"),
    ("model.safetensors.index.fp16.json model-00001-of-00002.fp16.safetensors model-00002-of-00002.fp16.safetensors",
     "model-00001-of-00002.fp16.safetensors model-00002-of-00002.fp16.safetensors"),
    ("model.safetensors.index.json model-00001-of-00001.safetensors model.safetensors.index.fp16.json "
     "model.fp16-00001-of-00001.safetensors", "model-00001-of-00001.safetensors"),
    ("model.safetensors.index.json model.safetensors-00001-of-00001.safetensors", "model.safetensors-00001-of-00001.safetensors"),
    ("net.safetensors.index.json net-00001-of-00001.safetensors", "net-00001-of-00001.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "weights"), SELECTED)
def test_weights_are_downloaded_once_in_a_form_that_is_loaded(files: str, weights: str) -> None:
    for folder in ("", "vae/"):
        names = [folder + name for name in ("config.json", *files.split())]
        found = select_files(names, "autoencoder")
        assert [f for f in found if f.endswith(".safetensors")] == [folder + name for name in weights.split()]


def test_a_byte_order_mark_is_read_or_named(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + CONFIG)
    assert find_model(str(tmp_path), "caption").cls == "Florence2ForConditionalGeneration"
    assert hub.resolve_model(find_model(str(tmp_path), "transformer")).folder == tmp_path
    with pytest.raises(CommonArtError, match=r"config\.json begins with a byte order mark") as caught:
        hub.resolve_model(find_model(str(tmp_path), "caption"))
    assert caught.value.fix == "Save it as UTF-8 without a byte order mark."


def test_local_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(CommonArtError, match=r"not a model folder: it has no config\.json"):
        hub.resolve_model(find_model(str(folder), "caption"))
    (folder / "config.json").write_bytes(CONFIG)
    with pytest.raises(CommonArtError, match=r"holds no \*\.safetensors"):
        hub.resolve_model(find_model(str(folder), "caption"))
    save_file(WEIGHTS, folder / "model.safetensors")
    found = hub.resolve_model(find_model(str(folder), "caption"))
    assert found.folder == folder and found.revision.startswith("sha256:")
    (folder / "README.md").write_text("notes")
    assert hub.resolve_model(find_model(str(folder), "caption")).revision == found.revision, "notes are not the model"
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    assert hub.resolve_model(find_model(str(folder), "caption")).revision != found.revision


def test_missing_nano_weights_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "NANO_WEIGHTS", tmp_path)
    with pytest.raises(CommonArtError) as caught:
        hub.resolve_model(find_model("nano", "caption"))
    assert "commonart nano build" in caught.value.fix


def test_the_environment_is_honoured(server: HubServer, tmp_path: Path) -> None:
    """In a fresh process, as a user sets it: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE."""
    server.add("owner/captioner", {"config.json": CONFIG, "model.safetensors": safetensors(tmp_path)}, private=True)
    code = (
        "import sys; from commonart.core.registry import hub, lookup; "
        "print(hub.resolve_model(lookup.find_model('owner/captioner', 'caption')).revision); assert 'torch' not in sys.modules"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    online = {**clean, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "fresh"), "HF_TOKEN": HubServer.TOKEN}
    for env in (online, {**online, "HF_HUB_OFFLINE": "1"}):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == server.repos["owner/captioner"].sha, done.stderr
    assert list((tmp_path / "fresh" / "hub").rglob("model.safetensors"))
    assert HubServer.TOKEN not in done.stderr


def test_another_tokenizer_is_another_text_encoder(tmp_path: Path) -> None:
    for part, file in (
        ("text_encoder", "config.json"),
        ("text_encoder", "model.safetensors"),
        ("tokenizer", "tokenizer.json"),
    ):
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / file).write_bytes(safetensors(tmp_path) if file.endswith("s") else b"{}")
    (tmp_path / "one.safetensors").unlink()
    before = hub.resolve_model(find_model(str(tmp_path), "text-encoder"))
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes(b'{"model": 1}')
    after = hub.resolve_model(find_model(str(tmp_path), "text-encoder"))
    assert before.folder == after.folder == tmp_path / "text_encoder"
    assert before.revision != after.revision
