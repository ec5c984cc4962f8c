"""Requests to one or more servers that speak OpenAI's protocol, and what is done where they fail.

Requests go to the server with the fewest in flight. One that cannot be reached is left alone for a while and then probed
with a single request. What may pass (429, 5xx, a lost connection, an answer that is cut off or not of the protocol) is tried
again with growing pauses.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import orjson

from commonart.core import log
from commonart.core.data.download.transfer import parse_retry_after
from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError, check_at_least, with_class
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.protocol import (
    BUSY,
    AnswerTooLong,
    Limits,
    ProtocolClient,
    TryAgain,
    address,
    parse,
    plain,
)

Item = TypeVar("Item")


@dataclass(slots=True)
class Server:
    """One address, and how it is doing."""

    url: str  # ends in /v1
    engine: str = ""  # what runs there, with its version: `vllm 0.11.0`
    in_flight: int = 0
    failures: int = 0  # connections in a row that brought no answer
    paused_until: float = 0.0

    def pause(self, seconds: float) -> None:
        """Send it nothing for a while."""
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)


class ServerPool:
    """Servers that serve one model."""

    def __init__(self, urls: Sequence[str], key_file: str | None, in_flight: int, limits: Limits) -> None:
        """Check addresses and key; nothing is sent yet.

        Args:
            key_file: holds a bearer token, which is sent to these addresses alone.
            in_flight: requests to one server at a time.

        Raises:
            UsageError: An address or the key's file is no good, or `in_flight` is below 1.
        """
        check_at_least("--batch", in_flight, 1)
        self.servers = [Server(url) for url in dict.fromkeys(map(address, urls))]
        self.in_flight, self.limits = in_flight, limits
        self._client = ProtocolClient(key_file, limits)
        self._answered = self._stopped = time.monotonic()  # a server's last word; the end of the last call

    def ask(
        self, items: Sequence[Item], body: Callable[[Item, Server], Mapping[str, Any]]
    ) -> list[Generated | Problem]:
        """Send a request for each item; return the answers in order.

        A problem is endpoint_refused (the server does not take this input), endpoint_error (all attempts failed) or
        model_error (`body` failed).

        Args:
            body: what is sent for an item, called in a thread.

        Raises:
            CommonArtError: No server says a word for `Limits.give_up` seconds, or one takes no request at all.
        """

        async def ask_all() -> list[Generated | Problem]:
            slots = asyncio.Semaphore(self.in_flight * len(self.servers))
            async with self._client.connect() as http, asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(http, slots, item, body)) for item in items]
            return [task.result() for task in tasks]

        self._answered += time.monotonic() - self._stopped
        try:
            return asyncio.run(ask_all())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._stopped = time.monotonic()

    async def _ask(
        self,
        http: httpx.AsyncClient,
        slots: asyncio.Semaphore,
        item: Item,
        body: Callable[[Item, Server], Mapping[str, Any]],
    ) -> Generated | Problem:
        """Ask until there is an answer, or all attempts are spent."""
        server: Server | None = None
        tries = rounds = 0
        started = math.inf
        while True:
            async with slots:
                started = min(started, time.monotonic())
                server = await self._free_server(server)
                server.in_flight += 1
                try:
                    try:
                        data = await asyncio.to_thread(lambda to: orjson.dumps(body(item, to)), server)
                    except Exception as error:  # whatever one input makes an encoder raise costs that input
                        return Problem("model_error", with_class(error))
                    return await self._answer(http, server, data)
                except TryAgain as again:
                    failed, tries, rounds = again, tries + again.tries, rounds + 1
                finally:
                    server.in_flight -= 1
            if tries >= self.limits.attempts or time.monotonic() - started > self.limits.give_up:
                return Problem("endpoint_error", f"{server.url}: {failed}"[:300])
            await asyncio.sleep(max(failed.wait, self._backoff(rounds) * random.uniform(0.5, 1.0)))

    def _backoff(self, failures: int) -> float:
        return min(self.limits.longest_pause, self.limits.backoff * 2.0 ** min(failures - 1, 16))

    async def _free_server(self, failed: Server | None) -> Server:
        """Wait for a server that takes a request: the one with the fewest in flight, and rather not the one that failed."""
        while True:
            now = time.monotonic()
            self._check_alive(now)
            ready = [
                server for server in self.servers
                if server.paused_until <= now and server.in_flight < (1 if server.failures else self.in_flight)
            ]  # fmt: skip
            if ready:
                return min(ready, key=lambda server: (server is failed, server.in_flight))
            await asyncio.sleep(min(0.05, self.limits.backoff))

    def _check_alive(self, now: float) -> None:
        if (silent := now - self._answered) > self.limits.give_up:
            urls = " and ".join(server.url for server in self.servers)
            raise CommonArtError(
                f"--endpoint {urls} has not answered for {silent:.0f} s.",
                "Start the server again, then the same command: a folder keeps its finished shards.",
            )

    async def _answer(self, http: httpx.AsyncClient, server: Server, body: bytes) -> Generated | Problem:
        """Send one request. Raises TryAgain where another attempt may succeed, CommonArtError where no request will."""
        began = time.monotonic()
        try:
            status, headers, data = await self._client.send(http, "POST", f"{server.url}/chat/completions", body)
        except AnswerTooLong as error:
            raise TryAgain(with_class(error), tries=2) from None
        except (httpx.HTTPError, TimeoutError) as error:
            if server.paused_until <= began:  # once for all that were on their way when it went down
                server.failures += 1
                server.pause(self._backoff(server.failures))
            self._check_alive(time.monotonic())
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                raise TryAgain(with_class(error), tries=0) from None
            if isinstance(error, (TimeoutError, httpx.TimeoutException)):
                raise TryAgain(f"no answer in {self.limits.answer:g} s", tries=2) from None
            raise TryAgain(with_class(error)) from None
        self._answered, server.failures = time.monotonic(), 0
        if status == 200:
            return parse(data)
        said = f"HTTP {status} {self._client.message(data)}".strip()
        if status in (*BUSY, 408, 425) or status >= 500:
            wait = min(self.limits.longest_pause, parse_retry_after(headers.get("retry-after", "")))
            if status in BUSY:
                server.pause(wait)
            raise TryAgain(said, tries=0 if status in BUSY else 1, wait=wait)
        self._client.check_usable(server.url, status, headers, said)
        return Problem("endpoint_refused", f"{server.url}: {said}")

    def meet(self, wanted: Sequence[str], name: str) -> str:
        """Find out what runs on every server, and return the name under which all of them serve a model.

        Args:
            wanted: the names that it may have there.
            name: what --model calls it, for errors.

        Raises:
            UsageError: A server does not serve it; the error lists what it serves.
            CommonArtError: A server does not answer.
        """
        return asyncio.run(self._meet(list(dict.fromkeys(wanted)), name))

    async def _meet(self, wanted: Sequence[str], name: str) -> str:
        found = list[str]()
        async with self._client.connect() as http:
            for server in self.servers:
                models, software = await self._client.models(http, server.url)
                if not (names := [m for m in models if m.casefold() in {want.casefold() for want in wanted}]):
                    raise UsageError(
                        f"--endpoint {server.url} does not serve {' or '.join(wanted)}.",
                        f"It serves {plain(', '.join(models)) or 'nothing'}; where one of them is {name} under another "
                        "name, add --endpoint-model with that name.",
                    )
                found.append(names[0])
                server.engine = await self._client.version(http, server.url) or software or "openai-compatible"
        if len(set(found)) > 1:
            raise UsageError(f"the servers call the model by different names: {', '.join(found)}.", "Give it one name.")
        if len({server.engine for server in self.servers}) > 1:
            log.warn("not the same software: " + ", ".join(f"{s.url} is {s.engine}" for s in self.servers))
        return found[0]
