"""Captions and translations from any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, Ollama.

    commonart caption --model qwen3-vl-8b --endpoint http://gpu1:8000 --endpoint http://gpu2:8000 shards/ -o captioned/

The terms are those of the registry's row that `--model` names; nothing is downloaded.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from commonart.core.data.caption_terms import is_closed_service
from commonart.core.data.drops import Problem
from commonart.core.errors import UsageError
from commonart.core.model.captioning.captioners import ANSWER_TOKENS, SIDE, Captioner
from commonart.core.model.captioning.generate import LIKELY, RETRY, Generated
from commonart.core.model.captioning.languages import LANGUAGES
from commonart.core.model.captioning.protocol import Limits
from commonart.core.model.captioning.sampling import seed_of
from commonart.core.model.captioning.servers import Server, ServerPool
from commonart.core.model.captioning.translators import SEQ2SEQ, Translator
from commonart.core.registry.catalogue import TRANSLATE, Model, prompts_for
from commonart.core.registry.lookup import check_terms, find_model

Item = TypeVar("Item")
# Models that are asked with task tokens, or with a text alone: a chat template would change what they are asked.
NOT_CHAT = {"Florence2ForConditionalGeneration", "Blip2ForConditionalGeneration", *SEQ2SEQ}
QUALITY = 90  # of the JPEGs
# A second try is greedy like the first, with the penalty that local models get: what was refused is a loop most of the time.
# The protocol has no field for it. Three servers have; of others, which may refuse what they do not know, it is sampled.
PENALTY = {"vllm": "repetition_penalty", "sglang": "repetition_penalty", "llama.cpp": "repeat_penalty"}
SAMPLED = {"temperature": 0.3, "seed": 1}


class EndpointOptions(NamedTuple):
    """What `--endpoint` and the options beside it say."""

    urls: Sequence[str]
    model: str | None = None  # its name on the servers, where that is neither the row's name nor its hub id
    key_file: str | None = None
    in_flight: int = 32  # requests to one server at a time
    limits: Limits = Limits()


class Endpoint:
    """A model on one or more servers, with the interface of Captioner and Translator."""

    def __init__(
        self,
        model: Model,
        options: EndpointOptions,
        *,
        accepted: bool,
        max_new_tokens: int,
        side: int | None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Ask every server for its models and its version.

        Args:
            side: pixels of the longer side of the images that it is shown; None for a model of texts.
            temperature, seed: of what the servers draw; 0: the likeliest text.

        Raises:
            UsageError: An address or the key's file is no good, or a server does not serve the model.
            CommonArtError: A server does not answer.
        """
        prompts = model.prompts or prompts_for(model.cls)  # a hub id outside the table has none of its own
        prompts = tuple(prompt._replace(texts=tuple(map(_question, prompt.texts))) for prompt in prompts)
        self.model, self.name, self.license = replace(model, prompts=prompts), model.name, model.license
        self.revision = ""  # no server tells which commit it has loaded
        self.accepted, self.max_new_tokens = accepted, max_new_tokens
        self._pool = ServerPool(options.urls, options.key_file, options.in_flight, options.limits)
        self._served = self._pool.meet([options.model] if options.model else [model.hub, model.name], model.name)
        self.settings: dict[str, str | int | float] = {
            "max_new_tokens": max_new_tokens,
            "engine": ", ".join(sorted({server.engine for server in self._pool.servers})),
            **({} if side is None else {"side": side}),
            **({} if options.model is None else {"endpoint_model": self._served}),
            **({"temperature": temperature, "seed": seed} if temperature else {}),
        }
        self._temperature, self._seed = temperature, seed
        self._tells_tokens = True
        # So many at once that the servers are busy for most of the time; at the end of a batch they run empty.
        self.largest_batch = 4 * options.in_flight * len(self._pool.servers)
        # Of a translator:
        self.template, self.piece_size = model.template or TRANSLATE, 500
        self.sources = self.targets = model.langs or tuple(LANGUAGES)

    @classmethod
    def open(
        cls,
        name: str,
        role: str,
        options: EndpointOptions,
        *,
        accept_terms: Sequence[str] = (),
        max_new_tokens: int | None = None,
        side: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        **local: Any,
    ) -> Endpoint:
        """Find the model that `--model NAME` names on the servers.

        Args:
            role: caption or translate.
            local: options of a model that runs here, which a server does not take: device, precision and others.

        Raises:
            UsageError: The name is unknown, its terms are refused, it is not a chat model, or as `__init__` raises it.
            CommonArtError: A server does not answer.
        """
        if given := [
            f"--{flag.replace('_', '-')}" for flag, value in local.items() if value not in (None, False, "auto")
        ]:
            raise UsageError(f"{given[0]} cannot be used with --endpoint.", "Give it to the server when you start it.")
        row = find_model(name, role)
        row = row if row.local else replace(row, broken="")  # what cannot run here may run there
        accepted = check_terms(row, accept_terms)
        if row.embedded or row.cls in NOT_CHAT:
            raise UsageError(
                f"--model {row.name} is not a chat model, as --endpoint needs it.", "Leave --endpoint out."
            )
        closed = is_closed_service(options.model or "")
        accepted = accepted or (closed and options.model in accept_terms)  # which its captions then say
        if closed and not accepted:
            raise UsageError(
                f"--endpoint-model {options.model} is refused: its terms do not allow training on what it writes.",
                f"If you answer for its use yourself, pass --accept-terms {options.model}.",
            )
        caption = role == Captioner.ROLE
        tokens = max_new_tokens or (Captioner if caption else Translator).MAX_NEW_TOKENS
        return cls(
            row, options, accepted=accepted, max_new_tokens=tokens, side=(side or SIDE) if caption else None,
            temperature=temperature, seed=seed,
        )  # fmt: skip

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return 0: the server makes its batches itself."""
        return 0

    def prepare(self, images: Sequence[Image.Image], prompt: str) -> None:
        """Do nothing: images are encoded while others are on their way."""

    def caption(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        *,
        keys: Sequence[str] = (),
        retry: bool = False,
        inputs: None = None,
    ) -> list[Generated | Problem]:
        """Describe RGB images, as `Captioner.caption` does. Problems and errors are those of `ServerPool.ask`."""

        def content(item: tuple[Image.Image, str]) -> list[dict[str, Any]]:
            return [
                {"type": "image_url", "image_url": {"url": _data_url(item[0])}},
                {"type": "text", "text": prompt},
            ]

        def drawn(item: tuple[Image.Image, str]) -> dict[str, Any]:
            seed = seed_of(self._seed, self.name, prompt, item[1]) % (1 << 31)  # servers take 32 bits
            return {"temperature": self._temperature, "seed": seed} if self._temperature else {}

        return self._ask(list(zip(images, keys or [""] * len(images), strict=True)), content, retry, drawn)

    def answer(self, asked: Sequence[tuple[Image.Image, str]]) -> list[Generated | Problem]:
        """Answer a question about each RGB image; with the probabilities of the first token where a server tells them.

        Problems and errors are those of `ServerPool.ask`.
        """

        def body(item: tuple[Image.Image, str], server: Server, **more: Any) -> dict[str, Any]:
            image, question = item
            url = {"type": "image_url", "image_url": {"url": _data_url(image)}}
            return {
                "model": self._served, "max_tokens": ANSWER_TOKENS, "temperature": 0, "seed": 0, **more,
                "messages": [{"role": "user", "content": [url, {"type": "text", "text": question}]}],
            }  # fmt: skip

        if self._tells_tokens:
            answers = self._pool.ask(asked, lambda item, server: body(item, server, logprobs=True, top_logprobs=LIKELY))
            refused = [isinstance(each, Problem) and each.reason == "endpoint_refused" for each in answers]
            if not refused or not all(refused):
                return answers
            self._tells_tokens = False  # a server that takes no such field
        return self._pool.ask(asked, body)

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, retry: bool = False
    ) -> list[Generated | Problem]:
        """Translate texts, as `Translator.translate` does. Problems and errors are those of `ServerPool.ask`."""
        names = {"source": LANGUAGES.get(source, source), "target": LANGUAGES.get(target, target)}
        return self._ask(texts, lambda text: self.template.format(text=text, **names), retry)

    def _ask(
        self,
        items: Sequence[Item],
        content: Callable[[Item], Any],
        retry: bool,
        drawn: Callable[[Item], Mapping[str, Any]] = lambda item: {},
    ) -> list[Generated | Problem]:
        def body(item: Item, server: Server) -> dict[str, Any]:
            penalty = PENALTY.get(server.engine.partition(" ")[0])
            other: dict[str, Any] = {penalty: RETRY["repetition_penalty"]} if penalty else SAMPLED
            return {
                "model": self._served, "messages": [{"role": "user", "content": content(item)}],
                "max_tokens": self.max_new_tokens, "temperature": 0, "seed": 0, **drawn(item), **(other if retry else {}),
            }  # fmt: skip

        return self._pool.ask(items, body)


def _question(prompt: str) -> str:
    """A prompt without the chat template of its model, which the server writes itself."""
    return re.sub(r"^USER: <image>\n|\nASSISTANT: ?$", "", prompt)


def _data_url(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
