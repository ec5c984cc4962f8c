"""The card's page in Chromium, opened from disk: on a phone, in the dark, by keyboard, without scripts, on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import full_facts
import pytest
import reportable_run
from browser import Browser
from full_facts import HOSTILE

from commonart.core.report.facts import gather
from commonart.core.report.page import page

SHOWN = "return [...document.querySelectorAll('#list > li')].filter(each => each.checkVisibility()).length"
TEXT = "return document.body.innerText"
ENTER, TAB, RIGHT = "\ue007", "\ue004", "\ue014"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("made")
    records = [
        {**each, "license": "CC0-1.0", "license_url": ""} for each in reportable_run.records(folder / "raw")
    ] * 2  # more than are shown at once
    records = [{**each, "key": f"k{n:03d}", "title": f"work {n}"} for n, each in enumerate(records)]
    run, shards = reportable_run.make(folder, records)
    page.write(full_facts.full(gather(run, shards), HOSTILE), folder, ["README.md"])
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def cdp(browser: Browser, command: str, **params: Any) -> Any:
    return browser.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})


def look(browser: Browser, card: str, *, width: int = 1280, scheme: str = "light", language: str = "en") -> None:
    cdp(browser, "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    cdp(browser, "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(card)
    browser.script(f"document.getElementById('lang-{language}').click()")


def press(browser: Browser, *keys: str) -> None:
    actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
    browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(browser: Browser, card: str, width: int, scheme: str, language: str) -> None:
    look(browser, card, width=width, scheme=scheme, language=language)
    assert browser.script("return document.documentElement.scrollWidth") <= width
    browser.script(files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    ask = "const done = arguments[0]; axe.run().then(found => done(found.violations.map(v => [v.impact, v.id, v.nodes[0].html])))"
    found = browser.call("POST", "/execute/async", {"script": ask, "args": []})
    assert not [each for each in found if each[0] in ("serious", "critical")], found


def test_nothing_is_asked_of_anybody_and_no_script_of_others_runs(browser: Browser, card: str) -> None:
    browser.requests()
    look(browser, card)
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())
    assert browser.script("return document.querySelectorAll('img').length") > 20
    assert browser.script("return [...document.images].every(each => each.complete && each.src.startsWith('data:'))")
    assert HOSTILE.split("\u202e")[0] in browser.script("return document.querySelector('h1').textContent")


def test_the_language_changes_by_keyboard_and_without_a_reload(browser: Browser, card: str) -> None:
    look(browser, card)
    assert "From fetched to trained" in browser.script(TEXT) and "取得から学習まで" not in browser.script(TEXT)
    browser.script("window.same = true; document.getElementById('lang-en').focus()")
    press(browser, RIGHT)
    assert "取得から学習まで" in browser.script(TEXT) and "From fetched to trained" not in browser.script(TEXT)
    assert browser.script("return document.documentElement.lang") == "ja" and browser.script("return window.same")
    assert "stripes 3" in browser.script(TEXT), "English captions stay"


def test_the_page_speaks_the_language_of_its_reader(card: str, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", "ja") as browser:
        browser.open(card)
        assert "取得から学習まで" in browser.script(TEXT)


def test_works_are_found_by_what_they_say(browser: Browser, card: str) -> None:
    look(browser, card)
    every = browser.script("return document.querySelectorAll('#list > li').length")
    assert browser.script(SHOWN) == 24 < every
    browser.script("document.getElementById('more').focus()")
    press(browser, ENTER)
    assert browser.script(SHOWN) == min(48, every)
    assert "work" in browser.script("return document.activeElement.textContent"), (
        "the first of the new ones has the focus"
    )
    browser.type("#find", "ＷＯＲＫ 7")  # full width
    press(browser, TAB)
    assert "work 7" in browser.script("return document.getElementById('list').innerText")
    few = browser.script(SHOWN)
    assert 0 < few < 24 and f"{few} found, {few} shown" in browser.script(TEXT)
    browser.type("#find", "no such work")
    assert browser.script(SHOWN) == 0 and "0 found" in browser.script(TEXT)
    assert not browser.script("return document.getElementById('more').checkVisibility()")


def test_without_scripts_everything_is_there_in_both_languages(browser: Browser, card: str) -> None:
    cdp(browser, "Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(card)
        assert browser.script(SHOWN) > 24 and not browser.script(
            "return document.getElementById('find').checkVisibility()"
        )
        browser.click("label[for=lang-ja]")
        assert "取得から学習まで" in browser.script(TEXT) and "From fetched to trained" not in browser.script(TEXT)
        browser.click("label[for=lang-en]")
        assert "From fetched to trained" in browser.script(TEXT)
    finally:
        cdp(browser, "Emulation.setScriptExecutionDisabled", value=False)


def test_charts_and_text_follow_the_dark(browser: Browser, card: str) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        look(browser, card, scheme=scheme)
        chart = "getComputedStyle(document.querySelector('.chart svg text')).fill"
        body = "getComputedStyle(document.body)"
        assert browser.script(f"return {chart}") == browser.script(f"return {body}.color")
        colors[scheme] = browser.script(f"return {body}.backgroundColor")
    assert colors == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 22, 22)"}


def test_names_from_right_to_left_leave_their_line_alone(browser: Browser, card: str) -> None:
    look(browser, card)
    place = """const name = [...document.querySelectorAll('#list bdi')].find(each => each.textContent === arguments[0])
        const line = name.closest('p'), license = line.querySelector('a')
        return [name.getBoundingClientRect().right, license.getBoundingClientRect().left, getComputedStyle(line).direction]"""
    script = {"script": place, "args": [reportable_run.HEBREW]}
    right, left, direction = browser.call("POST", "/execute/sync", script)
    assert right <= left and direction == "ltr", "what follows the name stands to the right of it"


def test_it_can_be_printed(browser: Browser, card: str) -> None:
    look(browser, card, scheme="dark")
    printed = base64.b64decode(cdp(browser, "Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") < 30
    cdp(browser, "Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.script("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not browser.script("return document.querySelector('fieldset').checkVisibility()")
    cdp(browser, "Emulation.setEmulatedMedia", media="", features=[])
