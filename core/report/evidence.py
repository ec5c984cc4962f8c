"""evidence/: what a certifier such as Fairly Trained asks for, as tables: every source with the basis of its licence, the policies,
the counts of the filters, the code, and the hashes of shards and manifests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import sha256_file, write_bytes
from commonart.core.data.shards.manifest import manifest_path, read_manifest
from commonart.core.report import works as work_list
from commonart.core.report.facts import Facts
from commonart.core.report.history import iso_time
from commonart.core.report.ledger import caption_models
from commonart.core.report.limits import unstated
from commonart.core.report.makers import Maker, name_in_words, people, written
from commonart.core.report.markdown import escaped, table
from commonart.core.report.works import tars

FOLDER = "evidence"
FILES = ("README.md", "captions.csv", "filters.csv", "manifests.csv", "settings.json", "sources.csv")


def write(facts: Facts, folder: Path) -> None:
    """Write the folder `evidence` into the card's. Raises OSError as `files.write_bytes`."""
    home = folder / FOLDER
    texts = {
        "README.md": _index(facts),
        "sources.csv": _csv(("source", "licence", "basis", "works", "observed_first", "observed_last"), _sources(facts)),
        "filters.csv": _csv(("stage", "version", "in", "out", "what", "reason", "count"), _filters(facts)),
        "captions.csv": _csv(("maker", "is", "revision", "licence", "terms", "lang", "captions"), _captions(facts)),
        "manifests.csv": _csv(("shard", "bytes", "sha256", "in", "out", "manifest_sha256"), _manifests(facts)),
        "settings.json": orjson.dumps(_settings(facts), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode(),
    }  # fmt: skip
    for name, text in texts.items():
        write_bytes(home / name, text.encode())


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    # A spreadsheet takes what begins with these for a formula.
    writer.writerows([f"'{cell}" if str(cell)[:1] in ("=", "+", "-", "@") else cell for cell in row] for row in rows)
    return text.getvalue()


def _sources(facts: Facts) -> list[tuple[Any, ...]]:
    counted = dict[tuple[str, str, str], list[Any]]()
    for work in work_list.works(facts.folders, facts.run):
        row = counted.setdefault((work.source, work.license, work.license_basis), [0, "", ""])
        row[0] += 1
        if at := iso_time(work.license_observed_at):
            row[1:] = [min(row[1] or at, at), max(row[2], at)]
    return [(*key, *row) for key, row in sorted(counted.items(), key=lambda entry: (-entry[1][0], entry[0]))]


def _filters(facts: Facts) -> list[tuple[Any, ...]]:
    rows = list[tuple[Any, ...]]()
    for stage in facts.history:
        about = (stage["stage"], stage["version"] or "", stage["in"], stage["out"])
        counts = [(what, reason, count) for what in ("dropped", "missing", "captions_removed")
                 for reason, count in (stage.get(what) or {}).items()]  # fmt: skip
        counts += [("lost", "before this stage, by none that left a note", stage["lost"])] if stage.get("lost") else []
        rows += [(*about, *each) for each in counts] or [(*about, "", "", 0)]
    return rows


def _captions(facts: Facts) -> list[tuple[Any, ...]]:
    kinds, persons = {True: "model", False: "people", None: "not stated"}, people(facts.makers)
    return [
        (
            name_in_words(maker.name, maker.generated, persons),
            kinds[maker.generated],
            maker.revision,
            maker.license,
            _terms(maker, facts),
            maker.lang,
            maker.captions,
        )
        for maker in facts.makers
    ]


def _terms(maker: Maker, facts: Facts) -> str:
    """The terms on what models write; of a translation, those of both in the order in which they worked."""
    return (
        "; of the translation: ".join(model.terms for model in caption_models(maker, facts.makers, facts.run))
        or "no model"
    )


def _generated(facts: Facts) -> str:
    models, people, unknown = (f"{written(facts.makers, generated):,}" for generated in (True, False, None))
    return (
        f"captions written by models: {models}; by people: {people}; not stated by whom: {unknown}. Who wrote them is in "
        "captions.csv, and on which terms in ../COMPONENTS.md"
    )


def _manifests(facts: Facts) -> list[tuple[Any, ...]]:
    rows = []
    for name, path in tars(facts.folders):
        manifest, beside = read_manifest(path), manifest_path(path)
        counts = (manifest.read, manifest.written) if manifest else ("", "")
        hashed = sha256_file(beside) if beside.is_file() else "none"
        rows.append((name, path.stat().st_size, facts.hashes[path], *counts, hashed))
    return rows


def _settings(facts: Facts) -> dict[str, Any]:
    """What each stage was asked, and of a run its policy, code and packages."""
    run = facts.run or {}
    return {
        "stages": [{"stage": row["stage"], "version": row["version"], "settings": row["settings"]} for row in facts.history],
        "policy": (run.get("data") or {}).get("policy"), "code": run.get("code"), "versions": run.get("versions"),
        "run_json_sha256": facts.run_sha256 or None, "fingerprint": facts.fingerprint, "digest": facts.digest,
    }  # fmt: skip


def _index(facts: Facts) -> str:
    code = (facts.run or {}).get("code") or {}
    commit = (
        f"`{code['commit']}`" + (", with changes" if code.get("modified") else "")
        if code.get("commit")
        else "not known"
    )
    questions = [
        ("Which data was it trained on?", "every work: ../ATTRIBUTION, ../attribution.parquet; by source: sources.csv"),
        ("On which legal basis?", f"the licence of each work, as its source states it: sources.csv (basis: {_bases(facts)})"),
        ("Who decided what is allowed?", "the policies in settings.json, applied by the stages in filters.csv"),
        ("What was left out, and why?", "filters.csv: every stage with its counts, by reason"),
        ("Does all of it resolve to a source and a licence?", _resolves(facts)),
        ("Were generated data used?", _generated(facts)),
        ("Which models were made by others?", "../COMPONENTS.md, with what they were trained on as far as it is disclosed"),
        ("With which code?", f"commonart {code.get('version') or 'not known'}, commit {commit}"),
        ("Can it be checked?", "`commonart report --verify CARD SHARDS`; hashes of shards and manifests: manifests.csv"),
    ]  # fmt: skip
    lines = [
        f"# Evidence for {escaped(facts.name)}", "",
        *table(("question", "answer"), questions),
        "The certifier reads English; the card's README.md says the same in Japanese, too. /",
        "認証機関向けのため英語のみ。日本語は README.md にある。", "",
        "Contracts, invoices and the rights to works of one's own are not in any manifest: the operator adds them.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _bases(facts: Facts) -> str:
    return ", ".join(f"{name or 'not stated'} {count:,}" for name, count in facts.bases.items())


def _resolves(facts: Facts) -> str:
    open_ends = {name: facts.untraced[name] for name in ("source", "license", "sha256") if facts.untraced.get(name)}
    if not open_ends:
        return f"yes: all {facts.works:,} works"
    return "no: " + ", ".join(unstated(name, count, facts.works)[0].rstrip(".") for name, count in open_ends.items())
