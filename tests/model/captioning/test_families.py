"""Captioners on tiny random models of their real classes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language_models as tiny
import torch
import transformers
from PIL import Image

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.captioning import generate, phi3_vision
from commonart.core.model.captioning.captioners import ADAPTERS, Captioner
from commonart.core.model.captioning.generate import Inputs
from commonart.core.registry import hub
from commonart.core.registry.lookup import find_model
from commonart.stages.caption import Item, _parts


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.captioners(tmp_path_factory.mktemp("captioners"))


def written(captioner: Captioner, images: Sequence[Image.Image], **options: Any) -> list[str]:
    """The texts to the model's usual prompt; a picture that failed is named by its reason."""
    answers = captioner.caption(images, captioner.model.prompts[0].texts[0], **options)
    return [answer.reason if isinstance(answer, Problem) else answer.text for answer in answers]


@pytest.mark.parametrize("name", tiny.CAPTIONERS)
def test_every_family(name: str, folders: dict[str, Path]) -> None:
    """A batch of pictures of several shapes gives what each gives alone, and the same again."""
    captioner = Captioner.open(str(folders[name]), precision="fp32", max_new_tokens=12)
    together = written(captioner, tiny.pictures())
    assert len(together) == 3 and len(set(together)) > 1, "the picture must matter"
    assert together == [written(captioner, [picture])[0] for picture in tiny.pictures()]
    assert not any("<image>" in text or "USER" in text or "Describe" in text for text in together)
    assert written(captioner, []) == []


