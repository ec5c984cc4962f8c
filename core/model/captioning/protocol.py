"""What is sent to a server that speaks OpenAI's protocol, and what its answers mean.

`ProtocolClient` sends, `parse` reads; servers.py decides which server is asked, and what is done where one fails.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson

from commonart.core.data.download.transfer import ca_file
from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError, with_class
from commonart.core.model.captioning.generate import Generated, tidy

# Where servers tell their version: name, path beside /v1, field.
VERSIONS = (
    ("ollama", "/api/version", "version"),
    ("llama.cpp", "/props", "build_info"),
    ("sglang", "/get_server_info", "version"),
    ("vllm", "/version", "version"),
)
BUSY = (429, 503)  # llama.cpp says 503 while it loads
FATAL = {
    401: "the key is missing or wrong",
    403: "the key may not use this model",
    404: "there is no such model or path",
    405: "this path takes no such request",
}
MAX_ANSWER = 1 << 22  # bytes


class Limits(NamedTuple):
    """How long is waited, in seconds, and how often is tried."""

    connect: float = 10.0
    start: float = 30.0  # what the models and the version are waited for
    answer: float = 300.0  # a whole one, with its time in the server's queue
    give_up: float = 900.0  # without a word of any server the run ends; of busy ones an input is given up
    attempts: int = 4  # of one input; a time-out counts twice, a busy or unreachable server not at all
    backoff: float = 0.5  # before the second attempt; doubled with each
    longest_pause: float = 60.0  # also of Retry-After


class TryAgain(Exception):
    """An attempt failed, and another one may not. `tries`: what it counts; `wait`: seconds that the server asked for."""

    def __init__(self, what: str, tries: int = 1, wait: float = 0.0) -> None:
        super().__init__(what)
        self.tries, self.wait = tries, wait


class AnswerTooLong(httpx.RemoteProtocolError):
    """A server says more than an answer of the protocol holds: it is up, and the input is what it cannot answer."""


class ProtocolClient:
    """Sends requests to the named hosts alone: no proxies, no redirects."""

    def __init__(self, key_file: str | None, limits: Limits) -> None:
        """Read the bearer token. Raises UsageError where the file does not hold one."""
        self.limits, self._key = limits, _read_key(key_file)
        self._tls = ssl.create_default_context(cafile=ca_file() or None)

    def connect(self) -> httpx.AsyncClient:
        """Return the connections, for `async with`."""
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {self._key}"} if self._key else {})},
            timeout=httpx.Timeout(self.limits.answer, connect=self.limits.connect),
            limits=httpx.Limits(max_connections=None), trust_env=False, follow_redirects=False, verify=self._tls,
        )  # fmt: skip

    async def send(
        self, client: httpx.AsyncClient, method: str, url: str, body: bytes | None = None
    ) -> tuple[int, httpx.Headers, bytes]:
        """Return (status, headers, body) of one request, within the time of a whole answer."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        async with (
            asyncio.timeout(self.limits.start if body is None else self.limits.answer),
            client.stream(method, url, content=body, headers=headers) as response,
        ):
            data = bytearray()
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > MAX_ANSWER:
                    raise AnswerTooLong(f"the answer has more than {MAX_ANSWER} bytes")
            return response.status_code, response.headers, bytes(data)

    def message(self, data: bytes) -> str:
        """What a server says about an error, without the key, which some repeat."""
        try:
            error = orjson.loads(data)
            error = error.get("error", error)
            text = str(error.get("message") or error.get("detail") or "" if isinstance(error, dict) else error)
        except (orjson.JSONDecodeError, AttributeError):
            text = data[:1000].decode("utf-8", "replace")
        return plain(text.replace(self._key, "***") if self._key else text)

    def check_usable(self, url: str, status: int, headers: httpx.Headers, said: str) -> None:
        """Raise CommonArtError for an answer that every request to this address would get."""
        if status in FATAL:
            raise CommonArtError(
                f"--endpoint {url}: {FATAL[status]} ({said}).",
                "Check the address, the model that it serves, and --endpoint-key-file.",
            )
        if 300 <= status < 400:
            raise CommonArtError(
                f"--endpoint {url} redirects to {plain(headers.get('location', ''))}, which is not followed.",
                "Give the address that answers by itself.",
            )

    async def models(self, client: httpx.AsyncClient, url: str) -> tuple[list[str], str]:
        """Return (the names that a server serves, what its Server header says).

        Raises:
            CommonArtError: It does not answer, or with something else.
        """
        advice = "Start it, wait until it has loaded its model, or correct the address."
        try:
            status, headers, data = await self.send(client, "GET", f"{url}/models")
        except (httpx.HTTPError, TimeoutError) as error:
            raise CommonArtError(f"--endpoint {url} does not answer: {with_class(error)}.", advice) from None
        said = f"HTTP {status} {self.message(data)}".strip()
        self.check_usable(url, status, headers, said)
        try:
            return [str(row["id"]) for row in orjson.loads(data)["data"]], plain(headers.get("server", ""))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise CommonArtError(f"--endpoint {url} does not list its models: {said}.", advice) from None

    async def version(self, client: httpx.AsyncClient, url: str) -> str:
        """Return what runs on a server, as `vllm 0.11.0`; "" where it does not tell."""
        for engine, path, field in VERSIONS:
            try:
                status, _, data = await self.send(client, "GET", url.removesuffix("/v1") + path)
                version = orjson.loads(data).get(field) if status == 200 else None
            except (httpx.HTTPError, TimeoutError, orjson.JSONDecodeError, AttributeError):
                continue
            if version and isinstance(version, str):
                return plain(f"{engine} {version}")
        return ""


