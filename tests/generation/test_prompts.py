"""Prompts from text files, records and stdin."""

from __future__ import annotations

import io
import sys

import pytest

from commonart.core.errors import CommonArtError, SchemaError
from commonart.core.generation.prompts import read


def test_prompts_from_a_text_file_and_from_stdin(tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("\ufeffa\n\n 赤い丸 \n{a|b} star\n", encoding="utf-8")
    assert [p.text for p in read(str(tmp_path / "prompts.txt"))] == ["a", "赤い丸", "{a|b} star"]
    for said in ("a\n赤い丸\n", '{"prompt": "a"}\n{"key": "k", "prompt": "赤い丸"}\n'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said.encode())))
        assert [p.text for p in read("-")] == ["a", "赤い丸"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"\n', r"in\.jsonl:1: is no.* JSON"),
        (b'{"prompt": "a"}\n{"key": "b c", "prompt": "x"}\n', r"in\.jsonl:2: field 'key'"),
        (b'{"key": "a"}\n', "neither a 'prompt' nor a caption"),
        (b"[1]\n", "must be an object"),
    ],
)
def test_bad_records_are_named(tmp_path, content, message):
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(SchemaError, match=message):
        list(read(str(tmp_path / "in.jsonl")))


def test_bad_text_files(tmp_path):
    (tmp_path / "a.txt").write_bytes("赤".encode("shift_jis"))
    with pytest.raises(CommonArtError, match="a.txt:1: the file is not UTF-8"):
        list(read(str(tmp_path / "a.txt")))
    with pytest.raises(CommonArtError, match="none.txt cannot be read"):
        list(read(str(tmp_path / "none.txt")))