def test_florence2_is_what_transformers_says(folders: dict[str, Path]) -> None:
    folder = folders["florence2"]
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(text="<MORE_DETAILED_CAPTION>", images=tiny.pictures()[0], return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=12, num_beams=3, do_sample=False)
    expected = generate.tidy(processor.batch_decode(ids, skip_special_tokens=True)[0])
    captioner = Captioner.open(str(folder), precision="fp32", max_new_tokens=12)
    assert written(captioner, tiny.pictures()[:1]) == [expected]


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl", "llava-jp"])
def test_a_batch_goes_on_without_the_texts_that_have_ended(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts, and where they end, are those of one call of `generate`, in float64."""
    captioner = Captioner.open(str(folders[name]), precision="fp32", max_new_tokens=40)
    loaded = captioner.loaded
    loaded.model.double()
    loaded.dtype = torch.float64
    rng = np.random.default_rng(1)
    many = [Image.fromarray(rng.integers(0, 255, (40 + 4 * n, 90 - 5 * n, 3), dtype=np.uint8)) for n in range(9)]
    inputs = captioner.prepare(many, captioner.model.prompts[0].texts[0])
    plain = {"max_new_tokens": 40, "do_sample": False, "num_beams": 1}
    tensors = {k: v.double() if v.is_floating_point() else v for k, v in inputs.tensors.items()}
    with torch.inference_mode():
        texts = loaded.model.generate(**tensors, **plain)[:, inputs.skip :]
        # The token that is written first at the most different moments becomes the end of a text.
        firsts = {
            token: {tuple(row.tolist()).index(token) for row in texts if token in row}
            for token in texts.unique().tolist()
        }
        ends = [max(firsts, key=lambda token: len(firsts[token]))]
        monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", ends)
        whole = loaded.model.generate(**tensors, **plain)[:, inputs.skip :]
        calls, real = [], loaded.model.generate
        monkeypatch.setattr(
            loaded.model, "generate", lambda **kwargs: calls.append(len(kwargs["input_ids"])) or real(**kwargs)
        )
        answers = loaded.generate(inputs.tensors, skip=inputs.skip, max_new_tokens=40, num_beams=1)
    ended = torch.isin(whole, torch.tensor(ends))
    assert [a.finished for a in answers] == ended.any(1).tolist()
    assert [a.tokens for a in answers] == [int(row.int().argmax()) + 1 if row.any() else 40 for row in ended]
    assert [a.text for a in answers] == [
        generate.tidy(t) for t in loaded.processor.batch_decode(whole, skip_special_tokens=True)
    ]
    assert calls[0] == 9 and calls == sorted(calls, reverse=True)
    if name != "qwen3-vl":  # whose texts all end at once
        assert len(calls) > 1 and calls[-1] <= 4


def test_images_of_one_length_stand_together(folders: dict[str, Path]) -> None:
    """Where the processor gives larger images more tokens, a batch holds images of one length if there are some."""
    florence, qwen = (Captioner.open(str(folders[name]), precision="fp32") for name in ("florence2", "qwen2-vl"))
    assert florence.image_tokens((30, 60)) == florence.image_tokens((600, 60))
    assert qwen.image_tokens((56, 56)) == 4 and qwen.image_tokens((28, 28)) == 1 and qwen.image_tokens((2000, 2)) == 0
    items = [Item({"key": str(n)}, (0,), Image.new("RGB", ((56, 56), (28, 28), (28, 56))[n % 3])) for n in range(27)]
    items += [Item({"key": "wide"}, (0,), Image.new("RGB", (70, 20)))]
    parts = _parts(qwen, items, 8)
    lengths = [{qwen.image_tokens(item.image.size) for item in part if item.image} for part in parts]
    assert sum(map(len, parts)) == 28 and max(map(len, parts)) == 8
    assert all(len(kinds) == 1 for kinds in lengths[:-1])


def test_the_largest_batch_is_found_from_memory(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    open_one = lambda: Captioner.open(str(folders["florence2"]), precision="fp32", side=64)  # noqa: E731
    monkeypatch.setattr(generate.memory, "taken_by", lambda device, work: (work(), 4 * 1000)[1])  # 1,000 bytes an image
    monkeypatch.setattr(generate.memory, "free", lambda _: 23_000)
    assert open_one().largest_batch == 8, "half of what is free, as a power of two"
    monkeypatch.setattr(generate.memory, "free", lambda _: 10)
    assert open_one().largest_batch == 1
    monkeypatch.setattr(generate.memory, "free", lambda _: float("inf"))
    assert open_one().largest_batch == 64


def test_memory_that_is_taken_is_measured() -> None:
    block: list[torch.Tensor] = []
    taken = generate.memory.taken_by(torch.device("cpu"), lambda: block.append(torch.ones(16 << 20)))  # 64 MiB
    assert taken == 0 or 60 << 20 <= taken <= 90 << 20


def test_in_eight_bits(folders: dict[str, Path]) -> None:
    """--quantize rounds the layers, not the head; its captions are others than those of the full precision."""
    captioner = Captioner.open(str(folders["llava-jp"]), precision="fp32", quantize="quanto-int8", max_new_tokens=8)
    assert captioner.settings == {"precision": "quanto-int8/float32", "max_new_tokens": 8}
    names = {type(module).__name__ for module in captioner.loaded.model.modules()}
    assert "QLinear" in names and type(captioner.loaded.model.lm_head) is torch.nn.Linear
    assert len(written(captioner, tiny.pictures())) == 3 and "model_error" not in written(captioner, tiny.pictures())
    with pytest.raises(UsageError, match="--quantize int3 is not a known method"):
        Captioner.open(str(folders["llava-jp"]), quantize="int3")


def test_the_table_s_classes_have_adapters() -> None:
    from commonart.core.registry.catalogue import MODELS

    rows = [m for m in MODELS if m.role == "caption" and not m.broken]
    assert {m.cls for m in rows} <= Captioner.MODEL_CLASSES
    assert all(hasattr(transformers, cls) or hasattr(phi3_vision, cls) for cls in ADAPTERS)


def test_half_precision(folders: dict[str, Path]) -> None:
    captioner = Captioner.open(str(folders["florence2"]), precision="bf16", max_new_tokens=4)
    assert captioner.loaded.model.dtype == torch.bfloat16
    assert len(written(captioner, tiny.pictures())) == 3


def test_out_of_memory_halves_the_batch(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner.open(str(folders["florence2"]), precision="fp32", max_new_tokens=4)
    expected = written(captioner, tiny.pictures() * 2)
    family = "Florence2ForConditionalGeneration"
    real, sizes = ADAPTERS[family], []

    def scarce(loaded: object, images: Sequence[Image.Image], *rest: object) -> Inputs:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("no memory")
        return real(loaded, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setitem(ADAPTERS, family, scarce)
    assert written(captioner, tiny.pictures() * 2) == expected
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert written(captioner, tiny.pictures()) == expected[:3]
    assert max(sizes[8:]) == 1, "what did not fit is not tried again"
    assert "batches of 1" in capsys.readouterr().err

    def none(*_: object) -> Inputs:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setitem(ADAPTERS, family, none)
    assert written(captioner, tiny.pictures()) == ["out_of_memory"] * 3


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
        written(Captioner.open(str(broken)), tiny.pictures())
    with pytest.raises(UsageError, match="blip2-opt is refused"):
        Captioner.open("blip2-opt")


@pytest.mark.skipif(not (hub.NANO_WEIGHTS / "captioner").is_dir(), reason="the nano weights are not built")
def test_nano_goes_through_the_same_adapter() -> None:
    captioner = Captioner(hub.resolve_model(find_model("nano", "caption")))
    assert captioner.model.cls == "Florence2ForConditionalGeneration" and captioner.license == "Apache-2.0"
    assert written(captioner, [Image.new("RGB", (64, 64), "white")])[0]


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_in_half_precision_alone(tmp_path: Path, folders: dict[str, Path], variant: str) -> None:
    half = tmp_path / "half"
    shutil.copytree(folders["florence2"], half)
    (half / "model.safetensors").rename(half / f"model.{variant}.safetensors")
    whole = Captioner.open(str(folders["florence2"]))
    assert written(Captioner.open(str(half)), tiny.pictures()) == written(whole, tiny.pictures())
