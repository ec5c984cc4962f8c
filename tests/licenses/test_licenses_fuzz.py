"""No false accept: strings that no reader would take for a free licence, however they are mangled.

    pytest tests/licenses/test_licenses_fuzz.py -m slow        # a million

The oracle is the construction, not the parser: every string holds a *poison* (a restriction, a negation, a foreign host, a
word that is none) that survives what is done to the string, so that any policy that accepts it is wrong. A naive reader is
fuzzed beside the real one and must fall for it, in every kind of string; otherwise the fuzz would say nothing.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from commonart.core.licenses.parse import normalize
from commonart.core.licenses.policies import POLICIES
from commonart.core.licenses.statements import resolve_license

# What is free, as sources write it. Alone, each of them is accepted (a test says so).
FREE = (
    "CC0", "CC0 1.0", "CC0-1.0", "cc-by-4.0", "CC BY 4.0", "CC BY", "CC-BY-2.0", "CC BY 3.0 US", "CC BY 2.1 JP", "PDDL-1.0",
    "Creative Commons Zero", "Creative Commons Attribution 4.0 International", "Attribution License",
    "Attribution 4.0 International", "Attribution 3.0 Unported", "Creative Commons Attribution 2.0 Generic",
    "Public Domain Mark 1.0", "No known copyright restrictions", "United States Government Work", "{{Cc-by-4.0}}",
    "{{Cc-zero}}", "{{PD-USGov}}", "表示 4.0 国際", "クリエイティブ・コモンズ 表示 4.0 国際", "パブリックドメインマーク",
    "米国政府著作物", "https://creativecommons.org/licenses/by/4.0/", "http://creativecommons.org/licenses/by/2.0/deed.ja",
    "https://creativecommons.org/publicdomain/zero/1.0/", "https://creativecommons.org/licenses/by/2.1/jp/",
    "https://www.flickr.com/commons/usage/", "This image is licensed under CC BY 2.0",
)  # fmt: skip
# What is not: (before, marker, after). The marker is what must not get lost; at least its first character stays.
RESTRICTED = (
    ("CC BY-", "NC", " 4.0"), ("CC BY-", "SA", " 2.0"), ("CC BY-", "ND", " 3.0"), ("CC BY-", "NC-SA", ""), ("cc-by-", "nc", "-4.0"),
    ("cc-by-", "nc-nd", "-2.0"), ("CC-BY-", "SA", "-3.0"), ("CC BY ", "NC", " ND 4.0"), ("cc by ", "sa", ""),
    ("CC BY-", "NC", " 3.0 US"), ("CC BY-", "SA", " 2.1 JP"), ("CC-BY-", "NC-SA", "-3.0-IGO"), ("CC BY-", "ND", " 3.0 DE"),
    ("Attribution-", "NonCommercial", " License"), ("Attribution-", "NoDerivs", " License"),
    ("Attribution-", "ShareAlike", " License"), ("Attribution-", "NonCommercial", " 4.0 International"),
    ("Creative Commons Attribution-", "Share Alike", " 3.0 Unported"), ("Attribution-", "NoDerivatives", " 4.0 International"),
    ("Creative Commons Attribution ", "Non Commercial", " 2.0 Generic"), ("表示-", "非営利", " 4.0 国際"),
    ("クリエイティブ・コモンズ 表示 - ", "継承", " 3.0 非移植"), ("表示-", "改変禁止", " 2.0 一般"), ("CC 表示-", "非営利", " 4.0"),
    ("https://creativecommons.org/licenses/by-", "nc", "/4.0/"), ("https://creativecommons.org/licenses/by-", "sa", "/2.0/"),
    ("http://creativecommons.org/licenses/by-", "nc-nd", "/3.0/us/"),
    ("https://creativecommons.org/licenses/by-", "nd", "/4.0/deed.ja"),
    ("creativecommons.org/licenses/by-", "nc-sa", "/2.1/jp/legalcode"), ("{{Cc-by-", "sa", "-4.0}}"), ("{{Cc-by-", "nc", "-2.0}}"),
    ("", "All rights", " reserved"), ("", "無断転載", "禁止"), ("© ", "All Rights", " Reserved"),
    ("CC-BY-4.0 AND ", "CC-BY-NC-4.0", ""), ("CC0-1.0 AND ", "MIT", ""), ("CC-BY-4.0 WITH ", "Non-Commercial", ""),
    ("{{self|cc-by-4.0|", "no commercial use", "}}"), ("{{Cc-by-4.0|", "for my friends", "}}"),
    ("http://rightsstatements.org/vocab/", "InC", "/1.0/"), ("http://www.europeana.eu/rights/", "rr-f", "/"),
)  # fmt: skip
# Words that turn a licence round or hedge it. `no` never follows a version: /by/3.0/no/ is Norway.
AGAINST = (
    "not", "Not", "NOT", "non", "isn't", "never", "except", "unless", "but", "only for friends", "without", "un", "anti", "ex",
    "formerly", "expired", "revoked", "NC", "ND", "SA", "non-commercial", "noncommercial", "personal", "editorial", "reserved",
    "all rights reserved", "permission", "restricted", "AI", "?", "!", "~", "¬", "≠", "\u0338", "\u200b", "\u202e", "🚫", "以外",
    "ではない", "でない", "不可", "禁止", "非営利", "継承", "改変禁止", "商用不可", "除く", "x", "q", "7.0", "°",
)  # fmt: skip
JOINERS = (
    " or ", " and ", " / ", "/", ", ", "; ", " | ", " + ", " & ", " ", "\n", "\t", " - ", " または ", "、", "・",
    " 、または ", " XOR ", " AND ", ") AND (", " then ", "; previously ", " -> ",
)  # fmt: skip
# Letters that look like Latin ones and are none; compatibility forms (full width, mathematical) do mean the letter.
LOOKALIKES = str.maketrans("aceopxyABCEHIKMNOPTXYZ", "асеорхуАВСЕНІКМΝОРТХУΖ")
HOSTS = (
    "creativecommons.org.example.com", "example.com/creativecommons.org", "creativecommons.org@example.com", "creativecommons.com",
    "xcreativecommons.org", "creativecommons.org:81", "сreativecommons.org", "creative-commons.org", "creativecommons.orgg",
)  # fmt: skip
PATHS = (
    "/licenses/by/4.0/../../by-nc/4.0/", "/licenses/by/9.0/", "/licenses/by%2dnc/4.0/", "/licenses/by/4.0/?x=nc",
    "/licenses/by//4.0/", "/licenses/by/4.0/nc", "/licenses/by/4.0/jp/", "/licenses/by-/4.0/",
    "/licenses/-by/4.0/", "/licenses/by/4.0/deed.ja/nc",
    "/licenses/by+nc/4.0/", "/licenses/by nc/4.0/", "/publicdomain/zero/9.0/", "/licenses/by/4.0;nc", "/licenses/by\\nc/4.0/",
)  # fmt: skip

Random = random.Random


def disguise(rng: Random, text: str) -> str:
    """Another way of writing the same: case, width, blanks around it. Whoever can read it reads the same."""
    for _ in range(rng.randint(0, 2)):
        way = rng.randrange(6)
        if way == 0:
            text = rng.choice((text.upper(), text.lower(), text.title(), text.swapcase()))
        elif way == 1:
            text = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and rng.random() < 0.5 else c for c in text)
        elif way == 2:
            text = rng.choice(("  ", "\t", "\u3000")) + text + rng.choice(("", " ", "\n", "."))
        elif way == 3:
            text = f"{rng.choice('([「')}{text}{rng.choice(')]」')}"
        elif way == 4:
            text = text.replace("-", rng.choice((" ", "_", "–", " - ", "－")))
        else:
            text = text.replace(" ", rng.choice(("  ", "\u00a0", "_", "-")))
    return text


def restricted(rng: Random) -> str:
    """A restricted licence, disguised; its marker whole."""
    return disguise(rng, "".join(rng.choice(RESTRICTED)))


def damaged(rng: Random) -> str:
    """A restricted licence whose marker is misspelt, cut or in foreign letters: still not a free one."""
    before, marker, after = rng.choice(RESTRICTED)
    way = rng.randrange(5)
    if way == 0:  # the end is missing, from somewhere behind the marker's first character
        whole = marker + after
        return disguise(rng, before + whole[: rng.randint(1, len(whole))].rstrip("- (/|{") if before else marker)
    at = rng.randrange(len(marker))
    if way == 1 and len(marker) > 1:
        marker = marker[:at] + marker[at + 1 :]
    elif way == 2:
        marker = marker[:at] + marker[at] + marker[at:]
    elif way == 3 and len(marker) > 1:
        letters = list(marker)
        rng.shuffle(letters)
        marker = "".join(letters)
    else:
        marker = marker.translate(LOOKALIKES)
    return disguise(rng, before + (marker.strip("- ") or "x") + after)


def turned(rng: Random) -> str:
    """A free licence with a word against it: before, behind or between its words."""
    free, word = rng.choice(FREE), rng.choice(AGAINST)
    cuts = [match.start() for match in re.finditer(r"[ -]", free)] if "://" not in free and "{" not in free else []
    at = rng.choice([0, len(free), *cuts])
    glue = rng.choice((" ", " ", "-", ": ", " ("))
    return disguise(
        rng,
        free[:at] + (glue if at else "") + word + (rng.choice((" ", " ", "-")) if at < len(free) else "") + free[at:],
    )


def several(rng: Random) -> str:
    """A free licence beside a restricted one, in either order: nobody says which holds."""
    both = [rng.choice(FREE), "".join(rng.choice(RESTRICTED))]
    rng.shuffle(both)
    # "A OR B" in capitals is how SPDX writes a choice, and then the free branch may be taken.
    return disguise(rng, rng.choice(JOINERS).join(both)).replace(" OR ", " / ")


def smuggled(rng: Random) -> str:
    """An address that only looks like a licence's."""
    if rng.random() < 0.5:
        path = rng.choice(("/licenses/by/4.0/", "/publicdomain/zero/1.0/", "/licenses/by/2.0/deed.ja"))
        return rng.choice(("https://", "http://", "//", "")) + rng.choice(HOSTS) + path
    return rng.choice(("https://", "http://", "", "https://www.")) + "creativecommons.org" + rng.choice(PATHS)


