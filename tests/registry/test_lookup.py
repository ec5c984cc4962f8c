"""core/registry/catalogue.py and core/registry/lookup.py: the table, names, terms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commonart.core.errors import UsageError
from commonart.core.registry import catalogue, lookup
from commonart.core.registry.catalogue import LENGTHS, MODELS, ROLES, Prompt, prompts_for
from commonart.core.registry.lookup import COMMIT, check_code, check_terms, find_model, model_names

UNCHECKED = {
    "sd2.1-base",
    "japanese-stable-diffusion",
    "common-canvas-s-c",
    "plamo-translate",
    "fugumt",
    "swallow",
    "gemma",
    "t5-xxl",
    "clip-vit-b32",
    "clip-vit-l14-336",
    "phi4-multimodal",
    "siglip",
    "dinov2-base",
    "clip-vit-l14",
}


def test_the_table() -> None:
    """What every row must say, so that nothing is used whose terms nobody read."""
    assert len({(m.role, m.name) for m in MODELS}) == len(MODELS)
    for m in MODELS:
        where = f"{m.role} {m.name}"
        assert m.role in ROLES and m.cls and m.license, where
        assert bool(m.checked) != (m.name in UNCHECKED), where
        assert m.revision is None or COMMIT.fullmatch(m.revision), where
        assert (m.hub == "") == m.embedded == m.name.startswith("nano"), where
        assert m.outputs in ("free", "use-restrictions") or m.refused, where
        assert not (m.refused or m.broken) or find_model(m.successor, m.role).refused == "", where
        if m.role in catalogue.WRITES and not (m.refused or m.broken):
            assert m.template if m.role == "translate" else m.prompts and m.langs, where
            assert m.license in lookup.OPEN.values(), where
        if m.role == "translate":
            assert m.template.format(text="T", source="S", target="G").count("T"), where
        for prompt in m.prompts:
            assert prompt.lang in m.langs and prompt.length in LENGTHS and all(prompt.texts), where
    for role in ROLES:
        assert model_names(role)[0] == "nano"
        assert find_model("nano", role).hub == ""


def test_partners_exist() -> None:
    for m in MODELS:
        if m.role == "transformer":
            assert not m.text_encoder or find_model(m.text_encoder, "text-encoder")
            assert find_model(m.autoencoder, "autoencoder")
    assert find_model("commonart-beta", "transformer").text_encoder == "calm2-7b"
    assert find_model("calm2-7b", "text-encoder").pickle_only


def test_a_hub_id_finds_its_row() -> None:
    assert find_model("Salesforce/blip2-flan-t5-xl", "caption").name == "blip2"
    assert find_model("Salesforce/blip2-opt-2.7b", "caption").refused
    assert find_model(f"blip2@{'a' * 40}", "caption").revision == "a" * 40


def test_an_unknown_hub_model_has_unknown_terms() -> None:
    captioner = find_model("someone/new-captioner", "caption")
    assert captioner.license == lookup.UNKNOWN_LICENSE and captioner.cls == ""
    with pytest.raises(UsageError, match="its terms are not in our table"):
        check_terms(captioner)
    assert check_terms(captioner, ["someone/new-captioner"])
    assert not check_terms(find_model("someone/vae", "autoencoder")), "a VAE writes no training data"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("florence", "Did you mean florence2?"), ("BLIP2", "Did you mean blip2"), ("zzz", "Known names: nano, florence2")],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_model(name, "caption")
    assert f"--model {name} is not a caption model" in caught.value.what
    assert hint in caught.value.fix and caught.value.code == 2


def test_a_bad_commit() -> None:
    with pytest.raises(UsageError, match="'main' is not a commit"):
        find_model("florence2@main", "caption")


@pytest.mark.parametrize("name", ["blip2-opt", "qwen2.5-vl-3b"])
def test_refused(name: str) -> None:
    model = find_model(name, "caption")
    with pytest.raises(UsageError) as caught:
        check_terms(model)
    assert model.refused in caught.value.what
    assert f"--model {model.successor}" in caught.value.fix and f"--accept-terms {name}" in caught.value.fix
    assert check_terms(model, [name]) is True
    assert check_terms(find_model("florence2", "caption"), [name]) is False


@pytest.mark.parametrize(
    "name", ["fugumt", "staka/fugumt-en-ja", f"fugumt@{'a' * 40}", f"staka/fugumt-en-ja@{'b' * 40}"]
)
def test_terms_are_accepted_by_every_way_of_naming_a_model(name: str) -> None:
    for given in ("fugumt", "staka/fugumt-en-ja", f"fugumt@{'a' * 40}"):
        assert check_terms(find_model(given, "translate"), [name])
    with pytest.raises(UsageError):
        check_terms(find_model("gemma", "translate"), [name])


@pytest.mark.parametrize("given", ["models/mine", "models/mine/", "./models/mine", "models//mine"])
def test_terms_of_a_folder_are_accepted_by_every_way_of_writing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for accepted in ("models/mine", "models/mine/", "./models/mine"):
        assert check_terms(find_model(given, "caption"), [accepted])
    with pytest.raises(UsageError, match="--model models/mine is refused"):
        check_terms(find_model(given, "caption"), ["models/other"])


def test_errors_name_the_option_that_was_given() -> None:
    with pytest.raises(UsageError, match="--init nowhere is not a transformer model, a folder or a hub id"):
        find_model("nowhere", "transformer", "--init")
    with pytest.raises(UsageError, match="--clip nano@main: 'main' is not a commit"):
        find_model("nano@main", "clip", "--clip")
    with pytest.raises(UsageError, match="--clip plamo-translate runs code") as caught:
        check_code(find_model("plamo-translate", "translate"), flag="--clip")
    assert "--clip plamo-translate@COMMIT" in caught.value.fix
    with pytest.raises(UsageError, match="--judge fugumt is refused") as caught:
        check_terms(find_model("fugumt", "translate"), flag="--judge")
    assert "Use --judge cat-translate" in caught.value.fix


def test_broken_cannot_be_accepted() -> None:
    with pytest.raises(UsageError, match="needs peft") as caught:
        check_terms(find_model("phi4-multimodal", "caption"), ["phi4-multimodal"])
    assert caught.value.fix == "Use --model qwen3-vl."


def test_remote_code() -> None:
    row = find_model("plamo-translate", "translate")
    with pytest.raises(UsageError, match=f"runs code from {row.hub}"):
        check_code(row)
    with pytest.raises(UsageError, match="needs a commit"):
        check_code(row, trust_remote_code=True)
    check_code(find_model(f"plamo-translate@{'0' * 40}", "translate"), trust_remote_code=True)
    check_code(find_model("clip-vit-b32", "clip"))


def test_local_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlavaForConditionalGeneration"]}))
    model = find_model(str(tmp_path), "caption")
    assert model.local and model.cls == "LlavaForConditionalGeneration"
    assert model.langs == ("en", "ja") and model.prompts == prompts_for(model.cls), "not every LLaVA is Japanese"
    assert not any("<image>" in text for prompt in model.prompts for text in prompt.texts)
    with pytest.raises(UsageError, match=r"no README\.md that names an open licence"):
        check_terms(model)
    (tmp_path / "README.md").write_text("---\nlanguage: ja\nlicense: apache-2.0\n---\n# A model\n")
    assert find_model(str(tmp_path), "caption").license == "Apache-2.0"
    assert not check_terms(find_model(str(tmp_path), "caption"))
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert find_model(str(tmp_path), "caption").refused


def test_a_captioner_of_ours_says_what_it_was_trained_on(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "commonart_prompts": [["ja", "short", ["USER: <image>説明して。"]]],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = find_model(str(tmp_path), "caption")
    assert model.prompts == (Prompt("ja", "short", ("USER: <image>説明して。",)),) and model.langs == ("ja",)


def test_prompts_by_language() -> None:
    """Qwen3-VL is asked in Japanese for Japanese; llava-jp writes nothing else; Florence-2 and BLIP-2 English alone."""
    kinds = {name: {(p.lang, p.length) for p in find_model(name, "caption").prompts} for name in model_names("caption")}
    both = {("en", "long"), ("en", "short"), ("ja", "long"), ("ja", "short")}
    assert kinds["qwen3-vl"] == kinds["qwen2-vl"] == both
    assert kinds["llava-jp"] == {("ja", "long"), ("ja", "short")}
    assert kinds["florence2"] == kinds["phi3-vision"] == {("en", "long"), ("en", "short")} and kinds["blip2"] == {
        ("en", "short")
    }
    for model in map(lambda name: find_model(name, "caption"), model_names("caption")):
        for prompt in model.prompts:
            assert all((prompt.lang == "ja") == any("\u3040" <= c <= "\u30ff" for c in text) for text in prompt.texts)


def test_a_local_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "PixArtTransformer2DModel"}')
    whole = find_model(str(tmp_path), "transformer")
    assert whole.cls == "PixArtTransformer2DModel"
    assert whole.text_encoder == whole.autoencoder == str(tmp_path)
    assert find_model(str(tmp_path / "transformer"), "transformer").text_encoder == ""


def test_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub'}"
    code = f"import sys, commonart.core.registry.lookup; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
