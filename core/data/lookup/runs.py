"""Which training runs had a record in their data, as far as run.json and the shards tell; no torch.

run.json names the folders of shards and the fingerprint that they had. A run whose fingerprint is that of the shards now, or
of the shards before `commonart lookup --remove` took records out of them, was trained on these very records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from commonart.core.data.admission import Judge, Rules, usable_captions
from commonart.core.data.lookup.removal import Removal
from commonart.core.data.record import Record, captions, check_split, key_hash, split_of_record
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError

RUN = "run.json"
MOVED = 1000  # orders of folders in which a run's data are looked for
# Why training leaves a record out that shows in it: by itself, and by the policy and languages in run.json.
TOLD_BY_RECORD = ("split_conflict", "no_captions", "no_image")
TOLD_BY_RULES = ("license_", "no_usable_caption", "no_caption_in_language")


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its data: `sets` are folders of shards with weights, none where a folder is gone (`missing`)."""

    path: Path
    fingerprint: str
    sets: list[tuple[Path, float]]
    missing: str
    left_out: Mapping[str, int]
    left_out_keys: Mapping[str, frozenset[str]]  # reason -> hashes of the keys that it was the reason for
    begun: bool  # a checkpoint was written
    told: Mapping[str, Any]  # run.json
    judge: Judge | None  # by its policy; None: an older run.json, which does not say it


class Trained(NamedTuple):
    """Whether a run had a record in its training data; None where that cannot be told, and why."""

    run: str
    trained: bool | None
    why: str


def find_runs(path: Path) -> list[Path]:
    """Return the runs that a path is, or holds: folders with a run.json."""
    if (path / RUN).is_file():
        return [path]
    return sorted(each.parent for each in path.glob(f"*/{RUN}")) if path.is_dir() else []


def read_run(path: Path) -> Run:
    """Return what run.json says of a run's data. Raises CommonArtError where it is damaged or says nothing of them."""
    try:
        values = orjson.loads((path / RUN).read_bytes())
        data: dict[str, Any] = values["data"]
        folder, fingerprint = str(data["folder"]), str(data["fingerprint"])
        left_out = {str(name): int(count) for name, count in (data.get("left_out") or {}).items()}
        keys = {str(name): frozenset(map(str, each)) for name, each in (data.get("left_out_keys") or {}).items()}
        judge = Judge(Rules.described(data["policy"])) if "policy" in data else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CommonArtError(f"{path / RUN} does not say what the run was trained on.", "Put it back.") from None
    try:
        sets, missing = data_sets(folder), ""
    except CommonArtError:
        sets, missing = [], folder
    checkpoints = path / "checkpoints"
    begun = checkpoints.is_dir() and any(checkpoints.iterdir())
    return Run(path, fingerprint, sets, missing, left_out, keys, begun, values, judge)


def data_fingerprint(sets: Sequence[tuple[Path, float]], identities: Mapping[Path, Mapping[str, str]]) -> str:
    """Return the fingerprint of data by the hashes of their shards, as `training_index.read_index` computes it."""
    total = hashlib.sha256()
    for number, (folder, weight) in enumerate(sets):
        total.update(b"" if number == 0 and weight == 1 else f"\0{weight:g}\n".encode())
        for name, sha256 in identities[folder.resolve()].items():
            total.update(f"{name}\0{sha256}\n".encode())
    return total.hexdigest()


def weights(data: str) -> list[float]:
    """Return how often an image of each folder is taken: `A,B:0.5` of run.json, whose folders may lie elsewhere by now."""
    found = []
    for part in data.split(","):
        try:
            found.append(float(part.rpartition(":")[2]) if ":" in part else 1.0)
        except ValueError:
            found.append(1.0)
    return found


