"""One licence, a choice between licences, a conjunction of licences, or one of several, not known which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# SPDX has no operator for "one of these, not known which". An id of our own says it, which any other tool refuses: "A OR B"
# would be the user's choice, and "A AND B" that both hold.
PREFIX = "LicenseRef-"  # of an id that the SPDX list does not have
ONE_OF = f"{PREFIX}OneOf.."


@dataclass(frozen=True, slots=True)
class License:
    """One normalised licence: `id` is an SPDX id or `LicenseRef-...`, `url` the canonical page ("" when there is none).

    With `any_of` it is a choice, with `all_of` a conjunction, and `id` is the SPDX expression; see `choice`, `conjunction`.
    With `one_of` the work is under one of them, and nobody says which.
    """

    id: str
    url: str
    basis: str  # licence | dedication | mark | statement | statute | set
    any_of: tuple[License, ...] = ()
    all_of: tuple[License, ...] = ()
    one_of: tuple[License, ...] = ()

    @property
    def family(self) -> str:
        """The id without version and port: `CC-BY` for `CC-BY-3.0-AT`, `LicenseRef-CC-BY-2.1-JP` and `CC-BY-4.0`.

        An expression has none (""): its operands alone decide whether it is allowed.
        """
        if self.any_of or self.all_of or self.one_of:
            return ""
        name = self.id.removeprefix("LicenseRef-") if self.id.startswith("LicenseRef-CC-") else self.id
        return name.split("-1.")[0].split("-2.")[0].split("-3.")[0].split("-4.")[0]


def choice(licenses: Iterable[License]) -> License:
    """Return the choice between `licenses`: one of them is enough."""
    return _expression(licenses, "any_of", " OR ")


def conjunction(licenses: Iterable[License]) -> License:
    """Return all of `licenses` at once: each must be complied with."""
    return _expression(licenses, "all_of", " AND ")


def one_of(licenses: Iterable[License]) -> License:
    """Return a statement that one of `licenses` holds, not known which, as a data set makes it of all its works."""
    alternatives = tuple(dict.fromkeys(licenses))
    if len(alternatives) == 1:
        return alternatives[0]
    return License(ONE_OF + "..".join(each.id for each in alternatives), "", "set", one_of=alternatives)


def _expression(licenses: Iterable[License], field: str, operator: str) -> License:
    """Without duplicates, and with the operands of a nested expression of the same kind in place of it."""
    operands = tuple(dict.fromkeys(each for license in licenses for each in getattr(license, field) or (license,)))
    if len(operands) == 1:
        return operands[0]
    names = [f"({operand.id})" if operand.any_of else operand.id for operand in operands]
    return License(operator.join(names), "", "licence", **{field: operands})
