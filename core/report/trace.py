"""Whether a run can be traced to its works: what its run.json says, and whether the shards are still those of the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from commonart.core import log
from commonart.core.data.lookup.runs import RUN, data_fingerprint
from commonart.core.data.shards.manifest import shard_identity
from commonart.core.data.training_index import counts_text, data_sets
from commonart.core.errors import CommonArtError
from commonart.core.report.works import tars, untold

NEEDED = ("folder", "fingerprint", "digest", "images", "policy")  # of run.json's data


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
        raise CommonArtError(f"{path} is not JSON: {error}.", "Put it back.") from None
    data = described.get("data") if isinstance(described, dict) else None
    if missing := [name for name in NEEDED if not isinstance(data, dict) or name not in data]:
        raise CommonArtError(
            f"{path} does not say what the run was trained on: data has no {', '.join(missing)}.",
            "Only a run of commonart train since it keeps these can be reported; report its shards alone instead.",
        )
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


def fingerprint(folders: Sequence[Path], run: Mapping[str, Any] | None) -> str:
    """Return the fingerprint of shards as run.json has it: of their names and bytes, and of how often each set is taken."""
    sets = list(zip(folders, _weights(run, len(folders)), strict=True))
    identities = {
        folder.resolve(): {path.name: shard_identity(path) for _, path in tars([folder])} for folder in folders
    }
    return data_fingerprint(sets, identities)


def _weights(run: Mapping[str, Any] | None, count: int) -> list[float]:
    """How often an image of each folder is taken: `A,B:0.5` of run.json, whose folders may lie elsewhere by now."""
    parts = str(run["data"]["folder"]).split(",") if run is not None else []
    found = []
    for part in parts:
        try:
            found.append(float(part.rpartition(":")[2]) if ":" in part else 1.0)
        except ValueError:
            found.append(1.0)
    return found if len(found) == count else [1.0] * count


def check_digest(run: Mapping[str, Any], digest: str, now: int, folders: Sequence[Path]) -> dict[str, int]:
    """Compare the digest and the number (`now`) of the works in the shards with those of the run.

    Returns what the run left out for reasons that the records do not show, by reason: which they are is not known.

    Raises CommonArtError where the works are not those that the run was trained on.
    """
    data, shown = run["data"], ", ".join(map(str, folders))
    same_bytes = fingerprint(folders, run) == data["fingerprint"]
    if digest == data["digest"]:
        if not same_bytes:
            log.warn(f"{shown}: the works are those of the run, but their shards were written again since")
        return {}
    images = data["images"]
    if same_bytes and (unseen := Counter(untold(run))):
        log.warn(f"the run left out {counts_text(unseen)}: run.json does not say which records these are")
        return {f"left_out:{reason}": count for reason, count in unseen.items()}
    if same_bytes:
        raise CommonArtError(
            f"The run was trained on {images:,} works of {shown}, and by the rules of this version it would be {now:,}.",
            f"Report it with the version that trained it: {(run.get('code') or {}).get('version')}.",
        )
    how = "the same number now, but not the same works" if images == now else f"{now:,} now"
    raise CommonArtError(
        f"{shown} changed since the run was trained: {images:,} works then, {how} (digest {digest[:12]}, "
        f"and run.json says {str(data['digest'])[:12]}).",
        "Put those shards back, or name them: commonart report RUN SHARDS.",
    )


def missing(name: str) -> str:
    """Return a key of `Facts.untraced` in words."""
    kind, _, why = name.partition(":")
    return f"left out ({why}), and which they are is not known" if kind == "left_out" else f"{name} is not stated"
