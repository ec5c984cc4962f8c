"""An index of training data: every record of one or several folders of shards that may be trained on.

    index = read_index("shards/"); index.record(7)            # reads one record
    index = read_index("common/,megalith/:0.5")               # two sets; an image of the second is taken half as often

Held-out records are counted and never listed, but for the few that `read_heldout` returns; what may not be trained on is
refused, or left out and counted (`core.data.admission`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from commonart.core.data.admission import BLOCKLISTED, Judge, Kind, Rules
from commonart.core.data.features.format import caption_hash
from commonart.core.data.record import (
    Caption,
    Record,
    attribution_hash,
    captions,
    check_split,
    key_hash,
    split_of_record,
)
from commonart.core.data.shards import reader
from commonart.core.data.shards.manifest import shard_identity
from commonart.core.data.shards.reader import MAKE_SHARDS, read_shard
from commonart.core.data.shards.tar_index import Span
from commonart.core.data.training_rows import ABSENT, COLUMNS, Index, texts_crc
from commonart.core.errors import CommonArtError, UsageError

DEFAULT_DATA = "shards/"
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


def read_index(
    data: str | Path, rules: Rules | None = None, refine: Callable[[Caption, Kind], Kind] | None = None
) -> Index:
    """Read every record of one or several folders of shards (as `data_sets` takes them).

    Args:
        rules: what may be trained on; None: the default ones.
        refine: says more of a caption than its `Kind` does, and may leave it out.

    Raises:
        CommonArtError: no shards, two records with one key, none to train on, or some that may not be, unless `rules` skip them.
    """
    index = Index(data_sets(data), rules=rules or Rules())
    reading = _Reading(index, refine)
    total = hashlib.sha256()
    for number, (folder, weight) in enumerate(index.sets):
        total.update(b"" if number == 0 and weight == 1 else f"\0{weight:g}\n".encode())
        for path in reader.list_shards(folder):
            index.shards.append(path)
            index.set_of.append(number)
            total.update(f"{path.name}\0{shard_identity(path)}\n".encode())
            for record, (_, group) in zip(read_shard(path), reader.read_members(path), strict=True):
                reading.add(record, group)
            reading.end_shard()
    _finish(index)
    _refuse_doubles(index, reading.hashes)
    index.fingerprint = total.hexdigest()
    refused = reading.refused
    if refused and not index.rules.skip:
        raise CommonArtError(
            f"{data} holds {sum(refused.values()):,} records that may not be trained on: {counts_text(refused)} "
            f"(the first: {reading.example}).",
            "Filter them with commonart license-filter and shard again, name another --policy, or --skip-unlicensed.",
        )
    index.left_out += refused
    if index.keys:
        return index
    if index.left_out.get("no_captions"):
        raise CommonArtError(
            f"{data} holds no captions (records without: {index.left_out['no_captions']:,}).",
            "Caption them first: commonart caption --model NAME, then shard again.",
        )
    if refused:
        raise CommonArtError(
            f"{data} holds nothing that may be trained on: {counts_text(refused)}.",
            "Name another --policy, or add images.",
        )
    if blocked := index.left_out[BLOCKLISTED]:
        raise CommonArtError(
            f"{data} holds nothing to train on (records on the blocklist: {blocked:,}).", "Add more images."
        )
    raise CommonArtError(
        f"{data} holds nothing to train on (records held out: {index.heldout:,}, all of them).", "Add more images."
    )


def read_heldout(data: str | Path, rules: Rules | None = None, most: int = 64) -> Index | None:
    """Read the first `most` held-out records that `rules` allow, of several folders as many each; None where there are none."""
    index = Index(data_sets(data), rules=replace(rules or Rules(), skip=True))
    reading = _Reading(index, heldout=True)
    for number, (folder, _) in enumerate(index.sets):
        enough = most * (number + 1) // len(index.sets)
        for path in reader.list_shards(folder):
            if len(index.keys) >= enough:
                break
            index.shards.append(path)
            index.set_of.append(number)
            for record, (_, group) in zip(read_shard(path), reader.read_members(path), strict=True):
                if len(index.keys) < enough:
                    reading.add(record, group)
            reading.end_shard()
    if not index.keys:
        return None
    _finish(index)
    return index


def _finish(index: Index) -> None:
    """Turn what was read into arrays."""
    index.columns = {name: np.frombuffer(column, column.typecode) for name, column in index.columns.items()}
    index.kinds = np.frombuffer(index.kinds, index.kinds.typecode)
    index.names = list(dict.fromkeys(kind.lang for kind in index.kind_names))
    language = {name: number for number, name in enumerate(index.names)}
    index.languages = np.array([language[kind.lang] for kind in index.kind_names], np.uint16)[index.kinds]


def counts_text(reasons: Counter[str]) -> str:
    """Return the most frequent reasons with their counts, for a sentence."""
    shown = [f"{reason} {count:,}" for reason, count in reasons.most_common(5)]
    return ", ".join(shown + ([f"and {len(reasons) - 5} other reasons"] if len(reasons) > 5 else []))


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


class _Reading:
    """An index while its records are read."""

    def __init__(
        self, index: Index, refine: Callable[[Caption, Kind], Kind] | None = None, heldout: bool = False
    ) -> None:
        self.index, self.refine, self.heldout, self.judge = index, refine, heldout, Judge(index.rules)
        index.works, index.kind_names = self.judge.works, self.judge.kinds
        self.hashes = array("Q")  # of all keys, whether they are trained on or not
        self.rows: list[tuple[int, ...]] = []  # of one shard: columns grow by shards, which is twice as fast
        self.refused: Counter[str] = Counter()
        self.example = ""

    def add(self, record: Record, group: Mapping[str, Span]) -> None:
        """Add a record of the shard that is read, or count why not."""
        index, texts = self.index, captions(record)
        self.hashes.append(key_hash(record["key"]))
        sha256 = record.get("sha256")
        if sha256 and check_split(record, sha256)[1]:
            index.left_out["split_conflict"] += 1
            return
        if heldout := split_of_record(record) == "heldout":
            index.heldout += 1
            if len(index.heldout_texts) < PROMPTS:
                index.heldout_texts += [(caption.get("lang", ""), caption["text"]) for caption in texts]
        if heldout != self.heldout:
            return
        if not texts or not record.get("image"):
            index.left_out["no_image" if texts else "no_captions"] += 1
            return
        work = self.judge.work(record)
        if (reason := self.judge.works[work].reason) == BLOCKLISTED:
            index.left_out[reason] += 1  # as was asked for
            index.left_out_keys.setdefault(reason, []).append(self.hashes[-1])
            return
        if reason:
            self.refused[reason] += 1
            self.example = self.example or f"{index.shards[-1]}#{record['key']}"
            return
        image = next((span for name, span in group.items() if name.lower() in reader.IMAGE_EXTENSIONS), (ABSENT, 0))
        index.keys.append(record["key"])
        self.rows.append((
            len(index.shards) - 1, *group["json"], *image, record.get("width", 0), record.get("height", 0), len(texts),
            int(sha256[:16], 16) if sha256 else 0, work, texts_crc(",".join([caption_hash(c["text"]) for c in texts])),
            attribution_hash(record),
        ))  # fmt: skip
        kinds = self.judge.captions(texts)
        if self.refine is not None:
            judge = self.judge
            kinds = [judge.kind_code(self.refine(c, judge.kinds[n])) for c, n in zip(texts, kinds, strict=True)]
        index.kinds.extend(kinds)

    def end_shard(self) -> None:
        """Move the shard's rows into the index's columns."""
        for name, values in zip(COLUMNS, zip(*self.rows, strict=True), strict=False):
            self.index.columns[name].extend(values)
        self.rows.clear()
