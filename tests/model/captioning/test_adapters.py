"""Every captioner of the catalogue, and others, as tiny random models of their real classes with their real processors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language_models as tiny
import torch
import transformers
from hub_server import HubServer
from PIL import Image
from tiny_phi3_vision import phi3_vision

from commonart.core.data.drops import Problem
from commonart.core.data.images.decode import decode_within
from commonart.core.errors import CommonArtError
from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.generate import Generated, tidy
from commonart.core.registry.lookup import find_model

# Those after the first line are slower, or are not in the catalogue; no other file needs them.
FAMILIES = {
    **tiny.CAPTIONERS,
    "blip2-opt": tiny.blip2_opt, "qwen2.5-vl-3b": tiny.qwen2_5_vl, "phi3-vision": phi3_vision, "idefics3": tiny.idefics3,
    "gemma3": tiny.gemma3, "internvl": tiny.internvl, "phi4-multimodal": tiny.phi4_multimodal,
}  # fmt: skip
ALONE = (
    "phi3-vision",
    "phi4-multimodal",
    "llava-jp",
)  # their processors have no template, or transformers has no class
SIZES = ((48, 64), (64, 64), (40, 90), (90, 30))
LONG = "Describe this image in detail in one paragraph."


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in SIZES]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("adapters")
    return {name: build(base / name) for name, build in FAMILIES.items()}


def opened(folder: Path, **options: Any) -> Captioner:
    return Captioner.open(str(folder), precision="fp32", **{"max_new_tokens": 8, **options})


def in_float64(captioner: Captioner) -> Captioner:
    captioner.loaded.model.double()
    captioner.loaded.dtype = torch.float64
    return captioner


def asked(captioner: Captioner, prompt: str, images: Sequence[Image.Image] = ()) -> list[str]:
    """What each row of a batch says, without padding, a run of one image token as one."""
    tokens = captioner.prepare(images or pictures()[:1], prompt).tensors
    rows = [ids[mask.bool()] for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)]
    texts = captioner.loaded.processor.tokenizer.batch_decode(rows)
    return [re.sub(r"((?!<s>)<[^<>]+>)\1+", r"\1", text) for text in texts]


def one_by_one(folder: Path, cls: str, prompt: str, images: Sequence[Image.Image], tokens: int) -> list[str]:
    """The loop that a user of transformers would write, in float64; chat models through `apply_chat_template`."""
    model = getattr(transformers, cls).from_pretrained(folder, dtype=torch.float64).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    texts = []
    for image in images:
        if processor.chat_template:
            content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt",
                add_generation_prompt=True,
            )  # fmt: skip
        else:
            inputs = processor(text=prompt, images=image, return_tensors="pt")
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        text_config = model.config.get_text_config(decoder=True)
        skip = 0 if text_config.is_encoder_decoder or model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[:, skip:]
        texts.append(tidy(processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]))
    return texts


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ALONE])
def test_a_batch_is_the_loop_of_transformers(name: str, folders: dict[str, Path]) -> None:
    """Pictures of four shapes at once, in float64, against one after the other."""
    captioner = in_float64(opened(folders[name], max_new_tokens=16))
    prompt = captioner.model.prompts[0].texts[0]
    answers = captioner.caption(pictures(), prompt)
    expected = one_by_one(folders[name], captioner.model.cls, prompt, pictures(), 16)
    assert [answer.text for answer in answers if isinstance(answer, Generated)] == expected
    assert len(set(expected)) > 1, "the picture must matter"
    special = captioner.loaded.processor.tokenizer.all_special_tokens
    assert not any(prompt in text or token in text for text in expected for token in special)


@pytest.mark.parametrize("name", ALONE)
def test_a_batch_is_one_by_one(name: str, folders: dict[str, Path]) -> None:
    captioner = in_float64(opened(folders[name]))
    prompt = captioner.model.prompts[0].texts[0]
    answers = captioner.caption(pictures(), prompt)
    assert answers == [captioner.caption([picture], prompt)[0] for picture in pictures()]
    assert len(set(answers)) > 1 and all(isinstance(answer, Generated) for answer in answers)


QWEN = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{LONG}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "florence2": ("<MORE_DETAILED_CAPTION>", "<image><s>Describe with a paragraph what is shown in the image.</s>"),
    "blip2": ("a photo of", "<image>a photo of"),
    "blip2-opt": ("a photo of", "<image>a photo of"),
    "qwen2-vl": (LONG, QWEN),
    "qwen2.5-vl-3b": (LONG, QWEN),
    "qwen3-vl": (
        "この画像を日本語の一文で説明してください。",
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>この画像を日本語の一文で説明してください。<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "llava-jp": ("USER: <image>\nこの画像を説明してください。\nASSISTANT: ",) * 2,
    "phi3-vision": (LONG, f"<|user|>\n<|image|>\n{LONG}<|end|>\n<|assistant|>\n"),
    "phi4-multimodal": (LONG, f"<|user|><|endoftext10|>\n{LONG}<|end|><|assistant|>"),
    "gemma3": (
        LONG,
        f"<s><start_of_turn>user\n\n\n<start_of_image><image_soft_token><end_of_image>\n\n{LONG}<end_of_turn>\n"
        "<start_of_turn>model\n",
    ),
    "internvl": (LONG, f"<|im_start|>user\n<img><IMG_CONTEXT></img>\n{LONG}<|im_end|>\n<|im_start|>assistant\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPTS)
def test_what_a_model_is_asked(name: str, folders: dict[str, Path]) -> None:
    """The image before the question, the turn of the model open, no token twice."""
    prompt, expected = PROMPTS[name]
    assert asked(opened(folders[name]), prompt) == [expected]


def test_a_grid_of_tiles_is_asked_about_once(folders: dict[str, Path]) -> None:
    (text,) = asked(opened(folders["idefics3"]), LONG)
    assert text.startswith(
        "<s>User:<fake_token_around_image><row_1_col_1><image><fake_token_around_image><row_1_col_2>"
    )
    assert text.count("<global-img>") == 1 and text.endswith(f"{LONG}<end_of_utterance>\nAssistant:")


def test_every_row_has_a_family_here() -> None:
    """A row of the catalogue without a test on its class is a promise without a proof."""
    from commonart.core.registry.catalogue import MODELS

    same = {
        "nano": "florence2",
        "nano-ja": "llava-jp",
        "phi3.5-vision": "phi3-vision",
        "qwen3-vl-4b": "qwen3-vl",
        "qwen3-vl-8b": "qwen3-vl",
    }
    for row in MODELS:
        if row.role == "caption" and not row.broken:
            assert same.get(row.name, row.name) in FAMILIES
            assert row.cls == find_model(same.get(row.name, row.name), "caption").cls


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl", "phi3-vision", "internvl", "idefics3"])
def test_shorter_prompts_are_padded_on_the_left(name: str, folders: dict[str, Path]) -> None:
    captioner = opened(folders[name])
    inputs = captioner.prepare(pictures(), captioner.model.prompts[0].texts[0]).tensors
    mask = inputs["attention_mask"]
    assert len(set(mask.sum(1).tolist())) > 1, "pictures of several shapes take several numbers of tokens"
    assert mask[:, -1].all() and (mask.diff(dim=1) >= 0).all()
    assert len({tuple(row[-5:].tolist()) for row in inputs["input_ids"]}) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_end_with_the_stop_tokens_of_the_checkpoint(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Any of the tokens that generation_config.json names, and what comes behind it is not text."""
    free = opened(folders[name])
    prompt = free.model.prompts[0].texts[0]
    inputs = free.prepare(pictures()[:1], prompt)
    with torch.inference_mode():
        ids = free.loaded.model.generate(**inputs.tensors, max_new_tokens=8, do_sample=False, num_beams=1)[
            0, inputs.skip :
        ]
    end = int(ids[3])
    folder = tmp_path / name
    shutil.copytree(folders[name], folder)
    config = folder / "generation_config.json"
    told = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps({**told, "eos_token_id": [7, end], "num_beams": 1}))
    captioner = opened(folder)
    (answer,) = captioner.caption(pictures()[:1], prompt)
    assert isinstance(answer, Generated) and answer.finished
    at = ids.tolist().index(end, 0 if inputs.skip else 1)
    assert answer.tokens == at + bool(inputs.skip)
    assert captioner.loaded.processor.tokenizer.pad_token_id is not None


