"""The text encoder against transformers itself, on tiny random models of the real classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_encoders as tiny
import torch
from safetensors.torch import load_file, save_file

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model import memory
from commonart.core.model.quantize import resolve_precision
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.settings import QUANTIZERS

TEXTS = ["a red circle", "青い四角の左に小さな星", "x", "", "a large green triangle at the top left of a white page"]


def load(folder: Path, **settings: object) -> TextEncoder:
    return TextEncoder.load(folder, "fp32", device="cpu", **settings)  # type: ignore[arg-type]


def test_states_are_the_causal_lms_last_hidden_states(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path)
    encoder = load(tmp_path)
    ids = torch.tensor(encoder.tokenizer("a red circle")["input_ids"])[None]
    with torch.no_grad():
        expected = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(encoder.encode(["a red circle"])[0], expected)
    assert encoder.width == tiny.WIDTH and encoder.precision == "float32"


def test_states_are_taken_after_the_final_norm(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path)
    before = []
    handle = model.model.norm.register_forward_pre_hook(lambda module, args: before.append(args[0]))
    encoder = load(tmp_path)
    ids = torch.tensor(encoder.tokenizer("abc")["input_ids"])[None]
    with torch.no_grad():
        model(input_ids=ids)
        handle.remove()
        after = model.model.norm(before[0])[0]
    torch.testing.assert_close(encoder.encode(["abc"])[0], after)
    assert not torch.allclose(after, before[0][0], atol=1e-2)


@pytest.mark.parametrize("make", [tiny.llama, tiny.t5])
def test_padded_batch_equals_single_texts(tmp_path: Path, make: object) -> None:
    make(tmp_path)  # type: ignore[operator]
    encoder = load(tmp_path)
    together = encoder.encode(TEXTS, batch=4)
    for text, states in zip(TEXTS, together, strict=True):
        alone = encoder.encode([text])[0]
        assert states.shape == alone.shape
        torch.testing.assert_close(states, alone, atol=2e-6, rtol=1e-5)


def test_padded_to_300_equals_trimmed(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path)
    encoder = load(tmp_path)
    padded = encoder.tokenizer(
        TEXTS[0], padding="max_length", max_length=300, return_tensors="pt", padding_side="right"
    )
    with torch.no_grad():
        full = model(**{k: padded[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True)
    states = encoder.encode(TEXTS[:1])[0]
    torch.testing.assert_close(full.hidden_states[-1][0, : len(states)], states, atol=2e-6, rtol=1e-5)


def test_t5_is_its_encoder(tmp_path: Path) -> None:
    model = tiny.t5(tmp_path)
    encoder = load(tmp_path)
    ids = torch.tensor(encoder.tokenizer("abc")["input_ids"])[None]
    assert ids.shape == (1, 4)  # </s> is added
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(["abc"])[0], model(input_ids=ids).last_hidden_state[0])


def test_null_is_one_defined_token(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path)
    encoder = load(tmp_path)
    assert encoder.tokenizer("")["input_ids"] == []  # as CALM2's tokenizer does
    with torch.no_grad():
        expected = model.model(input_ids=torch.tensor([[0]])).last_hidden_state[0]
    torch.testing.assert_close(encoder.null(), expected)
    assert encoder.null().shape == (1, tiny.WIDTH)
    torch.testing.assert_close(encoder.encode([""])[0], encoder.null())


def test_null_of_t5_is_what_it_makes_of_an_empty_text(tmp_path: Path) -> None:
    tiny.t5(tmp_path)
    encoder = load(tmp_path)
    torch.testing.assert_close(encoder.encode([""])[0], encoder.null())


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "llama")
    tiny.t5(tmp_path / "t5")
    encoder = load(tmp_path / "llama", max_tokens=5)
    assert [len(s) for s in encoder.encode(["abcdefgh", "abc"])] == [5, 3]
    assert (encoder.truncated, encoder.texts) == (1, 2)
    ids, cut = load(tmp_path / "t5", max_tokens=5).tokenize(["abcdefgh"])
    assert cut == [True] and len(ids[0]) == 5 and ids[0][-1] == 0  # the end token stays


@pytest.mark.parametrize("make", [tiny.llama, tiny.t5])
@pytest.mark.parametrize("method", [method for method in QUANTIZERS if method.endswith("-int8")])
def test_eight_bits_stay_close(tmp_path: Path, make: object, method: str) -> None:
    if method == "torchao-int8":
        pytest.importorskip("torchao")
    make(tmp_path)  # type: ignore[operator]
    plain, quantized = load(tmp_path), load(tmp_path, quantize=method)
    assert quantized.precision == f"{method}/float32"
    name = next(name for name, _ in plain.model.named_parameters() if name.endswith(("q_proj.weight", "q.weight")))
    weights = quantized.model.get_submodule(name.removesuffix(".weight")).weight
    assert weights.dtype == torch.int8 or type(weights) is not torch.nn.Parameter  # plain, or a tensor of their own
    for a, b in zip(plain.encode(TEXTS), quantized.encode(TEXTS), strict=True):
        error = float((a - b).norm() / a.norm())
        assert 0 < error < 0.05


def test_four_bits_stay_near(tmp_path: Path) -> None:
    tiny.llama(tmp_path, width=128)  # NF4 has one scale for 64 weights of a row
    plain, quantized = load(tmp_path), load(tmp_path, quantize="bnb-nf4")
    assert quantized.precision == "bnb-nf4/float32"
    assert quantized.model.get_submodule("layers.0.self_attn.q_proj").weight.dtype == torch.uint8
    for a, b in zip(plain.encode(TEXTS), quantized.encode(TEXTS), strict=True):
        assert 0.001 < float((a - b).norm() / a.norm()) < 0.25


def test_an_absent_quantizer_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(
        CommonArtError, match=r"needs torchao, which is not installed\. Install it \(uv sync --extra torchao\)"
    ):
        load(tmp_path, quantize="torchao-int8")


@pytest.mark.parametrize(
    ("recorded", "asked", "taken"),
    [
        ("bfloat16", None, (None, "bfloat16")),
        ("quanto-int8/float16", None, ("quanto-int8", "float16")),
        ("bnb-int8/bfloat16", "bnb-int8", ("bnb-int8", "bfloat16")),
        ("", "bnb-int8", ("bnb-int8", "")),
        ("", None, (None, "")),
    ],
)
def test_a_recorded_precision_is_taken(recorded: str, asked: str | None, taken: tuple[str | None, str]) -> None:
    assert resolve_precision(recorded, asked, "runs/512") == taken


@pytest.mark.parametrize("recorded", ["bfloat16", "quanto-int8/bfloat16"])
def test_another_precision_than_recorded_is_refused(recorded: str) -> None:
    with pytest.raises(UsageError, match=f"--quantize bnb-int8 does not fit: .* runs/512 were made in {recorded}"):
        resolve_precision(recorded, "bnb-int8", "runs/512")


@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Qwen2", "Gemma2", "Mistral"])
def test_any_causal_language_model(tmp_path: Path, kind: str) -> None:
    """Its hidden_states[-1], and padding changes nothing, whatever the architecture."""
    import transformers

    sizes = {
        "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**sizes)
    ).eval()
    model.save_pretrained(tmp_path)
    tiny.tokenizer(tmp_path)
    encoder = load(tmp_path)
    assert encoder.width == 32
    for text, states in zip(TEXTS[:3], encoder.encode(TEXTS[:3]), strict=True):
        ids = torch.tensor(encoder.tokenizer(text)["input_ids"])[None]
        with torch.no_grad():
            expected = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Qwen3_5", "Qwen3VL"])
def test_of_a_model_that_sees_the_language_model_is_taken(tmp_path: Path, kind: str) -> None:
    """Its states are those of the whole model for text alone, of every layer; what sees is not loaded."""
    model = tiny.qwen(tmp_path, kind)
    for layer in (-1, -2, -5):
        encoder = load(tmp_path, layer=layer)
        assert type(encoder.model).__name__ == f"{kind}TextModel" and encoder.width == tiny.WIDTH
        for text, states in zip(TEXTS[:3], encoder.encode(TEXTS[:3]), strict=True):
            ids = torch.tensor(encoder.tokenizer(text)["input_ids"])[None]
            with torch.no_grad():
                expected = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)
    real = sum(p.numel() * p.element_size() for p in encoder.model.parameters())
    assert memory.encoder_bytes(tmp_path, torch.float32) == real


@pytest.mark.parametrize("make", [tiny.llama, tiny.t5])
def test_states_of_any_layer(tmp_path: Path, make: object) -> None:
    model = make(tmp_path)  # type: ignore[operator]
    ids = torch.tensor(load(tmp_path).tokenizer("a red circle")["input_ids"])[None]
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in (-1, -2, -3):
        encoder = load(tmp_path, layer=layer)
        torch.testing.assert_close(encoder.encode(["a red circle", "x"])[0], states[layer][0], atol=1e-5, rtol=1e-4)
        assert encoder.null().shape == (1, tiny.WIDTH)
    for layer in (-4, 0, 2):
        with pytest.raises(UsageError, match=rf"--layer {layer}: .* has 3 hidden states\. Give -1, the last, to -3"):
            load(tmp_path, layer=layer)


def test_bfloat16_stays_close(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    half = TextEncoder.load(tmp_path, "bf16", device="cpu")
    assert half.precision == "bfloat16" and half.encode(["abc"])[0].dtype == torch.bfloat16
    expected = load(tmp_path).encode(["abc"])[0]
    assert float((half.encode(["abc"])[0].float() - expected).norm() / expected.norm()) < 0.05


def test_states_can_be_trained_on(tmp_path: Path) -> None:
    tiny.llama(tmp_path)
    states = load(tmp_path).encode(["abc"])[0]
    linear = torch.nn.Linear(tiny.WIDTH, 3)
    linear(states).sum().backward()  # inference tensors would refuse
    assert linear.weight.grad is not None


def test_pipeline_folders_are_understood(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "text_encoder" / name).rename(tmp_path / "tokenizer" / name)
    whole, part = load(tmp_path), load(tmp_path / "text_encoder")
    torch.testing.assert_close(whole.encode(["abc"])[0], part.encode(["abc"])[0])


def test_pixart_sigmas_t5_is_read_as_it_lies_on_the_hub(tmp_path: Path) -> None:
    """A pipeline's folder whose tokenizer is a sentencepiece model alone, with `</s>` at the end of every text."""
    tiny.t5(tmp_path / "text_encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "text_encoder" / name).unlink()
    tiny.sentencepiece(tmp_path / "tokenizer", ["a red circle on the grass", "a blue square on the sea"] * 50)
    encoder = load(tmp_path, max_tokens=4)
    ids, cut = encoder.tokenize(["a red circle on the grass", ""])
    assert cut == [True, False] and len(ids[0]) == 4 and ids[0][-1] == 1 and ids[1] == [1]
    torch.testing.assert_close(encoder.encode([""])[0], encoder.null())


@pytest.mark.parametrize("layout", ["half", "torch.compile"])
def test_what_other_tools_leave_is_read(tmp_path: Path, layout: str) -> None:
    tiny.llama(tmp_path)
    expected = TextEncoder.load(tmp_path, "fp32", device="cpu").encode(["a red circle"])[0]
    file = tmp_path / "model.safetensors"
    if layout == "half":
        file.rename(tmp_path / "model.fp16.safetensors")
    else:
        save_file({f"_orig_mod.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    torch.testing.assert_close(TextEncoder.load(tmp_path, "fp32", device="cpu").encode(["a red circle"])[0], expected)


@pytest.mark.parametrize(
    "spoil", ["empty", "no weights", "missing tensor", "remote code", "pickle", "no tokenizer", "cut", "shape"]
)
def test_bad_folders_are_sentences(tmp_path: Path, spoil: str) -> None:
    tiny.llama(tmp_path)
    weights = tmp_path / "model.safetensors"
    config = json.loads((tmp_path / "config.json").read_text())
    if spoil == "empty":
        (tmp_path / "config.json").unlink()
    elif spoil == "no weights":
        weights.unlink()
    elif spoil == "missing tensor":
        tensors = load_file(weights)
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif spoil == "remote code":
        auto = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto}))
        (tmp_path / "own.py").write_text("raise SystemExit('code from the folder ran')")
    elif spoil == "pickle":
        torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
        weights.unlink()
    elif spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif spoil == "shape":
        (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    else:
        for path in tmp_path.glob("tokenizer*"):
            path.unlink()
    with pytest.raises(CommonArtError) as error:
        load(tmp_path)
    assert str(tmp_path) in error.value.what and error.value.fix


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPConfig

    CLIPConfig().save_pretrained(tmp_path)
    tiny.tokenizer(tmp_path)
    with pytest.raises(CommonArtError, match="neither a causal language model nor T5"):
        load(tmp_path)


def test_unknown_quantizer_is_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--quantize int3"):
        load(tmp_path, quantize="int3")
