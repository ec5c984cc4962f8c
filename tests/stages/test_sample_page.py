"""The page of `sample --serve`: what it lets in, what it escapes, and one visit with a real browser."""

from __future__ import annotations

import base64
import html
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import tiny_pipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.request import GenerationConfig
from commonart.core.generation.session import Session
from commonart.core.generation.worker import GenerationWorker
from commonart.core.output import metadata
from commonart.stages import sample_page


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny")
    return Session.open(str(folder), device="cpu", precision="fp32")


@pytest.fixture
def url(studio: Session, tmp_path: Path) -> Iterator[str]:
    """The page over an empty folder `pictures`, on a free port."""
    said: list[object] = []
    ready = threading.Event()

    def started(*what: object) -> None:
        said.extend(what)
        ready.set()

    out = str(tmp_path / "pictures")
    options = {"out": out, "started": started}
    thread = threading.Thread(
        target=sample_page.serve, args=(studio, GenerationConfig(steps=2), "0"), kwargs=options, daemon=True
    )
    thread.start()
    assert ready.wait(60)
    yield str(said[1])
    said[0].shutdown()  # type: ignore[attr-defined]
    thread.join(10)
    assert not thread.is_alive()


def ask(
    url: str, method: str = "GET", path: str = "/", body: str | None = None, **headers: str
) -> tuple[int, str, dict]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        names.setdefault("Content-Type", "application/x-www-form-urlencoded")
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    text = data.decode("utf-8", "replace")
    return answer.status, text, dict(answer.getheaders())


def token_of(url: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', ask(url)[1])
    assert found
    return found[1]


def wait_for(url: str, what: str, count: int = 1) -> str:
    """The gallery, once `what` stands there `count` times."""
    end = time.monotonic() + 120
    while (html := ask(url, path="/gallery")[1]).count(what) < count:
        assert time.monotonic() < end, html
        time.sleep(0.2)
    return html


def test_a_form_draws_and_the_gallery_shows_it_escaped(url, tmp_path):
    prompt = '<script>alert("草原")</script>'
    form = {"token": token_of(url), "prompt": prompt, "seed": "5", "steps": "3", "n": "2", "size": "32x24"}
    status, _, headers = ask(url, "POST", "/draw", urlencode(form))
    assert status == 303 and headers["Location"].startswith("/?prompt=")
    html = wait_for(url, "<figure>", 2)
    assert "&lt;script&gt;" in html and "草原" in html
    for text in (html, ask(url)[1]):
        assert "<script" not in text and "default-src 'none'" in text and "form-action 'self'" in text
    files = sorted((tmp_path / "pictures").iterdir())
    assert sorted(metadata.read(f).settings["seed"] for f in files) == [5, 6]  # type: ignore[index]
    assert metadata.read(files[0]).settings["steps"] == 3  # type: ignore[index]
    source = re.search(r'<img src="([^"]+)"', html)
    assert source
    status, _, headers = ask(url, path=f"/{source[1]}")
    assert "max-age" in headers["Cache-Control"], "the frame loads itself again each second, its pictures do not"
    assert (status, headers["Content-Type"], headers["X-Content-Type-Options"]) == (200, "image/png", "nosniff")
    link = re.search(r'<a href="(/\?[^"]+)" target="_top"', html)  # a caption leads back to the settings of its picture
    assert link
    again = ask(url, path=link[1].replace("&amp;", "&"))[1]
    assert 'name="steps" type="number" value="3"' in again and 'value="32x24"' in again and "<script" not in again


def test_other_sites_can_neither_draw_nor_read(url, tmp_path):
    token = token_of(url)
    form = urlencode({"token": token, "prompt": "a"})
    for body, headers in (
        (urlencode({"prompt": "a"}), {}),
        (urlencode({"prompt": "a", "token": "x" * 32}), {}),
        (urlencode({"prompt": "a", "token": "é"}), {}),
        (form, {"Origin": "https://evil.example"}),
        (form, {"Host": "evil.example"}),
        (form, {"Host": "["}),
    ):
        assert ask(url, "POST", "/draw", body, **headers)[0] == 403, headers
    status, text, headers = ask(url, Host="evil.example:80")
    assert status == 403 and token not in text
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert ask(url, "POST", "/stop", urlencode({"token": "x"}))[0] == 403
    assert list((tmp_path / "pictures").iterdir()) == []


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "a" * 5001}, "more than 5,000"),
        ({"prompt": "a", "seed": "-5"}, "seed -5"),
        ({"prompt": "a", "steps": "5000"}, "--steps 5000"),
        ({"prompt": "a", "size": "128"}, "128x128 is too large for this page"),
        ({"prompt": "a", "n": "99"}, "99 pictures at once"),
        ({"prompt": "a", "seed": "x"}, "are numbers"),
        ({"prompt": "a", "steps": "0"}, "--steps 0"),
        ({"prompt": "a", "guidance": "nan"}, "--guidance nan"),
        ({"prompt": "a", "size": "33"}, "multiples of 8"),
    ],
)
def test_a_bad_form_is_said_and_keeps_what_was_typed(url, form, message):
    status, html, _ = ask(url, "POST", "/draw", urlencode({"token": token_of(url), **form}))
    assert status == 400 and message in html and 'role="alert"' in html
    assert form["prompt"].strip() in html


