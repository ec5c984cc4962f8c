"""Checkpoints that are complete or absent: written beside, synced, hashed, renamed; the newest good one is found again.

    runs/512/checkpoints/step-0000100/{transformer/, ema/, optimizer.safetensors, state.json}

`state.json` holds the step, what the loop needs to go on, and the SHA-256 of every other file; it is written last. A folder
whose hashes do not agree is damaged: it is skipped with a warning and never loaded in part. safetensors and JSON only.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import sha256_file, sync_folder, write_bytes
from commonart.core.errors import CommonArtError

STATE = "state.json"
_NAME = re.compile(r"step-(\d{7,})")
_BESIDE = re.compile(r"\.step-\d{7,}\.(part|gone)")

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One good checkpoint: its optimizer step and the values that the loop saved."""

    folder: Path
    step: int
    values: dict[str, Any]

    @property
    def transformer(self) -> Path:
        """Folder of the weights that are trained."""
        return self.folder / "transformer"

    @property
    def weights(self) -> Path:
        """Folder of the weights to use: the moving average where there is one."""
        folders = (self.folder / name for name in ("ema", "captioner"))
        return next((folder for folder in folders if folder.is_dir()), self.transformer)


def folder_of(run: str | os.PathLike[str]) -> Path:
    """Return where a run keeps its checkpoints."""
    return Path(run) / "checkpoints"


def save(
    run: str | os.PathLike[str], step: int, write: Callable[[Path], None], values: Mapping[str, Any], keep: int = 3
) -> Path:
    """Make what `write(folder)` writes a checkpoint of `run`; return its folder.

    The newest `keep` up to it are kept (0: all). Those of later steps are damaged, else the run would have continued from
    them: they stay until their step comes again. A kill at any moment leaves the older checkpoints, and at most a folder
    beside them that the next save removes. Raises CommonArtError where the disk is full or the folder cannot be written.
    """
    home = folder_of(run)
    final, partial = home / f"step-{step:07d}", home / f".step-{step:07d}.part"
    try:
        home.mkdir(parents=True, exist_ok=True)
        for path in home.iterdir():
            if _BESIDE.fullmatch(path.name):  # what killed saves and removals left behind
                shutil.rmtree(path, ignore_errors=True)
        partial.mkdir()
        write(partial)
        _seal(partial, step, values)
        if final.exists():  # a damaged one of the same step
            _remove(final)
        os.rename(partial, final)
        sync_folder(home)
        for path in _list(home, step)[:-keep] if keep else []:
            _remove(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CommonArtError(
            f"{final}: the checkpoint cannot be written ({error.strerror or error}); older ones are kept.",
            f"{'Free some space and start the same command' if full else 'Make the folder writable and start'} again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def newest(run: str | os.PathLike[str], warn: Warn = lambda _: None) -> Checkpoint | None:
    """Return the newest good checkpoint of `run`; None where there are none. Newer, damaged ones are named to `warn`.

    Raises:
        CommonArtError: all are damaged; to begin anew would cost what the run has learned, and its metrics.
    """
    folders = _list(folder_of(run))
    for folder in reversed(folders):
        try:
            return read(folder)
        except CommonArtError as error:
            warn(f"{error.what} It is skipped.")
    if folders:
        raise CommonArtError(
            f"Every checkpoint in {folder_of(run)} is damaged.",
            "Restore one, or start another run with -o; --init takes a transformer/ folder, if one of them is undamaged.",
        )
    return None


def read(folder: str | os.PathLike[str]) -> Checkpoint:
    """Check a checkpoint against its hashes and read its state. Raises CommonArtError where a file is missing or altered."""
    folder = Path(folder)
    damaged, fix = f"The checkpoint {folder} is damaged:", "Use an older checkpoint of the same run."
    try:
        state = orjson.loads((folder / STATE).read_bytes())
        altered = [STATE] if state.pop("seal") != _digest(state) else []
        if not altered:
            paths = [folder / name for name in state["files"]]
            with ThreadPoolExecutor(4) as pool:  # hashlib releases the interpreter's lock
                pairs = zip(pool.map(sha256_file, paths), state["files"].values(), strict=True)
                altered = [path.name for path, (actual, saved) in zip(paths, pairs, strict=True) if actual != saved]
        if altered:
            raise CommonArtError(f"{damaged} {altered[0]} is not what was saved.", fix)
        return Checkpoint(folder, int(state["step"]), state["values"])
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CommonArtError(f"{damaged} {STATE} or a file it names is missing.", fix) from error


def _seal(folder: Path, step: int, values: Mapping[str, Any]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(_sync_and_hash, paths))
    for inner in sorted({path.parent for path in paths}):
        sync_folder(inner)
    state: dict[str, Any] = {"step": step, "values": dict(values)}
    state["files"] = {path.relative_to(folder).as_posix(): value for path, value in zip(paths, hashes, strict=True)}
    state["seal"] = _digest(state)
    write_bytes(folder / STATE, orjson.dumps(state, option=orjson.OPT_INDENT_2))


def _sync_and_hash(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return sha256_file(path)


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(state, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _list(home: Path, last: float = math.inf) -> list[Path]:
    """The checkpoints up to step `last`, oldest first."""
    steps = [(int(match[1]), path) for path in home.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for step, path in sorted(steps) if step <= last]


def _remove(path: Path) -> None:
    """Takes a checkpoint away: out of sight first, so that a kill never leaves half of one under its name."""
    gone = path.with_name(f".{path.name}.gone")
    with suppress(FileNotFoundError):
        os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)
