"""`serve`: where it listens, whom it answers, and visits with a real browser in both languages."""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import tiny_pipeline
from browser import Browser
from server_thread import server_thread

from commonart.cli.main import run
from commonart.core.errors import UsageError
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import ModelSpec
from commonart.core.generation.session import Session
from commonart.core.output import metadata, web
from commonart.stages import serve

gradio = pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny")
    return Session.open(ModelSpec(str(folder), device="cpu", precision="fp32"))


@contextmanager
def serving(session: Session, folder: Path, address: str = "0", root_path: str = "") -> Iterator[str]:
    """The page over a folder, on a free port; its URL."""
    listener = web.listen(address)
    host, port = listener.getsockname()[:2]
    with server_thread(serve.serve, session, folder, listener, root_path=root_path):
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def ask(
    url: str, path: str = "/", method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    text = response.read().decode("utf-8", "replace")
    connection.close()
    return response.status, text, response.headers


def test_other_sites_can_neither_read_nor_generate(session: Session, folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(b"hidden words")
    (folder / "notes.txt").write_text("hidden words")
    with serving(session, folder) as url:
        status, text, headers = ask(url)
        assert status == 200 and "default-src 'self'" in headers["Content-Security-Policy"]
        assert "googleapis" not in text and 'analytics_enabled":false' in text.replace(" ", "").lower()
        for more in ({"Host": "evil.example"}, {"Host": "["}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            for path, method in (("/", "GET"), ("/gradio_api/queue/join", "POST"), ("/gradio_api/upload", "POST")):
                assert ask(url, path, method, "{}", **more)[0] == 403, (more, path)
        assert ask(url, Origin=url.rstrip("/"))[0] == 200
        for path in (f"{folder}/notes.txt", f"{folder.parent}/secret.png", "/etc/passwd"):
            status, text, _ = ask(url, f"/gradio_api/file={path}")
            assert status in (403, 404) and "hidden words" not in text, path
        (font,) = set(re.findall(r"gradio_api/file=[^'\"]+\.ttf", ask(url)[1]))
        assert ask(url, f"/{font}")[0] == 200, "this machine's Japanese font, for browsers that have none"
        assert ask(url, "/gradio_api/info")[0] in (200, 404) and "generate" not in ask(url, "/gradio_api/info")[1]


def test_an_ipv6_address(session: Session, folder: Path) -> None:
    with serving(session, folder, "[::1]:0") as url:
        assert url.startswith("http://[::1]:") and ask(url)[0] == 200


def test_addresses_that_cannot_be_used() -> None:
    for text in ("x", "80:", "1.2.3.4:70000", "", "²"):
        with pytest.raises(UsageError, match="is not an address"):
            web.listen(text)
    with pytest.raises(UsageError, match=r"host no\.such\.host\.invalid is unknown") as error:
        web.listen("no.such.host.invalid:80")
    assert "port" not in error.value.fix
    with pytest.raises(UsageError, match="Cannot assign") as error:
        web.listen("192.0.2.1:0")
    assert "127.0.0.1, ::1" in error.value.fix
    for host in ("127.0.0.1", "[::1]"):
        with web.listen(f"{host}:0") as taken, pytest.raises(UsageError, match="in use") as error:
            web.listen(f"{host}:{taken.getsockname()[1]}")
        assert "another port" in error.value.fix


def test_what_is_known_before_a_model_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert (
        run(["serve", "0", "--model", "none", "-o", "file"]) == 2
        and "-o file is not a folder" in capsys.readouterr().err
    )
    assert run(["serve", "0", "--model", "none", "--format", "gif"]) == 2 and "--format" in capsys.readouterr().err
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    assert run(["serve", "0", "--model", "none"]) == 1
    assert "needs Gradio, which is not installed.\nInstall it: uv sync --extra serve" in capsys.readouterr().err


IMAGES = "document.querySelectorAll('#gallery .grid-container img')"
LOADED = f"const all = [...{IMAGES}]; return all.filter(i => i.complete && i.naturalWidth == 32).length"


def visit(browser: Browser, url: str, prompt: str, seed: int, count: int = 1, steps: int = 2) -> None:
    """Type a prompt and a seed, and press the button."""
    browser.open(url)
    browser.wait("return document.querySelector('#generate')")
    browser.type("#prompt textarea", prompt)
    browser.type("#seed textarea, #seed input", str(seed))
    browser.type("#steps input", str(steps))
    browser.type("#count input[type=number]", str(count))
    browser.click("#generate")


@pytest.mark.slow
def test_a_visit_in_english(session: Session, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, images, settings, reuse; no request leaves this machine, neither the browser's nor the server's."""
    outside: list[object] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not web.loopback(str(address[0])):
            outside.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    with serving(session, folder) as url, Browser(tmp_path / "profile") as browser:
        visit(browser, url, "草原の赤い丸 <b>", 11, count=2)
        browser.wait(f"{LOADED} == 2")
        assert browser.script("return document.title") == "commonart"
        words = browser.script("return document.body.innerText")
        for label in ("Prompt", "Negative prompt", "Sampling steps", "Guidance scale", "Size in pixels", "Stop"):
            assert label in words, label
        browser.script(f"{IMAGES}[1].click()")
        browser.wait("return document.querySelector('#settings').innerText.includes('草原の赤い丸 <b>')")
        assert browser.script("return document.querySelectorAll('#settings b, #gallery b').length") == 0
        browser.type("#prompt textarea", "something else")
        browser.click("#reuse")
        browser.wait("return document.querySelector('#prompt textarea').value == '草原の赤い丸 <b>'")
        assert browser.script("return document.querySelector('#seed textarea, #seed input').value") == "11"
        addresses = browser.requests()
    assert len(addresses) > 10
    assert [a for a in addresses if not a.startswith((url, "data:", "blob:"))] == [] and outside == []
    settings = [metadata.read(file).settings or {} for file in folder.iterdir()]
    assert sorted(s["seed"] for s in settings) == [11, 12] and {s["prompt"] for s in settings} == {"草原の赤い丸 <b>"}
    assert all(metadata.read(file).synthetic for file in folder.iterdir())


@pytest.mark.slow
def test_a_visit_in_japanese_shows_progress_and_is_stopped_between_steps(
    session: Session, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps, go_on = Pipeline.generate, list[int](), threading.Event()

    def slow(self: Pipeline, requests: Any, config: Any, *, on_step: Callable[[int], Any], **options: Any) -> Any:
        def counted(number: int) -> None:
            on_step(number)
            steps.append(number)
            if number:
                assert go_on.wait(60)

        return original(self, requests, config, on_step=counted, **options)

    monkeypatch.setattr(Pipeline, "generate", slow)
    with serving(session, folder) as url, Browser(tmp_path / "profile", "ja") as browser:
        visit(browser, url, "赤い丸", 1, count=2, steps=3)
        browser.wait("return document.body.innerText.includes('2 枚中 1 枚目: ステップ 2 / 3')")
        words = browser.script("return document.body.innerText")
        for label in (
            "プロンプト",
            "ネガティブプロンプト",
            "ガイダンススケール",
            "生成枚数",
            "停止",
            "選択した画像の設定",
        ):
            assert label in words, label
        browser.click("#stop")
        time.sleep(1)
        go_on.set()
        visit(browser, url, "青い丸", 3)
        browser.wait(f"{LOADED} == 1")
    assert [(metadata.read(file).settings or {})["prompt"] for file in folder.iterdir()] == ["青い丸"]
    assert steps == [0, 1, 0, 1], "the first generation ended before its last step"


class Proxy(http.server.BaseHTTPRequestHandler):
    """A reverse proxy that publishes a page under /art/, as nginx does with `location /art/ { proxy_pass TARGET/; }`."""

    target = ""
    protocol_version = "HTTP/1.1"
    other: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/art/"):
            self.other.append(self.path)
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(self.target, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "accept-encoding")}
        headers |= {"X-Forwarded-Host": self.headers["Host"], "X-Forwarded-Proto": "http"}
        upstream.request(self.command, self.path.removeprefix("/art"), body or None, headers)
        response = upstream.getresponse()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while part := response.read1(65536):
            self.wfile.write(part)
            self.wfile.flush()
        self.close_connection = True

    do_POST = do_GET


@pytest.mark.slow
@pytest.mark.parametrize("way", ["path", "url"])
def test_behind_a_proxys_sub_path(session: Session, folder: Path, tmp_path: Path, way: str) -> None:
    Proxy.other = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        public = f"http://127.0.0.1:{proxy.server_port}/art"
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        with (
            serving(session, folder, root_path=public if way == "url" else "/art") as url,
            Browser(tmp_path / "profile") as browser,
        ):
            Proxy.target = urlsplit(url).netloc
            visit(browser, f"{public}/", "a red circle", 5)
            browser.wait(f"{LOADED} == 1")
            addresses = browser.requests()
        proxy.shutdown()
    beside = {a.removeprefix(public[:-4]) for a in addresses if not a.startswith((f"{public}/", "data:", "blob:"))}
    assert beside <= {"/manifest.json", "/favicon.ico"}, "what Gradio and browsers look for at the top of any site"
    assert len(list(folder.iterdir())) == 1
