"""An index of training data: where every record, image and caption lies, in columns, so that millions fit in memory.

    index = read_index("shards/"); index.record(7)            # reads one record
    index = read_index("common/,megalith/:0.5")               # two sets; an image of the second is taken half as often

About 65 bytes an image with two captions. Held-out records are counted and never listed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from commonart.core.data.order import SampleGroup
from commonart.core.data.record import Caption, Record, captions, check_split, key_hash, split_of_record
from commonart.core.data.shards import reader
from commonart.core.data.shards.manifest import shard_identity
from commonart.core.data.shards.reader import MAKE_SHARDS, read_shard
from commonart.core.data.shards.tar_index import Span
from commonart.core.errors import CommonArtError, UsageError

DEFAULT_DATA = "shards/"
ABSENT = (1 << 64) - 1
PROMPTS = 256  # captions that are kept for sample grids


def default_note(data: str) -> str:
    """Return what an error says of a --data that nobody gave, or ""."""
    return " (the default)" if data == DEFAULT_DATA else ""


def data_sets(data: str | Path) -> list[tuple[Path, float]]:
    """`A,B:0.5` -> [(A, 1.0), (B, 0.5)]: folders of shards and how often an image of each is taken.

    Raises UsageError for a weight that is not a positive number or a folder that is named twice, CommonArtError for a gone one.
    """
    sets: list[tuple[Path, float]] = []
    for text in [str(data)] if Path(data).exists() else [part.strip() for part in str(data).split(",")]:
        name, colon, number = text.rpartition(":")
        weight = 1.0
        if colon and not Path(text).exists():
            try:
                weight = float(number)
            except ValueError:
                weight = 0.0
            if not 0 < weight < float("inf"):
                raise UsageError(f"--data {text}: {number!r} is not a weight.", "Give a number above 0: FOLDER:0.5.")
            text = name
        if not text or not Path(text).exists():
            raise CommonArtError(f"--data {text}{default_note(text)} does not exist.", MAKE_SHARDS)
        if Path(text).resolve() in [path.resolve() for path, _ in sets]:
            raise UsageError(f"--data names {text} twice.", "Give a weight instead: FOLDER:2.")
        sets.append((Path(text), weight))
    return sets


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


# Of each row: its shard; where its record and its image lie in it (image_at ABSENT: elsewhere); its size in pixels (0: not said).
COLUMNS = {
    "shard": "I", "record_at": "Q", "record_size": "I", "image_at": "Q", "image_size": "I", "width": "I", "height": "I",
    "captions": "I",
}  # fmt: skip


@dataclass(slots=True)
class Index:
    """The records to train on, in the shards' order, and what was left out."""

    sets: list[tuple[Path, float]]
    shards: list[Path] = field(default_factory=list)
    set_of: list[int] = field(default_factory=list)  # of each shard, into `sets`
    keys: KeyColumn = field(default_factory=KeyColumn)
    columns: dict[str, Any] = field(default_factory=lambda: {name: array(kind) for name, kind in COLUMNS.items()})
    languages: Any = field(default_factory=lambda: array("H"))  # of each caption, row after row, into `names`
    names: list[str] = field(default_factory=list)
    # Of each caption, into `kind_names`; empty where nobody asked.
    kinds: Any = field(default_factory=lambda: array("I"))
    kind_names: list[Any] = field(default_factory=list)
    heldout: int = 0
    heldout_texts: list[tuple[str, str]] = field(default_factory=list)  # (language, text) of the first few
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> records
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
        of_caption = np.repeat(having, self.columns["captions"])
        self.languages = self.languages[of_caption]
        self.kinds = self.kinds[of_caption] if len(self.kinds) else self.kinds
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
        (`has_language`). `lengths` weighs the lengths that captions carry (`kinds`) in the same way, within an image and
        language; where none has one of them, all are alike. Without both, all captions of an image are equally likely.

        Raises CommonArtError where no caption has one of `lengths`.
        """
        if not mix and not lengths:
            return np.ones(len(self.languages), np.float32)
        row = np.repeat(np.arange(len(self.keys)), self.columns["captions"])
        # One number for a row's captions in one language.
        _, where = np.unique(row * len(self.names) + self.languages if mix else row, return_inverse=True)
        share = np.ones(len(where))
        if lengths:
            share = np.array([lengths.get(name, 0.0) for name in self.kind_names])[self.kinds]
            if not share.any():
                raise CommonArtError(
                    f"--caption-length: no caption in {self.folder} says that it is {' or '.join(sorted(lengths))}.",
                    "Write captions with commonart caption --length, or leave the option out.",
                )
            share[np.bincount(where, share)[where] == 0] = 1
            _, same, counts = np.unique(
                where * len(self.kind_names) + self.kinds, return_inverse=True, return_counts=True
            )
            share /= counts[same]
        odds = share / np.bincount(where, share)[where]
        if mix:
            odds *= np.array([mix.get(name, 0.0) for name in self.names])[self.languages]
        return odds.astype(np.float32)

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

    def describe(self) -> dict[str, Any]:
        """Return what run.json keeps of the data."""
        return {
            "folder": self.folder, "shards": len(self.shards), "images": len(self.keys),
            "captions": len(self.languages), "heldout": self.heldout, "left_out": self.left_out,
            "fingerprint": self.fingerprint,
        }  # fmt: skip


def read_index(data: str | Path, kind: Callable[[Record, Caption], Hashable] | None = None) -> Index:
    """Read every record of one or several folders of shards (as `data_sets` takes them).

    `kind`: says of each caption of a record what `Index.kinds` keeps of it.

    Raises CommonArtError: no shards, two records with one key, none to train on.
    """
    index = Index(data_sets(data))
    total, hashes, codes, kinds = hashlib.sha256(), array("Q"), dict[str, int](), dict[Any, int]()
    for number, (folder, weight) in enumerate(index.sets):
        total.update(b"" if number == 0 and weight == 1 else f"\0{weight:g}\n".encode())
        for path in reader.list_shards(folder):
            index.shards.append(path)
            index.set_of.append(number)
            total.update(f"{path.name}\0{shard_identity(path)}\n".encode())
            for record, (_, group) in zip(read_shard(path), reader.read_members(path), strict=True):
                hashes.append(key_hash(record["key"]))
                if _add(index, len(index.shards) - 1, record, group, codes) and kind is not None:
                    index.kinds.extend(kinds.setdefault(kind(record, c), len(kinds)) for c in captions(record))
    index.names, index.kind_names = list(codes), list(kinds)
    index.columns = {name: np.frombuffer(column, column.typecode) for name, column in index.columns.items()}
    index.languages, index.kinds = (np.frombuffer(x, x.typecode) for x in (index.languages, index.kinds))
    _refuse_doubles(index, hashes)
    index.fingerprint = total.hexdigest()
    if index.keys:
        return index
    if index.left_out.get("no_captions"):
        raise CommonArtError(
            f"{data} holds no captions: {index.left_out['no_captions']:,} records have none.",
            "Caption them first: commonart caption --model NAME, then shard again.",
        )
    raise CommonArtError(
        f"{data} holds nothing to train on: all {index.heldout:,} records are held out.", "Add more images."
    )


def _refuse_doubles(index: Index, hashes: Sequence[int]) -> None:
    """Raise where two records, of whatever shard or set, have one key. 64 bits of a hash stand for it until then."""
    seen, counts = np.unique(np.asarray(hashes, np.uint64), return_counts=True)
    doubled = set(seen[counts > 1].tolist())
    found: dict[str, Path] = {}
    for path in index.shards if doubled else ():
        for record in read_shard(path):
            key = record["key"]
            if key_hash(key) in doubled and found.setdefault(key, path) is not path:
                raise CommonArtError(
                    f"{path}#{key}.json: {found[key]} has a record with this key, too.", "Write the shards again."
                )


def _add(index: Index, shard: int, record: Record, group: Mapping[str, Span], codes: dict[str, int]) -> bool:
    """Add a record, and return whether it is trained on."""
    texts = captions(record)
    if (sha256 := record.get("sha256")) and check_split(record, sha256)[1]:
        index.left_out["split_conflict"] += 1
        return False
    if split_of_record(record) == "heldout":
        index.heldout += 1
        if len(index.heldout_texts) < PROMPTS:
            index.heldout_texts += [(caption.get("lang", ""), caption["text"]) for caption in texts]
        return False
    if not texts or not record.get("image"):
        index.left_out["no_image" if texts else "no_captions"] += 1
        return False
    image = next((span for name, span in group.items() if name.lower() in reader.IMAGE_EXTENSIONS), (ABSENT, 0))
    index.keys.append(record["key"])
    values = (shard, *group["json"], *image, record.get("width", 0), record.get("height", 0), len(texts))
    for name, value in zip(COLUMNS, values, strict=True):
        index.columns[name].append(value)
    for caption in texts:
        index.languages.append(codes.setdefault(caption.get("lang", ""), len(codes)))
    return True
