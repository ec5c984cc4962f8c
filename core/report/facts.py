"""The facts of a report: what a run, or folders of shards, can prove of themselves, from their manifests alone.

    facts = gather(Path("runs/256")); facts.licenses     # {"CC-BY-2.0": 14000000, ...}

The records are read once, and counted; nothing is kept of each but 10 bytes. Dates come from the run, never from the clock, so
that the same inputs give the same card.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from commonart.core import log
from commonart.core.data import notes
from commonart.core.data.caption_terms import is_generated
from commonart.core.data.files import sha256_file
from commonart.core.data.lookup.runs import RUN
from commonart.core.data.text import count_words
from commonart.core.errors import CommonArtError
from commonart.core.report import beside, plausible, shape
from commonart.core.report import works as work_list
from commonart.core.report.history import flatten, iso_time
from commonart.core.report.ledger import ModelUsed, models_used
from commonart.core.report.makers import Maker
from commonart.core.report.trace import check_tars, check_works, fingerprint, folders_of, hash_tars, read_run
from commonart.core.report.works import Work

AUTHORS, HOSTS = 50, 100
CONFLICTS = 20  # images under different licences that are named
# Maker, revision, licence and language of captions, and their field `synthetic`.
Making = tuple[str, str, str, str, bool | None]


@dataclass(frozen=True)
class Conflict:
    """One image that the data hold under different licences."""

    sha256: str
    keys: tuple[str, ...]
    licenses: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What a report says. Histograms are counts, the most frequent first."""

    name: str
    run: dict[str, Any] | None  # run.json; None: of shards alone
    run_folder: Path | None  # None also where a card is checked without it
    folders: tuple[Path, ...]  # of shards
    works: int = 0
    untraced: dict[str, int] = field(default_factory=dict)  # what is missing -> of how many works
    digest: str = ""  # of the works' keys and sha256, as run.json's data.digest
    attribution: str = ""  # of what their records say, as run.json's data.attribution
    fingerprint: str = ""  # of the shards, as run.json's data.fingerprint
    licenses: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)  # captions
    makers: tuple[Maker, ...] = ()  # of the captions, the most frequent first
    sizes: dict[str, int] = field(default_factory=dict)  # "512x384"
    caption_words: dict[str, int] = field(default_factory=dict)  # number of words -> captions, the shortest first
    splits: dict[str, int] = field(default_factory=dict)
    authors: dict[str, int] = field(default_factory=dict)  # the most frequent
    unknown_authors: int = 0
    hosts: dict[str, int] = field(default_factory=dict)  # of the works' addresses, the most frequent
    downloaded: int = 0  # works that `commonart fetch` took from the web, where it asks for opt-outs
    bases: dict[str, int] = field(
        default_factory=dict
    )  # of their licences: licence, dedication, mark, statement, statute, set
    observed: tuple[str, str] = ("", "")  # when licences were observed first and last, ISO 8601
    conflicts: tuple[Conflict, ...] = ()  # the first of `conflicting`
    conflicting: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)  # notes, fetch first: see `history.flatten`
    models: list[ModelUsed] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)  # rows of metrics.jsonl
    evaluation: dict[str, Any] | None = None  # eval.json
    audit: dict[str, Any] | None = None  # mia.json
    run_sha256: str = ""  # of the file run.json
    hashes: dict[Path, str] = field(default_factory=dict)  # SHA-256 of each shard
    rewritten: bool = False  # works and records are those of the run, and the bytes of its shards are not
    removed: int = 0  # works that `commonart lookup --remove` took out since the training: in none of these counts
    removed_on: tuple[str, ...] = ()

    @property
    def shards(self) -> Path:
        """The first folder of shards."""
        return self.folders[0]

    @property
    def captioners(self) -> dict[str, int]:
        """Captions by who wrote them; of translations "TRANSLATOR of ORIGINAL"."""
        counted = Counter[str]()
        for maker in self.makers:
            counted[maker.name] += maker.captions
        return dict(_ordered(counted))

    @property
    def compute(self) -> Mapping[str, Any]:
        """What run.json says of the cost: step, images, seconds, flops, devices, energy_kwh, energy_is."""
        return (self.run or {}).get("compute") or {}

    @property
    def flops(self) -> float | None:
        """Of the trained model, forward and backward."""
        return self.compute.get("flops")

    @property
    def seconds(self) -> float | None:
        """Of training."""
        return self.compute.get("seconds")

    @property
    def energy_kwh(self) -> float | None:
        """Estimated; None where a device's power is not known."""
        return self.compute.get("energy_kwh")


