"""Which captions are asked of which model, and what came of it.

commonart caption --model florence2,qwen3-vl --lang en,ja --length short,long raw/    # four of one, two of the other
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from commonart.core.data.text import count_words
from commonart.core.errors import UsageError
from commonart.core.registry.catalogue import LENGTHS, Prompt

if TYPE_CHECKING:
    from commonart.core.model.captioning.captioners import Captioner
    from commonart.core.model.captioning.endpoint import Endpoint, EndpointOptions

WORD_BINS = (0, 5, 10, 20, 40, 80, 160)  # lower ends of the histogram's bins


class Request(NamedTuple):
    """One kind of caption from one model."""

    engine: Captioner | Endpoint
    prompt: Prompt

    @property
    def name(self) -> str:
        """What messages call it: `qwen2-vl en long`."""
        return f"{self.engine.name} {self.prompt.lang} {self.prompt.length}"

    def fields(self) -> dict[str, Any]:
        """What every caption of it says of its making, beside the prompt: one with the same is finished."""
        engine = self.engine
        return {
            "model": engine.name, "revision": engine.revision, "lang": self.prompt.lang, "length": self.prompt.length,
            **engine.settings,
        }  # fmt: skip


def open_requests(
    names: Sequence[str],
    *,
    langs: Sequence[str] = (),
    lengths: Sequence[str] = (),
    accept_terms: Sequence[str] = (),
    endpoint: EndpointOptions | None = None,
    **options: Any,
) -> list[Request]:
    """Find the captioners of `--model`, and what each is asked; a model is loaded on first use.

    Args:
        langs: default: each model's first language.
        lengths: short, long; default: what each model usually writes in a language.
        endpoint: servers that run the models; None: they run here.
        options: of `Captioner.open`: allow_pickle, device, precision, quantize, max_new_tokens, side, temperature, seed.

    Raises:
        UsageError: A name is empty, unknown or given twice, a model's terms are refused, or nobody writes what is asked for.
        CommonArtError: A model's files cannot be found, or a server does not answer.
    """
    from commonart.core.model.captioning.captioners import Captioner

    for flag, values in (("--model", names), ("--lang", langs), ("--length", lengths)):
        if not all(values) or (flag == "--model" and not values):
            raise UsageError(f"{flag} holds an empty name.", "Give NAME or NAME,NAME.")
        if twice := next((value for value in values if values.count(value) > 1), ""):
            raise UsageError(f"{flag} names {twice} twice.", "Name everything once.")
    if unknown := next((length for length in lengths if length not in LENGTHS), ""):
        raise UsageError(f"--length {unknown} is not a length of captions.", f"Choose from {', '.join(LENGTHS)}.")
    engines: Sequence[Captioner | Endpoint]
    if endpoint:
        from commonart.core.model.captioning.endpoint import Endpoint

        if endpoint.model and len(names) > 1:
            raise UsageError("--endpoint-model goes with one --model.", "Run the command once for each model.")
        engines = [
            Endpoint.open(name, Captioner.ROLE, endpoint, accept_terms=accept_terms, **options) for name in names
        ]
    else:
        engines = [Captioner.open(name, accept_terms=accept_terms, **options) for name in names]
    requests: list[Request] = []
    for lang, length in itertools.product(langs or [""], lengths or [""]):
        found = [
            Request(engine, prompt) for engine in engines if (prompt := _usual(engine.model.prompts, lang, length))
        ]
        if not found:
            asked = " and ".join([*([f"--lang {lang}"] if lang else []), *([f"--length {length}"] if length else [])])
            writes = {
                f"{name} ({p.lang} {p.length})" for name, e in zip(names, engines, strict=True) for p in e.model.prompts
            }
            raise UsageError(
                f"none of the models has a prompt for {asked or 'a caption'}.",
                f"They write: {', '.join(sorted(writes)) or 'nothing'}.",
            )
        requests += found
    return sorted(requests, key=lambda request: engines.index(request.engine))


def _usual(prompts: Sequence[Prompt], lang: str, length: str) -> Prompt | None:
    """The first prompt of a language ("": the model's first) and a length ("": the usual one)."""
    lang = lang or (prompts[0].lang if prompts else "")
    return next((p for p in prompts if p.lang == lang and length in ("", p.length)), None)


def settings(requests: Sequence[Request], min_captions: int = 1, min_words: int = 0) -> Mapping[str, Any]:
    """Return what shards depend on besides their input."""
    asked = [{**request.fields(), "prompts": list(request.prompt.texts)} for request in requests]
    return {"captions": asked, "min_captions": min_captions, "min_words": min_words}


@dataclass(slots=True)
class Tally:
    """What a run wrote, and how fast."""

    images: int = 0
    captions: int = 0
    tokens: int = 0
    seconds: float = 0.0  # from the first image to the last caption, without loading the models
    words: dict[str, Counter[int]] = field(default_factory=dict)  # by model and language: captions by bin

    def add(self, request: Request, text: str) -> None:
        """Count one caption."""
        words = count_words(text)
        bin = max(low for low in WORD_BINS if low <= words)
        self.words.setdefault(f"{request.engine.name} {request.prompt.lang}", Counter())[bin] += 1
        self.captions += 1

    def counts(self) -> dict[str, Any]:
        """Return all of it as JSON takes it, for `merge` in another process."""
        words = {name: {str(low): count for low, count in bins.items()} for name, bins in self.words.items()}
        return {
            "images": self.images,
            "captions": self.captions,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "words": words,
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another process wrote at the same time: its `counts`."""
        self.images += other["images"]
        self.captions += other["captions"]
        self.tokens += other["tokens"]
        self.seconds = max(self.seconds, other["seconds"])
        for name, bins in other["words"].items():
            self.words.setdefault(name, Counter()).update({int(low): count for low, count in bins.items()})

    def as_json(self) -> dict[str, Any]:
        """Return counts and speeds of this run alone: shards that were finished before are not in them."""
        seconds = self.seconds or math.inf
        return {
            "images_per_second": round(self.images / seconds, 2),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "captions": self.captions,
            "words": {
                name: {str(low): bins[low] for low in WORD_BINS if bins[low]} for name, bins in self.words.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield the same for a person: a histogram of words for each model and language."""
        told = self.as_json()
        yield f"  {told['images_per_second']:,} images/s, {told['tokens_per_second']:,} tokens/s"
        for name, bins in self.words.items():
            yield f"  words by {name}:"
            for low, high in itertools.zip_longest(WORD_BINS, WORD_BINS[1:]):
                if count := bins[low]:
                    bar = "#" * max(1, round(40 * count / bins.total()))
                    yield f"    {f'{low}-{high - 1}' if high else f'{low}-':>8} {count:>9,} {bar}"
