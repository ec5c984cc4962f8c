"""The rows of training data: where every record, image and caption lies, in columns, so that millions fit in memory.

About 100 bytes an image with two captions. `core.data.training_index` reads them.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data.admission import MISSING, UNSEEN, Kind, Rules, Work
from commonart.core.data.caption_terms import terms_of
from commonart.core.data.order import SampleGroup
from commonart.core.data.record import Record, captions, key_hash
from commonart.core.data.shards import reader
from commonart.core.errors import CommonArtError

ABSENT = (1 << 64) - 1


class KeyColumn(Sequence[str]):
    """The rows' keys in one block of bytes."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._text, self._ends = bytearray(), array("Q", [0])
        for key in keys:
            self.append(key)

    def append(self, key: str) -> None:
        self._text += key.encode("ascii")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: Any) -> Any:
        row = int(row)
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._text[self._ends[row] : self._ends[row + 1]].decode("ascii")


# Of each row: its shard; where its record and its image lie in it (image_at ABSENT: elsewhere); its size in pixels (0: not said);
# the first 64 bits of its sha256 (0: not said); its number in `Index.works`; what `texts_crc` makes of its captions, and
# `attribution_hash` of all that is said of it.
COLUMNS = {
    "shard": "I", "record_at": "Q", "record_size": "I", "image_at": "Q", "image_size": "I", "width": "I", "height": "I",
    "captions": "I", "sha256": "Q", "work": "I", "texts": "I", "attribution": "Q",
}  # fmt: skip


def texts_crc(hashes: str) -> int:
    """Return 32 bits that change with captions, whose hashes are joined by commas as text features keep them."""
    return zlib.crc32(hashes.encode())


