"""Translate captions: adds captions in another language and keeps the originals.

    commonart translate --to ja --model cat-translate captioned/ -o translated/

A translation says which caption it was made from (`translated_from`), by which model and with which settings, and is never
added twice. Into a folder, finished shards are kept, and the same command continues where it was stopped; JSONL and pipes
keep nothing of an interrupted run. A translation that the guards refuse is asked for once more with other decoding; after
that it is missing and counted by its reason, and the record keeps its original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from commonart.core.data.drops import Drop, Problem
from commonart.core.data.record import Caption, Record, add_caption, captions
from commonart.core.errors import UsageError, check_at_least

if TYPE_CHECKING:
    from commonart.core.model.captioning.endpoint import Endpoint, EndpointOptions
    from commonart.core.model.captioning.translators import Translator

FAILURES = ("model_error", "out_of_memory", "input_too_long", "endpoint_error", "endpoint_refused")
WINDOW = 4  # batches of captions that are sorted by length: a batch is padded to its longest


class TranslationJob(NamedTuple):
    """One caption to translate."""

    record: Record
    text: str
    source: str  # language code
    origin: str  # the value of `translated_from`
    length: str  # of the original: short, long or ""


def open_model(
    name: str, to: str, *, accept_terms: Sequence[str] = (), endpoint: EndpointOptions | None = None, **options: Any
) -> Translator | Endpoint:
    """Find the translator of `--model NAME` to language `to`; it is loaded on first use.

    Args:
        endpoint: servers that run the model; None: it runs here.
        options: of `Translator.open`: allow_pickle, device, precision, quantize, max_new_tokens.

    Raises:
        UsageError: The name or the language is unknown, or the model's terms are refused.
        CommonArtError: The model's files cannot be found, or a server does not answer.
    """
    from commonart.core.model.captioning.translators import Translator
    from commonart.core.registry.lookup import find_model

    row = find_model(name, Translator.ROLE)
    if row.langs:
        _check_language(to, row.name, row.langs)  # before anything is downloaded
    model: Translator | Endpoint
    if endpoint:
        from commonart.core.model.captioning.endpoint import Endpoint

        model = Endpoint.open(name, Translator.ROLE, endpoint, accept_terms=accept_terms, **options)
    else:
        model = Translator.open(name, accept_terms=accept_terms, **options)
    _check_language(to, model.name, model.targets)
    return model


def settings(model: Translator | Endpoint, to: str) -> Mapping[str, Any]:
    """Return what a translation depends on besides its original; each of them is a field of it."""
    return {
        "model": model.name, "revision": model.revision, "lang": to, "prompt": model.template, **model.settings,
    }  # fmt: skip


def translate(
    records: Iterable[Record], drop: Drop, *, model: Translator | Endpoint, to: str = "ja", batch: int = 32,
    seen: Counter[str] | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Add a caption in language `to` for every original caption in another language; records are never dropped.

    What is missing is counted by reason: those of `guards.translation_problem`, unknown_language, input_too_long,
    model_error, out_of_memory, and those of `ServerPool.ask`.

    Args:
        model: from `open_model`.
        to: one of its `targets`.
        batch: pieces of captions that the model sees at once; halved where the device's memory runs out.
        seen: counts `records` and `captions` as they come in.

    Raises:
        UsageError: `to` is not a language that the model writes, or `batch` is below 1.
    """
    _check_language(to, model.name, model.targets)
    check_at_least("--batch", batch, 1)
    waiting: list[Record] = []
    jobs: list[TranslationJob] = []
    fields = settings(model, to)
    seen = Counter() if seen is None else seen
    for record in records:
        seen.update(records=1, captions=len(captions(record)))
        waiting.append(record)
        jobs += _jobs(record, fields)
        if len(jobs) >= WINDOW * batch or len(waiting) >= 64 * batch:
            _translate_window(jobs, drop, model, fields, batch)
            yield from waiting
            waiting, jobs = [], []
    _translate_window(jobs, drop, model, fields, batch)
    yield from waiting


