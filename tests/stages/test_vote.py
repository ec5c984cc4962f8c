"""`vote`: the command, its report, and visits of two people with a real browser, across a kill of the server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Browser
from PIL import Image

from commonart.core.output import metadata, web
from commonart.core.voting.study import DEGRADED, open_study
from commonart.core.voting.votes import read_votes

pytest.importorskip("gradio")
pytest.importorskip("evalica")
KEYS = {"left": "\ue012", "tie": "\ue013", "right": "\ue014", "both_bad": "\ue015"}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two folders `model-a` and `model-b` with six images of the same prompts, red and blue; the folder of both."""
    for name, color in (("model-a", (200, 30, 30)), ("model-b", (30, 30, 200))):
        (tmp_path / name).mkdir()
        for i in range(6):
            settings = {"prompt": f"草原の丸 <b>{i}", "seed": i, "model": f"secret-{name}"}
            metadata.save(Image.new("RGB", (64, 48), color), tmp_path / name / f"{i}.png", settings=settings)
    return tmp_path


@contextmanager
def voting(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`commonart vote model-a model-b` on a free port, as a process of its own; its URL and itself."""
    command = [sys.executable, "-m", "commonart.cli.main", "vote", "model-a", "model-b", "--address", "0", *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = ""
    while not (found := re.search(r"open (http://\S+)", line)):
        line = process.stderr.readline()
        assert line, process.wait()
    try:
        yield found[1], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)


def begin(browser: Browser, url: str, name: str) -> None:
    browser.open(url)
    browser.wait("return document.querySelector('#start') && document.querySelector('#name input, #name textarea')")
    browser.type("#name input, #name textarea", name)
    browser.click("#start")


def pair(browser: Browser, done: int) -> list[str]:
    """Wait for the pair after `done` answers; return the color of its two images: red, blue or other."""
    browser.wait(
        f"""const images = [...document.querySelectorAll('#left img, #right img')];
        const line = document.querySelector('#progress')?.innerText || '';
        return (line.startsWith('{done} of') || line.includes('中 {done} 組'))
          && images.length == 2 && images.every(image => image.complete && image.naturalWidth)"""
    )
    time.sleep(0.4)
    return browser.script(
        """return [...document.querySelectorAll('#left img, #right img')].map(image => {
          const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
          const context = canvas.getContext('2d'); context.drawImage(image, 0, 0, 1, 1);
          const [r, g, b] = context.getImageData(0, 0, 1, 1).data;
          return r == 200 && b == 30 ? 'red' : r == 30 && b == 200 ? 'blue' : 'other' })"""
    )


def press(browser: Browser, choice: str) -> None:
    steps = [{"type": kind, "value": KEYS[choice]} for kind in ("keyDown", "keyUp")]
    browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})


@pytest.mark.slow
def test_two_people_vote_at_once_and_go_on_after_a_kill(folders: Path, tmp_path: Path) -> None:
    """Keys, buttons, both languages, attention checks; who stopped goes on; nothing leaves the machine or names a model."""
    with (
        Browser(tmp_path / "one") as ann,
        Browser(tmp_path / "two", "ja") as bob,
    ):
        with voting(folders) as (url, process):
            begin(ann, url, "ann")
            begin(bob, url, "ボブ <i>")
            for done in range(3):
                for browser in (ann, bob):
                    colors = pair(browser, done)
                    assert {"red", "blue"} >= {*colors} - {"other"} and colors[0] != colors[1]
                    good = 0 if colors[1] == "other" or (colors[0] == "red" and colors[1] == "blue") else 1
                    if browser is ann:
                        press(browser, ("left", "right")[good])
                    else:
                        browser.click(f"#{('left', 'right')[good]}-button")
            pair(ann, 3), pair(bob, 3)
            assert "草原の丸 <b>" in ann.script("return document.querySelector('#prompt').innerText")
            assert "Both bad" in ann.script("return document.body.innerText")
            words = bob.script("return document.body.innerText")
            assert "どちらも悪い" in words and "7 組中 3 組が終わりました" in words
            for browser in (ann, bob):
                assert "model-" not in browser.script("return document.documentElement.outerHTML")
            addresses = ann.requests()
            assert [a for a in addresses if not a.startswith((url, "data:", "blob:"))] == [] and len(addresses) > 10
            assert not any("model" in a for a in addresses)
            process.kill()
        before = read_votes(str(folders / "votes.jsonl"))
        assert len(before) == 6
        with voting(folders) as (url, process):
            begin(ann, url, " ann ")
            pair(ann, 3)
            press(ann, "tie"), press(ann, "tie")  # twice: the second is too fast for a pair that was just shown
            pair(ann, 4)
            for done, choice in enumerate(("both_bad", "left", "right"), 4):
                pair(ann, done)
                press(ann, choice)
            ann.wait("return document.body.innerText.includes('That was the last pair')")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
    votes = read_votes(str(folders / "votes.jsonl"))
    assert votes[:6] == before and len(votes) == 10
    assert [v["vote"] for v in votes[6:]] == ["tie", "both_bad", "left", "right"]
    study = open_study([str(folders / "model-a"), str(folders / "model-b")])
    assert [v["comparison"] for v in votes if v["voter"] == "ann"] == [c.id for c in study.sequence("ann")]
    for vote in before:
        winner = vote[vote["vote"]]
        assert winner == "model-a" or (vote["check"] and winner != DEGRADED)
    assert {v["voter"] for v in votes} == {"ann", "ボブ <i>"} and study.id == votes[0]["study"]


@pytest.mark.slow
def test_an_image_that_cannot_be_read_costs_its_own_pair(folders: Path, tmp_path: Path) -> None:
    path = folders / "model-a" / "3.png"
    data = path.read_bytes()
    pixels = data.index(b"IDAT")
    path.write_bytes(data[: pixels + 8] + bytes(20) + data[pixels + 28 :])
    study = open_study([str(folders / "model-a"), str(folders / "model-b")])
    usable = [c.id for c in study.sequence("ann") if "a/3.png" not in c.left.pointer + c.right.pointer]
    with Browser(tmp_path / "one") as ann, voting(folders) as (url, process):
        begin(ann, url, "ann")
        for done in range(len(usable)):
            pair(ann, done)
            press(ann, "tie")
        ann.wait("return document.body.innerText.includes('That was the last pair')")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None and "3.png is not a readable image" in process.stderr.read()
    votes = read_votes(str(folders / "votes.jsonl"))
    assert [vote["comparison"] for vote in votes] == usable and len(usable) >= 5


def test_the_report_as_text_and_json(in_process, tmp_path: Path) -> None:
    lines = [
        {"study": "s1", "voter": voter, "comparison": f"c{i}", "prompt": f"p{i}", "left": "new", "right": "old",
         "vote": "left" if i % 4 else "right", "check": False}
        for voter in ("ann", "bob") for i in range(20)
    ]  # fmt: skip
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = in_process("vote", "--report", "votes.jsonl")
    assert shown.returncode == 0, shown.stderr.decode()
    text = shown.stdout.decode()
    assert "study s1: 40 votes by 2 voters on 20 comparisons" in text and "alpha 1.00" in text
    assert re.search(r"^new > old +74 % \[\d\d, \d\d\] +40  about \d\d$", text, re.MULTILINE)
    assert json.loads(shown.stderr.splitlines()[-1]) | {"seconds": 0} == {
        "stage": "vote", "in": 40, "out": 40, "dropped": {}, "seconds": 0,
    }  # fmt: skip
    result = json.loads(in_process("vote", "--report", "votes.jsonl", "--json").stdout)
    assert result["models"][0]["model"] == "new" and result["models"][0]["wins"] == 30
    lines[0]["study"] = "s2"
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert b"holds votes of 2 studies" in in_process("vote", "--report", "votes.jsonl").stderr


def test_wrong_calls_are_sentences(in_process, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, code, sentence in (
        ((), 2, "at least two folders"),
        (("model-a",), 2, "at least two folders"),
        (("model-a", "model-b", "--report", "x"), 2, "exclude each other"),
        (("model-a", "model-b", "--json"), 2, "--json goes with --report"),
        (("model-a", "model-b", "--address", "x"), 2, "--address 'x' is not an address"),
        (("model-a", "model-b", "-o", "votes.csv"), 2, "-o votes.csv: votes are kept in a .jsonl."),
        (("model-a", "model-b", "-o", "no/votes.jsonl"), 1, "there is no folder no"),
        (("model-a", "none"), 1, "none"),
        (("--report", "none"), 1, "none cannot be read"),
    ):
        shown = in_process("vote", *arguments, cwd=folders)
        assert shown.returncode == code and sentence in shown.stderr.decode(), (arguments, shown.stderr)
    assert not (folders / "votes.jsonl").exists()
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    assert b"`commonart vote` needs Gradio" in in_process("vote", "model-a", "model-b", cwd=folders).stderr
