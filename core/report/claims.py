"""Claims about whole files: those of a card, of its shards and of its run, each held against the bytes that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.data.files import file_inside, sha256_file
from commonart.core.data.lookup.removal import read_log
from commonart.core.data.shards.manifest import manifest_path
from commonart.core.errors import CommonArtError
from commonart.core.report import beside, card, evidence
from commonart.core.report.trace import RUN, changed_tars
from commonart.core.report.works import tars

SHOWN = 5  # differences of one kind that are named


class Claim(NamedTuple):
    """One claim of a card: `holds` is None where it could not be checked, and `detail` says why."""

    what: str
    holds: bool | None
    detail: str = ""


def of_files(folder: Path, named: Mapping[str, Any], shards: Sequence[Path]) -> Iterator[Claim]:
    """Yield whether the files of a card are those that report.json names, and which others lie beside them."""
    wrong = []
    for name, about in named.items():
        path = file_inside(folder, name)
        if path is None:
            wrong.append(f"{name} is not there")
        elif about != {"bytes": path.stat().st_size, "sha256": sha256_file(path)}:
            wrong.append(f"{name} is not the file that report.json names")
    yield Claim(f"the files' hashes in report.json ({len(named):,})", not wrong, "; ".join(wrong))
    if others := _others(folder, named, shards):
        yield Claim("files beside the card's own, which report.json does not list", None, first(others))


def _others(folder: Path, named: Mapping[str, Any], shards: Sequence[Path]) -> list[str]:
    """Files in the card's folder that are not the card's, as POSIX paths; a card beside shards keeps its own folders to itself."""
    beside_shards = folder.resolve() in [each.resolve() for each in shards]
    homes = [folder / evidence.FOLDER, folder / card.SAMPLES] if beside_shards else [folder]
    found = (path.relative_to(folder) for home in homes for path in home.rglob("*") if not path.is_dir())
    names = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(name for name in names if name not in named and name != card.NAME)


def of_removals(named: Sequence[Any], shards: Sequence[Path], hashes: Mapping[str, str]) -> Iterator[Claim]:
    """Yield how many works were removed from the shards since the card was written, which is of those before."""
    said = {str(each.get("name")): each.get("sha256") for each in named if isinstance(each, dict)}
    names, gone, days = {path: name for name, path in tars(shards)}, 0, set[str]()
    for folder in shards:
        removals = read_log(folder)
        after = [
            any(said.get(name) == sha256 != hashes.get(name) for tar, sha256 in each.shards.items()
                for name in [names.get(folder / tar, "")])
            for each in removals
        ]  # fmt: skip
        since = removals[after.index(True) :] if True in after else []
        gone += sum(len(each.records) for each in since)
        days |= {each.at[:10] for each in since}
    if gone:
        were = "1 work was" if gone == 1 else f"{gone:,} works were"
        why = "its counts, hashes and lists are of the shards before, and do not hold; write it anew"
        yield Claim(
            f"{were} removed from the shards since this card was written ({', '.join(sorted(days))})", None, why
        )


def of_shards(
    named: Sequence[Any], shards: Sequence[Path], hashes: Mapping[str, str], by_path: Mapping[Path, str]
) -> Iterator[Claim]:
    """Yield whether the shards are those that report.json names; `hashes` by their names, and `by_path`."""
    said = {str(each.get("name")): each.get("sha256") for each in named if isinstance(each, dict)}
    paths, damaged = dict(tars(shards)), set(changed_tars(by_path))
    wrong = [f"{name} is not there" for name in said if name not in hashes]
    for name, sha256 in said.items():
        if name in hashes and hashes[name] != sha256:
            wrong.append(f"{name} has other bytes{_why_other(paths[name], paths[name] in damaged)}")
    wrong += [f"{name} is not in the card" for name in hashes if name not in said]
    yield Claim(f"the shards' hashes in report.json ({len(said):,})", not wrong, first(wrong))


def _why_other(path: Path, damaged: bool) -> str:
    if damaged:
        return f" than {manifest_path(path).name} beside it says: it was damaged, or changed by hand"
    days = {each.at[:10] for each in read_log(path.parent) if path.name in each.shards}
    return f": works were removed from it on {', '.join(sorted(days))}" if days else ""


def of_run(folder: Path, said: Mapping[str, Any], run: Path | None) -> Iterator[Claim]:
    """Yield whether what a card keeps of its run is what the run's folder says, where that is there."""
    what = "what the card keeps of the run is its run.json"
    if said.get("run") is None:
        yield Claim("the card is of shards alone", True)
        return
    if run is None:
        yield Claim(
            what, None, "the run is not here: its policy, curves, cost and scores are taken as the card has them"
        )
        return
    same = (run / RUN).is_file() and sha256_file(run / RUN) == said.get("run_sha256")
    grids = [name for name in said["files"] if name.startswith(f"{card.SAMPLES}/")]
    same_grid = all((run / name).is_file() and sha256_file(run / name) == sha256_file(folder / name) for name in grids)
    other = [str(run / RUN)] * (not same) + [str(run / name) for name in grids if not same_grid]
    yield Claim(what, not other, f"{other[0]} has another hash" if other else "")
    yield from _of_run(said, run)


def _of_run(said: Mapping[str, Any], run: Path) -> Iterator[Claim]:
    """Settings, curves, scores and audit: what the card keeps of them, against the files in the run's folder."""
    readers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "run": (RUN, beside.json),
        "curves": (beside.METRICS, lambda path: beside.curves(path, beside.last_step(said.get("run")))),
        "evaluation": (beside.EVALUATION, beside.evaluation),
        "audit": (beside.AUDIT, beside.audit),
    }
    for name, (file, reader) in readers.items():
        kept, path = said.get(name), run / file
        if not kept and not path.is_file():
            continue
        what = f"{name} of report.json is what {file} says"
        if not path.is_file():
            yield Claim(what, None, f"{path} is not there")
            continue
        try:
            holds, why = (kept or None) == (reader(path) or None), f"{path} says something else"
        except CommonArtError as error:
            holds, why = False, error.what
        yield Claim(what, holds, "" if holds else why)


def first(wrong: Sequence[str]) -> str:
    """Return the first differences as one text, and how many more there are."""
    more = f", and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
    return "; ".join(wrong[:SHOWN]) + more
