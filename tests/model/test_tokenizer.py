"""Tokenizers whose files say something else than their class."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders as tiny
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from commonart.core.model.tokenizer import load_tokenizer

WORDS = ["赤い", "丸", "が", "草原", "の", "真ん中", "に", "青い", "四角", "左", "小さな", "星", "右", "大きな", "三角"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    choose = random.Random(0)
    return ["".join(choose.choices(WORDS, k=12)) for _ in range(500)] + ["a red circle on the grass"] * 50


def sarashina(folder: Path, texts: list[str], kind: str = "unigram") -> SentencePieceProcessor:
    """Sarashina 2.2's files: a sentencepiece model of whole pieces and bytes, under the name of LlamaTokenizer."""
    tiny.sentencepiece(
        folder, texts, model_type=kind, vocab_size=500, byte_fallback=True, add_dummy_prefix=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3,
    )  # fmt: skip
    (folder / "spiece.model").rename(folder / "tokenizer.model")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    about = {**special, "add_bos_token": False, "add_dummy_prefix_space": False, "legacy": False}
    about |= {"add_prefix_space": False, "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def agreement(tokenizer: Any, real: SentencePieceProcessor, texts: list[str]) -> float:
    """The share of the texts that are cut as sentencepiece cuts them; the two break ties of equal scores differently."""
    return sum(tokenizer(text)["input_ids"] == real.encode(text) for text in texts) / len(texts)


def test_a_unigram_model_under_llamas_name_is_read_as_it_is(tmp_path: Path, texts: list[str]) -> None:
    real = sarashina(tmp_path / "hub", texts)
    loaded = load_tokenizer(tmp_path / "hub")
    assert agreement(loaded, real, texts) > 0.99
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 3)
    assert loaded("")["input_ids"] == [] and loaded.decode(real.encode(texts[0])) == texts[0]
    # transformers 5 alone cuts most of them otherwise: once it does not, `load_tokenizer` is needless.
    assert agreement(AutoTokenizer.from_pretrained(tmp_path / "hub"), real, texts) < 0.8
    # As an older transformers saves it: a tokenizer.json, under the same name.
    PreTrainedTokenizerFast.from_pretrained(tmp_path / "hub").save_pretrained(tmp_path / "saved")
    for name in ("tokenizer_config.json", "config.json"):
        (tmp_path / "saved" / name).write_bytes((tmp_path / "hub" / name).read_bytes())
    assert agreement(AutoTokenizer.from_pretrained(tmp_path / "saved"), real, texts) < 0.8
    assert agreement(load_tokenizer(tmp_path / "saved"), real, texts) > 0.99
    # And as it is exported, which diffusers loads.
    loaded.save_pretrained(tmp_path / "exported")
    assert agreement(AutoTokenizer.from_pretrained(tmp_path / "exported"), real, texts) > 0.99


def test_llamas_own_is_left_alone(tmp_path: Path, texts: list[str]) -> None:
    real = sarashina(tmp_path, texts, "bpe")
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is LlamaTokenizer and agreement(loaded, real, texts) > 0.99


def test_others_are_left_alone(tmp_path: Path) -> None:
    tiny.tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's, which another loader reads
    assert load_tokenizer(tmp_path)("ab")["input_ids"] == AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"]
