"""Normalise what each record says about its licence, keep what the policy allows, and reserve the held-out split.

The reason of a drop names the licence: `license_not_allowed:CC-BY-NC-2.0`. `license_unknown`: nothing that the record says is
understood. `license_conflict`: its fields contradict each other, or one of them is not understood. `blocklisted`,
`observed_before`, `observed_never`, `too_few_captions`: the options. `split_conflict`: the record says another split than the
hash of its image, which every record of that image shares.

Captions are judged too (core/data/caption_terms.py): one that may not be used is removed, and counted in `captions_removed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any

from commonart.core.data import stream
from commonart.core.data.blocklist import Blocklist, read_blocklist
from commonart.core.data.caption_terms import CaptionJudge
from commonart.core.data.drops import Drop, Summary
from commonart.core.data.record import Caption, Record, check_split, split_of
from commonart.core.errors import UsageError
from commonart.core.licenses.license import License
from commonart.core.licenses.policies import POLICIES, Policy, load_policy

CACHED_VERDICTS = 65536  # real data needs a few dozen, hostile data as many as it likes
MAX_CACHED_TEXT = 2000  # characters of the statements whose verdict is kept
MAX_ROWS = 1000  # of the summary; the sources beyond them share one row
OTHERS = "(other sources)"

STATED = ("source", "license_url", "license_raw", "license", "license_basis")
Statements = tuple[str | None, str | None, str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a record must meet to be kept."""

    policy: Policy  # must allow its licence
    observed_after: datetime | None = None  # the licence must have been observed at this time or later
    blocklist: Blocklist | None = None  # names what is dropped whatever its licence
    min_captions: int = 0  # synthetic captions, without translations, that it must be left with
    accepted: tuple[str, ...] = ()  # models whose terms the user answers for: their captions stay

    @classmethod
    def load(
        cls,
        policy: str = "strict",
        observed_after: str | None = None,
        blocklist: str = "",
        min_captions: int = 0,
        accepted: Sequence[str] = (),
    ) -> Criteria:
        """Read the criteria as the command line gives them; `observed_after`: a date or time of ISO 8601.

        Raises UsageError where `observed_after` is not a date, and as `load_policy` and `read_blocklist`.
        """
        loaded = load_policy(policy)
        after = None if observed_after is None else _parse_time(observed_after)
        if observed_after is not None and after is None:
            raise UsageError(f"--observed-after {observed_after} is not a date.", "Write it as 2026-01-31.")
        listed = read_blocklist(blocklist) if blocklist else None
        return cls(loaded, after, listed, min_captions, tuple(accepted))

    def settings(self) -> dict[str, Any]:
        """Return what the output depends on besides the input."""
        policy = self.policy
        settings = {
            "policy": policy.name, "allowed": sorted(policy.allowed), "denied": sorted(policy.denied),
            "min_captions": self.min_captions, "accepted": sorted(self.accepted),
        }  # fmt: skip
        if self.observed_after is not None:
            settings["observed_after"] = self.observed_after.isoformat()
        if self.blocklist is not None:
            settings["blocklist"] = self.blocklist.sha256
        return settings


class Tally:
    """How many records of each source and licence came in and went out, and how many of the latter are held out."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self.heldout = 0

    def counts(self, source: str, license: str) -> list[int]:
        """Return the [in, out] of a row, to be counted up."""
        row = (source, license)
        if row not in self._counts and len(self._counts) >= MAX_ROWS:
            row = (OTHERS, license)
        return self._counts.setdefault(row, [0, 0])

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Return (source, licence, in, out) by source, the most frequent licence first."""
        rows = [(source, license, read, written) for (source, license), (read, written) in self._counts.items()]
        return sorted(rows, key=lambda row: (row[0], -row[2], row[1]))


