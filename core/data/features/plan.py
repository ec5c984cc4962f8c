"""What encode-text and encode-image have to do: which feature shards are missing, their size, and `features.json`.

The shards themselves are made by `core.data.stream.run`, one of each image shard, as those of every other stage.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from commonart.core.data import stream
from commonart.core.data.drops import Drop, Feature, Summary
from commonart.core.data.features.format import EXTENSIONS, META, NULL, VERSION, Meta, NoMeta, read_meta, read_null
from commonart.core.data.features.tensors import pack
from commonart.core.data.files import write_bytes, write_json
from commonart.core.data.record import Record
from commonart.core.data.shards.manifest import MadeFrom, finished_as, manifest_path, read_manifest, shard_identity
from commonart.core.data.shards.reader import MAKE_SHARDS, list_shards, read_shard
from commonart.core.data.tasks import Task
from commonart.core.errors import CommonArtError, UsageError

SAMPLED_SHARDS, SAMPLED_RECORDS = 16, 1024  # that a size is estimated from: their mean is known to a few percent
BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE  # what a tar is padded to

Item = TypeVar("Item")
Encode = Callable[[Iterable[Record], Drop], Iterator[tuple[str, bytes]]]  # records of a shard -> (key, member)


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """What there is to do.

    `todo` are this task's unfinished shards of SOURCE, `unfinished` those of all tasks. `described`: `features.json` and the
    null embedding are there, both undamaged.
    """

    stage: str
    kind: str
    source: Path
    out: Path
    settings: dict[str, Any]
    task: Task
    overwrite: bool
    todo: list[Path]
    unfinished: list[Path]
    described: bool

    def estimate(self, sizes: Callable[[list[Record]], Sequence[int]]) -> int:
        """Return the bytes that all unfinished shards will take: their number of records, times the mean of a sample.

        What they replace is taken off; but one shard is complete before it replaces another. `sizes` gives the bytes of
        each record's member.
        """
        chosen = _spread(self.unfinished, SAMPLED_SHARDS)
        sampled = {path: list(read_shard(path)) for path in chosen}
        records = [r for path in chosen for r in _spread(sampled[path], SAMPLED_RECORDS // len(chosen))]
        mean = sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes(records) if size) / max(1, len(records))
        # A shard without a manifest was made elsewhere; reading each one's headers would take hours for millions of images.
        per_byte = sum(map(len, sampled.values())) / max(1, sum(path.stat().st_size for path in chosen))
        total = largest = 0
        for path in self.unfinished:
            if path in sampled:
                count = float(len(sampled[path]))
            else:
                manifest = read_manifest(path)
                count = manifest.written if manifest is not None else path.stat().st_size * per_byte
            size = -(-int(count * mean + 2 * BLOCK) // RECORD) * RECORD
            replaced = self.out / path.name
            total += size - (replaced.stat().st_size if replaced.exists() else 0)
            largest = max(largest, size)
        return max(total, largest)


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly over all of them; all, where there are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def image_shards(stage: str, source: str) -> list[Path]:
    """Return the image shards of SOURCE; asked before a model is downloaded or loaded. Raises as `list_shards`."""
    if source == "-" or Path(source).is_file():
        raise UsageError(f"{stage} needs a folder of shards, and {source} is not one.", MAKE_SHARDS)
    return list_shards(source)


def plan_features(
    stage: str, kind: str, source: str, out: str | None, settings: dict[str, Any], task: Task, overwrite: bool
) -> FeaturePlan:
    """Find out which shards of `source` still lack features in `out` (by default SOURCE/text or SOURCE/image).

    `settings` are what the features depend on (revision, precision, store, ...); every manifest keeps them.

    Raises:
        UsageError: the source is not a folder of shards, or `out` is the source.
        CommonArtError: there are features that are stale or were made otherwise, and not `overwrite`.
    """
    shards = image_shards(stage, source)
    folder = Path(out) if out else Path(source) / kind
    if folder.resolve() == Path(source).resolve():
        raise UsageError(f"-o {out} is the SOURCE itself.", "Give another folder, or leave -o out.")
    todo, unfinished = [], []
    for number, path in enumerate(shards):
        made_from = MadeFrom.of(stage, shard_identity(path), settings)
        if finished_as(folder / path.name, made_from, overwrite=overwrite) is None:
            unfinished.append(path)
            todo += [path] * task.owns(number)
    described = _is_described(folder, kind)
    return FeaturePlan(stage, kind, Path(source), folder, settings, task, overwrite, todo, unfinished, described)


def _is_described(folder: Path, kind: str) -> bool:
    try:
        read_meta(folder)
        return kind != "text" or read_null(folder) is not None
    except (CommonArtError, OSError, ValueError, KeyError):
        return False


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise CommonArtError where fewer than `needed` bytes are free where `folder` is or will be."""
    absolute = folder.absolute()
    free = shutil.disk_usage(next(path for path in (absolute, *absolute.parents) if path.exists())).free
    if needed > free:
        raise CommonArtError(
            f"{what} would take about {_size(needed)}, and {folder} has {_size(free)} free.",
            "Give -o on a larger disk, or store less (encode-text: --store int8).",
        )


def _size(count: int) -> str:
    """Bytes for people: 512 B, 3.1 kB, 2.0 GB, 123.0 TB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.{0 if unit == 'B' else 1}f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def write_meta(folder: Path, meta: Meta, null: np.ndarray | None, overwrite: bool) -> None:
    """Write `features.json` (and the null embedding [1, D]) unless the same are there, undamaged, and not `overwrite`.

    Raises CommonArtError: the folder holds features of another model or with other settings, and not `overwrite`.
    """
    if not overwrite:
        try:
            old = read_meta(folder)
        except NoMeta:
            old = meta
        if changed := [k for k, v in asdict(old).items() if k != "model" and v != asdict(meta)[k]]:
            raise CommonArtError(
                f"{folder} holds features made with another {' and '.join(changed)} "
                f"({old.model}, {old.precision}, {old.store}).",
                "Give another -o, or --overwrite to make them again.",
            )
        if _is_described(folder, meta.kind):
            return
    value = {"version": VERSION, **asdict(meta)}
    if null is not None:
        data = pack({"null": np.asarray(null, np.float32)})
        write_bytes(folder / NULL, data)
        value |= {"null": NULL, "null_sha256": hashlib.sha256(data).hexdigest()}
    write_json(folder / META, value)


def write_features(plan: FeaturePlan, encode: Encode | None, **options: Any) -> Summary:
    """Make the feature shards that are left to this task, and count all of its shards; `options` go to `stream.run`.

    `encode` may be None where nothing is left to do, so that a finished folder needs no model.
    """

    def transform(records: Iterable[Record], drop: Drop) -> Iterator[Feature]:
        assert encode is not None
        yield from (Feature(key, data, EXTENSIONS[plan.kind]) for key, data in encode(records, drop))

    if plan.overwrite:  # so that an interrupted --overwrite is finished without it
        for path in plan.todo:
            manifest_path(plan.out / path.name).unlink(missing_ok=True)
    return stream.run(
        plan.stage, transform, source=str(plan.source), out=str(plan.out), settings=plan.settings, task=plan.task,
        overwrite=plan.overwrite, **options,
    )  # fmt: skip