def changed(source: Path, target: Path, file: str, **fields: Any) -> Path:
    """A copy of a folder with other fields in one of its JSON files; None removes one."""
    shutil.copytree(source, target)
    told = json.loads((target / file).read_text()) if (target / file).exists() else {}
    (target / file).write_text(json.dumps({k: v for k, v in {**told, **fields}.items() if v is not None}))
    return target


STRINGS = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}<|assistant|>"
LISTS_AS_TEXT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.mark.parametrize(
    ("template", "prompt", "expected"),
    [
        ("", LONG, f"USER: <image>\n{LONG}\nASSISTANT:"),
        ("", "USER: <image>\nwhat?\nASSISTANT:", "USER: <image>\nwhat?\nASSISTANT:"),
        (STRINGS, LONG, f"<|user|><image>\n{LONG}<|end|><|assistant|>"),
        (STRINGS, "<image>Q", "<image>Q"),
        (LISTS_AS_TEXT, LONG, f"user: <image>\n{LONG}\nassistant:"),
        (tiny.IDEFICS_CHAT, "Q", "<s>User:<image>Q<end_of_utterance>\nAssistant:"),
    ],
)
def test_a_llava_of_any_kind(
    tmp_path: Path, folders: dict[str, Path], template: str, prompt: str, expected: str
) -> None:
    """Without a template as LLaVA 1.5 was trained; templates for text alone, and those that know images."""
    folder = shutil.copytree(folders["llava-jp"], tmp_path / "llava")
    if template:
        (folder / "chat_template.jinja").write_text(template)
    captioner = opened(folder)
    assert captioner.model.langs == ("en", "ja"), "not every LLaVA is Japanese"
    assert asked(captioner, prompt) == [expected]
    assert isinstance(captioner.caption(pictures()[:1], prompt)[0], Generated)


