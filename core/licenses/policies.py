"""Which licences a policy lets through, and why.

    commonart license-filter --policy paper raw/
    commonart license-filter --policy mine.toml raw/

A policy names ids (`CC-BY-4.0`) or families (`CC-BY`: every version, ported or not). What it does not name is refused.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from commonart.core.errors import CommonArtError
from commonart.core.licenses.parse import _ids, normalise
from commonart.core.licenses.table import License

STRICT: dict[str, str] = {
    "CC0-1.0":  "the author gave up all rights",
    "PDDL-1.0": "the author gave up all rights",
    "CC-BY":    "every use is allowed with attribution; any version, ported ones too",
}  # fmt: skip
PAPER: dict[str, str] = {
    **STRICT,
    "CC-PDM-1.0":                             "marked as free of known copyright by the holder of the copy",
    "LicenseRef-Flickr-No-Known-Restrictions": "the institution knows of no copyright restriction",
    "LicenseRef-US-Government-Work":           "17 U.S.C. 105: no copyright in the United States",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Policy:
    """`allowed`: id or family -> why. `denied` wins over it, so that a file can take back what it extends."""

    name: str
    allowed: Mapping[str, str]
    denied: frozenset[str] = field(default_factory=frozenset)

    def allows(self, license: License | None) -> bool:
        """True when the id or its family is named and not denied; None (unknown) is never allowed."""
        if license is None or license.id in self.denied or license.family in self.denied:
            return False
        return license.id in self.allowed or license.family in self.allowed

    def explain(self, raw: str) -> str:
        """One sentence: what `raw` was read as, and whether and why this policy allows it."""
        license = normalise(raw)
        if license is None:
            return f"{raw!r} names no licence that is known here: refused by policy {self.name}."
        if self.allows(license):
            why = self.allowed.get(license.id) or self.allowed[license.family]
            return f"{raw!r} is {license.id} ({license.basis}): allowed by policy {self.name}, {why}."
        return f"{raw!r} is {license.id} ({license.basis}): policy {self.name} does not name it, refused."


POLICIES: dict[str, Policy] = {"strict": Policy("strict", STRICT), "paper": Policy("paper", PAPER)}


def load_policy(name: str) -> Policy:
    """`strict`, `paper`, or a TOML file with `allow`, `deny` (lists of ids or families) and `extends` (a name above).

    Raises CommonArtError when there is no such policy, or when the file names a licence that is not known here.
    """
    if name in POLICIES:
        return POLICIES[name]
    path = Path(name)
    if not path.is_file():
        known = ", ".join(POLICIES)
        raise CommonArtError(
            f"--policy {name}: no such policy or file.", f"Name one of {known}, or a TOML file with allow = [...]."
        )
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommonArtError(
            f"{path} is no TOML: {error}.", 'Write lines like allow = ["CC0-1.0", "CC-BY"].'
        ) from error
    strange = sorted(set(table) - {"name", "extends", "allow", "deny"})
    if strange:
        raise CommonArtError(
            f"{path} has the unknown setting {strange[0]!r}.", "The settings are name, extends, allow and deny."
        )
    base = table.get("extends")
    if base is not None and base not in POLICIES:
        raise CommonArtError(f"{path} extends {base!r}, which is no policy.", f"Extend one of {', '.join(POLICIES)}.")
    allowed = dict(POLICIES[base].allowed) if base else {}
    allowed |= {entry: f"named in {path.name}" for entry in _entries(path, table, "allow")}
    return Policy(str(table.get("name", path.stem)), allowed, frozenset(_entries(path, table, "deny")))


def _entries(path: Path, table: Mapping[str, object], key: str) -> list[str]:
    entries = table.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise CommonArtError(f"{path}: {key} is no list of names.", f'Write {key} = ["CC0-1.0", "CC-BY"].')
    for entry in entries:
        if entry.lower() not in _ids() and entry not in _families():
            raise CommonArtError(
                f"{path}: {key} names {entry!r}, which is no licence that is known here.",
                "Use an SPDX id such as CC-BY-4.0, or a family such as CC-BY.",
            )
    return [_ids()[entry.lower()].id if entry.lower() in _ids() else entry for entry in entries]


@cache
def _families() -> frozenset[str]:
    return frozenset(license.family for license in _ids().values())
