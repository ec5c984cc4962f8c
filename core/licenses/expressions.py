"""SPDX expressions and the licence templates of Wikimedia Commons.

`A OR B` is a choice: a policy that allows one branch takes the work under that branch, the first one allowed as written.
`A AND B` needs both. `A WITH E` is A: an exception on the SPDX list only adds permissions. An operand that is not known here
makes the whole unknown. Operators are upper case, as SPDX writes them: "MIT or CC-BY-4.0" is prose.
"""

import re
from collections.abc import Iterator

from commonart.core.licenses.creative_commons import creative_commons
from commonart.core.licenses.license import License, choice, conjunction
from commonart.core.licenses.table import EXCEPTIONS, TEMPLATES, known_licenses

_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9.+-]+)")
_MAX_DEPTH = 20  # of brackets; real expressions have two

_TEMPLATE = re.compile(r"\{\{\s*(?:template:)?([^{}|]+?)\s*((?:\|[^{}|]*)*)\}\}", re.IGNORECASE)
# cc-by-sa-3.0, cc-by-2.5-dk, cc-by-sa-3.0,2.5,2.0,1.0, cc-by-sa-3.0-migrated
_CC = re.compile(r"cc-((?:by|nc|nd|sa)(?:-(?:nc|nd|sa)){0,2})-(\d\.\d(?:,\d\.\d)*)(?:-([a-z]{2,8}))?")
_CHOICES = frozenset({"self", "self2", "multi-license", "multilicense"})
_WRAPPERS = frozenset({"pd-art", "pd-scan"})  # {{PD-Art|PD-old-100}}: the copy adds nothing to what its subject is
_HARMLESS = re.compile(r"(?:migration|deathyear|country|pubyear|publication)\s*=\s*[\w-]*", re.IGNORECASE)


# By hand, because the library license-expression (30.4) takes a statement that was cut short for a whole one: "CC0-1.0 AND
# CC-BY-4.0 AND" parses as the first two. Of 120,000 random strings of tokens it accepted 117 that are not expressions, raised
# IndexError or AssertionError on others, and took 36 us for an expression where this takes 7.
def parse_expression(text: str) -> License | None:
    """Return the licence of an SPDX expression whose operands are all known here; None otherwise."""
    if not text.isascii():
        return None
    tokens, end = list[str](), 0
    while end < len(text) and (match := _TOKEN.match(text, end)):
        tokens.append(match[1])
        end = match.end()
    if end < len(text) or not ({"AND", "OR", "WITH", "("} & set(tokens) or text.endswith("+")):
        return None
    rest = iter([*tokens, ""])
    try:
        license, last = _parse_choice(next(rest), rest, 0)
    except (ValueError, StopIteration):
        return None
    return None if last else license


def _parse_choice(token: str, rest: Iterator[str], depth: int) -> tuple[License, str]:
    """Read `A OR B ...` from `token` on -> (licence, the token that follows). Raises ValueError where there is none."""
    branches = list[License]()
    while True:
        operands = list[License]()
        while True:
            operand, token = _parse_operand(token, rest, depth)
            operands.append(operand)
            if token != "AND":
                break
            token = next(rest)
        branches.append(conjunction(operands))
        if token != "OR":
            return choice(branches), token
        token = next(rest)


def _parse_operand(token: str, rest: Iterator[str], depth: int) -> tuple[License, str]:
    if token == "(":
        if depth >= _MAX_DEPTH:
            raise ValueError
        license, token = _parse_choice(next(rest), rest, depth + 1)
        if token != ")":
            raise ValueError
        return license, next(rest)
    known, name = known_licenses(), token.lower()
    if name.endswith("+"):  # this version or a later one: this one is enough
        name = f"{name[:-1]}-or-later" if f"{name[:-1]}-or-later" in known else name[:-1]
    if name not in known:
        raise ValueError
    token = next(rest)
    if token == "WITH":
        if next(rest).lower() not in EXCEPTIONS:
            raise ValueError
        token = next(rest)
    return known[name], token


def parse_template(text: str) -> License | None:
    """Return the licence of a template, `{{Cc-by-sa-4.0}}`, or of a template's bare name, `PD-old-70`; None when unknown.

    `{{self|A|B}}` and `{{Cc-by-sa-3.0,2.5}}` are choices. Free text in a template is not read, so it makes it unknown.
    """
    match = _TEMPLATE.fullmatch(text)
    if match is None:
        return TEMPLATES.get(_template_name(text)) if text[:3].lower() == "pd-" else None
    name = _template_name(match[1])
    arguments = [text.strip() for text in match[2].split("|")[1:] if text.strip()]
    inner = [_template_name(text) for text in arguments if not _HARMLESS.fullmatch(text)]
    if name in _WRAPPERS and not inner:
        return TEMPLATES[name]
    if name in _CHOICES or name in _WRAPPERS:
        return _choice_of_all([_template(each) for each in inner])
    return None if inner else _template(name)


def _choice_of_all(licenses: list[License | None]) -> License | None:
    """The choice between them; None where one is unknown or there is none."""
    known = [license for license in licenses if license is not None]
    return choice(known) if known and len(known) == len(licenses) else None


def _template_name(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).lower()


def _template(name: str) -> License | None:
    if name in TEMPLATES:
        return TEMPLATES[name]
    if (match := _CC.fullmatch(name)) is None:
        return None
    port = "" if match[3] in (None, "migrated") else match[3]
    return _choice_of_all([creative_commons(match[1], version, port) for version in match[2].split(",")])