def test_models_that_think_are_asked_not_to(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["qwen3-vl"], tmp_path / "thinking")
    with (folder / "chat_template.jinja").open("a") as template:
        template.write("{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}")
    assert asked(opened(folder), "Q")[0].endswith("assistant\n<think></think>")


def test_a_model_without_ends_and_padding_takes_its_tokenizer_s(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = changed(
        folders["llava-jp"], tmp_path / "bare", "generation_config.json", eos_token_id=None, pad_token_id=None
    )
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"]):
        part.pop("eos_token_id", None), part.pop("pad_token_id", None)
    (folder / "config.json").write_text(json.dumps(config))
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in told.items() if k != "pad_token"}))
    captioner = opened(folder)
    assert captioner.loaded.model.generation_config.eos_token_id in (2, [2])
    assert captioner.loaded.processor.tokenizer.pad_token is not None
    assert len(captioner.caption(pictures(), LONG)) == 4


def test_a_large_picture_costs_what_its_side_allows(tmp_path: Path, folders: dict[str, Path]) -> None:
    """3,000 x 2,000 pixels are 7,597 tokens of Qwen2-VL's own limits, and 486 at the usual side."""
    folder = shutil.copytree(folders["qwen2-vl"], tmp_path / "qwen")
    images = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 16384)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    videos = transformers.Qwen2VLVideoProcessor()
    transformers.Qwen2VLProcessor(images, tok, videos, chat_template=tiny.QWEN_CHAT).save_pretrained(folder)
    file = tmp_path / "large.jpg"
    Image.new("RGB", (3000, 2000), "red").save(file)
    captioner = opened(folder, side=768)
    place = tok.convert_tokens_to_ids("<|image_pad|>")

    def tokens(side: int) -> int:
        image = decode_within(file.read_bytes(), side)
        return int((captioner.prepare([image], LONG).tensors["input_ids"] == place).sum())

    assert tokens(3000) == 107 * 71 == 7597
    assert tokens(captioner.settings["side"]) == 27 * 18 == 486  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["qwen2-vl", "internvl", "phi3-vision", "gemma3"])
