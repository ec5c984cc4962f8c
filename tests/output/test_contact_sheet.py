"""Contact sheets: labels in every language, in lines that fit, with any font or none."""

from __future__ import annotations

import pytest
from PIL import Image

from commonart.core.errors import UsageError
from commonart.core.output import contact_sheet


def test_labels_that_no_font_can_render_become_numbers_with_a_legend(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contact_sheet, "_found_font", lambda: None)
    monkeypatch.delenv("COMMONART_FONT", raising=False)
    contact_sheet.write_sheet(tmp_path / "grid.png", [Image.new("RGB", (8, 8))] * 2, ["a red circle", "赤い丸"])
    assert "[2] 赤い丸" in capsys.readouterr().err


def test_a_japanese_font_is_used_where_there_is_one():
    font = contact_sheet.japanese_font()
    if font is None:
        pytest.skip("no Japanese font on this machine")
    sheet = contact_sheet.contact_sheet([Image.new("RGB", (64, 64))], ["草原のシマウマ"])
    assert sheet.legend == {} and contact_sheet.can_render(contact_sheet.font_for("草原の"), "草原の")


def test_lines_are_never_wider_than_the_picture_and_lose_nothing():
    for text in (
        "a large red circle on the left side",
        "赤い丸と青い四角と黄色い星",
        "x" * 90,
        "a bb 草原のシマウマ c",
    ):
        lines = contact_sheet.wrap(text, 100)
        assert len(lines) <= contact_sheet.MAX_LINES
        assert all(contact_sheet.font_for(text).getlength(line) <= 100 for line in lines[:-1])
        if not lines[-1].endswith("…"):
            assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_one_word_of_5000_letters_is_a_label_at_once():
    lines = contact_sheet.wrap("a" * 5000, 128)
    assert len(lines) == contact_sheet.MAX_LINES and lines[-1].endswith("…")
    assert all(contact_sheet.font_for("a").getlength(line) <= 128 for line in lines)


def test_a_named_font_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("COMMONART_FONT", str(tmp_path / "x.ttf"))
    with pytest.raises(UsageError, match="COMMONART_FONT"):
        contact_sheet.japanese_font()
