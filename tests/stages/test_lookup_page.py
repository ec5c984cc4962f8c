"""The page of lookup --serve: what it escapes, whom it answers, and a visit with a browser, in both languages."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import Browser
from lookup_shards import AUTHORS, encoded, made
from server_thread import server_thread

from commonart.core.errors import CommonArtError
from commonart.core.output import web
from commonart.stages import lookup

__all__ = ["made"]  # the fixture

pytest.importorskip("gradio")


@contextmanager
def serving(made: Path) -> Iterator[str]:
    """The page on a free port; its URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        listeners: list[Any] = []
        original = web.listen
        patch.setattr(web, "listen", lambda address: listeners.append(original(address)) or listeners[0])
        with server_thread(lookup.serve, (), "0"):
            yield f"http://127.0.0.1:{listeners[0].getsockname()[1]}/"


def test_everything_is_escaped() -> None:
    from commonart.core.output.lookup_page import ANSWERS, results

    evil = "<script>alert(1)</script>\"'&"
    found = {
        "match": "exact", "bits": 0, "by": "key", "where": f"shards/{evil}", "title": evil, "author": "\u202eevil", "license": evil,
        "source_url": f"https://example.org/{evil}", "image_url": "javascript:alert(1)",
        "captions": [{"text": evil, "model": evil}], "features": [evil], "runs": [{"run": evil, "trained": True, "why": evil}],
    }  # fmt: skip
    removed = {"match": "removed", "where": evil, "at": evil, "keys": [evil], "runs": [evil]}
    for words in ANSWERS.values():
        text = results([removed, found], 1, 12, True, words)
        assert "<script" not in text and text.count("&lt;script&gt;") >= 10
        assert text.count("<a href=") == 1 and 'href="javascript' not in text
        assert '<a href="https://example.org/&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;"' in text
        assert "<bdi>\u202eevil</bdi>" in text, "a direction ends with its name"
    assert ANSWERS["en"].keys() == ANSWERS["ja"].keys()


def test_other_sites_are_refused_and_gradio_may_be_missing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(url: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers

    with serving(made) as url:
        status, headers = ask(url)
        assert status == 200 and "default-src 'self'" in headers["Content-Security-Policy"]
        assert ask(url, Host="evil.example")[0] == 403 and ask(url, Origin="https://evil.example")[0] == 403
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(CommonArtError, match="needs Gradio, which is not installed") as error:
        lookup.serve((), "0")
    assert error.value.code == 2


RESULT = "document.querySelector('#result').innerText"


@pytest.mark.slow
def test_a_visit_asks_nothing_of_the_outside(made: Path, tmp_path: Path) -> None:
    from PIL import Image

    copy = tmp_path / "copy.png"
    copy.write_bytes(encoded(Image.open(made / "raw" / "6.jpg").resize((70, 70)), "PNG"))
    with serving(made) as url, Browser(tmp_path / "profile") as browser:
        browser.open(url)
        browser.wait("return document.querySelector('#search')")
        for word in (
            "Was this image in the training set?",
            "Address (URL)",
            "Author",
            "SHA-256 of the file",
            "Look up",
        ):
            assert word in browser.script("return document.body.innerText"), word
        browser.click("#search")
        browser.wait("return document.body.innerText.includes('Fill in one of the fields.')")
        browser.type("#author textarea, #author input", AUTHORS[2])
        browser.click("#search")
        browser.wait(f"return {RESULT}.includes('Found: 3 of 12 records.')")
        text = browser.script(f"return {RESULT}")
        assert "<b>Bob</b>" in text and "runs/one: in its training data" in text and "CC-BY-2.0" in text
        assert browser.script("return document.querySelectorAll('#result b').length") == 0
        browser.type("#author textarea, #author input", "nobody")
        browser.click("#search")
        browser.wait(f"return {RESULT}.includes('Not found among 12 records.')")
        browser.script(
            "const e = document.querySelector('#author textarea, #author input'); e.value = ''; e.dispatchEvent(new Event('input'))"
        )
        element = browser.find("#image input[type=file]")
        browser.call("POST", f"/element/{element}/value", {"text": str(copy)})
        browser.wait("return document.querySelector('#image').innerText.includes('copy')")
        browser.click("#search")
        browser.wait(f"return {RESULT}.includes('shards/00001.tar#k06')")
        assert "near: " in browser.script(f"return {RESULT}")
        addresses = browser.requests()
    assert len(addresses) > 10 and [a for a in addresses if not a.startswith((url, "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_visit_in_japanese(made: Path, tmp_path: Path) -> None:
    with serving(made) as url, Browser(tmp_path / "profile", "ja") as browser:
        browser.open(url)
        browser.wait("return document.querySelector('#search')")
        browser.type("#url textarea, #url input", "https://example.org/works/5")
        browser.click("#search")
        browser.wait(f"return {RESULT}.includes('12 件中 1 件が一致しました。')")
        text = browser.script("return document.body.innerText")
        for word in (
            "この画像は学習に使われましたか",
            "作者名",
            "照会する",
            "ライセンス",
            "山田 花子",
            "学習データに含まれています",
        ):
            assert word in text, word
