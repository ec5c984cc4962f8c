"""Members and held-out images that differ in nothing but whether the model saw them.

Both come from the same shards, split by a hash before training, and both are cleaned by one rule that does not ask which
group an image is in: whatever has a twin anywhere in the shards is left out. A held-out image whose twin was trained on is
no non-member; and cleaning that side alone would leave the two groups unlike each other.

Twins are scenes with the same facts, files with the same bytes, and images whose perceptual hash and colours agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from commonart.core.audit.neighbours import twin_limit
from commonart.core.data.admission import Rules
from commonart.core.data.blocklist import Blocklist
from commonart.core.data.images.decode import DecodeError, decode
from commonart.core.data.images.phash import CHROMA, chroma, chroma_values, copies, fingerprint
from commonart.core.data.record import Record, split_of_record
from commonart.core.data.shards.reader import read_bytes
from commonart.core.data.stream import read
from commonart.core.data.training_index import data_sets, read_index
from commonart.core.errors import CommonArtError
from commonart.core.generation.prompts import text_of
from commonart.core.log import warn
from commonart.core.metrics.image_set import ImageRef, seed_for

FEWEST = 4  # of each group
MEMBER, HELDOUT = "member", "heldout"
_SIDES = {  # how an error calls a side; with --keys the works in question take the place of the members
    (MEMBER, False): "to train on", (MEMBER, True): "of --keys", (HELDOUT, False): "held out", (HELDOUT, True): "held out",
}  # fmt: skip


@dataclass(slots=True)
class Groups:
    """The images to attack, in an order that depends on the seed alone, and how many were left out, by reason."""

    members: list[ImageRef]
    heldout: list[ImageRef]
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> list[ImageRef]:
        """All images, members first."""
        return [*self.members, *self.heldout]

    def drop(self, rows: np.ndarray, reason: str) -> None:
        """Leave out the images that `rows` (bool, one for each of `items`) marks. Raises CommonArtError where few stay."""
        members = len(self.members)
        self.heldout = [item for item, out in zip(self.heldout, rows[members:], strict=True) if not out]
        self.members = [item for item, out in zip(self.members, rows[:members], strict=True) if not out]
        if rows.any():
            self.dropped[reason] += int(rows.sum())
        if min(len(self.members), len(self.heldout)) < FEWEST:
            left_out = ", ".join(f"{count:,} {why}" for why, count in self.dropped.items())
            raise CommonArtError(
                f"{len(self.members)} members and {len(self.heldout)} held-out images are left ({left_out}); "
                f"at least {FEWEST} of each are needed.",
                "Make the shards again, or add images.",
            )


def trained_keys(model: str, data: str) -> frozenset[str]:
    """Return the keys of `data` that `model`, a run, was trained on; none where it is no run, of which nothing is known.

    Raises CommonArtError where the run was trained on other shards.
    """
    if not (Path(model) / "run.json").is_file():
        return frozenset()
    from commonart.core.training import run as training_run

    trained = training_run.read(Path(model)).get("data", {})
    index = read_index(data, Rules.described(trained.get("policy") or {}))
    if index.fingerprint != trained.get("fingerprint"):
        raise CommonArtError(
            f"--data {data} is not what {model} was trained on: its fingerprint is {index.fingerprint[:16]}, "
            f"that in {model}/run.json is {str(trained.get('fingerprint'))[:16]}.",
            f"Name the shards that it was trained on ({trained.get('folder')}), or the works in question with --keys.",
        )
    if index.digest() != trained.get("digest"):  # of a blocklist, or where features were missing
        left_out = trained.get("left_out") or {}
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "not known"
        warn(f"{model} left records out ({reasons}); those that only it knows count as members: a leak looks smaller.")
    return frozenset(index.keys)


def read_records(data: str, works: Blocklist | None = None, flag: str = "--data") -> list[Record]:
    """Read all records of `data`, shards or records, several as `train --data` takes them; no model is needed for it.

    Raises CommonArtError where there are too few on a side, whatever they are like.
    """
    records = [record for folder, _ in data_sets(data) for record in read(str(folder))]
    if not records:
        raise CommonArtError(f"{flag} {data} holds no records.", "Name a folder of shards, or a .jsonl.")
    for side in (MEMBER, HELDOUT):
        images = Counter(bool(record.get("image")) for record in records if _side(record, works) == side)
        if images[True] < FEWEST:
            dropped = Counter({"no_image": images[False]} if images[False] else {})
            raise _too_few(data, _SIDES[side, works is not None], images[True], None, 0, dropped)
    return records


def choose(
    records: Sequence[Record], data: str, n: int, lang: str | None, seed: int, *, size: int,
    works: Blocklist | None = None, trained: frozenset[str] = frozenset(),
) -> Groups:  # fmt: skip
    """Choose up to n members and n held-out images.

    Args:
        records: what `read_records` found in `data`.
        lang: of the captions; None: each record's first.
        size: pixels on a side that the model was trained for; smaller images are left out, never enlarged.
        works: those in question (--keys); they take the place of the members.
        trained: keys of the images that the model was trained on, where they are known; others of their split are no members.

    Raises:
        CommonArtError: too few are left on a side; the message says why.
    """
    groups, pool = Groups([], []), list[ImageRef]()
    sides: list[list[ImageRef] | None] = []
    matched = set[int]()
    for record in records:
        matched |= set[int]() if works is None else works.matched(record)
        side = {MEMBER: groups.members, HELDOUT: groups.heldout}.get(_side(record, works))
        if works is None and side is groups.members and trained and record["key"] not in trained:
            groups.dropped["not_trained_on"] += 1
            side = None
        if side is not None and not record.get("image"):
            groups.dropped["no_image"] += 1
        elif record.get("image"):  # those on no side may still have a twin on one
            pool.append(ImageRef(record["image"], record))
            sides.append(side)
    if works is not None and (unmatched := len(works.hashes) - len(matched)):
        warn(f"{unmatched:,} of {len(works.hashes):,} entries of --keys match nothing in {data}.")
    alone = ~twins([item.record for item in pool])
    for row in sorted(range(len(pool)), key=lambda row: (seed_for(seed, pool[row].name), pool[row].name)):
        side = sides[row]
        if side is None:
            continue
        if reason := _unusable(pool[row].record, lang, size, alone=bool(alone[row])):
            groups.dropped[reason] += 1
        else:
            side.append(pool[row])
    for which, items in ((MEMBER, groups.members), (HELDOUT, groups.heldout)):
        if len(items) < FEWEST:
            raise _too_few(data, _SIDES[which, works is not None], len(items), lang, size, groups.dropped)
    groups.members, groups.heldout = groups.members[:n], groups.heldout[:n]
    return groups


def _side(record: Record, works: Blocklist | None) -> str:
    """Return the side that a record is on, "" for none."""
    split = split_of_record(record)
    if split == "train" if works is None else works.matched(record):
        return MEMBER
    return HELDOUT if split == "heldout" else ""


def training_images(records: Sequence[Record], seed: int) -> list[ImageRef]:
    """Return the images of the split `train`, in an order that depends on the seed alone."""
    items = [ImageRef(r["image"], r) for r in records if r.get("image") and split_of_record(r) == "train"]
    return sorted(items, key=lambda item: (seed_for(seed, item.name), item.name))


def twins(records: Sequence[Record]) -> np.ndarray:
    """Return which records have a twin among the others, bool [N]."""
    found = np.zeros(len(records), bool)
    same = defaultdict[str, list[int]](list)
    for row, record in enumerate(records):
        if isinstance(record.get("scene"), dict):
            same[orjson.dumps(record["scene"], option=orjson.OPT_SORT_KEYS).decode()].append(row)
        elif record.get("sha256"):
            same[record["sha256"]].append(row)
    for rows in same.values():
        if len(rows) > 1:
            found[rows] = True
    pictures = np.array([row for row, r in enumerate(records) if not isinstance(r.get("scene"), dict)], np.int64)
    prints = np.array(
        [
            fingerprint(r.get("phash", ""), r["sha256"]) if r.get("sha256") else 0
            for r in map(records.__getitem__, pictures)
        ],
        np.uint64,
    )
    near = _involved(copies(prints))  # by the hash alone, so that colours are looked at of these only
    candidates = pictures[near]
    colors = np.array([_chroma(records[row]) for row in candidates]).reshape(-1, CHROMA)
    found[candidates[_involved(copies(prints[near], colors))]] = True
    return found


def alike(features: np.ndarray) -> np.ndarray:
    """Return which unit features [N, D] are those of another image's twin, bool [N]: crops too, which the hash misses."""
    similarity = features @ features.T
    np.fill_diagonal(similarity, -1)
    closest = similarity.max(axis=1)
    found: np.ndarray = closest >= twin_limit(closest)
    return found


