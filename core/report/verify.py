"""Check a card: every claim of it, held against the shards, and against the run where that is there.

The card is built anew from the shards and from what report.json keeps of the run, and compared byte by byte; where another version
of a library than here wrote a file, as `equivalent` does it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from commonart.core.data.files import file_inside
from commonart.core.errors import CommonArtError, reason, with_class
from commonart.core.report import attribution, card, equivalent, plausible
from commonart.core.report.claims import SHOWN, Claim, first, of_files, of_removals, of_run, of_shards
from commonart.core.report.facts import Facts, ReportInputs, build, found, traced
from commonart.core.report.markdown import many
from commonart.core.report.model_card import NAME as README
from commonart.core.report.page import page
from commonart.core.report.trace import counted, differences, hash_tars
from commonart.core.report.works import tars

VERSION = re.compile(r"\d[\w.+!-]{0,30}")
FIELDS = {"schema": int, "name": str, "evidence": bool, "made_with": dict, "facts": dict, "shards": list, "files": dict}


def check(folder: Path, shards: Sequence[Path], run: Path | None, quiet: bool = True) -> Iterator[Claim]:
    """Yield the claims of the card in `folder`, each as soon as it is checked.

    Args:
        shards: the folders of shards, in the order of training.
        run: where it is there, what the card keeps of it is compared with its files.

    Raises CommonArtError where the folder holds no card.
    """
    said = read(folder)
    by_path = hash_tars(shards, quiet)
    hashes = {name: by_path[path] for name, path in tars(shards)}
    yield from of_removals(said["shards"], shards, hashes)
    yield from of_files(folder, said["files"], shards)
    yield from of_shards(said["shards"], shards, hashes, by_path)
    yield from of_run(folder, said, run)
    inputs = ReportInputs(
        said["name"], said.get("run"), said.get("curves") or [], said.get("evaluation"), said.get("audit"),
        said.get("run_sha256") or "",
    )  # fmt: skip
    if said.get("kept_sha256") != card.kept_sha256(inputs, said["made_with"]):
        yield Claim(
            "report.json keeps what the run's files say", False, "it was changed: kept_sha256 is of something else"
        )
    try:
        # The grid of images is the card's: `of_run` compares it with the run's.
        facts = replace(build(inputs, by_path, tuple(shards), quiet), run_folder=folder)
        facts, claims = _training(facts)
        yield from claims
        yield from _against_records(folder, said, facts, hashes)
    except CommonArtError as error:
        yield Claim("the records of the shards can be read", False, error.what)
        yield Claim("the counts, ATTRIBUTION and the other files", None, "they are made of the records")
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # report.json is of other people
        yield Claim("report.json holds what a run says of itself", False, with_class(error))


def _against_records(folder: Path, said: Mapping[str, Any], facts: Facts, hashes: Mapping[str, str]) -> Iterator[Claim]:
    yield from _facts(said["facts"], facts)
    yield from _against_run(facts)
    yield from _cost(facts)
    yield from _lines(folder, facts)
    yield from _table(folder, facts)
    yield from _croissant(folder, hashes)
    yield from _again(folder, said, facts)


def read(folder: Path) -> dict[str, Any]:
    """Return report.json. Raises CommonArtError where there is none, or it is none of ours."""
    path, fix = folder / card.NAME, "Name a folder that commonart report has written."
    try:
        said = orjson.loads(path.read_bytes())
    except OSError as error:
        raise CommonArtError(f"{path} cannot be read: {reason(error)}.", fix) from None
    except orjson.JSONDecodeError as error:
        raise CommonArtError(
            f"{path} does not hold: it is not JSON ({error}).", "It was changed: fetch the card again."
        ) from None
    wrong = [
        name for name, kind in FIELDS.items() if not isinstance(said, dict) or not isinstance(said.get(name), kind)
    ]
    if wrong:
        raise CommonArtError(f"{path} does not hold: {', '.join(wrong)} are not what a card has there.", fix)
    if said["schema"] != card.SCHEMA:
        raise CommonArtError(f"{path} has schema {said['schema']}, and this version reads {card.SCHEMA}.", fix)
    return dict(said)


def _training(facts: Facts) -> tuple[Facts, list[Claim]]:
    """Whether the shards are those that the run was trained on; the facts with what became of its works since."""
    if (run := facts.run) is None:
        return facts, []
    claims = list[Claim]()
    try:
        facts = traced(facts)
    except CommonArtError as error:  # the rest can be compared nevertheless
        claims.append(Claim("the works are those that the run was trained on", False, error.what))
    what = "the fingerprint of the shards is that of run.json"
    if facts.fingerprint == run["data"]["fingerprint"]:
        claims.append(Claim(what, True))
    elif facts.rewritten:
        why = "they were written again: their works and records are those of the training, and their pixels were not compared"
        claims.append(Claim(what, None, why))
    elif facts.removed_on:
        why = f"{_gone(facts)}; shards that this wrote again cannot be compared with those of the training"
        claims.append(Claim(what, None, why))
    else:
        claims.append(Claim(what, False, "the shards were written again, or changed, since the run was trained"))
    return facts, claims


def _gone(facts: Facts) -> str:
    days = ", ".join(facts.removed_on)
    were = "work of the run was" if facts.removed == 1 else "works of the run were"
    return f"{facts.removed:,} {were} removed from the shards on {days}"


def _facts(said: Mapping[str, Any], facts: Facts) -> Iterator[Claim]:
    """The counts of report.json, field by field, as the records give them."""
    now = orjson.loads(orjson.dumps(card.counted(facts)))
    for name in dict.fromkeys((*now, *said)):
        if name in ("history", "models"):
            continue  # those are of the notes and the registry: `_again` compares them
        there, here = said.get(name), now.get(name)
        if isinstance(there, dict) and isinstance(here, dict) and there != here:
            # Of long tables what differs, which the first few entries need not show.
            keys = [key for key in dict.fromkeys((*there, *here)) if there.get(key) != here.get(key)]
            there, here = ({key: table.get(key, 0) for key in keys} for table in (there, here))
        holds = there == here
        yield Claim(f"{name}: {_short(there)}", holds, "" if holds else f"the records say {_short(here)}")


def _against_run(facts: Facts) -> Iterator[Claim]:
    """What run.json counted while it was trained, against the records."""
    if facts.run is None:
        return
    data, gone = facts.run["data"], facts.removed
    for name, what in (("digest", "works"), ("attribution", "licences, authors and captions of the works")):
        same = getattr(facts, name) == data[name]
        yield Claim(
            f"the digest of the {what} is that of the training", None if gone else same, _gone(facts) if gone else ""
        )
    then, now = data["images"], facts.works
    less = f"{now:,} now, and {gone:,} removed" if gone else ""
    yield Claim(
        f"images of run.json: {then:,}", then == now + gone, less if then == now + gone else f"the records say {now:,}"
    )
    for name, wrong in differences(facts.run, found(facts), gone).items():
        label = "captions by their makers" if name == "captioners" else f"{name} of run.json"
        detail = f"{_short(getattr(facts, name))} now, with {many(gone, 'work')} removed" if gone else ""
        yield Claim(f"{label}: {_short(counted(facts.run)[name])}", not wrong, first(wrong) or detail)


def _cost(facts: Facts) -> Iterator[Claim]:
    """What no record shows, and run.json's own recipe, transformer and curves do."""
    if facts.run is None:
        return
    wrong = plausible.of_cost(facts.run, facts.curves)
    yield Claim("steps, images, hours and energy of run.json agree with its recipe and curves", not wrong, first(wrong))
    if "transformer" in facts.run:
        wrong = plausible.of_transformer(facts.run, facts.curves)
        yield Claim("parameters and FLOP of run.json are those of its transformer", not wrong, first(wrong))
    else:
        yield Claim("parameters and FLOP of run.json", None, "of a captioner they cannot be computed again")