def moved(
    run: Run,
    folders: Sequence[Path],
    identities: Mapping[Path, Mapping[str, str]],
    logs: Mapping[Path, Sequence[Removal]],
) -> Run:
    """Return a run with its data where they are now: in those of `folders` whose fingerprint it names; else as it is.

    Args:
        identities, logs: as in `removed_since`.
    """
    if removed_since(run, identities, logs) is not None:
        return run
    taken = weights(str(run.told["data"]["folder"]))
    for chosen in islice(permutations(folders, len(taken)), MOVED):
        sets = list(zip(chosen, taken, strict=True))
        if removed_from(sets, run.fingerprint, identities, logs) is not None:
            return replace(run, sets=sets, missing="")
    return run


def removed_since(
    run: Run, identities: Mapping[Path, Mapping[str, str]], logs: Mapping[Path, Sequence[Removal]]
) -> list[Removal] | None:
    """Return what was removed from a run's data since it was trained; None where its shards changed in another way.

    Args:
        identities: of each folder (resolved), the hash of each shard by name, in the order of the names.
        logs: of each folder (resolved), what was removed from it.
    """
    return removed_from(run.sets, run.fingerprint, identities, logs)


def removed_from(
    sets: Sequence[tuple[Path, float]],
    fingerprint: str,
    identities: Mapping[Path, Mapping[str, str]],
    logs: Mapping[Path, Sequence[Removal]],
) -> list[Removal] | None:
    """Return what was removed from these folders since they had a fingerprint; arguments as in `removed_since`."""
    if not sets or any(folder.resolve() not in identities for folder, _ in sets):
        return None
    undone: list[Removal] = []
    for state in _states(sets, identities, logs, undone):
        if data_fingerprint(sets, state) == fingerprint:
            return undone
    return None


def _states(
    sets: Sequence[tuple[Path, float]],
    identities: Mapping[Path, Mapping[str, str]],
    logs: Mapping[Path, Sequence[Removal]],
    undone: list[Removal],
) -> Iterator[dict[Path, dict[str, str]]]:
    """The shards as they are, and then as they were before each removal, the last first; `undone` gets those."""
    folders = [folder.resolve() for folder, _ in sets]
    state = {folder: dict(identities[folder]) for folder in folders}
    yield state
    latest = sorted(((each.at, n, folder) for folder in folders for n, each in enumerate(logs[folder])), reverse=True)
    for _, number, folder in latest:
        removal = logs[folder][number]
        state[folder] |= {name: sha256 for name, sha256 in removal.shards.items() if name in state[folder]}
        undone.append(removal)
        yield state


def had_record(run: Run, since: list[Removal] | None, record: Record) -> Trained:
    """Return whether a record that stands in the shards now was in a run's training data; `since`: `removed_since`."""
    name = str(run.path)
    if since is None:
        what = f"{run.missing} is not there" if run.missing else "its shards changed since it was trained"
        return Trained(name, None, f"not known: {what}")
    if record.get("sha256") and check_split(record, record["sha256"])[1]:
        return Trained(name, False, "no: its split contradicts its hash")
    if split_of_record(record) == "heldout":
        return Trained(name, False, "no: held out")
    if not captions(record):
        return Trained(name, False, "no: it has no captions")
    if not run.begun:
        return Trained(name, False, "not yet: no checkpoint was written")
    told: tuple[str, ...] = TOLD_BY_RECORD
    if run.judge is not None:
        if reason := run.judge.works[run.judge.work(record)].reason:
            return Trained(name, False, f"no: its policy does not allow it ({reason})")
        if not any(usable_captions(record, run.judge, run.told)):
            return Trained(name, False, "no: it could use none of its captions")
        told += TOLD_BY_RULES
    for reason, keys in run.left_out_keys.items():
        if f"{key_hash(record['key']):016x}" in keys:
            return Trained(name, False, f"no: the run left it out ({reason})")
    told += tuple(run.left_out_keys)
    others = {reason: count for reason, count in run.left_out.items() if count and not reason.startswith(told)}
    if others:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in others.items())
        return Trained(name, None, f"in its data, of which it left some out ({counts})")
    return Trained(name, True, "in its training data")
