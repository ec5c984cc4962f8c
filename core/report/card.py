"""The card: every file of a report, written into one folder, and report.json, which names them all with their hashes.

The same facts give the same bytes. Those of some files depend on a library's version, too (`MADE_WITH`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import naming, sha256_file, write_bytes, write_json
from commonart.core.report import (
    attribution,
    components,
    croissant,
    cyclonedx,
    data_summary,
    evidence,
    model_card,
    spdx,
    terms,
)  # fmt: skip
from commonart.core.report.facts import Facts, ReportInputs
from commonart.core.report.page import page
from commonart.core.report.works import tars

NAME = "report.json"
ENTRY = page.FILE  # what people open first
PART = ".card.part"  # in the card's folder, while it is written
SCHEMA = 1
SAMPLES = "samples"  # in a run's folder and in the card: grids of images that were made while it was trained
JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE  # as `files.write_json` writes it
KEPT_APART = ("name", "run", "run_folder", "folders", "curves", "evaluation", "audit", "run_sha256",
              "hashes")  # fmt: skip  # of Facts
# What a file's bytes depend on beside the facts.
MADE_WITH: dict[str, tuple[str, ...]] = {
    attribution.PARQUET: ("pyarrow",),
    model_card.NAME: ("huggingface_hub",),
    page.FILE: ("matplotlib", "pillow"),
}
TEXTS: dict[str, Callable[[Facts], str]] = {terms.NAME: terms.render, components.NAME: components.render}
FORMATS: dict[str, Callable[[Facts, Path], None]] = {
    croissant.FILE: croissant.write, cyclonedx.FILE: cyclonedx.write, spdx.FILE: spdx.write,
}  # fmt: skip
OF_RUNS: dict[str, Callable[[Facts], str]] = {data_summary.NAME: data_summary.render}


def names(facts: Facts, certify: bool) -> list[str]:
    """Return what a card has at its top: files, and `evidence/`."""
    texts = [*TEXTS, *(OF_RUNS if facts.run is not None else ())]
    folders = {f"{SAMPLES}/": preview(facts.run_folder) is not None, f"{evidence.FOLDER}/": certify}
    files = [model_card.NAME, page.FILE, attribution.NAME, attribution.PARQUET, *texts, *FORMATS, NAME]
    return [*files, *(name for name, there in folders.items() if there)]


def write(facts: Facts, folder: Path, certify: bool = False, works: bool = True) -> list[str]:
    """Write a card, replacing one that already exists; return the names of its files, report.json last.

    Until all files are complete they lie in a folder of their own: whatever interrupts it leaves no half card.

    Args:
        certify: with the folder `evidence`.
        works: with ATTRIBUTION and its table, which are as long as the data.

    Raises OSError as `files.atomic_write`.
    """
    home, new = folder / PART, not folder.exists()
    shutil.rmtree(home, ignore_errors=True)
    try:
        with naming(folder, home):
            home.mkdir(parents=True)
            files = _write(facts, home, certify, works)
            for path in existing(folder):
                path.unlink()
            for name in files:
                (folder / name).parent.mkdir(exist_ok=True)
                (home / name).replace(folder / name)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        if new:
            with suppress(OSError):  # it holds a card
                folder.rmdir()
    return files


def _write(facts: Facts, folder: Path, certify: bool, works: bool) -> list[str]:
    if works:
        attribution.write(facts, folder)
    for name, render in {**TEXTS, **(OF_RUNS if facts.run is not None else {})}.items():
        write_bytes(folder / name, render(facts).encode())
    for make in FORMATS.values():
        make(facts, folder)
    if certify:
        evidence.write(facts, folder)
    if (grid := preview(facts.run_folder)) is not None:
        write_bytes(folder / SAMPLES / grid.name, grid.read_bytes())
    named = names(facts, certify)
    page.write(facts, folder, [name for name in named if name != page.FILE])
    write_bytes(folder / model_card.NAME, model_card.render(facts, named).encode())
    written = files_of(folder, named)
    write_json(folder / NAME, describe(facts, folder, written, certify))
    return [*written, NAME]


def preview(run: Path | None) -> Path | None:
    """Return the newest grid of images that a run's folder, or a card, holds."""
    return max((run / SAMPLES).glob("step-*.png"), default=None) if run is not None else None


def existing(folder: Path) -> list[Path]:
    """Return the files in a folder that have the names of a card's, report.json first."""
    named = [NAME, model_card.NAME, *(name for name in model_card.FILES if not name.endswith("/") and name != NAME)]
    inside = sorted(each for each in (folder / evidence.FOLDER).glob("*") if each.name in evidence.FILES)
    inside += sorted((folder / SAMPLES).glob("step-*.png"))
    return [path for path in (*(folder / name for name in named), *inside) if path.is_file()]


def files_of(folder: Path, named: list[str]) -> list[str]:
    """Return the files of a card but report.json, those in folders as `evidence/NAME`."""
    found = [name for name in named if not name.endswith("/") and name != NAME and (folder / name).is_file()]
    for name in named:
        if name.endswith("/") and (folder / name).is_dir():
            found += sorted(f"{name}{path.name}" for path in (folder / name).iterdir() if not path.name.startswith("."))
    return sorted(found)


def describe(facts: Facts, folder: Path, files: list[str], certify: bool) -> dict[str, Any]:
    """Return report.json: the facts, what they were made of, and the size and SHA-256 of every file and shard."""
    return {
        "schema": SCHEMA, "name": facts.name, "evidence": certify, "made_with": libraries(),
        "facts": counted(facts),
        "run_sha256": facts.run_sha256 or None, "kept_sha256": kept_sha256(facts, libraries()), "run": facts.run,
        "evaluation": facts.evaluation, "audit": facts.audit, "curves": facts.curves,
        "shards": [
            {"name": name, "bytes": path.stat().st_size, "sha256": facts.hashes[path]} for name, path in tars(facts.folders)
        ],
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in files},
    }  # fmt: skip


def kept_sha256(facts: Facts | ReportInputs, made_with: Mapping[str, str]) -> str:
    """Return the SHA-256 of what report.json keeps and nothing in the shards could confirm."""
    kept = [facts.run_sha256, facts.run, facts.evaluation, facts.audit, facts.curves, dict(made_with)]
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()


def counted(facts: Facts) -> dict[str, Any]:
    """Return the facts but for what is kept apart, as JSON has them."""
    found = {field.name: getattr(facts, field.name) for field in fields(facts) if field.name not in KEPT_APART}
    return {
        **found,
        "models": [asdict(each) for each in facts.models],
        "conflicts": [asdict(each) for each in facts.conflicts],
    }


def libraries() -> dict[str, str]:
    """Return the versions that the bytes of a card's files depend on."""
    return {
        name: version(name) for name in sorted({"commonart", *(each for names in MADE_WITH.values() for each in names)})
    }
