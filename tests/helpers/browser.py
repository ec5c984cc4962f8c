"""Chromium through chromedriver's HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest


class Browser:
    """A headless Chromium; use as a context manager. Skips the test where it is not installed."""

    def __init__(self, profile: Path, language: str = "en") -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not chromium or not driver:
            pytest.skip("no chromium or no chromedriver: apt-get install chromium chromium-driver")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [driver, f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--disable-dev-shm-usage", "--window-size=1200,1400", f"--user-data-dir={profile}",
            f"--accept-lang={language}",
        ]  # fmt: skip
        options = {
            "binary": chromium, "args": flags, "prefs": {"intl.accept_languages": language},
        }  # fmt: skip
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL"}}
        self.session = ""
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session = answer["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self.call("DELETE", "")
        self.process.terminate()
        self.process.wait(20)

    def call(self, method: str, path: str, body: dict | None = None) -> Any:
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

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def script(self, text: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": text, "args": []})

    def wait(self, script: str, seconds: float = 120) -> Any:
        """Wait until a script returns something true; return that."""
        end = time.monotonic() + seconds
        while not (value := self.script(script)):
            assert time.monotonic() < end, self.script("return document.body.innerText")
            time.sleep(0.3)
        return value

    def find(self, css: str) -> str:
        (element,) = self.call("POST", "/element", {"using": "css selector", "value": css}).values()
        return element

    def click(self, css: str) -> None:
        self.call("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        element = self.find(css)
        self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def requests(self) -> list[str]:
        """Return the address of every request of a page since the last call, from Chromium's own log."""
        entries = self.call("POST", "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        urls += [e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"]
        return [url for url in urls if not url.startswith("chrome")]  # its own new-tab page
