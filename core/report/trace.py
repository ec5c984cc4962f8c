"""Whether a run can be traced to its works: what its run.json says, and whether the shards are still those of the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from commonart.core import log
from commonart.core.data.files import sha256_file
from commonart.core.data.lookup.removal import Removal, read_log
from commonart.core.data.lookup.runs import RUN, data_fingerprint, removed_from, weights
from commonart.core.data.shards.manifest import manifest_path, read_manifest
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError
from commonart.core.report import shape
from commonart.core.report.works import tars

# Of run.json's data.
NEEDED = ("folder", "fingerprint", "digest", "attribution", "images", "licenses", "sources", "makers", "policy")
THREADS = 4  # tars that are hashed at once


class Traced(NamedTuple):
    """What became of a run's works since it was trained."""

    rewritten: bool = False  # works and their records are those of the run, and the bytes of its shards are not
    removed: int = 0  # works that `commonart lookup --remove` took out
    removed_on: tuple[str, ...] = ()  # on which days, ISO 8601


def read_run(run: Path) -> dict[str, Any]:
    """Return run.json. Raises CommonArtError where it is damaged, says nothing of the data, or nothing was trained yet."""
    path = run / RUN
    try:
        described = orjson.loads(path.read_bytes())
    except OSError as error:
        raise CommonArtError(
            f"{path} cannot be read: {error.strerror}.", "Name the folder of a training run."
        ) from None
    except orjson.JSONDecodeError as error:
        raise CommonArtError(f"{path} is not JSON: {error}.", "Restore the run.json of that run.") from None
    data = described.get("data") if isinstance(described, dict) else None
    if missing := [name for name in NEEDED if not isinstance(data, dict) or name not in data]:
        raise CommonArtError(
            f"{path} does not say what the run was trained on: data has no {', '.join(missing)}.",
            "Only a run of commonart train since it keeps these can be reported; report its shards alone instead.",
        )
    if wrong := shape.wrong_run(described):
        raise CommonArtError(f"{path} is damaged: {wrong[0]}.", "Put it back.")
    if not (described.get("compute") or {}).get("step"):
        raise CommonArtError(f"{run} has no checkpoint yet: nothing was trained.", "Train first: commonart train.")
    return dict(described)


def folders_of(run: Mapping[str, Any] | None, shards: Path | None) -> tuple[Path, ...]:
    """Return the folders of shards: those given, else those of the run. Raises CommonArtError where one is gone."""
    if shards is None:
        named = str((run or {})["data"]["folder"])
        try:
            return tuple(folder for folder, _ in data_sets(named))
        except CommonArtError:
            raise CommonArtError(
                f"The run was trained on {named}, which is not here.", "Name its shards: commonart report RUN SHARDS."
            ) from None
    folders = tuple(folder for folder, _ in data_sets(shards))
    for _ in tars(folders):  # its errors are sentences
        break
    return folders


def hash_tars(folders: Sequence[Path], quiet: bool = True) -> dict[Path, str]:
    """Return the SHA-256 of each shard's bytes, in the order of training: read, for what a manifest says may be old."""
    paths = [path for _, path in tars(folders)]
    found = dict[Path, str]()
    with log.progress("hashes", total=len(paths), quiet=quiet) as tick, ThreadPoolExecutor(THREADS) as pool:
        for path, sha256 in zip(paths, pool.map(sha256_file, paths), strict=True):
            found[path] = sha256
            tick()
    return found


def changed_tars(hashes: Mapping[Path, str]) -> list[Path]:
    """Return the shards whose bytes are not those that their manifests name."""
    manifests = {path: read_manifest(path) for path in hashes}
    return [path for path, made in manifests.items() if made is not None and made.sha256 != hashes[path]]


def check_tars(hashes: Mapping[Path, str]) -> None:
    """Raise CommonArtError where a shard was changed after it was made."""
    if changed := changed_tars(hashes):
        more = f" ({len(changed):,} shards are such)" if len(changed) > 1 else ""
        manifest = manifest_path(changed[0]).name
        raise CommonArtError(
            f"{changed[0]} was changed or damaged after it was made: {manifest} names another SHA-256{more}.",
            "Restore the shard, or write the shards again.",
        )


