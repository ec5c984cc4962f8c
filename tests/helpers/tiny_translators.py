"""Tiny random translators of the real classes with their real tokenizers, saved as their checkpoints are."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import tiny_language_models as tiny
import torch

transformers = tiny.transformers
WORDS = ["a cat", "two dogs and a house", "a red circle on white", "白い背景に赤い丸", "猫が二匹", "Mount Fuji at dawn"]


def sentencepiece_model(*symbols: str) -> bytes:
    """A sentencepiece model with byte fallback, trained on a few words; `symbols` stay whole."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 20), model_writer=made, vocab_size=340, byte_fallback=True, character_coverage=1.0,
        hard_vocab_limit=False, user_defined_symbols=list(symbols), minloglevel=2, pad_id=3,
    )  # fmt: skip
    return made.getvalue()


def pieces(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.vocab_size())]


def varied(cls: Any, config: Any) -> Any:
    """As `tiny.seeded`, wider apart: an encoder-decoder at random hardly looks at its input."""
    made = tiny.seeded(cls, config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6 if "encoder_attn" in name or "EncDecAttention" in name else 2)
    return made


def _bart_like(tok: Any, size: int) -> dict[str, Any]:
    return {
        "vocab_size": size, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128,
        "pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id, "forced_eos_token_id": None,
    }  # fmt: skip


def marian(folder: Path, *codes: str, source: str = "en", target: str = "jap") -> Path:
    """Marian: opus-mt-en-jap; with codes (">>jpn<<") one that writes several languages."""
    folder.mkdir(exist_ok=True)
    model = sentencepiece_model()
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    names = [piece for piece in pieces(model) if piece not in ("</s>", "<unk>", "<pad>")]
    vocabulary = ["</s>", "<unk>", *codes, *names, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}, ensure_ascii=False))
    tok = transformers.MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        source_lang=source,
        target_lang=target,
    )
    config = transformers.MarianConfig(**_bart_like(tok, len(vocabulary)), decoder_start_token_id=tok.pad_token_id)
    made = varied(transformers.MarianMTModel, config)
    made.generation_config.num_beams = 2  # published ones have 4 or 6
    return tiny.save(folder, made, tok)


def m2m100(folder: Path) -> Path:
    """M2M100, whose tokenizer brings its hundred languages."""
    folder.mkdir(exist_ok=True)
    model = sentencepiece_model()
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    names = ["<s>", "<pad>", "</s>", "<unk>", *(p for p in pieces(model) if p not in ("<s>", "<pad>", "</s>", "<unk>"))]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(names)}, ensure_ascii=False))
    tok = transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    size = tok.encoder_size + len(tok.lang_token_to_id) + 8
    config = transformers.M2M100Config(**_bart_like(tok, size), decoder_start_token_id=tok.eos_token_id)
    return tiny.save(folder, varied(transformers.M2M100ForConditionalGeneration, config), tok)


def nllb(folder: Path) -> Path:
    """NLLB: M2M100's class with codes as jpn_Jpan."""
    letters = sorted({"▁", *"".join(WORDS).replace(" ", "")})
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    tok = transformers.NllbTokenizer(vocab=vocabulary, merges=[])
    config = transformers.M2M100Config(**_bart_like(tok, len(tok)), decoder_start_token_id=tok.eos_token_id)
    return tiny.save(folder, varied(transformers.M2M100ForConditionalGeneration, config), tok)


def t5(folder: Path, *codes: str) -> Path:
    """T5; with codes ("<2ja>") as MADLAD-400, which is told the language by one."""
    letters = sorted({*"".join(WORDS), *"translate English to Japanese:"} - {" "})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((code, 0.0) for code in codes)]
    tok = transformers.T5Tokenizer(
        vocab=[*vocabulary, *((letter, -3.0) for letter in letters)], extra_ids=0, model_max_length=128
    )
    config = transformers.T5Config(
        vocab_size=len(tok), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id,
    )  # fmt: skip
    return tiny.save(folder, varied(transformers.T5ForConditionalGeneration, config), tok)


def qwen2(folder: Path) -> Path:
    """Qwen2, a chat model outside the table."""
    tok = tiny.tokenizer(chat_template=tiny.CHAT)
    config = transformers.Qwen2Config(
        vocab_size=len(tok), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, **tiny.ids(tok),
    )  # fmt: skip
    return tiny.save(folder, varied(transformers.Qwen2ForCausalLM, config), tok)


def gemma3(folder: Path) -> Path:
    """Gemma 3's text model."""
    tok = tiny.tokenizer(chat_template=tiny.CHAT)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, **tiny.ids(tok),
    )  # fmt: skip
    return tiny.save(folder, varied(transformers.Gemma3ForCausalLM, config), tok)
