"""What a captioner learns from: images from shards, and those of their captions that it may be trained on.

    data = open_captions("shards/", {"ja": 1.0})

A caption is taken where it is in an asked language and its maker's terms allow training on it. A translation has two makers:
who translated, and who wrote the original. What is left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from commonart.core.data import caption_terms
from commonart.core.data.record import Caption, Record, captions
from commonart.core.data.training_index import Index, read_index
from commonart.core.errors import CommonArtError
from commonart.core.licenses.policies import POLICIES
from commonart.core.registry.catalogue import LENGTHS, MODELS, Prompt
from commonart.core.training.captioner import CaptionInputs, sentences
from commonart.core.training.dataset import ShardReader
from commonart.core.training.sources import Shape, read_image

_JA = next(row for row in MODELS if row.name == "llava-jp").prompts
# What a captioner is trained to answer, by language and length.
PROMPTS: dict[tuple[str, str], Prompt] = {
    (prompt.lang, prompt.length): prompt._replace(texts=prompt.texts[:1])
    for prompt in (
        *_JA,
        Prompt("en", "long", ("USER: <image>\nDescribe this image in detail.\nASSISTANT: ",)),
        Prompt("en", "short", ("USER: <image>\nDescribe this image in one sentence.\nASSISTANT: ",)),
    )
}  # fmt: skip


class Kind(NamedTuple):
    """What captions have in common, as far as training cares."""

    lang: str
    length: str
    model: str  # who wrote it; of a translation "TRANSLATOR of ORIGINAL"
    revision: str
    license: str
    reason: str  # why it is left out, or ""
    accepted: str = ""  # the model whose terms only the user answers for


def kind(record: Record, caption: Caption, accepted: Sequence[str] = ()) -> Kind:
    """Return what training has to know of a caption. `accepted`: models whose terms the user answers for."""
    model, origin = str(caption.get("model") or ""), str(caption.get("translated_from") or "")
    reason = caption_terms.problem(caption, POLICIES["strict"], accepted)
    if origin:  # named as `stages.translate.origins` names it: the model, #2 for its second
        name = origin.partition("#")[0]
        originals = [
            c for c in captions(record) if (c.get("model") or "source") == name and not c.get("translated_from")
        ]
        unknown = f"caption_of_unknown_model:{name}"
        reason = reason or (caption_terms.problem(originals[0], POLICIES["strict"], accepted) if originals else unknown)
        model = f"{model} of {name}"
    length = caption.get("length")
    if length not in LENGTHS:  # a caption that does not say
        length = "long" if sentences(caption["text"]) > 1 else "short"
    answered = [name for name in (str(caption.get("model") or ""), origin.partition("#")[0]) if name in accepted]
    answered += [str(caption.get("model") or "")] if caption.get("terms_accepted") is True else []
    lang = str(caption.get("lang") or "")
    if not caption["text"].strip():
        reason = "caption_empty"
    elif (lang, length) not in PROMPTS:
        reason = reason or f"no_prompt_for_language:{lang}"
    made = str(caption.get("revision") or ""), str(caption.get("license") or "")
    return Kind(lang, length, model, *made, reason, next(iter(answered), ""))


class CaptionTexts:
    """The captions of an index, with what is asked for each."""

    def __init__(self, index: Index, odds: np.ndarray) -> None:
        self.index, self.odds, self.offsets = index, odds, index.offsets

    def read(self, row: int, caption: int) -> tuple[str, str, str]:
        """Return (language, length, text) of a row's caption; of another one of the row where that may not be used."""
        first = int(self.offsets[row])
        if not self.odds[first + caption]:  # the row stands in for a damaged one, whose numbers are others
            caption = int(np.flatnonzero(self.odds[first : int(self.offsets[row + 1])])[0])
        kind: Kind = self.index.kind_names[self.index.kinds[first + caption]]
        return kind.lang, kind.length, self.index.texts(row)[caption].strip()


