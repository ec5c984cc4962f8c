"""One licence, a choice between licences, or several that hold together.

commonart license-filter --explain "CC-BY-4.0 OR MIT"
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class License:
    """One normalised licence: `id` is an SPDX id or `LicenseRef-...`, `url` the canonical page ("" when none).

    With `any_of` it is a choice, with `all_of` a conjunction, and `id` is the SPDX expression; see `either`, `together`.
    """

    id: str
    url: str
    basis: str  # licence | dedication | mark | statement | statute
    any_of: tuple[License, ...] = ()
    all_of: tuple[License, ...] = ()

    @property
    def family(self) -> str:
        """The id without version and port: `CC-BY` for `CC-BY-3.0-AT`, `LicenseRef-CC-BY-2.1-JP` and `CC-BY-4.0`.

        An expression has none (""): it is allowed or not by its parts alone.
        """
        if self.any_of or self.all_of:
            return ""
        name = self.id.removeprefix("LicenseRef-") if self.id.startswith("LicenseRef-CC-") else self.id
        return name.split("-1.")[0].split("-2.")[0].split("-3.")[0].split("-4.")[0]


def either(parts: Iterable[License]) -> License:
    """The choice between `parts`: one of them is enough."""
    some = _flat(parts, "any_of")
    return some[0] if len(some) == 1 else License(_joined(some, " OR ", ()), "", "licence", any_of=some)


def together(parts: Iterable[License]) -> License:
    """All of `parts` at once: each must be kept to."""
    every = _flat(parts, "all_of")
    if len(every) == 1:
        return every[0]
    return License(_joined(every, " AND ", [p for p in every if p.any_of]), "", "licence", all_of=every)


def _flat(parts: Iterable[License], kind: str) -> tuple[License, ...]:
    found: dict[License, None] = {}
    for part in parts:
        found.update(dict.fromkeys(getattr(part, kind) or (part,)))
    return tuple(found)


def _joined(parts: tuple[License, ...], word: str, bracketed: Iterable[License]) -> str:
    inside = set(bracketed)
    return word.join(f"({part.id})" if part in inside else part.id for part in parts)
