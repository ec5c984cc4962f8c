"""Which licences a policy lets through, and why.

A policy names ids (`CC-BY-4.0`) or families (`CC-BY`: every version, ported or not). What it does not name is refused. What
a data set states of all its works together ("one of these four") is allowed where each of the four is.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.license import License, conjunction
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.statements import resolve_license
from commonart.core.licenses.table import known_licenses

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
    """A policy. `allowed`: id or family -> why; `denied` wins over it, so that a file can restrict what it extends."""

    name: str
    allowed: Mapping[str, str]
    denied: frozenset[str] = field(default_factory=frozenset)

    def allows(self, license: License | None) -> bool:
        """Return whether a work under `license` may be used; one of which it is unknown (None) never may."""
        return license is not None and self.choose(license) is not None

    def judge(self, *statements: str | None) -> tuple[License | None, License | None, str]:
        """Return (what the statements about a work say, the licence under which it is taken, why it is not taken or "")."""
        license, reason = resolve_license(*statements)
        chosen = self.choose(license) if license is not None else None
        if license is not None and chosen is None:
            reason = f"license_not_allowed:{license.id}"
        return license, chosen, reason

    @property
    def sha256(self) -> str:
        """The SHA-256 of what it allows and denies, whatever its name and its reasons."""
        values = json.dumps([sorted(self.allowed), sorted(self.denied)])
        return hashlib.sha256(values.encode()).hexdigest()

    def choose(self, license: License) -> License | None:
        """Return the licence under which this policy takes the work, or None.

        Of a choice it is the first branch that is allowed; a conjunction needs all of its operands, and so does a statement
        that one of several holds, not known which; a single licence is itself, when its id or family is named and not denied.
        """
        if license.one_of:
            return license if all(map(self.choose, license.one_of)) else None
        if license.any_of:
            return next((chosen for branch in license.any_of if (chosen := self.choose(branch))), None)
        if license.all_of:
            operands = [chosen for operand in license.all_of if (chosen := self.choose(operand))]
            return conjunction(operands) if len(operands) == len(license.all_of) else None
        return license if self._why(license) and not self._denies(license) else None

    def _why(self, license: License) -> str:
        return self.allowed.get(license.id) or self.allowed.get(license.family) or ""

    def _denies(self, license: License) -> bool:
        if license.id in self.denied or license.family in self.denied:
            return True
        # "CC BY" without a version may be the very version that is denied.
        if license.id != f"LicenseRef-{license.family}":
            return False
        denied = (known_licenses().get(name.lower()) for name in self.denied)
        return any(each is not None and each.family == license.family for each in denied)

    def explain(self, raw: str) -> str:
        """Return one sentence: what `raw` was read as, and whether and why this policy allows it."""
        license = normalize(raw)
        if license is None:
            return f"{self.name}: refused, because {raw!r} is not the name of a known licence."
        read = f"{raw!r} is {license.id} ({license.basis})"
        if license.one_of:
            read = f"{raw!r} is one of {len(license.one_of)} (set), not known which, so that each must be allowed"
        chosen = self.choose(license)
        if chosen is None:
            operands = license.all_of or license.any_of or license.one_of or (license,)
            refused = [each for each in operands if not self.choose(each)]
            reasons = [f"it {'denies' if self._denies(each) else 'does not name'} {each.id}" for each in refused]
            return f"{self.name}: refused. {read}, and {'; '.join(reasons)}."
        reasons = list(dict.fromkeys(self._why(each) for each in chosen.all_of or chosen.one_of or (chosen,)))
        choice = f", taken as {chosen.id}" if chosen != license else ""
        return f"{self.name}: allowed. {read}{choice}: {'; '.join(reasons)}."


POLICIES: dict[str, Policy] = {"strict": Policy("strict", STRICT), "paper": Policy("paper", PAPER)}


def load_policy(name: str) -> Policy:
    """Load `strict`, `paper`, or a TOML file with `allow`, `deny` (lists of ids or families) and `extends` (a name above).

    `[allow]` may also be a table, id or family = why. Raises UsageError where there is no such policy, CommonArtError where the
    file cannot be read, or names a licence that is not known here.
    """
    if name in POLICIES:
        return POLICIES[name]
    path, known = Path(name), ", ".join(POLICIES)
    if not path.is_file():
        raise UsageError(
            f"--policy {name}: no such policy or file.", f"Name one of {known}, or a TOML file with allow = [...]."
        )
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommonArtError(
            f"{path} is not a TOML file: {error}.", 'Write lines like allow = ["CC0-1.0", "CC-BY"].'
        ) from error
    unknown = sorted(set(table) - {"name", "extends", "allow", "deny"})
    if unknown:
        raise CommonArtError(
            f"{path} has the unknown setting {unknown[0]!r}.", "The settings are name, extends, allow and deny."
        )
    base = table.get("extends")
    if base is not None and base not in POLICIES:
        raise CommonArtError(f"{path} extends {base!r}, which is not a policy.", f"Extend one of {known}.")
    allowed = dict(POLICIES[base].allowed) if base else {}
    allowed |= {entry: why or f"named in {path.name}" for entry, why in _entries(path, table, "allow").items()}
    return Policy(str(table.get("name", path.stem)), allowed, frozenset(_entries(path, table, "deny")))


def _entries(path: Path, table: Mapping[str, object], key: str) -> dict[str, str]:
    """Id or family -> why ("" in a list)."""
    entries = table.get(key, [])
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        entries = dict.fromkeys(entries, "")
    if not isinstance(entries, dict) or not all(isinstance(why, str) for why in entries.values()):
        raise CommonArtError(f"{path}: {key} is not a list of names.", f'Write {key} = ["CC0-1.0", "CC-BY"].')
    known = known_licenses()
    families = {license.family for license in known.values()}
    for entry in entries:
        if entry.lower() not in known and entry not in families:
            raise CommonArtError(
                f"{path}: {key} names {entry!r}, which is not a known licence.",
                "Use an SPDX id such as CC-BY-4.0, or a family such as CC-BY.",
            )
    return {known[entry.lower()].id if entry.lower() in known else entry: why for entry, why in entries.items()}
