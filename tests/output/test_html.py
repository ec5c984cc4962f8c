"""The page: whatever data says, it stays text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from commonart.core.output.html import JAPANESE, Page


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


def build(text: str) -> str:
    page = Page(text, text)
    page.heading(text)
    page.text(text, soft=True)
    page.image(text, text)
    page.table([text], [[text], [1], [2.5], [True]])
    page.chart([(0, 3.0), (1, 2.0)], text, text)
    return page.html()


@given(
    st.text(min_size=1)
    | st.sampled_from(
        ["<script>alert(1)</script>", '"><img src=x onerror=1>', "' onload='x", "</title>", "javascript:1"]
    )
)
def test_no_text_becomes_markup(text: str) -> None:
    plain, hostile = Seen(), Seen()
    plain.feed(build("円" if JAPANESE.search(text) else "x"))
    hostile.feed(build(text))
    assert hostile.tags == plain.tags


def test_text_is_shown_and_the_page_is_whole(tmp_path: Path) -> None:
    html = build("草原のシマウマ <b>")
    assert html.startswith("<!doctype html>") and html.endswith("</html>\n")
    seen = Seen()
    seen.feed(html)
    assert seen.said.count("草原のシマウマ <b>") >= 5
    page = Page("x")
    page.write(tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text("utf-8") == page.html()


def test_japanese_names_fonts_that_can_render_it_and_one_to_install() -> None:
    html = build("草原")
    assert '"Noto Sans CJK JP"' in html and '"Hiragino Sans"' in html and "fonts-noto-cjk" in html
    assert "fonts-noto-cjk" not in build("a meadow")


def test_numbers_stand_to_the_right() -> None:
    page = Page("x")
    page.table(["n"], [[1234567], [0.123456], ["1"]])
    html = page.html()
    assert '<td class="number">1,234,567</td>' in html
    assert '<td class="number">0.1235</td>' in html
    assert "<td>1</td>" in html
