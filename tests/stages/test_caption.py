"""Captioners on tiny random models of their real classes, and the stage around them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_language_models as tiny
import torch
import transformers
from commands import Command
from PIL import Image

from commonart.core.data.drops import Drop
from commonart.core.data.record import Record
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.captioning import generate
from commonart.core.model.captioning.captioners import ADAPTERS, Captioner
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model
from commonart.stages.caption import caption, open_models

SIZES = ((48, 64), (64, 64), (40, 90))


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in SIZES]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("captioners")
    return {name: build(base / name) for name, build in tiny.CAPTIONERS.items()}


@pytest.fixture
def png(tmp_path: Path) -> list[Record]:
    """Three records, each with a picture of its own."""
    records: list[Record] = []
    for i, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{i}.png")
        records.append({"key": f"k{i}", "image": str(tmp_path / f"{i}.png"), "extra": i})
    return records


class Fake:
    """A captioner that says which picture it saw, and counts."""

    name, revision, license, lang, accepted = "fake", "r1", "MIT", "en", False

    def __init__(self, name: str = "fake", silent: Iterable[int] = ()) -> None:
        self.name, self.silent, self.seen = name, set(silent), [0]

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        self.seen.append(len(images))
        return ["" if image.width in self.silent else f"{image.width} wide" for image in images]


def run(records: Iterable[Record], *models: object, batch: int = 2) -> tuple[list[Record], Drop, list[Record]]:
    kept: list[Record] = []
    drop = Drop(kept.append)
    return list(caption(records, drop, models=list(models), batch=batch)), drop, kept  # type: ignore[arg-type]


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CAPTIONERS)
def test_every_family(name: str, folders: dict[str, Path]) -> None:
    """A batch of pictures of several shapes gives what each gives alone, and the same again."""
    captioner = Captioner.open(str(folders[name]), precision="fp32", max_new_tokens=12)
    together = captioner.caption(pictures())
    assert len(together) == 3 and len(set(together)) > 1, "the picture must matter"
    assert together == [captioner.caption([picture])[0] for picture in pictures()]
    assert not any("<image>" in text or "USER" in text or "Describe" in text for text in together)
    assert captioner.caption([]) == []
    assert captioner.lang == ("ja" if name == "llava-jp" else "en")


def test_florence2_is_what_transformers_says(folders: dict[str, Path]) -> None:
    folder = folders["florence2"]
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(text="<MORE_DETAILED_CAPTION>", images=pictures()[0], return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**inputs, max_new_tokens=12, num_beams=3, do_sample=False)
    expected = generate.tidy(processor.batch_decode(written, skip_special_tokens=True)[0])
    captioner = Captioner.open(str(folder), precision="fp32", max_new_tokens=12)
    assert captioner.caption(pictures()[:1]) == [expected]


def test_the_table_s_classes_have_adapters() -> None:
    from commonart.core.registry.catalogue import MODELS

    rows = [m for m in MODELS if m.role == "caption" and not m.broken]
    assert {m.cls for m in rows} <= set(ADAPTERS)
    assert all(hasattr(transformers, cls) for cls in ADAPTERS)


def test_half_precision(folders: dict[str, Path]) -> None:
    captioner = Captioner.open(str(folders["florence2"]), precision="bf16", max_new_tokens=4)
    assert captioner.loaded.model.dtype == torch.bfloat16
    assert len(captioner.caption(pictures())) == 3


def test_out_of_memory_halves_the_batch(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner.open(str(folders["florence2"]), precision="fp32", max_new_tokens=4)
    expected = captioner.caption(pictures() * 2)
    family = "Florence2ForConditionalGeneration"
    real, sizes = ADAPTERS[family], []

    def scarce(loaded: object, images: Sequence[Image.Image], *rest: object) -> list[str]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("no memory")
        return real(loaded, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setitem(ADAPTERS, family, scarce)
    assert captioner.caption(pictures() * 2) == expected
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert captioner.caption(pictures()) == expected[:3]
    assert max(sizes[8:]) == 1, "what did not fit is not tried again"
    assert "batches of 1" in capsys.readouterr().err

    def none(*_: object) -> list[str]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setitem(ADAPTERS, family, none)
    with pytest.raises(CommonArtError, match="does not fit into the memory of cpu"):
        captioner.caption(pictures())


def test_models_that_cannot_be_loaded(tmp_path: Path, folders: dict[str, Path]) -> None:
    wrong = tiny.llama(tmp_path / "llama")
    with pytest.raises(CommonArtError, match="is a LlamaForCausalLM, which has no adapter for caption"):
        Captioner.open(str(wrong))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folders["florence2"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CommonArtError, match="cannot be loaded from"):
        Captioner.open(str(broken)).caption(pictures())
    with pytest.raises(UsageError, match="blip2-opt is refused"):
        Captioner.open("blip2-opt")


@pytest.mark.skipif(not (hub.NANO_WEIGHTS / "captioner").is_dir(), reason="the nano weights are not built")
def test_nano_goes_through_the_same_adapter() -> None:
    captioner = Captioner(hub.resolve_model(find_model("nano", "caption")))
    assert captioner.model.cls == "Florence2ForConditionalGeneration" and captioner.license == "Apache-2.0"
    assert captioner.caption([Image.new("RGB", (64, 64), "white")])[0]


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_in_half_precision_alone(tmp_path: Path, folders: dict[str, Path], variant: str) -> None:
    half = tmp_path / "half"
    shutil.copytree(folders["florence2"], half)
    (half / "model.safetensors").rename(half / f"model.{variant}.safetensors")
    assert Captioner.open(str(half)).caption(pictures()) == Captioner.open(str(folders["florence2"])).caption(
        pictures()
    )


# -- the stage ---------------------------------------------------------------------------------------------------------


def test_a_caption_for_each_model(png: list[Record]) -> None:
    out, drop, _ = run(png, Fake("a"), Fake("b"))
    assert [r["key"] for r in out] == ["k0", "k1", "k2"] and [r["extra"] for r in out] == [0, 1, 2]
    assert out[0]["captions"] == [
        {"text": "64 wide", "lang": "en", "model": name, "revision": "r1", "license": "MIT", "synthetic": True,
         "translated_from": None}
        for name in "ab"
    ]  # fmt: skip
    assert not drop.reasons


def test_what_is_there_is_not_asked_again(png: list[Record]) -> None:
    first, _, _ = run(png, Fake("a"))
    del first[1]["image"]  # a finished record does not even need its picture
    a, b = Fake("a"), Fake("b")
    again, drop, _ = run(first[:1] + first[2:], a, b)
    assert sum(a.seen) == 0 and sum(b.seen) == 2
    assert [[c["model"] for c in r["captions"]] for r in again] == [["a", "b"]] * 2
    done, _, _ = run(first, Fake("a"))
    assert done == first and not drop.reasons


def test_finished_records_keep_their_place(png: list[Record]) -> None:
    done: list[Record] = [{"key": f"d{i}", "captions": [{"text": "x", "model": "fake"}]} for i in range(200)]
    mixed = [*done[:5], png[0], *done[5:150], png[1], *done[150:], png[2]]
    keys = [r["key"] for r in mixed]
    assert [r["key"] for r in run(mixed, Fake())[0]] == keys


def test_failures_have_reasons(png: list[Record], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    bad: list[Record] = [
        {"key": "none"},
        {"key": "gone", "image": str(tmp_path / "gone.png")},
        {"key": "text", "image": str(tmp_path / "text.png")},
    ]
    out, drop, kept = run([*bad, *png], Fake(silent={90}))
    assert [r["key"] for r in out] == ["k0", "k1"]
    assert drop.reasons == {"no_image": 1, "image_unreadable": 1, "not_an_image": 1, "empty_caption": 1}
    assert drop.failures == 4
    assert {r["key"]: r["reason"] for r in kept}["gone"] == "image_unreadable"
    # One of two models wrote something: the record stays.
    assert len(run(png, Fake("a", silent={90}), Fake("b"))[0]) == 3


def test_the_user_s_word_is_kept_in_the_record(png: list[Record]) -> None:
    model = Fake()
    model.accepted = True
    assert run(png, model)[0][0]["captions"][0]["terms_accepted"] is True


@pytest.mark.parametrize("names", ["", "nano,", "nano,nano"])
def test_bad_model_lists(names: str) -> None:
    with pytest.raises(UsageError, match="--model"):
        open_models(names)


def test_the_command(in_process: Command, tmp_path: Path, folders: dict[str, Path]) -> None:
    """`caption A.tar | translate`, with local folders, as in README's pipeline."""
    translator = tiny.phi3(tmp_path / "translator")
    with ShardWriter(tmp_path / "00000.tar") as writer:
        for i, picture in enumerate(pictures()):
            file = io.BytesIO()
            picture.save(file, "png")
            writer.add_record({"key": f"k{i}"}, file.getvalue(), "png")
    first = in_process("caption", "--model", str(folders["florence2"]), "--precision", "fp32", "00000.tar")
    assert first.returncode == 0, first.stderr.decode()
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [r["key"] for r in lines] == ["k0", "k1", "k2"] and all(r["captions"][0]["text"] for r in lines)
    summary = json.loads(first.stderr.splitlines()[-1])
    assert (summary["stage"], summary["in"], summary["out"]) == ("caption", 3, 3)
    second = in_process("translate", "--to", "ja", "--model", str(translator), input=first.stdout)
    assert second.returncode == 0, second.stderr.decode()
    assert [json.loads(line)["key"] for line in second.stdout.splitlines()] == ["k0", "k1", "k2"]


def test_the_command_refuses(in_process: Command) -> None:
    done = in_process("caption", "--model", "blip2-opt", "x.jsonl")
    assert done.returncode == 2 and b"non-commercial" in done.stderr and b"--accept-terms blip2-opt" in done.stderr
    assert done.stdout == b"" and b"Traceback" not in done.stderr