class Images:
    """The images of an index, decoded."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def read(self, row: int) -> tuple[Image.Image, Shape]:
        image = read_image(self.index, row)
        return image, (3, image.height, image.width)


class CaptionDataset(ShardReader):
    """A source of images and captions; reading threads decode, and make the model's inputs."""

    def __init__(self, index: Index, odds: np.ndarray, inputs: CaptionInputs) -> None:
        super().__init__(index, CaptionTexts(index, odds), Images(index), odds)
        self.inputs = inputs

    def fetch(self, rows: np.ndarray, captions: np.ndarray) -> Any:
        return self.inputs(*super().fetch(rows, captions))


@dataclass(slots=True)
class CaptionData:
    """The captions to train on. `left_out`: captions by reason; records without any are counted in the index."""

    index: Index
    odds: np.ndarray
    left_out: Counter[str] = field(default_factory=Counter)
    taken: Counter[Kind] = field(default_factory=Counter)

    @property
    def prompts(self) -> list[Prompt]:
        """What a captioner is trained to answer, the most frequent first."""
        counts: Counter[tuple[str, str]] = Counter()
        for each, count in self.taken.items():
            counts[each.lang, each.length] += count
        return [PROMPTS[pair] for pair, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]

    def describe(self) -> dict[str, Any]:
        """Return what run.json keeps of the data."""
        makers: Counter[tuple[str, str, str, str]] = Counter()
        for each, count in self.taken.items():
            makers[each.model, each.revision, each.license, each.lang] += count
        rows = [
            {"model": model, "revision": revision, "license": license, "lang": lang, "captions": count}
            for (model, revision, license, lang), count in makers.most_common()
        ]
        return {
            **self.index.describe(), "used": sum(self.taken.values()), "captions_left_out": self.left_out, "makers": rows,
            "accepted": sorted({each.accepted for each in self.taken if each.accepted}),
        }  # fmt: skip


def open_captions(data: str, languages: Mapping[str, float], accepted: Sequence[str] = ()) -> CaptionData:
    """Open shards and judge their captions.

    Args:
        languages: weights as `--language` gives them; empty: all captions alike.
        accepted: models whose terms the user answers for.

    Raises:
        CommonArtError: no caption may be trained on, or a language that no caption has.
    """
    index = read_index(data, lambda record, caption: kind(record, caption, accepted))
    asked = index.has_language(languages) if languages else np.ones(len(index.keys), bool)
    names, kinds = index.kind_names, index.kinds
    fine = np.array([not each.reason for each in names])[kinds]
    mine = np.array([not languages or languages.get(each.lang, 0) > 0 for each in names])[kinds]
    left_out: Counter[str] = Counter()
    for number, count in enumerate(np.bincount(kinds[mine & ~fine], minlength=len(names))):
        left_out[names[number].reason] += int(count)
    left_out = +left_out  # without those of which there are none
    row = np.repeat(np.arange(len(index.keys)), index.columns["captions"])
    usable = np.bincount(row, mine & fine, len(index.keys)) > 0
    if not usable.any():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in left_out.most_common(5)) or "none is there"
        raise CommonArtError(
            f"{index.folder} holds no caption that a captioner may be trained on: {reasons}.",
            "Caption it with a model whose terms allow that (commonart models), or name one with --accept-terms.",
        )
    index.keep(asked, "no_caption_in_language")
    index.keep(usable[asked], "no_usable_caption")
    kinds = index.kinds
    good = np.array([not e.reason and (not languages or languages.get(e.lang, 0) > 0) for e in names])[kinds]
    taken = Counter({names[n]: int(count) for n, count in enumerate(np.bincount(kinds[good])) if count})
    return CaptionData(index, _odds(index, good, languages), left_out, taken)


def _odds(index: Index, good: np.ndarray, languages: Mapping[str, float]) -> np.ndarray:
    """How likely each caption of a row is beside the others, 0 where it may not be used: `Index.caption_odds` of the good."""
    if not languages:
        return good.astype(np.float32)
    row = np.repeat(np.arange(len(index.keys)), index.columns["captions"])
    _, where = np.unique(row * len(index.names) + index.languages, return_inverse=True)
    shares = np.bincount(where, good)[where]
    weight = np.array([languages.get(name, 0.0) for name in index.names])[index.languages]
    return np.where(good, weight / np.maximum(shares, 1), 0).astype(np.float32)
