"""Translate captions: adds captions in another language and keeps the originals.

    commonart translate --to ja --model cat-translate captioned/ -o translated/

A translation names its original in `translated_from` and is never added twice, so an interrupted command continues
where it stopped. A translation that is empty, repeats itself, is in the wrong script or is far too long is not added:
the record keeps its original, and a warning counts such translations by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from commonart.core import log
from commonart.core.data.drops import Drop
from commonart.core.data.record import Caption, Record, add_caption, captions
from commonart.core.errors import UsageError, check_at_least

if TYPE_CHECKING:
    from commonart.core.model.captioning.translators import Translator


class TranslationJob(NamedTuple):
    """One caption to translate."""

    record: Record
    text: str
    source: str  # language code
    origin: str  # the value of `translated_from`


def open_model(
    name: str,
    to: str,
    *,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Translator:
    """Find the translator of `--model NAME` to language `to`; it is loaded on first use.

    Raises:
        UsageError: The name or the language is unknown, or the model's terms are refused.
        CommonArtError: The model's files cannot be found.
    """
    from commonart.core.model.captioning.translators import Translator

    _check_language(to)
    return Translator.open(
        name, accept_terms=accept_terms, allow_pickle=allow_pickle, device=device, precision=precision
    )


def translate(
    records: Iterable[Record], drop: Drop, *, model: Translator, to: str = "ja", batch: int = 32
) -> Iterator[Record]:
    """Add a caption in language `to` for every original caption in another language; records are never dropped.

    Args:
        model: from `open_model`.
        to: a code of `translators.LANGUAGES`.
        batch: captions that the model sees at once; halved where the device's memory runs out.

    Raises:
        UsageError: `to` is not a language of the translators, or `batch` is below 1.
    """
    _check_language(to)
    check_at_least("--batch", batch, 1)
    rejected: Counter[str] = Counter()
    waiting: list[Record] = []
    jobs: list[TranslationJob] = []
    for record in records:
        waiting.append(record)
        jobs += _jobs(record, model.name, to)
        if len(jobs) >= batch or len(waiting) >= 64 * batch:
            _translate_batch(jobs, model, to, batch, rejected)
            yield from waiting
            waiting, jobs = [], []
    _translate_batch(jobs, model, to, batch, rejected)
    yield from waiting
    if rejected:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(rejected.items()))
        log.warn(f"translate: {rejected.total()} translations were not added ({reasons}); their records are kept")


def _check_language(to: str) -> None:
    from commonart.core.model.captioning.translators import LANGUAGES

    if to not in LANGUAGES:
        raise UsageError(f"--to {to} is not a supported language.", f"Choose one of {', '.join(LANGUAGES)}.")


def origins(all_captions: Sequence[Caption]) -> list[str]:
    """Name each original caption by its model, and a model's second in one language with `#2`; "" for translations.

    The names stay the same however often a record is translated.
    """
    counts: Counter[str] = Counter()
    names = []
    for caption in all_captions:
        name = caption.get("model") or "source"
        if caption.get("translated_from"):
            names.append("")
            continue
        key = f"{name}/{caption.get('lang', '')}"
        counts[key] += 1
        names.append(name if counts[key] == 1 else f"{name}#{counts[key]}")
    return names


def _jobs(record: Record, model: str, to: str) -> Iterator[TranslationJob]:
    from commonart.core.model.captioning.translators import LANGUAGES

    all_captions = captions(record)
    done = {c.get("translated_from") for c in all_captions if c.get("model") == model and c.get("lang") == to}
    for caption, origin in zip(all_captions, origins(all_captions), strict=True):
        source = caption.get("lang") or "en"
        if origin and origin not in done and source != to and source in LANGUAGES and caption["text"].strip():
            yield TranslationJob(record, caption["text"], source, origin)


def _translate_batch(
    jobs: Sequence[TranslationJob], model: Translator, to: str, batch: int, rejected: Counter[str]
) -> None:
    from commonart.core.model.captioning.translators import problem

    translations: dict[tuple[str, str], str] = {}  # captions repeat themselves: each text is translated once
    for source in sorted({job.source for job in jobs}):
        texts = sorted({job.text for job in jobs if job.source == source}, key=lambda t: (len(t), t))
        for start in range(0, len(texts), batch):  # of similar length, so that little is padding
            part = texts[start : start + batch]
            keys = [(source, text) for text in part]
            translations |= zip(keys, model.translate(part, source, to), strict=True)
    for job in jobs:
        text = translations[job.source, job.text]
        if reason := problem(text, job.text, job.source, to):
            rejected[reason] += 1
            continue
        add_caption(
            job.record, text, lang=to, model=model.name, revision=model.revision, license=model.license,
            translated_from=job.origin, terms_accepted=model.accepted,
        )  # fmt: skip
