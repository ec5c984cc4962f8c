"""Normalise what each record says about its licence, and keep what the policy allows.

    commonart license-filter --policy strict raw/ -o kept.jsonl
    commonart fetch captions.json --list | commonart license-filter | commonart fetch - --images photos/ -o raw/

Every drop names the licence in its reason, so that the summary is the explanation: `license_not_allowed:CC-BY-NC-2.0`.
`license_unknown`: nothing that the record says is understood. `license_conflict`: its fields contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from commonart.core.data import stream
from commonart.core.data.record import Record
from commonart.core.data.stream import Drop, Summary
from commonart.core.licenses import License, Policy, judge, load_policy

# (license_url, license_raw, license) -> the licence to write, or None and why the record goes.
Verdict = tuple[License | None, str]
REMEMBERED = 65536  # verdicts kept; real data has a few dozen, hostile data as many as it likes


def license_filter(records: Iterable[Record], drop: Drop, *, policy: Policy) -> Iterator[Record]:
    """Yield the records whose licence `policy` allows, with `license`, `license_url` and `license_basis` normalised.

    What the source said stays in `license_raw`, and its own URL in `license_url` where it gave one.
    """
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    for record in records:
        get = record.get
        said = (get("license_url") or "", get("license_raw") or "", get("license") or "")
        verdict = verdicts.get(said)
        if verdict is None:
            if len(verdicts) >= REMEMBERED:
                verdicts.clear()
            verdict = verdicts[said] = _verdict(said, policy)
        license, reason = verdict
        if license is None:
            drop(record, reason, said[1] or said[0] or said[2])
            continue
        record["license"] = license.id
        record["license_basis"] = license.basis
        if not said[0]:
            record["license_url"] = license.url
        if not said[1]:
            record["license_raw"] = said[2] or said[0]
        yield record


def _verdict(said: tuple[str, str, str], policy: Policy) -> Verdict:
    license, problem = judge(*said)
    if license is None:
        return None, problem
    return (license, "") if policy.allows(license) else (None, f"license_not_allowed:{license.id}")


def run(source: str | None, out: str | None = None, *, policy: str = "strict", **options: Any) -> Summary:
    """`license_filter` from SOURCE to `out`; `policy`: strict, paper or a TOML file; `options` go to `stream.run`."""
    chosen = load_policy(policy)
    settings = {"policy": chosen.name, "allowed": sorted(chosen.allowed), "denied": sorted(chosen.denied)}
    # Dropping is this stage's purpose and no failure, so --max-failures has nothing to count here.
    transform = partial(license_filter, policy=chosen)
    return stream.run("license-filter", transform, source=source, out=out, settings=settings, **options)