def gather(
    run: Path | None, shards: Path | None = None, evaluation: Path | None = None, audit: Path | None = None,
    quiet: bool = True,
) -> Facts:  # fmt: skip
    """Read everything that a report says.

    Args:
        run: a folder with run.json; None: `shards` are reported alone.
        shards: in place of the folder that the run names.
        evaluation, audit: eval.json and mia.json; None: those in the run's folder, where they are.

    Raises:
        CommonArtError: a run that does not say what it was trained on, or has not trained yet; shards that are gone or changed.
    """
    described = None if run is None else read_run(run)
    folders = folders_of(described, shards)
    inputs = ReportInputs(
        (run or folders[0]).resolve().name, beside.without_places(described),
        [] if run is None else beside.curves(run / beside.METRICS, beside.last_step(described)),
        beside.evaluation(evaluation or beside.file_in(run, beside.EVALUATION)),
        beside.audit(audit or beside.file_in(run, beside.AUDIT)),
        sha256_file(run / RUN) if run is not None else "",
    )  # fmt: skip
    if run is not None:
        _check_cost(run, inputs)
    hashes = hash_tars(folders, quiet)
    check_tars(hashes)
    return replace(traced(build(inputs, hashes, folders, quiet)), run_folder=run)


def _check_cost(run: Path, inputs: ReportInputs) -> None:
    """Raise CommonArtError where run.json contradicts itself, or its curves: `--verify` would refuse the card."""
    described = inputs.run or {}
    wrong = plausible.of_cost(described, inputs.curves)
    wrong += plausible.of_transformer(described, inputs.curves) if "transformer" in described else []
    if wrong:
        raise CommonArtError(
            f"{run / RUN} contradicts itself: {'; '.join(wrong)}.",
            "Put run.json and metrics.jsonl of the training back.",
        )


class ReportInputs(NamedTuple):
    """What is read beside the shards. A card holds it all, so that it can be checked without the run's folder."""

    name: str
    run: dict[str, Any] | None
    curves: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    audit: dict[str, Any] | None
    run_sha256: str = ""


def build(inputs: ReportInputs, hashes: dict[Path, str], folders: tuple[Path, ...], quiet: bool = True) -> Facts:
    """Return the facts of `inputs` and of the works in `folders`, whose shards have `hashes` (`trace.hash_tars`).

    Whether these are the works of the run is left to `traced`. Raises CommonArtError for no works, or a damaged shard.
    """
    run = inputs.run
    about = _counted(folders, run, quiet)
    if not about["works"]:
        raise CommonArtError(
            f"{', '.join(map(str, folders))} holds no work that {'the run was trained on' if run else 'a card could name'}.",
            "Name the shards of the run." if run else "Name a folder of shards with records.",
        )
    told = run.get("history", []) if run is not None else [note for f in folders for note in notes.read_beside(f)]
    if wrong := list(shape.wrong_notes(told, "note.json")):
        raise CommonArtError(f"A note of {', '.join(map(str, folders))} is damaged: {wrong[0]}.", "Restore note.json.")
    models = models_used(run, about["makers"], inputs.evaluation, inputs.audit)
    return Facts(
        inputs.name, run, None, folders, **about, fingerprint=fingerprint(folders, run, hashes), history=flatten(told, run),
        models=models, curves=inputs.curves, evaluation=inputs.evaluation, audit=inputs.audit, run_sha256=inputs.run_sha256,
        hashes=hashes,
    )  # fmt: skip


def traced(facts: Facts) -> Facts:
    """Return the facts with what became of the run's works since. Raises CommonArtError where the works are others."""
    if facts.run is None:
        return facts
    return replace(facts, **check_works(facts.run, found(facts), facts.folders, facts.hashes)._asdict())


def found(facts: Facts) -> dict[str, Any]:
    """Return what `trace` holds against run.json."""
    return {
        "images": facts.works, "digest": facts.digest, "attribution": facts.attribution, "licenses": facts.licenses,
        "sources": facts.sources, "captioners": facts.captioners,
    }  # fmt: skip


def works(folders: Sequence[Path] | Path, run: Mapping[str, Any] | None = None) -> Iterator[Work]:
    """Yield the works that a run was trained on, or all of the shards without one. Raises as `works.works`."""
    yield from work_list.works([folders] if isinstance(folders, Path) else folders, run)