def test_progress_is_shown_and_a_drawing_is_stopped_between_steps(url, studio, tmp_path, monkeypatch):
    from commonart.core.generation.pipeline import Pipeline

    original, steps, go_on = Pipeline.draw, [], threading.Event()

    def slow(self, jobs, *, step, **options):
        def counted(number: int) -> None:
            steps.append(number)
            if number:
                assert go_on.wait(60)
            step(number)

        return original(self, jobs, step=counted, **options)

    monkeypatch.setattr(Pipeline, "draw", slow)
    token = token_of(url)
    form = {"token": token, "prompt": "first", "steps": "9", "n": "2"}
    assert ask(url, "POST", "/draw", urlencode(form))[0] == 303
    assert ask(url, "POST", "/draw", urlencode({**form, "prompt": "second", "steps": "1", "n": "1"}))[0] == 303
    html = wait_for(url, "step 1 of 9")
    assert "Drawing first: 0 of 2 done" in html and "1 more in the queue" in html
    assert '<progress value="1" max="9"' in html and 'http-equiv="refresh"' in html
    assert 'http-equiv="refresh"' not in ask(url)[1], "what is being typed stays"
    assert ask(url, "POST", "/stop", urlencode({"token": token}))[0] == 303
    go_on.set()
    html = wait_for(url, "<figure>")
    assert "second" in html and steps == [0, 1, 0]
    assert [metadata.read(f).settings["prompt"] for f in (tmp_path / "pictures").iterdir()] == ["second"]  # type: ignore[index]
    while 'http-equiv="refresh"' in ask(url, path="/gallery")[1]:
        time.sleep(0.05)


def test_what_goes_wrong_while_drawing_is_said_with_its_prompt(url, monkeypatch):
    def broken(*args, **options):
        raise CommonArtError("the disk is full.", "Free some space.")

    monkeypatch.setattr(Session, "draw", broken)
    token = token_of(url)
    for prompt in ("<a>", "b"):
        ask(url, "POST", "/draw", urlencode({"token": token, "prompt": prompt}))
        assert "the disk is full. Free some space." in wait_for(url, f"{html.escape(prompt)}: the disk")


def test_only_the_gallerys_files_are_handed_out(url, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "pictures" / "notes.txt").write_text("secret")
    for path in ("/pictures/../secret.png", "/pictures/%2e%2e/secret.png", "/pictures/notes.txt", "/x", "/pictures/"):
        status, text, _ = ask(url, path=path)
        assert status == 404 and "secret" not in text, path
    assert ask(url, "POST", "/elsewhere", "a=b")[0] == 404
    with suppress(ConnectionError):  # it does not read what it refuses
        assert ask(url, "POST", "/draw", "a" * 100_001)[0] == 413
    assert ask(url, "PUT", "/draw", "a")[0] == 501


def test_odd_pictures_in_the_folder_do_not_stop_the_page(url, studio, tmp_path):
    state = GenerationWorker(studio, tmp_path)
    chunks = PngInfo()
    chunks.add_itxt("commonart", r'{"prompt": "\ud800", "seed": 1}')
    for name in ("a.png", b"\xff.png".decode("utf-8", "surrogateescape")):
        Image.new("RGB", (8, 8)).save(tmp_path / "new.png", pnginfo=chunks)
        (tmp_path / "new.png").rename(tmp_path / name)
        state.add(tmp_path / name)
    assert list(state.pictures) == ["a.png"] and "? (seed 1)" in sample_page.gallery(
        sample_page.Site(state, GenerationConfig())
    )


def test_a_long_japanese_prompt_comes_back_in_the_address(url):
    form = urlencode({"token": token_of(url), "prompt": "草" * 5000, "negative": "丸" * 1000, "steps": "1"})
    status, _, headers = ask(url, "POST", "/draw", form)
    assert status == 303 and "草" * 5000 in ask(url, path=headers["Location"])[1]