def scraps(rng: Random) -> str:
    """Pieces of licences in any order, one of which forbids."""
    pieces = [
        "cc", "by", "-", " ", "4.0", "2.1", "jp", "/", "attribution", "license", "zero", "0", "creative commons", "表示", "(", ")",
        ".", "https://creativecommons.org/licenses/", "public domain", "deed", "international", "cc0", "pddl", "1.0", "{{", "}}",
        "|", "self",
    ]  # fmt: skip
    chosen = [rng.choice(pieces) for _ in range(rng.randint(1, 6))]
    chosen.insert(
        rng.randint(0, len(chosen)),
        rng.choice((" nc ", "-sa-", " nd ", " not ", "©x", " noncommercial ", "非営利", " q ")),
    )
    return "".join(chosen)


KINDS: tuple[Callable[[Random], str], ...] = (restricted, damaged, turned, several, smuggled, scraps)


def accepts(text: str) -> bool:
    """Whether the most generous of our policies would take a work of which this is said."""
    return POLICIES["paper"].allows(normalize(text))


def naive(text: str) -> bool:
    """What a quick script would do."""
    return bool(re.search(r"cc.?0|cc.?by|attribution|licenses/by|zero|public.?domain|表示|pd", text.casefold()))


def fuzz(count: int, seed: int) -> None:
    rng = Random(seed)
    fooled = Counter[str]()
    for number in range(count):
        make = KINDS[number % len(KINDS)]
        text = make(rng)
        assert not accepts(text), (make.__name__, text, normalize(text))
        fooled[make.__name__] += naive(text)
        if number % 5 == 0:
            # Beside a licence that is understood, what forbids is a conflict and never passed over.
            license, _ = resolve_license(rng.choice(FREE), text, None)
            assert not POLICIES["paper"].allows(license), (make.__name__, text, license)
    assert min(fooled[make.__name__] for make in KINDS) > count / len(KINDS) / 4, fooled


def test_what_is_fuzzed_is_accepted_when_it_is_left_alone() -> None:
    assert [text for text in FREE if not accepts(text)] == []


def test_a_disguise_alone_loses_nothing() -> None:
    rng = Random(1)
    texts = [rng.choice(("CC0", "CC BY 4.0", "Attribution License", "表示 4.0 国際")) for _ in range(2000)]
    assert sum(accepts(disguise(rng, text)) for text in texts) > 1900


def test_no_false_accept_in_20_000_strings() -> None:
    fuzz(20_000, seed=3)


@pytest.mark.slow
def test_no_false_accept_in_a_million_strings() -> None:
    fuzz(1_000_000, seed=7)
