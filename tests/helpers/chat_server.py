"""A server on this machine that speaks OpenAI's chat protocol as vLLM does, or misbehaves as it is told.

    with ChatServer() as server:
        server.plan = [Answer(status=500), Answer()]    # the first request fails; from the last on, all are alike

A caption says how wide the picture is, a translation quotes the text: what was asked can be told from the answer.
"""

from __future__ import annotations

import base64
import http.server
import io
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from web_server import Handler, Served, _Server, answer

HUB = "Qwen/Qwen3-VL-2B-Instruct"


@dataclass
class Answer:
    """How one request is answered."""

    status: int = 200
    seconds: float = 0.0  # before anything is said
    text: str | None = None
    finish_reason: str = "stop"
    body: bytes | None = None  # instead of one of the protocol
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # half of the body, then the connection is closed
    close: bool = False  # nothing at all


def width(body: dict[str, Any]) -> int:
    """The width of the picture in a request."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).width


def usual(body: dict[str, Any]) -> str:
    """What a well-behaved model says."""
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        text = content.rsplit("\n\n", 1)[-1]
        return f"これは{re.sub('[^0-9]', '', text)}個の点がある写真です。"
    return f"A photograph of {width(body)} red dots on a white wall."


class ChatServer(Served):
    """The server, on a free port; use as a context manager. `port` takes that of one that is gone."""

    def __init__(
        self, models: Sequence[str] = (HUB,), version: bytes | None = b'{"version":"0.11.0"}', port: int = 0
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gets: list[str] = []
        self.plan: list[Answer] = [Answer()]
        self.choose: Callable[[dict[str, Any]], Answer | None] = lambda body: None  # before `plan`
        self.pages: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.in_flight = self.most = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.pages["/v1/models"] = (
            200,
            json.dumps({"data": [{"id": m, "object": "model"} for m in models]}).encode(),
            {},
        )
        if version is not None:
            self.pages["/version"] = (200, version, {})
        chat = self

        class Page(Handler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                chat.gets.append(self.path)
                status, data, headers = chat.pages.get(self.path, (404, b'{"detail":"Not Found"}', {}))
                answer(self, status, data, **headers)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with chat.lock:
                    chat.requests.append(body)
                    chat.headers.append(dict(self.headers))
                    chat.in_flight += 1
                    chat.most = max(chat.most, chat.in_flight)
                    said = chat.choose(body) or (chat.plan.pop(0) if len(chat.plan) > 1 else chat.plan[0])
                try:
                    if said.seconds:
                        chat.ended.wait(said.seconds)
                finally:
                    with chat.lock:
                        chat.in_flight -= 1
                chat.reply(self, body, said)

            def version_string(self) -> str:
                return "uvicorn"

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: stderr belongs to the test."""

        self.server: http.server.ThreadingHTTPServer = _Server(("127.0.0.1", port), Page)
        self.port = int(self.server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        super().__exit__(*error)

    def reply(self, handler: Handler, body: dict[str, Any], said: Answer) -> None:
        if said.close:
            handler.close_connection = True
            return
        data = said.body
        if data is None and said.status == 200:
            text = usual(body) if said.text is None else said.text
            data = json.dumps({
                "id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time()), "model": body["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": said.finish_reason}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 12, "total_tokens": 112},
            }).encode()  # fmt: skip
        data = b'{"error":{"message":"it went wrong"}}' if data is None else data
        headers = {"Content_Length": str(len(data)), **said.headers}
        answer(handler, said.status, data[: len(data) // 2] if said.cut else data, **headers)
