"""Normalise what each record says about its licence, keep what the policy allows, and reserve the held-out split.

    commonart license-filter --policy strict raw/ -o kept.jsonl
    commonart fetch captions.json --list | commonart license-filter | commonart fetch - --images photos/ -o raw/

Every drop names the licence in its reason, so that the summary is the explanation: `license_not_allowed:CC-BY-NC-2.0`.
`license_unknown`: nothing that the record says is understood. `license_conflict`: its fields contradict each other, or one
of them is not understood. `blocklisted`, `observed_before`, `observed_never`: the options. `split_conflict`: the record says
another split than the hash of its image, which every record of that image shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from commonart.core.data import stream
from commonart.core.data.blocklist import Blocklist, read_blocklist
from commonart.core.data.drops import Drop, Summary
from commonart.core.data.record import Record, settled_split
from commonart.core.errors import UsageError
from commonart.core.licenses.license import License
from commonart.core.licenses.policies import POLICIES, Policy, load_policy
from commonart.core.licenses.statements import judge

REMEMBERED = 65536  # verdicts kept; real data has a few dozen, hostile data as many as it likes
LONGEST = 2000  # characters of source and licence that are worth remembering
ROWS = 1000  # rows of the summary; what has more sources than that is summed up in one
OTHERS = "(other sources)"


class Tally:
    """How many records of each source and licence came in, and how many went out; `heldout` of the latter."""

    def __init__(self) -> None:
        self.read: Counter[tuple[str, str]] = Counter()
        self.written: Counter[tuple[str, str]] = Counter()
        self.heldout = 0

    def add(self, source: str, license: str, read: int, written: int) -> None:
        row = (source, license)
        if row not in self.read and len(self.read) >= ROWS:
            row = (OTHERS, license)
        self.read[row] += read
        self.written[row] += written

    def rows(self) -> list[tuple[str, str, int, int]]:
        """(source, licence, in, out), by source and then the most frequent first."""
        ordered = sorted(self.read.items(), key=lambda entry: (entry[0][0], -entry[1], entry[0][1]))
        return [(source, license, count, self.written[source, license]) for (source, license), count in ordered]


@dataclass(slots=True)
class LicenseSummary(Summary):
    """A `Summary` with the counts by source and licence; `tally` holds what this run judged."""

    tally: Tally = field(default_factory=Tally)

    def as_json(self) -> dict[str, Any]:
        """As every stage's, and `sources`: {source: {licence: {"in", "out"}}}, `heldout`: how many were reserved."""
        sources: dict[str, dict[str, dict[str, int]]] = {}
        for source, license, read, written in self.tally.rows():
            sources.setdefault(source, {})[license] = {"in": read, "out": written}
        return {**Summary.as_json(self), "sources": sources, "heldout": self.tally.heldout}

    def table(self) -> list[str]:
        """The same as lines of text, for a terminal."""
        rows = [(s, name, f"{read:,}", f"{written:,}") for s, name, read, written in self.tally.rows()]
        if self.read > (judged := sum(self.tally.read.values())):
            rows.append(("(shards that were finished before)", "", f"{self.read - judged:,}", ""))
        rows.insert(0, ("source", "licence", "in", "out"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
        return [*lines, f"  held out: {self.tally.heldout:,}"]


@dataclass(slots=True)
class _Verdict:
    """What is to be done with every record that says the same, and how many have said it."""

    source: str
    license: License | None
    reason: str
    name: str  # of the row in the summary
    url: str
    raw: str
    read: int = 0
    written: int = 0


def license_filter(
    records: Iterable[Record],
    drop: Drop,
    *,
    policy: Policy,
    observed_after: datetime | None = None,
    blocklist: Blocklist | None = None,
    tally: Tally | None = None,
) -> Iterator[Record]:
    """Yield the records whose licence `policy` allows, with `license`, `license_url`, `license_basis` and `split` set.

    What the source said stays in `license_raw`, and its own URL in `license_url` where it gave one. `split` is set where
    the image's sha256 is known; a list without pixels gets it from `fetch`, by the same rule (`record.split_of`).

    Args:
        observed_after: drop what was not observed at this time or later.
        blocklist: drop what it names.
        tally: where to count by source and licence.
    """
    tally = tally if tally is not None else Tally()
    verdicts: dict[tuple[str | None, ...], _Verdict] = {}
    try:
        for record in records:
            get = record.get
            said = (get("source"), get("license_url"), get("license_raw"), get("license"))
            verdict = verdicts.get(said)
            if verdict is None:
                verdict = _judged(said, policy, verdicts, tally)
            verdict.read += 1
            license = verdict.license
            if license is None:
                drop(record, verdict.reason, verdict.raw)
                continue
            if blocklist is not None and (entry := blocklist.entry_of(record)):
                drop(record, "blocklisted", entry)
                continue
            if observed_after is not None and (problem := _too_old(get("license_observed_at") or "", observed_after)):
                drop(record, problem, get("license_observed_at") or "")
                continue
            if sha256 := get("sha256"):
                try:
                    split, conflict = settled_split(record, sha256)
                except ValueError:
                    drop.failure(record, "sha256_malformed", sha256)
                    continue
                if conflict:
                    drop(record, "split_conflict", conflict)
                    continue
                record["split"] = split
            if get("split") == "heldout":
                tally.heldout += 1
            record["license"] = license.id
            record["license_basis"] = license.basis
            if not said[1]:
                record["license_url"] = verdict.url
            if not said[2]:
                record["license_raw"] = verdict.raw
            verdict.written += 1
            yield record
    finally:
        _count(verdicts, tally)


def _judged(
    said: tuple[str | None, ...], policy: Policy, verdicts: dict[tuple[str | None, ...], _Verdict], tally: Tally
) -> _Verdict:
    """Judge a statement that is new, and remember the verdict while there is room."""
    source, url, raw, stated = ((text or "").strip() for text in said)
    found, reason = judge(url, raw, stated)
    license = policy.choose(found) if found is not None else None
    if found is not None and license is None:
        reason = f"license_not_allowed:{found.id}"
    name = found.id if found is not None else reason
    verdict = _Verdict(source, license, reason, name, license.url if license else "", raw or stated or url)
    if len(verdicts) >= REMEMBERED or sum(len(text or "") for text in said) > LONGEST:
        _count(verdicts, tally)
        verdicts.clear()
    verdicts[said] = verdict
    return verdict


def _count(verdicts: dict[tuple[str | None, ...], _Verdict], tally: Tally) -> None:
    for verdict in verdicts.values():
        tally.add(verdict.source, verdict.name, verdict.read, verdict.written)


def _too_old(observed: str, after: datetime) -> str:
    """The reason to drop what was observed then, or ""."""
    at = _instant(observed)
    return "observed_never" if at is None else "observed_before" if at < after else ""


@lru_cache(maxsize=4096)
def _instant(text: str) -> datetime | None:
    """A date or a time of ISO 8601; without a zone it is UTC, and a date is its first moment. None when it is neither."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def explain(text: str, policy: str = "strict") -> list[str]:
    """What every built-in policy, and `policy` if it is a file, does with `text` and why: one sentence each."""
    policies = [*POLICIES.values()] + ([] if policy in POLICIES else [load_policy(policy)])
    return [each.explain(text) for each in policies]


def run(
    source: str | None,
    out: str | None = None,
    *,
    policy: str = "strict",
    observed_after: str | None = None,
    blocklist: str | None = None,
    **options: Any,
) -> LicenseSummary:
    """`license_filter` from SOURCE to `out`; `options` go to `stream.run`.

    Args:
        policy: strict, paper or a TOML file.
        observed_after: a date or time of ISO 8601.
        blocklist: a file, see `core.data.blocklist`.

    Raises:
        UsageError: `observed_after` is no date.
        CommonArtError: no such policy, an unreadable blocklist; and as `stream.run`.
    """
    chosen = load_policy(policy)
    settings: dict[str, Any] = {
        "policy": chosen.name, "allowed": sorted(chosen.allowed), "denied": sorted(chosen.denied),
    }  # fmt: skip
    after = None
    if observed_after is not None:
        after = _instant(observed_after)
        if after is None:
            raise UsageError(f"--observed-after {observed_after} is no date.", "Write it as 2026-01-31.")
        settings["observed_after"] = after.isoformat()
    blocked = None
    if blocklist is not None:
        blocked = read_blocklist(blocklist)
        settings["blocklist"] = blocked.sha256
    tally = Tally()
    # Dropping is this stage's purpose and no failure, so --max-failures has nothing to count here.
    transform = partial(license_filter, policy=chosen, observed_after=after, blocklist=blocked, tally=tally)
    summary = stream.run("license-filter", transform, source=source, out=out, settings=settings, **options)
    return LicenseSummary(
        summary.stage, summary.read, summary.written, summary.dropped, summary.failures, summary.seconds, tally
    )