@pytest.mark.parametrize("size", [(1, 1), (768, 2), (2, 768)])
def test_pictures_of_any_shape(name: str, size: tuple[int, int], folders: dict[str, Path]) -> None:
    """A text, or a problem of that picture alone: the one beside it has its caption."""
    captioner = opened(folders[name], max_new_tokens=2)
    odd, usual = captioner.caption([Image.new("RGB", size), pictures()[0]], LONG)
    assert isinstance(usual, Generated)
    assert isinstance(odd, Generated) or (isinstance(odd, Problem) and odd.reason == "model_error")


# -- what is said before weights are downloaded ------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running:
        yield running.take_over(monkeypatch, tmp_path / "home")


def publish(server: HubServer, folder: Path, **config: Any) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), **config}).encode()
    server.add("owner/model", files)


def from_hub(**options: Any) -> Captioner:
    return Captioner.open("owner/model", accept_terms=["owner/model"], precision="fp32", max_new_tokens=4, **options)


@pytest.mark.parametrize(
    ("name", "config", "without", "sentence"),
    [
        (
            "llava-jp",
            {"architectures": ["LlamaForCausalLM"]},
            (),
            "is a LlamaForCausalLM, which has no adapter for caption",
        ),
        (
            "llava-jp",
            {"architectures": ["WhisperForConditionalGeneration"]},
            (),
            "is a WhisperForConditionalGeneration, which has no",
        ),
        ("llava-jp", {"architectures": None}, (), "is a model of unknown class, which has no adapter"),
        ("qwen2-vl", {}, ("chat_template.jinja",), "is a Qwen2VLForConditionalGeneration without a chat template"),
        ("llava-jp", {}, ("processor_config.json",), "owner/model has no processor: preprocessor_config.json and"),
        ("florence2", {}, ("processor_config.json",), "owner/model has no processor"),
    ],
)
def test_no_weights_are_asked_for_in_vain(
    tmp_path: Path, server: HubServer, folders: dict[str, Path], name: str, config: dict[str, Any],
    without: Sequence[str], sentence: str,
) -> None:  # fmt: skip
    folder = shutil.copytree(folders[name], tmp_path / "copy")
    for file in without:
        (folder / file).unlink()
    publish(server, folder, **config)
    with pytest.raises(CommonArtError, match=sentence) as caught:
        from_hub()
    assert caught.value.fix.endswith(".")
    assert "config.json" in server.fetched()
    assert not any("model.safetensors" in line for line in server.log)
    local = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**local, **config}))
    with pytest.raises(CommonArtError, match=sentence.removeprefix("owner/model ")):
        Captioner.open(str(folder))


@pytest.mark.parametrize("name", ["qwen3-vl", "internvl", "phi3-vision"])
def test_a_model_of_the_hub_by_its_id(server: HubServer, folders: dict[str, Path], name: str) -> None:
    """Its class and its prompts are those of its config.json, as a local folder's are."""
    publish(server, folders[name])
    captioner, local = from_hub(), opened(folders[name], max_new_tokens=4)
    assert captioner.model.prompts == local.model.prompts and captioner.model.langs == ("en", "ja")
    assert captioner.caption(pictures(), LONG) == local.caption(pictures(), LONG)
    assert server.fetched().count("model.safetensors") == 1 and server.fetched().count("config.json") == 1


def test_rows_by_name_come_from_their_repository(server: HubServer, folders: dict[str, Path]) -> None:
    """`--model phi3-vision` and the others, through the hub's layout."""
    for name in ("florence2", "blip2", "phi3-vision", "phi3.5-vision", "qwen2-vl", "llava-jp", "qwen3-vl"):
        row = find_model(name, "caption")
        folder = folders[name if name in folders else "phi3-vision"]
        server.add(row.hub, {path.name: path.read_bytes() for path in folder.iterdir()})
        captioner = Captioner.open(name, precision="fp32", max_new_tokens=4)
        assert captioner.name == name and captioner.revision == server.repos[row.hub].sha
        assert len(captioner.caption(pictures()[:2], row.prompts[0].texts[0])) == 2


def test_a_processor_that_cannot_be_loaded_is_a_sentence(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = changed(folders["qwen2-vl"], tmp_path / "damaged", "processor_config.json", processor_class="No")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CommonArtError, match="cannot be loaded from"):
        opened(folder).caption(pictures(), LONG)
