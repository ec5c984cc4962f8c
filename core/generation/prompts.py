"""Prompts: from the command line, from a text file (one per line), or from records (`prompt`, else the first caption)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import orjson

from commonart.core.data import jsonl
from commonart.core.data.record import captions, check
from commonart.core.errors import CommonArtError, SchemaError, UsageError


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, and the record that it came from ({} for plain text)."""

    text: str
    record: Mapping[str, Any]


def from_values(prompts: Iterable[str | Mapping[str, Any]], lang: str | None = None) -> Iterator[Prompt]:
    """Yield prompts that are given as texts or records. Raises UsageError where one is empty or a record has none."""
    for number, prompt in enumerate(prompts, 1):
        record = {} if isinstance(prompt, str) else prompt
        text = prompt if isinstance(prompt, str) else text_of(prompt, lang)
        if not text.strip():
            name = f"record '{record['key']}'" if "key" in record else f"prompt {number}"
            raise UsageError(f"{name} is empty.", "Describe the image.")
        yield Prompt(text, record)


def read(path: str, lang: str | None = None) -> Iterator[Prompt]:
    """Yield the prompts of a file: `.jsonl[.gz|.zst]`, any other text file, or `-` for either on stdin.

    Blank lines of a text file are skipped.

    Raises:
        CommonArtError: the file cannot be read, or is not UTF-8 text.
        SchemaError: a record without a prompt, or one that breaks the schema.
    """
    if path.endswith(jsonl.SUFFIXES):
        for line, value in jsonl.read_values(path):
            yield _of_value(value, path, line, lang)
        return
    name = "stdin" if path == "-" else path
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as lines:
            for line, raw in enumerate(lines, 1):
                text = raw.decode("utf-8").strip().removeprefix("\ufeff")
                if re.match(r'\{\s*["}]', text):  # as JSON begins; "{a|b} star" is text
                    try:
                        value = orjson.loads(text)
                    except orjson.JSONDecodeError as error:
                        raise SchemaError(name, line, "", f"is not valid JSON ({error})") from None
                    yield _of_value(value, name, line, lang)
                elif text:
                    yield Prompt(text, {})
    except UnicodeDecodeError as error:
        what = f"{name}:{line}: the file is not UTF-8 text ({error.reason})."
        raise CommonArtError(what, "Save the file as UTF-8.") from None
    except OSError as error:
        raise CommonArtError(f"{name} cannot be read: {error.strerror or error}.", "Check the path.") from error


def text_of(record: Mapping[str, Any], lang: str | None = None) -> str:
    """Return a record's `prompt`, else its first caption (in `lang`); "" when it has none."""
    if isinstance(record.get("prompt"), str):
        return str(record["prompt"])
    texts = captions(dict(record), lang)
    return str(texts[0]["text"]) if texts else ""


def _of_value(value: Any, name: str, line: int, lang: str | None) -> Prompt:
    if isinstance(value, dict) and "key" in value:
        check(value, name, line)
    if not isinstance(value, dict):
        raise SchemaError(name, line, "", "must be an object with a 'prompt'")
    text = text_of(value, lang)
    if not text.strip():
        missing = f"no caption in '{lang}'" if lang else "neither a 'prompt' nor a caption"
        raise SchemaError(name, line, "", f"has {missing}")
    return Prompt(text, value)
