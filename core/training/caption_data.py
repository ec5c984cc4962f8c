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
import torch
from PIL import Image

from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.record import Caption, Record, captions, is_changed
from commonart.core.data.training_index import Index, read_index
from commonart.core.errors import CommonArtError
from commonart.core.licenses.license import License
from commonart.core.licenses.policies import POLICIES
from commonart.core.registry.catalogue import LENGTHS, MODELS, WRITES, Prompt
from commonart.core.training.captioner import CaptionInputs, sentences
from commonart.core.training.dataset import ShardDataset
from commonart.core.training.sources import Damaged, Shape

RULES = "scenes-grammar"  # writes captions by rule: no model, no terms
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


def kind(record: Record, caption: Caption, accepted: Sequence[str] = ()) -> Kind:
    """Return what training has to know of a caption. `accepted`: models whose terms the user answers for."""
    model, origin = str(caption.get("model") or ""), str(caption.get("translated_from") or "")
    reason = _refused(caption, accepted)
    if origin:  # named as `stages.translate.origins` names it: the model, #2 for its second
        name = origin.partition("#")[0]
        originals = [
            c for c in captions(record) if (c.get("model") or "source") == name and not c.get("translated_from")
        ]
        reason = reason or (_refused(originals[0], accepted) if originals else f"caption_of_unknown_model:{name}")
        model = f"{model} of {name}"
    length = caption.get("length")
    if length not in LENGTHS:  # a caption that does not say
        length = "long" if sentences(caption["text"]) > 1 else "short"
    lang = str(caption.get("lang") or "")
    if not caption["text"].strip():
        reason = "caption_empty"
    elif (lang, length) not in PROMPTS:
        reason = reason or f"no_prompt_for_language:{lang}"
    return Kind(lang, length, model, str(caption.get("revision") or ""), str(caption.get("license") or ""), reason)


def _refused(caption: Caption, accepted: Sequence[str]) -> str:
    """Why the terms of a caption's maker do not allow training on it; "" where they do."""
    name = str(caption.get("model") or "")
    if name in accepted or name == RULES:
        return ""
    if not caption.get("synthetic", True):  # a person's: its licence decides
        license = str(caption.get("license") or "")
        free = bool(license) and POLICIES["strict"].allows(License(license, "", "licence"))
        return "" if free else f"caption_license_not_allowed:{license or 'unknown'}"
    row = next((row for row in MODELS if row.role in WRITES and name and name in (row.name, row.hub)), None)
    if row is None:
        return f"caption_of_unknown_model:{name}"
    return f"caption_of_refused_model:{name}" if row.refused else ""


class CaptionTexts:
    """The captions of an index, with what is asked for each."""

    width, null = 0, torch.zeros(1, 0)

    def __init__(self, index: Index, odds: np.ndarray) -> None:
        self.index, self.odds, self.offsets = index, odds, index.offsets

    def read(self, row: int, caption: int) -> tuple[str, str, str]:
        """Return (language, length, text) of a row's caption; of another one of the row where that may not be used."""
        first = int(self.offsets[row])
        if not self.odds[first + caption]:  # the row stands in for a damaged one, whose numbers are others
            caption = int(np.flatnonzero(self.odds[first : int(self.offsets[row + 1])])[0])
        kind: Kind = self.index.kind_names[self.index.kinds[first + caption]]
        return kind.lang, kind.length, self.index.texts(row)[caption].strip()

    def states(self, texts: Sequence[Any]) -> list[torch.Tensor]:
        raise NotImplementedError("captions are tokens here")


class Images:
    """The images of an index, decoded."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def read(self, row: int) -> tuple[Image.Image, Shape]:
        data = self.index.image(row)
        if is_changed(self.index.record(row), data):
            raise Damaged("changed image")
        try:
            image = decode(data)
        except DecodeError as error:
            raise Damaged(error.reason) from error
        return image, (3, image.height, image.width)

    def posterior(self, images: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("images are pixels here")


class CaptionDataset(ShardDataset):
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
    accepted: Sequence[str] = ()

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
        used = {name for maker, *_ in makers for name in maker.split(" of ")}
        return {
            **self.index.describe(), "used": sum(self.taken.values()), "captions_left_out": self.left_out, "makers": rows,
            "accepted": sorted(used & {*self.accepted}),
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
    return CaptionData(index, _odds(index, good, languages), left_out, taken, accepted)


def _odds(index: Index, good: np.ndarray, languages: Mapping[str, float]) -> np.ndarray:
    """How likely each caption of a row is beside the others, 0 where it may not be used: `Index.caption_odds` of the good."""
    if not languages:
        return good.astype(np.float32)
    row = np.repeat(np.arange(len(index.keys)), index.columns["captions"])
    _, where = np.unique(row * len(index.names) + index.languages, return_inverse=True)
    shares = np.bincount(where, good)[where]
    weight = np.array([languages.get(name, 0.0) for name in index.names])[index.languages]
    return np.where(good, weight / np.maximum(shares, 1), 0).astype(np.float32)