@dataclass(slots=True)
class LicenseSummary(Summary):
    """A `Summary` with the counts by source and licence; `tally` holds those of the records that this run looked at."""

    tally: Tally = field(default_factory=Tally)

    def as_json(self) -> dict[str, Any]:
        """Return every stage's summary, `sources`: {source: {licence: {"in", "out"}}}, `heldout`: the number reserved, and
        `captions_removed` where there are any."""
        sources: dict[str, dict[str, dict[str, int]]] = {}
        for source, license, read, written in self.tally.rows():
            sources.setdefault(source, {})[license] = {"in": read, "out": written}
        removed = {"captions_removed": dict(sorted(self.captions_removed.items()))}
        counts = {**Summary.as_json(self), "sources": sources, "heldout": self.tally.heldout}
        return {**counts, **(removed if self.captions_removed else {})}

    def table(self) -> list[str]:
        """Return the counts as lines of text, for a terminal."""
        rows = [(s, name, f"{read:,}", f"{written:,}") for s, name, read, written in self.tally.rows()]
        if self.read > (counted := sum(row[2] for row in self.tally.rows())):
            rows.append(("(shards finished before)", "", f"{self.read - counted:,}", ""))
        rows.insert(0, ("source", "licence", "in", "out"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
        removed = [f"  captions removed: {n:,}  {why}" for why, n in sorted(self.captions_removed.items())]
        return [*lines, f"  held out: {self.tally.heldout:,}", *removed]


@dataclass(slots=True)
class _Decision:
    """What is done with every record of a source that makes the same statements."""

    license: License | None  # None: dropped for `reason`
    reason: str
    basis: str
    url: str
    raw: str
    counts: list[int]  # of the tally


def license_filter(
    records: Iterable[Record], drop: Drop, criteria: Criteria, tally: Tally | None = None
) -> Iterator[Record]:
    """Yield the records that meet `criteria`, with `license`, `license_url`, `license_basis` and `split` set, and without the
    captions that may not be used.

    What is yielded are the same objects. What the source said stays in `license_raw`, and its own URL in `license_url`. `split`
    is set where the image's sha256 is known; a list without pixels gets it from `fetch`. `tally` counts by source and licence.
    """
    tally = tally if tally is not None else Tally()
    policy, observed_after, blocklist = criteria.policy, criteria.observed_after, criteria.blocklist
    judge, min_captions = CaptionJudge(policy, criteria.accepted), criteria.min_captions
    fine, drop.captions_removed = judge.fine, judge.removed
    decisions: dict[Statements, _Decision] = {}
    stated = itemgetter(*STATED)
    for record in records:
        get = record.get
        try:
            statements: Statements = stated(record)
        except KeyError:  # not every source says all of them
            statements = tuple(map(get, STATED))  # type: ignore[assignment]  # which are five
        decision = decisions.get(statements)
        if decision is None:
            decision = _decide(statements, policy, decisions, tally)
        decision.counts[0] += 1
        license = decision.license
        if license is None:
            drop(record, decision.reason, decision.raw)
            continue
        if blocklist is not None and (entry := blocklist.entry_of(record)):
            drop(record, "blocklisted", entry)
            continue
        if observed_after is not None and (problem := _too_old(get("license_observed_at") or "", observed_after)):
            drop(record, problem, get("license_observed_at") or "")
            continue
        captions = get("captions") or ()
        try:  # written out here, where every call counts; the fields are caption_terms.MAKING
            for caption in captions:
                said = caption.get
                if (
                    said("model"), said("license"), said("translated_from"), said("synthetic"), said("endpoint_model")
                ) not in fine:  # fmt: skip
                    record["captions"] = captions = judge.kept(captions)
                    break
        except TypeError:  # a list in place of a name
            record["captions"] = captions = judge.kept(captions)
        if min_captions and (left := sum(map(_is_original, captions))) < min_captions:
            drop(record, "too_few_captions", f"{left} of {min_captions}")
            continue
        if sha256 := get("sha256"):
            try:
                split = split_of(sha256)
            except ValueError:
                drop.failure(record, "sha256_malformed", sha256)
                continue
            if get("split", split) != split:
                drop(record, "split_conflict", check_split(record, sha256)[1])
                continue
            record["split"] = split
        else:
            split = get("split", "")
        if split == "heldout":
            tally.heldout += 1
        record["license"] = license.id
        record["license_basis"] = decision.basis
        if not statements[1]:
            record["license_url"] = decision.url
        if not statements[2]:
            record["license_raw"] = decision.raw
        decision.counts[1] += 1
        yield record


def _is_original(caption: Caption) -> bool:
    return caption.get("synthetic") is not False and not caption.get("translated_from")


def _decide(statements: Statements, policy: Policy, decisions: dict[Statements, _Decision], tally: Tally) -> _Decision:
    """Decide on statements that are new, and keep the decision while there is room."""
    source, url, raw, stated, basis = ((text or "").strip() for text in statements)
    license, chosen, reason = policy.judge(url, raw, stated)
    # What the set alone states stays so, whichever licence it names.
    basis = "set" if basis == "set" or (chosen and chosen.one_of) else chosen.basis if chosen else ""
    row_name = f"{license.id}{' (set)' if basis == 'set' else ''}" if license is not None else reason
    if len(decisions) >= CACHED_VERDICTS or sum(len(text or "") for text in statements) > MAX_CACHED_TEXT:
        decisions.clear()
    page, counts = chosen.url if chosen else "", tally.counts(source, row_name)
    decision = decisions[statements] = _Decision(chosen, reason, basis, page, raw or stated or url, counts)
    return decision


def _too_old(observed: str, after: datetime) -> str:
    """The reason to drop what was observed then, or ""."""
    time = _parse_time(observed)
    return "observed_never" if time is None else "observed_before" if time < after else ""


@lru_cache(maxsize=4096)
def _parse_time(text: str) -> datetime | None:
    """A date or a time of ISO 8601; without a zone it is UTC, and a date is its first moment. None when it is neither."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def explain(text: str, policy: str = "strict") -> list[str]:
    """Return what every built-in policy, and `policy` if it is a file, does with `text` and why: one sentence each."""
    return [each.explain(text) for each in {**POLICIES, policy: load_policy(policy)}.values()]


def run(source: str | None, out: str | None = None, criteria: Criteria | None = None, **options: Any) -> LicenseSummary:
    """Run `license_filter` from SOURCE to `out`, by default with the policy strict; `options` go to `stream.run`."""
    criteria, tally = criteria or Criteria.load(), Tally()
    # Dropping is this stage's purpose and not a failure, so --max-failures has nothing to count here.
    transform = partial(license_filter, criteria=criteria, tally=tally)
    summary = stream.run("license-filter", transform, source=source, out=out, settings=criteria.settings(), **options)
    return LicenseSummary(**{each.name: getattr(summary, each.name) for each in fields(summary)}, tally=tally)
