"""Translate captions: adds captions in another language and keeps the originals.

    commonart translate --to ja --model cat-translate captioned/ -o translated/

What is added names its original in `translated_from`, and is not added twice, so an interrupted command goes on where
it stopped. A translation that is empty, loops, stays in the wrong script or is far too long is not added: the record
stays with its original, and the number is said on stderr (`rejected`, by reason).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from commonart.core import log
from commonart.core.data.drops import Drop
from commonart.core.data.record import Caption, Record, add_caption, captions
from commonart.core.errors import UsageError

if TYPE_CHECKING:
    from commonart.core.model.captioning.translators import Translator

BATCH = 32


class Job(NamedTuple):
    """One caption to translate."""

    record: Record
    text: str
    source: str  # language code
    origin: str  # what `translated_from` will say


def open_model(name: str, **options: object) -> Translator:
    """The translator of `--model NAME`, found once for a whole run and loaded when first asked.

    Options are those of `open_translator`.
    """
    from commonart.core.model.captioning.translators import open_translator

    return open_translator(name, **options)  # type: ignore[arg-type]


def translate(
    records: Iterable[Record], drop: Drop, *, model: Translator, to: str = "ja", batch: int = BATCH
) -> Iterator[Record]:
    """Add a caption in language `to` for every original caption in another language, in the order of the records.

    Args:
        model: from `open_model`.
        to: a code of `translators.LANGUAGES`.
        batch: captions that the model sees at once; halved by itself where the device's memory runs out.

    Records are never dropped here. Raises UsageError for an unknown language.
    """
    from commonart.core.model.captioning.translators import LANGUAGES

    if to not in LANGUAGES:
        raise UsageError(f"--to {to} is no language that we translate to.", f"Give {' or '.join(LANGUAGES)}.")
    if batch < 1:
        raise UsageError(f"--batch {batch} is no batch.", "Give 1 or more.")
    rejected: Counter[str] = Counter()
    waiting: list[Record] = []
    jobs: list[Job] = []
    for record in records:
        waiting.append(record)
        jobs += _jobs(record, model.name, to)
        if len(jobs) >= batch or len(waiting) >= 64 * batch:
            _work(jobs, model, to, batch, rejected)
            yield from waiting
            waiting, jobs = [], []
    _work(jobs, model, to, batch, rejected)
    yield from waiting
    if rejected:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(rejected.items()))
        log.warn(f"translate: {rejected.total()} translations were not added ({reasons}); their records are kept")


def origins(found: Sequence[Caption]) -> list[str]:
    """A name for each caption that holds however often the record is translated: its model, `#2` for its second."""
    seen: Counter[str] = Counter()
    named = []
    for one in found:
        name = one.get("model") or "source"
        if one.get("translated_from"):
            named.append("")
            continue
        key = f"{name}/{one.get('lang', '')}"
        seen[key] += 1
        named.append(name if seen[key] == 1 else f"{name}#{seen[key]}")
    return named


def _jobs(record: Record, name: str, to: str) -> Iterator[Job]:
    from commonart.core.model.captioning.translators import LANGUAGES

    found = captions(record)
    there = {c.get("translated_from") for c in found if c.get("model") == name and c.get("lang") == to}
    for one, origin in zip(found, origins(found), strict=True):
        source = one.get("lang") or "en"
        if origin and origin not in there and source != to and source in LANGUAGES and one["text"].strip():
            yield Job(record, one["text"], source, origin)


def _work(jobs: Sequence[Job], model: Translator, to: str, batch: int, rejected: Counter[str]) -> None:
    from commonart.core.model.captioning.translators import problem

    made: dict[tuple[str, str], str] = {}  # captions repeat themselves: each text is translated once
    for source in sorted({job.source for job in jobs}):
        texts = sorted({job.text for job in jobs if job.source == source}, key=lambda t: (len(t), t))
        for start in range(0, len(texts), batch):  # of like length, so that little is padding
            part = texts[start : start + batch]
            made |= {(source, t): new for t, new in zip(part, model.translate(part, source, to), strict=True)}
    for job in jobs:
        text = made[job.source, job.text]
        wrong = problem(text, job.text, job.source, to)
        if wrong:
            rejected[wrong] += 1
            continue
        add_caption(
            job.record, text, lang=to, model=model.name, revision=model.revision, license=model.license,
            translated_from=job.origin,
        )  # fmt: skip
        if model.accepted:
            job.record["captions"][-1]["terms_accepted"] = True