def _lines(folder: Path, facts: Facts) -> Iterator[Claim]:
    """ATTRIBUTION, line by line."""
    wrong, number, count = list[str](), 0, 0
    try:
        with open(folder / attribution.NAME, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for number, (has, should) in enumerate(zip_longest(file, attribution.lines(facts)), 1):
                if has is None or should is None or has != f"{should}\n":
                    count += 1
                    wrong += [f"line {number}"] if len(wrong) < SHOWN else []
    except OSError as error:
        wrong, count = [reason(error)], 1
    more = f" and {count - len(wrong):,} more" if count > len(wrong) else ""
    yield Claim(f"{attribution.NAME}: {number:,} lines, each as its record says", not wrong, ", ".join(wrong) + more)


def _table(folder: Path, facts: Facts) -> Iterator[Claim]:
    """attribution.parquet, row by row."""
    wrong, row = list[str](), 0
    try:
        if attribution.columns(folder / attribution.PARQUET) != attribution.COLUMNS:
            wrong.append("it has other columns")
        for has, should in zip_longest(attribution.read_parquet(folder / attribution.PARQUET), attribution.rows(facts)):
            rows = zip_longest(has.to_pylist() if has is not None else (), should or ())
            wrong += [
                f"row {row + number} ({(other or one)['key']})"
                for number, (one, other) in enumerate(rows, 1) if one != other
            ][:SHOWN]  # fmt: skip
            row += len(should or ())
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        wrong.append(next(iter(reason(error).splitlines()), type(error).__name__))
    yield Claim(f"{attribution.PARQUET}: {row:,} rows, each as its record says", not wrong, first(wrong))


def _croissant(folder: Path, hashes: Mapping[str, str]) -> Iterator[Claim]:
    """The hashes of the tars that croissant.json names."""
    try:
        said = orjson.loads((folder / "croissant.json").read_bytes())
        files = [each for each in said.get("distribution", ()) if each.get("@type") in ("cr:FileObject", "FileObject")]
        named = {str(each["contentUrl"]): each.get("sha256") for each in files if each.get("sha256")}
    except FileNotFoundError:
        return
    except (OSError, orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        yield Claim("croissant.json names the shards", False, str(error))
        return
    wrong = [name for name, sha256 in named.items() if hashes.get(name.removeprefix("./")) != sha256]
    yield Claim(
        f"croissant.json: {len(named):,} shards with their hashes",
        not wrong and len(named) == len(hashes),
        first(wrong),
    )


def _again(folder: Path, said: Mapping[str, Any], facts: Facts) -> Iterator[Claim]:
    """The card, built anew: every other file, byte by byte, and what else report.json says."""
    here, made_with = card.libraries(), said["made_with"]
    with tempfile.TemporaryDirectory(prefix="commonart-") as temporary:
        again, different = Path(temporary), list[str]()
        files = [name for name in card.write(facts, again, said["evidence"], works=False) if name != card.NAME]
        for name in files:
            path = file_inside(folder, name)
            if path is not None and path.read_bytes() == (again / name).read_bytes():
                continue
            other = any(here.get(each) != made_with.get(each) for each in card.MADE_WITH.get(name, ()))
            if path is None or not (other and _same(name, path, again / name)):
                different.append(name)
        yield Claim("every other file is what the facts give", not different, first(different))
        made = orjson.loads((again / card.NAME).read_bytes())
    # `of_files` compared the hashes with the files; here report.json has to list the files that a card has, and no others.
    listed = dict.fromkeys((*files, attribution.NAME, attribution.PARQUET))
    made["files"] = {name: said["files"].get(name) for name in sorted(listed)}
    made |= {"made_with": made_with, "kept_sha256": card.kept_sha256(facts, made_with)}
    wrong = [name for name in dict.fromkeys((*made, *said)) if said.get(name) != made.get(name)]
    if made_with.keys() != here.keys() or not all(VERSION.fullmatch(str(each)) for each in made_with.values()):
        wrong.append("made_with")
    if not wrong and orjson.dumps(made, option=card.JSON) != (folder / card.NAME).read_bytes():
        wrong = ["its bytes were changed"]
    yield Claim("report.json says nothing else", not wrong, first(wrong))


def _same(name: str, path: Path, again: Path) -> bool:
    same = {page.FILE: equivalent.same_page, README: equivalent.same_card}[name]
    return same(*(each.read_text("utf-8", errors="surrogateescape") for each in (path, again)))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        shown = [f"{name or 'not stated'} {_short(count)}" for name, count in list(value.items())[:4]]
        return ", ".join(shown + (["..."] if len(value) > 4 else [])) or "none"
    if isinstance(value, list | tuple):
        return f"{len(value):,} of them" if len(value) > 2 else ", ".join(map(_short, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
