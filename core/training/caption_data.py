"""What a captioner learns from: images from shards, and those of their captions that it may be trained on.

    data = open_captions("shards/", {"ja": 1.0})

A caption is taken where it is in an asked language and its maker's terms allow training on it. A translation has two makers:
who translated, and who wrote the original. What is left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from commonart.core.data.admission import Kind, Rules
from commonart.core.data.record import Caption
from commonart.core.data.training_index import counts_text, read_index
from commonart.core.data.training_rows import Index
from commonart.core.errors import CommonArtError
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


def refine(caption: Caption, kind: Kind) -> Kind:
    """Return the kind of a caption as training has it: with a length, and left out where nobody would ask for it."""
    length = kind.length if kind.length in LENGTHS else "long" if sentences(caption["text"]) > 1 else "short"
    reason = kind.reason
    if not caption["text"].strip():
        reason = "caption_empty"
    elif (kind.lang, length) not in PROMPTS:
        reason = reason or f"no_prompt_for_language:{kind.lang}"
    return kind._replace(length=length, reason=reason)


class CaptionTexts:
    """The captions of an index, with what is asked for each."""

    def __init__(self, index: Index, odds: np.ndarray) -> None:
        self.index, self.odds, self.offsets = index, odds, index.offsets

    def read(self, row: int, caption: int) -> tuple[str, str, str]:
        """Return (language, length, text) of a row's caption; of another one of the row where that may not be used."""
        first = int(self.offsets[row])
        if not self.odds[first + caption]:  # the row stands in for a damaged one, whose numbers are others
            caption = int(np.flatnonzero(self.odds[first : int(self.offsets[row + 1])])[0])
        kind = self.index.kind_names[self.index.kinds[first + caption]]
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
    """The captions to train on. Records without any are counted in the index, and so are captions that are left out."""

    index: Index
    odds: np.ndarray

    @property
    def prompts(self) -> list[Prompt]:
        """What a captioner is trained to answer, the most frequent first."""
        counts: Counter[tuple[str, str]] = Counter()
        taken = np.bincount(self.index.kinds[self.odds > 0], minlength=len(self.index.kind_names))
        for each, count in zip(self.index.kind_names, taken.tolist(), strict=True):
            counts[each.lang, each.length] += count
        return [PROMPTS[pair] for pair, _ in sorted((+counts).items(), key=lambda item: (-item[1], item[0]))]


def open_captions(data: str, languages: Mapping[str, float], rules: Rules | None = None) -> CaptionData:
    """Open shards and judge their captions: those that may not be used are left out, whatever `rules` say of skipping.

    Args:
        languages: weights as `--language` gives them; empty: all captions alike.
        rules: what may be trained on; None: the default ones.

    Raises:
        CommonArtError: no caption may be trained on, a language that no caption has, or as `read_index`.
    """
    index = read_index(data, rules, refine)
    index.keep_usable(languages)
    if not index.keys:
        reasons = counts_text(index.captions_left_out) or "none is there"
        raise CommonArtError(
            f"{index.folder} holds no caption that a captioner may be trained on: {reasons}.",
            "Caption it with a model whose terms allow that (commonart models), or name one with --accept-terms.",
        )
    return CaptionData(index, index.caption_odds(languages))