def _check_language(to: str, name: str, targets: Sequence[str]) -> None:
    if to not in targets:
        raise UsageError(
            f"--to {to} is not a supported language of {name}.", f"Choose one of {', '.join(sorted(targets))}."
        )


def origins(all_captions: Sequence[Caption]) -> list[str]:
    """Name each original caption by its model, and a model's second in one language with `#2`; "" for translations.

    The names stay the same however often a record is translated.
    """
    counts: Counter[str] = Counter()
    names = []
    for caption in all_captions:
        name = str(caption.get("model") or "source")
        if caption.get("translated_from"):
            names.append("")
            continue
        key = f"{name}/{caption.get('lang', '')}"
        counts[key] += 1
        names.append(name if counts[key] == 1 else f"{name}#{counts[key]}")
    return names


def _jobs(record: Record, fields: Mapping[str, Any]) -> Iterator[TranslationJob]:
    all_captions = captions(record)
    done = {str(caption.get("translated_from")) for caption in all_captions if caption.items() >= fields.items()}
    for caption, origin in zip(all_captions, origins(all_captions), strict=True):
        source = caption.get("lang") or "en"
        if origin and origin not in done and source != fields["lang"] and caption["text"].strip():
            yield TranslationJob(record, caption["text"], source, origin, str(caption.get("length") or ""))


def _translate_window(
    jobs: Sequence[TranslationJob], drop: Drop, model: Translator | Endpoint, fields: Mapping[str, Any], batch: int
) -> None:
    to: str = fields["lang"]
    results: dict[tuple[str, str], str | Problem] = {}  # captions repeat themselves: each text is translated once
    for source in sorted({job.source for job in jobs}):
        texts = {job.text for job in jobs if job.source == source}
        if source in model.sources:
            results |= {(source, text): done for text, done in _translations(texts, source, to, model, batch).items()}
        else:
            problem = Problem("unknown_language", f"{model.name} does not read {source!r}")
            results |= {(source, text): problem for text in texts}
    for job in jobs:
        result = results[job.source, job.text]
        if isinstance(result, Problem):
            drop.missing(job.record, result.reason, f"translation of {job.origin}: {result.detail}")
            continue
        add_caption(
            job.record, result, license=model.license, translated_from=job.origin, terms_accepted=model.accepted,
            **{**fields, **({"length": job.length} if job.length else {})},
        )  # fmt: skip


def _translations(
    texts: Iterable[str], source: str, to: str, model: Translator | Endpoint, batch: int
) -> dict[str, str | Problem]:
    """Translate texts piece by piece; a text with a piece that nothing good came of is a problem as a whole."""
    from commonart.core.model.captioning import guards, sentences

    pieces = {text: sentences.split(text, model.piece_size) for text in texts}
    left = sorted({piece for parts in pieces.values() for piece, _ in parts if piece}, key=lambda p: (len(p), p))
    done: dict[str, str | Problem] = {}
    for retry in (False, True):
        for start in range(0, len(left), batch):
            part = left[start : start + batch]
            for piece, answer in zip(part, model.translate(part, source, to, retry=retry), strict=True):
                if isinstance(answer, Problem):
                    done[piece] = answer
                    continue
                text = guards.clean(answer.text)
                reason = guards.translation_problem(text, piece, source, to, finished=answer.finished)
                done[piece] = Problem(reason, text[:200]) if reason else text
        left = [piece for piece in left if _may_be_better(done[piece])]
    results: dict[str, str | Problem] = {}
    for text, parts in pieces.items():
        translated = [(done.get(piece, ""), line_break) for piece, line_break in parts]
        problem = next((each for each, _ in translated if isinstance(each, Problem)), None)
        joined = sentences.join([(str(each), line_break) for each, line_break in translated], to)
        if problem is None and (reason := guards.translation_problem(joined, text, source, to, finished=True)):
            problem = Problem(reason, joined[:200])
        results[text] = joined if problem is None else problem
    return results


def _may_be_better(answer: str | Problem) -> bool:
    """Whether other decoding may mend what was answered: a text that was refused, and not a failure of the model."""
    return isinstance(answer, Problem) and answer.reason not in FAILURES