def _involved(kept_by: np.ndarray) -> np.ndarray:
    """Return the copies and what they are copies of, bool [N]."""
    involved: np.ndarray = kept_by >= 0
    involved[kept_by[kept_by >= 0]] = True
    return involved


def _chroma(record: Record) -> np.ndarray:
    if record.get("chroma"):
        return chroma_values(record["chroma"])
    try:  # of shards that were made before records had their colours
        return chroma_values(chroma(decode(read_bytes(record["image"]))))
    except (DecodeError, CommonArtError):
        return chroma_values("")


def _unusable(record: Record, lang: str | None, size: int, *, alone: bool) -> str:
    if not text_of(record, lang).strip():
        return "no_caption"
    if 0 < min(record.get("width", 0), record.get("height", 0)) < size:
        return "too_small"
    return "" if alone else "twin"


def _too_few(data: str, side: str, count: int, lang: str | None, size: int, dropped: Counter[str]) -> CommonArtError:
    why = {
        "no_image": "without an image",
        "no_caption": f"without a caption in '{lang}'" if lang else "without a caption",
        "not_trained_on": "that the run left out",
        "too_small": f"smaller than the {size} pixels that the model was trained for",
        "twin": "with a twin",
    }
    left_out = ", ".join(f"{number:,} {why[reason]}" for reason, number in dropped.items())
    return CommonArtError(
        f"{data} holds {count} images {side}{f' (left out: {left_out})' if left_out else ''}; "
        f"at least {FEWEST} are needed.",
        "Name keys, sha256, URLs or authors of records in --data, one a line."
        if side == "of --keys"
        else "Name the shards that the model was trained on; about one image in twenty is held out.",
    )