@dataclass(slots=True)
class Index:
    """The records to train on, in the shards' order, and what was left out."""

    sets: list[tuple[Path, float]]
    shards: list[Path] = field(default_factory=list)
    set_of: list[int] = field(default_factory=list)  # of each shard, into `sets`
    keys: KeyColumn = field(default_factory=KeyColumn)
    columns: dict[str, Any] = field(default_factory=lambda: {name: array(kind) for name, kind in COLUMNS.items()})
    languages: Any = ()  # of each caption, row after row, into `names`
    names: list[str] = field(default_factory=list)
    kinds: Any = field(default_factory=lambda: array("I"))  # of each caption, into `kind_names`
    kind_names: list[Kind] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    rules: Rules = field(default_factory=Rules)
    heldout: int = 0
    heldout_texts: list[tuple[str, str]] = field(default_factory=list)  # (language, text) of the first few
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> records
    left_out_keys: dict[str, list[int]] = field(default_factory=dict)  # reason of UNSEEN -> `key_hash` of its records
    captions_left_out: Counter[str] = field(default_factory=Counter)  # reason -> captions of those that are used
    fingerprint: str = ""

    @property
    def folder(self) -> str:
        """The sets as they were asked for."""
        return ",".join(f"{path}" if weight == 1 else f"{path}:{weight:g}" for path, weight in self.sets)

    @property
    def offsets(self) -> np.ndarray:
        """Captions offsets[r] .. offsets[r + 1] - 1 are of row r; int64."""
        return np.concatenate([[0], np.cumsum(self.columns["captions"], dtype=np.int64)])

    def keep(self, having: np.ndarray, reason: str) -> None:
        """Train only on the rows that `having` (bool, one a row) marks, and count the others under `reason`."""
        if having.all():
            return
        self.left_out[reason] += int((~having).sum())
        if reason in UNSEEN:
            gone = self.left_out_keys.setdefault(reason, [])
            gone += [key_hash(self.keys[row]) for row in np.flatnonzero(~having)]
        of_caption = np.repeat(having, self.columns["captions"])
        self.languages = self.languages[of_caption]
        self.kinds = self.kinds[of_caption]
        self.columns = {name: column[having] for name, column in self.columns.items()}
        self.keys = KeyColumn(self.keys[row] for row in np.flatnonzero(having))

    def path(self, row: int) -> Path:
        """Return the shard of a row."""
        return self.shards[self.columns["shard"][row]]

    def name(self, row: int) -> str:
        """Return how people are shown a row: shards/00000.tar#KEY."""
        return f"{self.path(row)}#{self.keys[row]}"

    def record(self, row: int) -> Record:
        """Return a row's record, read again."""
        value: Record = orjson.loads(self._read(row, "record"))
        return value

    def texts(self, row: int) -> list[str]:
        """Return a row's captions."""
        return [caption["text"] for caption in captions(self.record(row))]

    def image(self, row: int) -> bytes:
        """Return a row's encoded image."""
        if self.columns["image_at"][row] == ABSENT:
            return reader.read_bytes(self.record(row)["image"])
        return self._read(row, "image")

    def _read(self, row: int, what: str) -> bytes:
        offset, size = int(self.columns[f"{what}_at"][row]), int(self.columns[f"{what}_size"][row])
        path, fix = self.path(row), "Put the shards back."
        try:
            data = reader.read_span(path, (offset, size))
        except OSError as error:
            raise CommonArtError(f"{path} cannot be read: {error.strerror}.", fix) from error
        if len(data) < size:
            raise CommonArtError(f"{path} became shorter while it was used.", fix)
        return data

    def caption_odds(
        self, mix: Mapping[str, float] | None = None, lengths: Mapping[str, float] | None = None
    ) -> np.ndarray:
        """Return how likely each caption of a row is beside the others, float32, caption after caption.

        `mix` weighs languages, shared by an image's captions in that language; every row has a caption in one of them
        (`has_language`). `lengths` weighs the lengths that captions carry in the same way, within an image and language;
        where none has one of them, all are alike. Without both, all captions of an image are equally likely. One that may
        not be used is never taken.

        Raises CommonArtError where no caption has one of `lengths`.
        """
        fine = self.fine.astype(np.float64)
        if not mix and not lengths:
            return fine.astype(np.float32)
        row = np.repeat(np.arange(len(self.keys)), self.columns["captions"])
        # One number for a row's captions in one language.
        _, where = np.unique(row * len(self.names) + self.languages if mix else row, return_inverse=True)
        share = fine
        if lengths:
            stated = sorted({kind.length for kind in self.kind_names})
            length = np.array([stated.index(kind.length) for kind in self.kind_names])[self.kinds]
            weighed = np.array([lengths.get(name, 0.0) for name in stated])[length] * fine
            if not weighed.any():
                raise CommonArtError(
                    f"--caption-length: no caption in {self.folder} says that it is {' or '.join(sorted(lengths))}.",
                    "Write captions with commonart caption --length, or leave the option out.",
                )
            share = np.where(np.bincount(where, weighed)[where] == 0, fine, weighed)
            _, same = np.unique(where * len(stated) + length, return_inverse=True)
            share /= np.maximum(np.bincount(same, fine)[same], 1)
        total = np.bincount(where, share)[where]
        odds = share / np.where(total, total, 1)
        if mix:
            odds *= np.array([mix.get(name, 0.0) for name in self.names])[self.languages]
        return odds.astype(np.float32)

    @property
    def fine(self) -> np.ndarray:
        """Which captions may be used; bool, caption after caption."""
        return np.array([not kind.reason for kind in self.kind_names], bool)[self.kinds]

    def keep_usable(self, mix: Mapping[str, float] | None = None) -> None:
        """Train only on rows with a caption that may be used, in a language that `mix` gives weight to; count the others.

        Raises CommonArtError for a language that no caption has.
        """
        if mix:
            self.keep(self.has_language(mix), "no_caption_in_language")
        asked = np.array([not mix or mix.get(name, 0.0) > 0 for name in self.names], bool)[self.languages]
        fine = self.fine
        for number, count in enumerate(np.bincount(self.kinds[asked & ~fine], minlength=len(self.kind_names))):
            if count:
                self.captions_left_out[self.kind_names[number].reason] += int(count)
        row = np.repeat(np.arange(len(self.keys)), self.columns["captions"])
        self.keep(np.bincount(row, asked & fine, len(self.keys)) > 0, "no_usable_caption")

    def has_language(self, mix: Mapping[str, float]) -> np.ndarray:
        """Return which rows have a caption in a language that `mix` gives weight to; bool, one a row.

        Raises CommonArtError for a language that no caption has.
        """
        weights = np.array([mix.get(name, 0.0) for name in self.names])
        if unknown := sorted(set(mix) - set(self.names)):
            raise CommonArtError(
                f"--language {unknown[0]}: no caption in {self.folder} has that language.",
                f"There are {', '.join(sorted(self.names))}; one that is not named is left out.",
            )
        row = np.repeat(np.arange(len(self.keys)), self.columns["captions"])
        return np.bincount(row, weights[self.languages], len(self.keys)) > 0

    def buckets(self) -> list[list[SampleGroup]]:
        """Return the rows by size in pixels, and by set in each: what `order.batch_rows` takes."""
        sizes = self.columns["width"].astype(np.int64) << 32 | self.columns["height"]
        if len(self.sets) == 1 and (sizes == sizes[0]).all():
            return [[SampleGroup(len(sizes))]]
        sets = np.asarray(self.set_of, np.int64)[self.columns["shard"]]
        return [
            [
                SampleGroup(len(rows), weight, rows)
                for number, (_, weight) in enumerate(self.sets)
                if len(rows := np.flatnonzero((sizes == size) & (sets == number)))
            ]
            for size in np.unique(sizes)
        ]

    def prompts(self, count: int) -> list[str]:
        """Return captions for a sample grid, of held-out images where there are any, languages in turn."""
        pool = self.heldout_texts or [
            (caption.get("lang", ""), caption["text"])
            for row in range(min(len(self.keys), 64))
            for caption in captions(self.record(row))
        ]
        by_language = defaultdict[str, list[str]](list)
        for lang, text in pool:
            by_language[lang].append(text)
        turns = [text for turn in zip_longest(*by_language.values()) for text in turn if text]
        return list(dict.fromkeys(turns))[:count]

    def digest(self, column: str = "sha256") -> str:
        """Return the SHA-256 of lines `KEY SHA256`, of which the latter has its first 16 digits, row after row.

        `column` "attribution": of lines with `attribution_hash` in its place.
        """
        total = hashlib.sha256()
        for key, number in zip(self.keys, self.columns[column].tolist(), strict=True):
            total.update(f"{key} {number:016x}\n".encode())
        return total.hexdigest()

    def describe(self, odds: np.ndarray) -> dict[str, Any]:
        """Return what run.json keeps of the data. `odds`: those of each caption; only what may be taken is counted."""
        licenses, sources, missing = Counter[str](), Counter[str](), Counter[str]()
        for number, count in enumerate(np.bincount(self.columns["work"], minlength=len(self.works)).tolist()):
            work = self.works[number]
            licenses[work.license] += count
            sources[work.source] += count
            missing.update({name: count for name in work.missing})
        makers, taken = Counter[tuple[str, ...]](), np.bincount(self.kinds[odds > 0], minlength=len(self.kind_names))
        for kind, count in zip(self.kind_names, taken.tolist(), strict=True):
            makers[kind.model, kind.revision, kind.license, kind.lang, kind.accepted] += count
        rows = [
            {
                "model": model, "revision": revision, "license": license, "terms": terms_of(model), "lang": lang,
                "captions": count,
            }
            for (model, revision, license, lang, _), count in makers.most_common()
            if count
        ]  # fmt: skip
        return {
            "folder": self.folder, "shards": len(self.shards), "images": len(self.keys),
            "captions": len(self.languages), "used": int(taken.sum()), "heldout": self.heldout, "left_out": self.left_out,
            "captions_left_out": self.captions_left_out, "fingerprint": self.fingerprint, "digest": self.digest(),
            "attribution": self.digest("attribution"),
            "left_out_keys": {reason: [f"{key:016x}" for key in keys] for reason, keys in self.left_out_keys.items()},
            "licenses": dict((+licenses).most_common()), "sources": dict((+sources).most_common()),
            "missing": {name: missing[name] for name in MISSING}, "makers": rows,
            "accepted": sorted({accepted for *_, accepted in +makers if accepted}), "policy": self.rules.describe(),
        }  # fmt: skip