def test_a_form_begins_with_the_commands_settings(studio, tmp_path):
    site = sample_page.Site(GenerationWorker(studio, tmp_path), GenerationConfig(steps=3, aspect="4:1"), seed=7, n=4)
    text = sample_page.page(site, {})
    for name, value in (("steps", "3"), ("seed", "7"), ("n", "4"), ("size", "")):
        assert re.search(f'name="{name}" type="[a-z]+" value="{value}"', text), name
    own = studio.shared(site.how)
    assert f"empty: {own['width']}x{own['height']}" in text and own["width"] != own["height"]
    with pytest.raises(UsageError, match="-n 17: the page draws at most 16"):
        sample_page.run("0", model="nano", out=str(tmp_path), seed=None, n=17, batch=8, ending="png")


def test_addresses(studio, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        sample_page.serve(studio, GenerationConfig(), "0", out=str(tmp_path / "file"))
    for text in ("x", "80:", "1.2.3.4:70000", "", "²"):
        with pytest.raises(UsageError, match="is no address"):
            sample_page.serve(studio, GenerationConfig(), text, out=str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="Take another port|in use") as error:
            sample_page.serve(studio, GenerationConfig(), str(taken.getsockname()[1]), out=str(tmp_path))
        assert "8001" in error.value.fix
    assert sample_page._address("8000") == ("127.0.0.1", 8000) and sample_page._address("[::1]:80") == ("::1", 80)
    assert sample_page._loopback("localhost") and not sample_page._loopback("0.0.0.0")


class Browser:
    """Chromium through chromedriver's HTTP interface (W3C WebDriver)."""

    def __init__(self, driver: str, chromium: str, profile: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [driver, f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--disable-dev-shm-usage", "--window-size=900,1000", f"--user-data-dir={profile}",
        ]  # fmt: skip
        self.session = ""
        wanted = {"goog:chromeOptions": {"binary": chromium, "args": flags}}
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, method: str, path: str, body: dict | None = None):
        path = path if path == "/session" else f"/session/{self.session}{path}"
        end = time.monotonic() + 120
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)
                connection.request(method, path, None if body is None else json.dumps(body))
                value = json.loads(connection.getresponse().read())["value"]
                break
            except ConnectionRefusedError:  # the driver is still starting
                assert time.monotonic() < end
                time.sleep(0.2)
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def find(self, css: str) -> str:
        (element,) = self.call("POST", "/element", {"using": "css selector", "value": css}).values()
        return element

    def script(self, text: str):
        return self.call("POST", "/execute/sync", {"script": text, "args": []})

    def close(self) -> None:
        with suppress(Exception):
            self.call("DELETE", "")
        self.process.terminate()
        self.process.wait(20)


@pytest.mark.slow
def test_a_visit_with_a_real_browser(url, tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium or no chromedriver: apt-get install chromium chromium-driver")
    browser = Browser(driver, chromium, tmp_path / "profile")
    try:
        browser.call("POST", "/url", {"url": url})
        assert browser.call("GET", "/title") == "commonart"
        browser.call("POST", f"/element/{browser.find('textarea[name=prompt]')}/value", {"text": "草原の赤い丸 <b>"})
        seed = browser.find("input[name=seed]")
        browser.call("POST", f"/element/{seed}/value", {"text": "11"})
        browser.call("POST", f"/element/{browser.find('button')}/click", {})
        end = time.monotonic() + 120
        # The frame loads itself again until the picture is there, and the browser has really decoded it.
        inner = "document.querySelector('iframe').contentDocument"
        ready = f"const i = {inner}.querySelector('figure img'); return i && i.complete ? i.naturalWidth : 0"
        while (width := browser.script(ready)) == 0:
            assert time.monotonic() < end, browser.call("GET", "/source")
            time.sleep(0.5)
        assert width == 32
        caption = browser.script(f"return {inner}.querySelector('figcaption').textContent")
        assert caption == "草原の赤い丸 <b> (seed 11)"
        assert browser.script("return document.querySelector('textarea').value") == "草原の赤い丸 <b>"
        for page in ("document", inner):
            assert browser.script(f"return {page}.scripts.length + {page}.querySelectorAll('b').length") == 0
        browser.call("POST", "/frame", {"id": 0})
        browser.call("POST", f"/element/{browser.find('figcaption a')}/click", {})
        browser.call("POST", "/frame", {"id": None})
        assert browser.script("return document.querySelector('input[name=seed]').value") == "11"
        assert base64.b64decode(browser.call("GET", "/screenshot"))[:4] == b"\x89PNG"
    finally:
        browser.close()
    (file,) = (tmp_path / "pictures").iterdir()
    assert metadata.read(file).settings["prompt"] == "草原の赤い丸 <b>"  # type: ignore[index]
