"""SPDX expressions and the licence templates of Wikimedia Commons.

    commonart license-filter --explain "MIT OR CC-BY-4.0"
    commonart license-filter --explain "{{self|GFDL|cc-by-sa-3.0}}"

`A OR B` is a choice: a policy that allows one branch takes the work under that branch, the first one allowed as written.
`A AND B` needs both. `A WITH E` is A: an exception on the SPDX list only adds permissions. An operand that is not known
here makes the whole unknown, even beside a known one. Operators are upper case, as SPDX writes them: "MIT or CC-BY-4.0"
is prose.
"""

import re
from collections.abc import Iterator, Mapping

from commonart.core.licenses.creative_commons import creative_commons
from commonart.core.licenses.license import License, either, together
from commonart.core.licenses.table import EXCEPTIONS, TEMPLATES

_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9.+-]+)")
_NESTED = 20  # brackets deep; real expressions have two

_TEMPLATE = re.compile(r"\{\{\s*(?:template:)?([^{}|]+?)\s*((?:\|[^{}|]*)*)\}\}", re.IGNORECASE)
# cc-by-sa-3.0, cc-by-2.5-dk, cc-by-sa-3.0,2.5,2.0,1.0, cc-by-sa-3.0-migrated
_CC = re.compile(r"cc-((?:by|nc|nd|sa)(?:-(?:nc|nd|sa)){0,2})-(\d\.\d(?:,\d\.\d)*)(?:-([a-z]{2,8}))?")
_CHOICES = frozenset({"self", "self2", "multi-license", "multilicense"})
_WRAPPERS = frozenset({"pd-art", "pd-scan"})  # {{PD-Art|PD-old-100}}: the copy adds nothing to what its subject is
_HARMLESS = re.compile(r"(?:migration|deathyear|country|pubyear|publication)\s*=\s*[\w-]*", re.IGNORECASE)


def expression(text: str, known: Mapping[str, License]) -> License | None:
    """The licence of an SPDX expression whose operands are all in `known` (ids in lower case); None otherwise."""
    if not text.isascii():
        return None
    tokens, at = list[str](), 0
    while at < len(text) and (match := _TOKEN.match(text, at)):
        tokens.append(match[1])
        at = match.end()
    if at < len(text) or not ({"AND", "OR", "WITH", "("} & set(tokens) or text.endswith("+")):
        return None
    rest = iter([*tokens, ""])
    try:
        found, last = _choice(next(rest), rest, known, 0)
    except (ValueError, StopIteration):
        return None
    return found if not last else None


def _choice(token: str, rest: Iterator[str], known: Mapping[str, License], depth: int) -> tuple[License, str]:
    """Read `A OR B ...` from `token` on -> (licence, the token that follows). Raises ValueError where it is none."""
    branches = list[License]()
    while True:
        parts = list[License]()
        while True:
            part, token = _operand(token, rest, known, depth)
            parts.append(part)
            if token != "AND":
                break
            token = next(rest)
        branches.append(together(parts))
        if token != "OR":
            return either(branches), token
        token = next(rest)


def _operand(token: str, rest: Iterator[str], known: Mapping[str, License], depth: int) -> tuple[License, str]:
    if token == "(":
        if depth >= _NESTED:
            raise ValueError
        found, token = _choice(next(rest), rest, known, depth + 1)
        if token != ")":
            raise ValueError
        return found, next(rest)
    name = token.lower()
    if name.endswith("+"):  # this version or a later one: this one is enough
        name = f"{name[:-1]}-or-later" if f"{name[:-1]}-or-later" in known else name[:-1]
    found_ = known.get(name)
    if found_ is None:
        raise ValueError
    token = next(rest)
    if token == "WITH":
        if next(rest).lower() not in EXCEPTIONS:
            raise ValueError
        token = next(rest)
    return found_, token


def template(text: str) -> License | None:
    """The licence of one template, `{{Cc-by-sa-4.0}}`, or of a template's bare name, `PD-old-70`; None when unknown.

    `{{self|A|B}}` and `{{Cc-by-sa-3.0,2.5}}` are choices. Free text in a template is not read, so it makes it unknown.
    """
    match = _TEMPLATE.fullmatch(text)
    if match is None:
        return TEMPLATES.get(_named(text)) if text[:3].lower() == "pd-" else None
    name = _named(match[1])
    given = [part.strip() for part in match[2].split("|")[1:] if part.strip()]
    names = [part for part in given if not _HARMLESS.fullmatch(part)]
    if name in _CHOICES or name in _WRAPPERS:
        parts = [_template(_named(part)) for part in names]
        if name in _WRAPPERS and not parts:
            return TEMPLATES[name]
        return either(part for part in parts if part) if parts and all(parts) else None
    return None if names else _template(name)


def _named(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).lower()


def _template(name: str) -> License | None:
    if name in TEMPLATES:
        return TEMPLATES[name]
    match = _CC.fullmatch(name)
    if match is None:
        return None
    port = "" if match[3] in (None, "migrated") else match[3]
    found = [creative_commons(match[1], version, port) for version in match[2].split(",")]
    return either(part for part in found if part) if all(found) else None