def _counted(folders: Sequence[Path], run: Mapping[str, Any] | None, quiet: bool) -> dict[str, Any]:
    """The histograms of the works, counted in one stream, and who wrote their captions (`makers`)."""
    names = ("licenses", "sources", "languages", "sizes", "splits", "bases")
    counts = {name: Counter[str]() for name in names}
    words, makers = Counter[int](), Counter[Making]()
    authors, hosts, missing, first, last = Counter[str](), Counter[str](), Counter[str](), "", ""
    hashes, codes, licenses = array("Q"), array("H"), dict[str, int]()
    total, attribution, number, downloaded = hashlib.sha256(), hashlib.sha256(), 0, 0
    with log.progress("records", quiet=quiet) as tick:
        for work in work_list.works(folders, run):
            tick()
            number += 1
            prefix = int(work.sha256[:16], 16) if work.sha256 else 0
            total.update(f"{work.key} {prefix:016x}\n".encode())
            attribution.update(f"{work.key} {work.attribution:016x}\n".encode())
            hashes.append(prefix)
            codes.append(licenses.setdefault(work.license, len(licenses)))
            counts["licenses"][work.license] += 1
            counts["sources"][work.source] += 1
            counts["sizes"][f"{work.width}x{work.height}"] += 1
            counts["splits"][work.split] += 1
            counts["bases"][work.license_basis] += 1
            hosts[host_of(work.url)] += 1
            downloaded += work.downloaded
            if at := iso_time(work.license_observed_at):
                first, last = min(first or at, at), max(last, at)
            for caption, maker in zip(work.captions, work.makers, strict=True):
                counts["languages"][str(caption.get("lang") or "")] += 1
                words[caption.get("words") or count_words(caption["text"])] += 1
                revision, license, lang = (str(caption.get(name) or "") for name in ("revision", "license", "lang"))
                synthetic = caption.get("synthetic")
                makers[maker, revision, license, lang, synthetic if isinstance(synthetic, bool) else None] += 1
            authors[work.author] += 1
            stated = {"source": work.source, "license": work.license, "author": work.author, "address": work.url,
                      "title": work.title, "sha256": work.sha256, "observed": at}  # fmt: skip
            missing.update(name for name, value in stated.items() if not value)
    unknown, _ = authors.pop("", 0), hosts.pop("", 0)
    conflicting, conflicts = _conflicts(folders, run, hashes, codes)
    return {
        "works": number, "digest": total.hexdigest(), "attribution": attribution.hexdigest(),
        "untraced": dict(missing.most_common()), "unknown_authors": unknown, "downloaded": downloaded,
        "observed": (first, last), "hosts": dict(_ordered(hosts)[:HOSTS]), "authors": dict(_ordered(authors)[:AUTHORS]),
        "caption_words": {str(n): words[n] for n in sorted(words)}, "conflicts": conflicts, "conflicting": conflicting,
        "makers": _makers(makers), **{name: dict(_ordered(counted)) for name, counted in counts.items()},
    }  # fmt: skip


def host_of(url: str) -> str:
    """Return the host of an address, or ""."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _makers(counted: Counter[Making]) -> tuple[Maker, ...]:
    """The captions by their making, the most frequent first."""
    merged = Counter[Maker]()
    for (name, revision, license, lang, stated), count in counted.items():
        merged[Maker(name, revision, license, lang, is_generated(name.partition(" of ")[0], stated), 0)] += count
    return tuple(replace(maker, captions=count) for maker, count in _ordered(merged))


def _ordered(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """The most frequent first, and those of one count by name: the same whatever the order of the records."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))


def _conflicts(
    folders: Sequence[Path], run: Mapping[str, Any] | None, hashes: array[int], codes: array[int]
) -> tuple[int, tuple[Conflict, ...]]:
    """How many images the data hold under different licences, and the first of them with their keys."""
    prints, license_codes = np.frombuffer(hashes, np.uint64), np.frombuffer(codes, np.uint16)
    order = np.lexsort((license_codes, prints))
    prints, license_codes = prints[order], license_codes[order]
    differs = (prints[1:] == prints[:-1]) & (license_codes[1:] != license_codes[:-1]) & (prints[1:] != 0)
    found = np.unique(prints[1:][differs])
    if not len(found):
        return 0, ()
    named = set(found[:CONFLICTS].tolist())
    keys, licenses = dict[str, list[str]](), dict[str, list[str]]()
    for work in work_list.works(folders, run):
        if work.sha256 and int(work.sha256[:16], 16) in named:
            keys.setdefault(work.sha256, []).append(work.key)
            licenses.setdefault(work.sha256, []).append(work.license)
    return len(found), tuple(
        Conflict(sha256, tuple(keys[sha256]), tuple(sorted(set(licenses[sha256])))) for sha256 in sorted(keys)
    )
