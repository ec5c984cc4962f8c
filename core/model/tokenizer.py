"""A model's tokenizer, as its files mean it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`; no remote code runs. Raises what transformers raises, and ValueError for damaged files.

    transformers 5 takes every `LlamaTokenizer` for BPE. Sarashina 2.2, and what was built on it, has a unigram model of
    sentencepiece under that name: BPE would cut most texts into other tokens than the model was trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE" or not _is_unigram(folder):
        return tokenizer
    return PreTrainedTokenizerFast.from_pretrained(folder, **options)


def _is_unigram(folder: Path) -> bool:
    """Whether the files hold a unigram model; of both forms, transformers reads tokenizer.json."""
    whole, sentencepiece = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        return orjson.loads(whole.read_bytes())["model"].get("type") == "Unigram"
    if not sentencepiece.is_file():
        return False
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    schema: Any = sentencepiece_model_pb2  # whose classes protobuf makes when it is imported
    try:
        kind = schema.ModelProto.FromString(sentencepiece.read_bytes()).trainer_spec.model_type
    except DecodeError:  # tiktoken's files have that name, too
        return False
    return bool(kind == schema.TrainerSpec.UNIGRAM)