def address(url: str) -> str:
    """Return an address that ends in /v1, which is added where it is missing. Raises UsageError for another kind of URL."""
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        # What was given is not repeated: it may hold a password.
        raise UsageError(
            "--endpoint takes an address like http://localhost:8000, without a user, a password or a query.",
            "A key belongs in a file: --endpoint-key-file FILE.",
        )
    base = str(parsed).rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _read_key(file: str | None) -> str:
    if file is None:
        return ""
    key = Path(file).read_text("utf-8", errors="replace").strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise UsageError(f"--endpoint-key-file {file} does not hold a key.", "It holds the key alone, on one line.")
    return key


def plain(text: str) -> str:
    """Text of a server on one short line, without what would steer a terminal."""
    return "".join(filter(str.isprintable, tidy(text)))[:200]


def parse(data: bytes) -> Generated | Problem:
    """Read one answer of the protocol. Raises TryAgain for what is none."""
    try:
        value = orjson.loads(data)
        choice = value["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        if isinstance(text, list):  # of parts, as some servers answer
            text = "".join(part["text"] for part in text if part["type"] == "text")
        tokens = (value.get("usage") or {}).get("completion_tokens") or 0
        if not isinstance(text, str | None) or not isinstance(tokens, int):
            raise TypeError
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        raise TryAgain(f"not an answer of the protocol: {plain(data[:100].decode('utf-8', 'replace'))!r}") from None
    if reason in ("abort", "error"):  # of a request that the server itself gave up
        raise TryAgain(f"finish_reason {reason}")
    if reason == "content_filter":
        return Problem("endpoint_refused", "content_filter")
    return Generated(tidy(text or ""), reason != "length", tokens, _first_tokens(choice))


def _first_tokens(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the probabilities of the first token of an answer; none where the server does not tell them."""
    first: dict[str, float] = {}
    with suppress(KeyError, IndexError, TypeError, OverflowError):
        for each in choice["logprobs"]["content"][0]["top_logprobs"]:
            token = str(each["token"])
            first[token] = first.get(token, 0.0) + math.exp(each["logprob"])
    return tuple(first.items())
