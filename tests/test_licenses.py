"""Licences: a labelled table of what sources write, agreement of fields, policies, and no false accept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from commonart.core.errors import CommonArtError
from commonart.core.licenses import POLICIES, License, flickr, judge, load_policy, normalise
from commonart.core.licenses.parse import _ids
from commonart.core.licenses.table import ELEMENTS, TEXTS

# What a source writes -> the id it means (None: not understood).
LABELLED = {
    # Creative Commons URLs
    "https://creativecommons.org/licenses/by/2.0/": "CC-BY-2.0",
    "http://creativecommons.org/licenses/by/2.0/": "CC-BY-2.0",
    "http://www.creativecommons.org/licenses/by/2.0": "CC-BY-2.0",
    "//creativecommons.org/licenses/by/4.0/": "CC-BY-4.0",
    "creativecommons.org/licenses/by/4.0/": "CC-BY-4.0",
    "  https://creativecommons.org/licenses/by/4.0/  ": "CC-BY-4.0",
    "HTTPS://CreativeCommons.org/Licenses/BY/4.0/": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/deed.ja": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/deed": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/3.0/deed.en_US": "CC-BY-3.0",
    "https://creativecommons.org/licenses/by/4.0/deed.zh-hans": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/legalcode": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/legalcode.ja": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/legalcode.txt": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/#ref": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/2.1/jp/": "LicenseRef-CC-BY-2.1-JP",
    "http://creativecommons.org/licenses/by/2.1/jp/deed.ja": "LicenseRef-CC-BY-2.1-JP",
    "https://creativecommons.org/licenses/by/3.0/us/": "CC-BY-3.0-US",
    "https://creativecommons.org/licenses/by/3.0/igo/": "CC-BY-3.0-IGO",
    "https://creativecommons.org/licenses/by/2.5/au/": "CC-BY-2.5-AU",
    "https://creativecommons.org/licenses/by-sa/2.1/jp/": "CC-BY-SA-2.1-JP",
    "https://creativecommons.org/licenses/by-sa/4.0/": "CC-BY-SA-4.0",
    "https://creativecommons.org/licenses/by-nc/2.0/": "CC-BY-NC-2.0",
    "https://creativecommons.org/licenses/by-nc-sa/2.0/": "CC-BY-NC-SA-2.0",
    "https://creativecommons.org/licenses/by-nc-nd/2.0/": "CC-BY-NC-ND-2.0",
    "https://creativecommons.org/licenses/by-nd-nc/1.0/": "CC-BY-NC-ND-1.0",
    "https://creativecommons.org/licenses/by-nd/2.0/": "CC-BY-ND-2.0",
    "https://creativecommons.org/licenses/sa/1.0/": "CC-SA-1.0",
    "https://creativecommons.org/licenses/nc/1.0/": "LicenseRef-CC-NC-1.0",
    "https://creativecommons.org/licenses/by/": "LicenseRef-CC-BY",
    "https://creativecommons.org/publicdomain/zero/1.0/": "CC0-1.0",
    "https://creativecommons.org/publicdomain/zero/1.0/deed.ja": "CC0-1.0",
    "http://creativecommons.org/publicdomain/zero/1.0/legalcode": "CC0-1.0",
    "https://creativecommons.org/publicdomain/mark/1.0/": "CC-PDM-1.0",
    "https://creativecommons.org/licenses/publicdomain/": "CC-PDDC",
    "https://creativecommons.org/publicdomain/certification/1.0/us/": "CC-PDDC",
    # not Creative Commons' after all
    "https://creativecommons.org/licenses/by/5.0/": None,
    "https://creativecommons.org/licenses/by/2.0/xx/": None,
    "https://creativecommons.org/licenses/by/4.0/jp/": None,
    "https://creativecommons.org/licenses/by-by/4.0/": None,
    "https://creativecommons.org/licenses/nc/4.0/": None,
    "https://creativecommons.org/licenses/by-sa-nd/4.0/": None,
    "https://creativecommons.org/licenses/by/2.1/": None,
    "https://creativecommons.org.example.com/licenses/by/4.0/": None,
    "https://example.com/?u=https://creativecommons.org/licenses/by/4.0/": None,
    "https://user@creativecommons.org/licenses/by/4.0/": None,
    "https://creativecommons.org/licenses/by/4.0/../../by-nc/4.0/": None,
    "https://creativecommons.org/licenses/by/4.0deed": None,
    "https://creativecommons.org/": None,
    "https://creativecommons.org/licenses/sampling+/1.0/": None,
    # other URLs
    "http://rightsstatements.org/vocab/InC/1.0/": "LicenseRef-RightsStatements-InC-1.0",
    "https://rightsstatements.org/page/NoC-US/1.0/?language=en": "LicenseRef-RightsStatements-NoC-US-1.0",
    "http://rightsstatements.org/vocab/NKC/1.0/": "LicenseRef-RightsStatements-NKC-1.0",
    "http://opendatacommons.org/licenses/pddl/1.0/": "PDDL-1.0",
    "https://opendatacommons.org/licenses/pddl/1-0/": "PDDL-1.0",
    "https://opendatacommons.org/licenses/by/1-0/": "ODC-By-1.0",
    "http://opendatacommons.org/licenses/odbl/": "ODbL-1.0",
    "https://www.flickr.com/commons/usage/": "LicenseRef-Flickr-No-Known-Restrictions",
    "http://flickr.com/commons/usage/": "LicenseRef-Flickr-No-Known-Restrictions",
    "http://www.usa.gov/copyright.shtml": "LicenseRef-US-Government-Work",
    "https://www.usa.gov/government-works": "LicenseRef-US-Government-Work",
    "https://spdx.org/licenses/CC-BY-4.0.html": "CC-BY-4.0",
    "https://www.flickr.com/photos/someone/123": None,
    # SPDX ids
    "CC-BY-4.0": "CC-BY-4.0", "cc-by-4.0": "CC-BY-4.0", "CC0-1.0": "CC0-1.0", "PDDL-1.0": "PDDL-1.0",
    "ODC-By-1.0": "ODC-By-1.0", "CC-PDDC": "CC-PDDC", "CC-PDM-1.0": "CC-PDM-1.0", "MIT": "MIT", "GFDL-1.2": "GFDL-1.2",
    "CC-BY-NC-SA-3.0-IGO": "CC-BY-NC-SA-3.0-IGO", "LicenseRef-CC-BY-2.1-JP": "LicenseRef-CC-BY-2.1-JP",
    "LicenseRef-US-Government-Work": "LicenseRef-US-Government-Work", "CC-BY-9.0": None, "NOASSERTION": None,
    # Flickr's names
    "Attribution License": "CC-BY-2.0",
    "Attribution-NonCommercial-ShareAlike License": "CC-BY-NC-SA-2.0",
    "Attribution-NonCommercial License": "CC-BY-NC-2.0",
    "Attribution-NonCommercial-NoDerivs License": "CC-BY-NC-ND-2.0",
    "Attribution-ShareAlike License": "CC-BY-SA-2.0",
    "Attribution-NoDerivs License": "CC-BY-ND-2.0",
    "No known copyright restrictions": "LicenseRef-Flickr-No-Known-Restrictions",
    "United States Government Work": "LicenseRef-US-Government-Work",
    "U.S. Government Work": "LicenseRef-US-Government-Work",
    "Public Domain Dedication (CC0)": "CC0-1.0",
    "Public Domain Mark": "CC-PDM-1.0",
    "All Rights Reserved": "LicenseRef-All-Rights-Reserved",
    # Smithsonian
    "CC0": "CC0-1.0", "cc0": "CC0-1.0",
    "Usage conditions apply": "LicenseRef-Smithsonian-Usage-Conditions-Apply",
    "Usage Conditions Apply": "LicenseRef-Smithsonian-Usage-Conditions-Apply",
    # free text
    "CC BY 2.0": "CC-BY-2.0", "CC-BY 2.0": "CC-BY-2.0", "cc by 4.0": "CC-BY-4.0", "CC BY": "LicenseRef-CC-BY",
    "CC BY-SA 2.0": "CC-BY-SA-2.0", "CC BY-NC": "LicenseRef-CC-BY-NC", "CC BY NC ND 4.0": "CC-BY-NC-ND-4.0",
    "CC-BY-SA-3.0,2.5,2.0,1.0": None, "CC BY 3.0 IGO": "CC-BY-3.0-IGO", "CC BY 2.1 JP": "LicenseRef-CC-BY-2.1-JP",
    "Creative Commons Attribution 4.0 International": "CC-BY-4.0",
    "Creative Commons Attribution 4.0 International License": "CC-BY-4.0",
    "Creative Commons Attribution 4.0 International (CC BY 4.0)": "CC-BY-4.0",
    "Creative Commons Attribution 4.0 International (CC BY-NC 4.0)": None,
    "Attribution 4.0 International": "CC-BY-4.0",
    "Attribution-NonCommercial 4.0 International": "CC-BY-NC-4.0",
    "Creative Commons Attribution-Share Alike 3.0 Unported": "CC-BY-SA-3.0",
    "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0": "CC-BY-NC-ND-4.0",
    "Creative Commons Attribution 2.0 Generic": "CC-BY-2.0",
    "Creative Commons Attribution 2.1 Japan License": "LicenseRef-CC-BY-2.1-JP",
    "Creative Commons Attribution 3.0 United States": "CC-BY-3.0-US",
    "CC0 1.0": "CC0-1.0", "CC0 1.0 Universal": "CC0-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Creative Commons Zero": "CC0-1.0", "Creative Commons CC0 1.0 Universal Public Domain Dedication": "CC0-1.0",
    "Public Domain Mark 1.0": "CC-PDM-1.0",
    "Open Data Commons Public Domain Dedication and License v1.0": "PDDL-1.0",
    "public domain": "LicenseRef-Public-Domain", "PD": "LicenseRef-Public-Domain",
    "© all rights reserved": "LicenseRef-All-Rights-Reserved",
    # Japanese
    "クリエイティブ・コモンズ 表示 4.0 国際 ライセンス": "CC-BY-4.0",
    "クリエイティブ・コモンズ・ライセンス 表示 4.0 国際": "CC-BY-4.0",
    "クリエイティブ・コモンズ 表示 - 継承 3.0 非移植": "CC-BY-SA-3.0",
    "クリエイティブ・コモンズ 表示-非営利-改変禁止 4.0 国際": "CC-BY-NC-ND-4.0",
    "表示 4.0 国際": "CC-BY-4.0", "表示-非営利 2.0 一般": "CC-BY-NC-2.0", "CC 表示 2.1 日本": "LicenseRef-CC-BY-2.1-JP",
    "ＣＣ　ＢＹ　４．０": "CC-BY-4.0", "CC0 1.0 全世界": "CC0-1.0", "パブリックドメイン": "LicenseRef-Public-Domain",
    "米国政府著作物": "LicenseRef-US-Government-Work", "無断転載禁止": "LicenseRef-All-Rights-Reserved",
    # not understood, so never allowed
    "": None, "4": None, "by": None, "CC": None, "Creative Commons": None, "free": None, "CC BY not": None,
    "CC BY 4.0 for members": None, "CC BY 4.0, non commercial use only": None, "CC BY 4.0 or CC BY-NC 4.0": None,
    "CC BY 4.0 except where noted": None, "not CC BY 4.0": None, "attribution": None, "表示": None,
    "royalty free": None,
    "CC BY 2.0 / 3.0": None, "CC BY-BY 4.0": None, "CC NC 4.0": None, "CC BY SA ND 4.0": None, "CCBY?": None,
    "no rights reserved": None, "public domain dedication": None, "パブリックドメイン提供": None,
    "CC0 but no AI training": None, "public domain in the US only": None, "\x00": None, "CC BY 4.0" + "x" * 600: None,
}  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), LABELLED.items(), ids=[ascii(raw)[:60] for raw in LABELLED])
def test_labelled(raw: str, expected: str | None) -> None:
    found = normalise(raw)
    assert (found.id if found else None) == expected


def test_normalise_is_idempotent_by_id_and_url() -> None:
    for license in _ids().values():
        assert normalise(license.id) == license
        if license.url and "si.edu" not in license.url:  # the Smithsonian's terms of use cover its whole site
            assert normalise(license.url) == license, license.url


def test_whole_texts_are_written_as_they_are_compared() -> None:
    from commonart.core.licenses.parse import fold

    assert [text for text in TEXTS if fold(text) != text] == []


def test_none_is_unknown() -> None:
    assert normalise(None) is None
    assert not POLICIES["paper"].allows(None)


@pytest.mark.parametrize(
    ("number", "name", "url", "expected"),
    [
        (0, "", "", "LicenseRef-All-Rights-Reserved"),
        (4, "", "", "CC-BY-2.0"),
        ("4", "Attribution License", "https://www.flickr.com/x", "CC-BY-2.0"),
        (4, "Attribution-NonCommercial License", "", None),
        (7, "", "", "LicenseRef-Flickr-No-Known-Restrictions"),
        (8, "", "", "LicenseRef-US-Government-Work"),
        (9, "", "", "CC0-1.0"),
        (10, "", "", "CC-PDM-1.0"),
        (11, "", "", None),  # the order of the 4.0 suite is not established
        (11, "CC BY 4.0", "", "CC-BY-4.0"),
        (16, "", "https://creativecommons.org/licenses/by-nc-nd/4.0/", "CC-BY-NC-ND-4.0"),
        (11, "CC BY 2.0", "", None),
        (99, "", "", None),
        ("x", "", "", None),
    ],
)
def test_flickr(number: int | str, name: str, url: str, expected: str | None) -> None:
    found = flickr(number, name, url)
    assert (found.id if found else None) == expected


BY2, BY_NC = "http://creativecommons.org/licenses/by/2.0/", "http://creativecommons.org/licenses/by-nc/2.0/"


@pytest.mark.parametrize(
    ("url", "raw", "stated", "expected"),
    [
        (BY2, "Attribution License", "CC-BY-2.0", "CC-BY-2.0"),
        (BY2, "CC BY", "", "CC-BY-2.0"),  # one is less exact
        ("", "CC BY", "CC-BY-3.0", "CC-BY-3.0"),
        (BY2, "Attribution-NonCommercial License", "", "license_conflict"),
        (BY_NC, "", "CC-BY-2.0", "license_conflict"),
        (BY2, "CC BY 4.0", "", "license_conflict"),
        (BY2, "for non-commercial use", "", "license_conflict"),
        (BY2, "ask for permission", "", "license_conflict"),
        (BY2, "改変禁止です", "", "license_conflict"),
        (BY2, "by the photographer", "", "CC-BY-2.0"),
        ("https://www.flickr.com/photos/a/1", "CC BY 2.0", "", "CC-BY-2.0"),
        ("https://creativecommons.org/licenses/by-xx/2.0/", "CC BY 2.0", "", "license_conflict"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "Public domain", "", "CC0-1.0"),
        ("", "Public domain", "CC-PDM-1.0", "CC-PDM-1.0"),
        ("", "", "", "license_unknown"),
        (None, None, None, "license_unknown"),
        ("", "", "NOASSERTION", "license_unknown"),
        ("", "see the page", "", "license_unknown"),
    ],
)
def test_judge(url: str, raw: str, stated: str, expected: str) -> None:
    license, reason = judge(url, raw, stated)
    assert (license.id if license else reason) == expected


STRICT = {"CC0-1.0", "PDDL-1.0", "LicenseRef-CC-BY"}
PAPER = {"CC-PDM-1.0", "LicenseRef-Flickr-No-Known-Restrictions", "LicenseRef-US-Government-Work"}


def test_what_the_policies_allow_is_exactly_what_design_says() -> None:
    for license in _ids().values():
        attribution = license.id.removeprefix("LicenseRef-").startswith(tuple(f"CC-BY-{n}" for n in "1234"))
        strict = license.id in STRICT or attribution
        assert POLICIES["strict"].allows(license) == strict, license
        assert POLICIES["paper"].allows(license) == (strict or license.id in PAPER), license


def test_policy_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "strict"\nallow = ["cc-by-sa-4.0", "CC-PDM"]\ndeny = ["CC-BY-2.0"]\n')
    policy = load_policy(str(file))
    assert policy.name == "mine"
    allowed = {raw for raw in ("CC-BY-4.0", "CC-BY-2.0", "CC-BY-SA-4.0", "CC-BY-SA-3.0", "CC-PDM-1.0", "MIT") if
               policy.allows(normalise(raw))}  # fmt: skip
    assert allowed == {"CC-BY-4.0", "CC-BY-SA-4.0", "CC-PDM-1.0"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("allow = [", "no TOML"),
        ('allow = ["CC-BY-5.0"]', "CC-BY-5.0"),
        ('allow = "CC-BY"', "no list"),
        ('extends = "loose"', "loose"),
        ('alow = ["CC-BY"]', "alow"),
    ],
)
def test_bad_policy_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(CommonArtError, match=says) as caught:
        load_policy(str(file))
    assert "mine.toml" in caught.value.what and caught.value.fix


def test_unknown_policy() -> None:
    with pytest.raises(CommonArtError, match="strict, paper"):
        load_policy("loose")


def test_explain() -> None:
    strict = POLICIES["strict"]
    assert "allowed by policy strict" in strict.explain("CC BY 2.1 JP")
    assert "CC-BY-SA-2.0" in strict.explain("CC BY-SA 2.0") and "refused" in strict.explain("CC BY-SA 2.0")
    assert "names no licence" in strict.explain("free")


def test_no_false_accept_in_fuzzed_strings() -> None:
    """Strings glued from the pieces of licences: whatever is accepted must not carry a restriction or a stray word."""
    random_ = random.Random(3)
    pieces = [
        "cc", "by", "-", " ", "nc", "sa", "nd", "4.0", "2.1", "jp", "/", "attribution", "noncommercial", "license",
        "zero", "0", "creative commons", "https://creativecommons.org/licenses/", "not", "or", "表示", "非営利", "(",
        ")", ".", "public domain", "deed", "only", "except", "international", "mark", "x", "©", "cc0", "pddl", "1.0",
    ]  # fmt: skip
    forbidden = ("nc", "sa", "nd", "noncommercial", "非営利", "not", "or", "only", "except", "mark", "x", "©")
    accepted = 0
    for _ in range(60_000):
        chosen = random_.choices(pieces, k=random_.randint(1, 7))
        license = normalise("".join(chosen))
        if license is not None and POLICIES["strict"].allows(license):
            accepted += 1
            assert not set(chosen) & set(forbidden), (chosen, license)
    assert accepted > 20  # otherwise the fuzz says nothing


def test_family_never_widens() -> None:
    for license in _ids().values():
        if license.id.removeprefix("LicenseRef-").startswith("CC-BY"):
            restrictions = {part for part in license.id.lower().split("-") if part in ELEMENTS}
            assert restrictions == set(license.family.lower().split("-")) & set(ELEMENTS), license


def test_unknown_id_has_no_family_in_common_with_an_allowed_one() -> None:
    assert License("CC-BY-NC-4.0", "", "licence").family == "CC-BY-NC"
    assert License("Apache-2.0", "", "licence").family == "Apache"