def _sets(run: Mapping[str, Any] | None, folders: Sequence[Path]) -> list[tuple[Path, float]]:
    """The folders with how often an image of each is taken; once where the run names another number of folders."""
    taken = weights(str(run["data"]["folder"])) if run is not None else []
    return list(zip(folders, taken if len(taken) == len(folders) else [1.0] * len(folders), strict=True))


def _identities(folders: Sequence[Path], hashes: Mapping[Path, str]) -> dict[Path, dict[str, str]]:
    """The hash of each shard by name, by the resolved folder."""
    return {folder.resolve(): {path.name: hashes[path] for _, path in tars([folder])} for folder in folders}


def fingerprint(folders: Sequence[Path], run: Mapping[str, Any] | None, hashes: Mapping[Path, str]) -> str:
    """Return the fingerprint of shards as run.json has it: of their names and bytes, and of how often each set is taken."""
    return data_fingerprint(_sets(run, folders), _identities(folders, hashes))


def check_works(
    run: Mapping[str, Any], found: Mapping[str, Any], folders: Sequence[Path], hashes: Mapping[Path, str]
) -> Traced:
    """Compare the works that were `found` in the shards with those of the run.

    Args:
        found: `images`, `digest`, `attribution`, `licenses`, `sources` as in run.json's data, and `captioners`, captions by model.

    Raises CommonArtError where the works, or what is said of them, are not those that the run was trained on, other than by
    `commonart lookup --remove`.
    """
    data, shown, now = run["data"], ", ".join(map(str, folders)), found["images"]
    logs = {folder.resolve(): read_log(folder) for folder in folders}
    since = removed_from(_sets(run, folders), data["fingerprint"], _identities(folders, hashes), logs)
    same, gone = found["digest"] == data["digest"], data["images"] - now
    removed = gone if since and not same and 0 < gone <= sum(len(each.records) for each in since) else 0
    if same or removed:
        changed = [each for wrong in differences(run, found, removed).values() for each in wrong]
        if not changed and not removed and found["attribution"] != data["attribution"]:
            changed = ["the counts are the same, and what they are of is not"]
        if changed:
            raise CommonArtError(
                f"{shown}: licences, authors or captions are not those of the training: {'; '.join(changed)}.",
                "Put the shards of the training back; a card must not state what the run was not trained on.",
            )
        if since is None:
            log.warn(f"{shown}: the works are those of the run, but their shards were written again since")
        return Traced(since is None, removed, _days(since or ()))
    if since == []:
        raise CommonArtError(
            f"The run was trained on {data['images']:,} works of {shown}, and by the rules of this version it would be {now:,}.",
            f"Report it with the version that trained it: {(run.get('code') or {}).get('version')}.",
        )
    how = "the same number now, but not the same works" if not gone else f"{now:,} now"
    raise CommonArtError(
        f"{shown} changed since the run was trained: {data['images']:,} works then, {how} (digest {found['digest'][:12]}, "
        f"and run.json says {str(data['digest'])[:12]}).",
        "Put those shards back, or name them: commonart report RUN SHARDS.",
    )


def differences(run: Mapping[str, Any], found: Mapping[str, Any], removed: int) -> dict[str, list[str]]:
    """Return which counts of the works are not those of run.json, by the names of `counted`.

    A removal of `removed` works lowers counts, and raises none.
    """
    wrong = dict[str, list[str]]()
    for name, then in counted(run).items():
        now = found[name]
        before_after = [(kind, then.get(kind, 0), now.get(kind, 0)) for kind in dict.fromkeys((*then, *now))]
        wrong[name] = [
            f"{name} {kind or 'not stated'} {before:,} then, {after:,} now" for kind, before, after in before_after
            if after > before or (after < before and not removed)
        ]  # fmt: skip
        gone = sum(then.values()) - sum(now.values())
        if name != "captioners" and removed and gone != removed and not wrong[name]:
            wrong[name] = [f"{name} of {gone:,} works are gone, and {removed:,} were removed"]
    return wrong


def counted(run: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return what run.json counted of its works: `licenses`, `sources`, and `captioners`, captions by model."""
    makers = Counter[str]()
    for each in run["data"]["makers"]:
        makers[each["model"]] += each["captions"]
    return {"licenses": run["data"]["licenses"], "sources": run["data"]["sources"], "captioners": dict(makers)}


def _days(removals: Sequence[Removal]) -> tuple[str, ...]:
    return tuple(sorted({each.at[:10] for each in removals}))
