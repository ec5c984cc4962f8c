"""Licences: a labelled table of what sources write, the fields of each source, their agreement, and policies."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.licenses.creative_commons import ELEMENT_NAMES, ELEMENTS, JURISDICTIONS
from commonart.core.licenses.license import License
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.policies import POLICIES, load_policy
from commonart.core.licenses.statements import Verdict, europeana, flickr, resolve_license, smithsonian, wikimedia
from commonart.core.licenses.table import FILLERS, TEMPLATES, TEXTS, known_licenses

LABELLED = Path(__file__).with_name("licenses.tsv")


def labelled() -> list[tuple[str, str, str]]:
    """(what a source writes, expected id or "unknown", the policies that allow it) of every row."""
    rows = []
    for line in LABELLED.read_text("utf-8").splitlines():
        if not line.startswith("# "):
            text, expected, allowed = line.split("\t")
            text = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)
            rows.append((text.encode("utf-16", "surrogatepass").decode("utf-16"), expected, allowed))
    return rows


def test_the_table_is_large_and_has_no_row_twice() -> None:
    rows = labelled()
    assert len(rows) >= 600 and len({text for text, _, _ in rows}) == len(rows)
    assert min(Counter(allowed for _, _, allowed in rows).values()) >= 30


@pytest.mark.parametrize(("text", "expected", "allowed"), labelled(), ids=[ascii(row[0])[:60] for row in labelled()])
def test_labelled(text: str, expected: str, allowed: str) -> None:
    found = normalize(text)
    assert (found.id if found else "unknown") == expected
    assert [name for name in POLICIES if POLICIES[name].allows(found)] == allowed.replace("-", "").split()


@pytest.mark.parametrize(
    "text", ["", "\x00", "CC BY 4.0" + " " * 600, "CC BY 4.0" + "x" * 600, "(" * 400, "CC0 OR " * 70]
)
def test_nonsense_is_unknown(text: str) -> None:
    assert normalize(text) is None


def test_normalise_is_idempotent_by_id_and_url() -> None:
    for license in known_licenses().values():
        assert normalize(license.id) == license
        if license.url and "si.edu" not in license.url:  # the Smithsonian's terms of use cover its whole site
            assert normalize(license.url) == license, license.url


def test_whole_texts_are_written_as_they_are_compared() -> None:
    from commonart.core.licenses.parse import simplify

    assert [text for text in (*TEXTS, *ELEMENT_NAMES, *JURISDICTIONS, *FILLERS) if simplify(text) != text] == []
    assert [name for name in TEMPLATES if " ".join(name.replace("_", " ").split()).lower() != name] == []


def test_none_is_unknown() -> None:
    assert normalize(None) is None
    assert not POLICIES["paper"].allows(None)


BY2, BY_NC = "http://creativecommons.org/licenses/by/2.0/", "http://creativecommons.org/licenses/by-nc/2.0/"
BY4 = "https://creativecommons.org/licenses/by/4.0/"
PAGE = "https://www.flickr.com/photos/someone/123/"


def said(verdict: Verdict) -> str:
    """The id, or the reason why there is none."""
    license, reason = verdict
    assert (license is None) == bool(reason)
    return license.id if license else reason


@pytest.mark.parametrize(
    ("number", "name", "url", "expected"),
    [
        (0, "", "", "LicenseRef-All-Rights-Reserved"),
        (0, "All Rights Reserved", "", "LicenseRef-All-Rights-Reserved"),
        (0, "Attribution License", "", "license_conflict"),
        (1, "", "", "CC-BY-NC-SA-2.0"),
        (2, "Attribution-NonCommercial License", BY_NC, "CC-BY-NC-2.0"),
        (3, "", "", "CC-BY-NC-ND-2.0"),
        (4, "", "", "CC-BY-2.0"),
        ("4", "Attribution License", BY2, "CC-BY-2.0"),
        (4, "Attribution License", PAGE, "CC-BY-2.0"),
        (4, "", PAGE, "CC-BY-2.0"),
        (4, "CC BY", "", "CC-BY-2.0"),
        (4, "Attribution-NonCommercial License", "", "license_conflict"),
        (4, "", BY_NC, "license_conflict"),
        (4, "", BY4, "license_conflict"),
        (4, "Attribution License", BY_NC, "license_conflict"),
        (4, "for friends", "", "license_unknown"),
        (4, "Attribution License", "https://example.com/terms", "license_conflict"),
        (2, "", BY2, "license_conflict"),
        (5, "", "", "CC-BY-SA-2.0"),
        (6, "", "", "CC-BY-ND-2.0"),
        (7, "No known copyright restrictions", "https://www.flickr.com/commons/usage/", "LicenseRef-Flickr-No-Known-Restrictions"),
        (8, "United States Government Work", "http://www.usa.gov/copyright.shtml", "LicenseRef-US-Government-Work"),
        (8, "", "", "LicenseRef-US-Government-Work"),
        (9, "Public Domain Dedication (CC0)", "https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        (9, "Public Domain Mark", "", "license_conflict"),
        (10, "", "", "CC-PDM-1.0"),
        (10, "Public domain", "", "CC-PDM-1.0"),
        (11, "", "", "license_unknown"),  # the order of the 4.0 suite is not established
        (11, "CC BY 4.0", "", "CC-BY-4.0"),
        (12, "CC BY 4.0", BY4, "CC-BY-4.0"),
        (16, "", "https://creativecommons.org/licenses/by-nc-nd/4.0/", "CC-BY-NC-ND-4.0"),
        (11, "CC BY 2.0", "", "license_conflict"),
        (11, "CC BY", "", "license_conflict"),
        (11, "CC BY 4.0", "https://creativecommons.org/licenses/by-nc/4.0/", "license_conflict"),
        (11, "CC0", "", "license_conflict"),
        (17, "CC BY 4.0", "", "license_unknown"),
        (-1, "", "", "license_unknown"),
        (99, "", "", "license_unknown"),
        ("x", "Attribution License", "", "license_unknown"),
        ("", "", "", "license_unknown"),
    ],
)  # fmt: skip
def test_flickr(number: int | str, name: str, url: str, expected: str) -> None:
    assert said(flickr(number, name, url)) == expected


@pytest.mark.parametrize(
    ("media", "expected"),
    [
        ({"usage": {"access": "CC0"}}, "CC0-1.0"),
        ({"usage": {"access": "cc0"}}, "CC0-1.0"),
        ({"usage": {"access": "Usage conditions apply"}}, "LicenseRef-Smithsonian-Usage-Conditions-Apply"),
        ({"usage": {"access": "Usage Conditions Apply"}, "metadata_usage": {"access": "CC0"}},
         "LicenseRef-Smithsonian-Usage-Conditions-Apply"),
        ({"metadata_usage": {"access": "CC0"}}, "license_unknown"),
        ({"usage": {"access": "CC0", "text": "for members only"}}, "license_conflict"),
        ({"usage": {}}, "license_unknown"),
        ({"usage": "CC0"}, "license_unknown"),
        ({"usage": {"access": None}}, "license_unknown"),
        ({"usage": {"access": "Restricted"}}, "license_unknown"),
        ({}, "license_unknown"),
    ],
)  # fmt: skip
def test_smithsonian(media: dict, expected: str) -> None:
    assert said(smithsonian(media)) == expected


ZERO, INC = "http://creativecommons.org/publicdomain/zero/1.0/", "http://rightsstatements.org/vocab/InC/1.0/"


@pytest.mark.parametrize(
    ("item", "resource", "expected"),
    [
        (ZERO, None, "CC0-1.0"),
        (ZERO, INC, "LicenseRef-RightsStatements-InC-1.0"),  # the WebResource overrides the item, in both directions
        (INC, ZERO, "CC0-1.0"),
        (INC, "", "LicenseRef-RightsStatements-InC-1.0"),
        ([ZERO], None, "CC0-1.0"),
        ({"def": [ZERO]}, None, "CC0-1.0"),
        ([ZERO, INC], None, "license_conflict"),
        (ZERO, [BY4, BY_NC], "license_conflict"),
        (ZERO, "ask the museum", "license_unknown"),
        ("http://www.europeana.eu/rights/rr-f/", None, "LicenseRef-Europeana-rr-f"),
        (None, None, "license_unknown"),
        (7, None, "license_unknown"),
    ],
)
def test_europeana(item: object, resource: object, expected: str) -> None:
    assert said(europeana(item, resource)) == expected


@pytest.mark.parametrize(
    ("extmetadata", "expected"),
    [
        ({"LicenseShortName": {"value": "CC BY 4.0"}, "LicenseUrl": {"value": "https://creativecommons.org/licenses/by/4.0"},
          "License": {"value": "cc-by-4.0"}, "UsageTerms": {"value": "Creative Commons Attribution 4.0"},
          "Restrictions": {"value": ""}, "Artist": {"value": "<a href='//x'>Jane</a>"}, "NonFree": {"value": "false"}},
         "CC-BY-4.0"),
        ({"LicenseShortName": "CC BY-SA 3.0 de", "License": "cc-by-sa-3.0-de"}, "CC-BY-SA-3.0-DE"),
        ({"LicenseShortName": "CC0", "License": "cc0", "LicenseUrl": "http://creativecommons.org/publicdomain/zero/1.0/deed.en"},
         "CC0-1.0"),
        ({"LicenseShortName": "Public domain", "License": "pd", "UsageTerms": "Public domain"}, "LicenseRef-Public-Domain"),
        ({"LicenseShortName": "No restrictions", "LicenseUrl": "https://www.flickr.com/commons/usage/"},
         "LicenseRef-Flickr-No-Known-Restrictions"),
        ({"LicenseShortName": "No restrictions"}, "license_unknown"),
        ({"LicenseShortName": "CC BY 4.0", "LicenseUrl": "https://creativecommons.org/licenses/by-nc/4.0"}, "license_conflict"),
        ({"LicenseShortName": "CC BY 4.0", "UsageTerms": "ask me first"}, "license_conflict"),
        ({"LicenseShortName": "CC BY 4.0", "Restrictions": {"value": "personality"}}, "license_restricted:personality"),
        ({"LicenseShortName": "CC0", "Restrictions": "Trademarked|insignia"}, "license_restricted:insignia+trademarked"),
        ({"LicenseShortName": "CC BY 4.0", "NonFree": {"value": "true"}}, "license_restricted:nonfree"),
        ({"LicenseShortName": "Fair use"}, "license_unknown"),
        ({}, "license_unknown"),
    ],
)  # fmt: skip
def test_wikimedia(extmetadata: dict, expected: str) -> None:
    assert said(wikimedia(extmetadata)) == expected


@pytest.mark.parametrize(
    ("url", "raw", "stated", "expected"),
    [
        (BY2, "Attribution License", "CC-BY-2.0", "CC-BY-2.0"),
        (BY2, "CC BY", "", "CC-BY-2.0"),  # one is less exact
        ("", "CC BY", "CC-BY-3.0", "CC-BY-3.0"),
        (BY2, "Attribution-NonCommercial License", "", "license_conflict"),
        (BY_NC, "", "CC-BY-2.0", "license_conflict"),
        (BY2, "CC BY 4.0", "", "license_conflict"),
        # what is not understood may forbid, in whatever words
        (BY2, "for non-commercial use", "", "license_conflict"),
        (BY2, "ask for permission", "", "license_conflict"),
        (BY2, "改変禁止です", "", "license_conflict"),
        (BY2, "for my friends", "", "license_conflict"),
        (BY2, "x" * 100_000, "", "license_conflict"),
        ("https://example.com/terms", "CC BY 2.0", "", "license_conflict"),
        ("https://creativecommons.org/licenses/by-xx/2.0/", "CC BY 2.0", "", "license_conflict"),
        # the page of the work says nothing about rights
        (PAGE, "CC BY 2.0", "", "CC-BY-2.0"),
        ("https://commons.wikimedia.org/wiki/File:Cat.jpg", "CC BY 2.0", "", "CC-BY-2.0"),
        (PAGE, "", "", "license_unknown"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "Public domain", "", "CC0-1.0"),
        ("", "Public domain", "CC-PDM-1.0", "CC-PDM-1.0"),
        # a choice, and one of its branches
        (BY4, "MIT OR CC-BY-4.0", "", "CC-BY-4.0"),
        ("", "MIT OR CC-BY-4.0", "CC-BY-4.0", "CC-BY-4.0"),
        (BY4, "MIT OR CC-BY-NC-4.0", "", "license_conflict"),
        (BY4, "CC-BY-4.0 AND CC-BY-NC-4.0", "", "license_conflict"),
        ("", "CC0-1.0 AND (MIT OR CC-BY-4.0)", "CC0-1.0 AND CC-BY-4.0", "CC0-1.0 AND CC-BY-4.0"),
        ("", "CC0-1.0 AND (MIT OR CC-BY-4.0)", "CC0-1.0", "license_conflict"),
        ("", "CC0-1.0 AND CC-BY-NC-4.0", "CC0-1.0 AND CC-BY-4.0", "license_conflict"),
        ("", "", "", "license_unknown"),
        (None, None, None, "license_unknown"),
        ("", "", "NOASSERTION", "license_unknown"),
        (BY2, "NOASSERTION", "", "CC-BY-2.0"),
        ("", "see the page", "", "license_unknown"),
    ],
)
def test_judge(url: str, raw: str, stated: str, expected: str) -> None:
    assert said(resolve_license(url, raw, stated)) == expected
    assert said(resolve_license(stated, raw, url)) == expected  # in whatever order


def test_a_template_in_prose_and_an_expression_in_prose_agree_with_their_url() -> None:
    assert said(resolve_license(BY4, "{{self|cc-by-4.0|cc-by-sa-4.0}}", "")) == "CC-BY-4.0"
    assert (
        said(resolve_license("https://creativecommons.org/licenses/by-sa/4.0/", "{{cc-by-4.0}}", ""))
        == "license_conflict"
    )


STRICT = {"CC0-1.0", "PDDL-1.0", "LicenseRef-CC-BY"}
PAPER = {"CC-PDM-1.0", "LicenseRef-Flickr-No-Known-Restrictions", "LicenseRef-US-Government-Work"}


def test_what_the_policies_allow_is_exactly_what_design_says() -> None:
    for license in known_licenses().values():
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
               policy.allows(normalize(raw))}  # fmt: skip
    assert allowed == {"CC-BY-4.0", "CC-BY-SA-4.0", "CC-PDM-1.0"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("allow = [", "not a TOML file"),
        ('allow = ["CC-BY-5.0"]', "CC-BY-5.0"),
        ('allow = "CC-BY"', "not a list"),
        ('extends = "loose"', "loose"),
        ("allow = [1]", "not a list"),
        ("[allow]\nCC-BY = 1", "not a list"),
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
    with pytest.raises(UsageError, match="strict, paper"):
        load_policy("loose")


def test_policy_file_with_reasons(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "paper"\n[allow]\nCC-BY-SA = "our model is shared alike"\n"CC-PDDC" = ""\n')
    policy = load_policy(str(file))
    assert "our model is shared alike" in policy.explain("CC BY-SA 2.0")
    assert "named in mine.toml" in policy.explain("CC-PDDC")


def test_a_licence_without_version_may_be_the_one_that_is_denied(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "strict"\ndeny = ["CC-BY-2.0"]\n')
    policy = load_policy(str(file))
    assert policy.allows(normalize("CC BY 4.0"))
    assert not policy.allows(normalize("CC BY")) and "denies LicenseRef-CC-BY" in policy.explain("CC BY")


def test_a_choice_is_taken_under_the_first_branch_that_is_allowed() -> None:
    strict, paper = POLICIES["strict"], POLICIES["paper"]
    both = normalize("CC-PDM-1.0 OR CC-BY-NC-4.0 OR CC-BY-4.0")
    assert both is not None
    assert [policy.choose(both).id for policy in (strict, paper)] == ["CC-BY-4.0", "CC-PDM-1.0"]  # type: ignore[union-attr]
    assert both.family == "" and not strict.allows(normalize("CC-BY-4.0 AND CC-BY-NC-4.0"))


@pytest.mark.parametrize(
    ("raw", "strict"),
    [
        ("CC BY 2.1 JP", "strict: allowed. 'CC BY 2.1 JP' is LicenseRef-CC-BY-2.1-JP (licence): every use is allowed with "
         "attribution; any version, ported ones too."),
        ("CC BY-SA 2.0", "strict: refused. 'CC BY-SA 2.0' is CC-BY-SA-2.0 (licence), and it does not name CC-BY-SA-2.0."),
        ("free", "strict: refused, because 'free' is not the name of a known licence."),
        ("CC0-1.0 AND MIT", "strict: refused. 'CC0-1.0 AND MIT' is CC0-1.0 AND MIT (licence), and it does not name MIT."),
        ("MIT OR CC0-1.0", "strict: allowed. 'MIT OR CC0-1.0' is MIT OR CC0-1.0 (licence), taken as CC0-1.0: the author gave "
         "up all rights."),
    ],
)  # fmt: skip
def test_explain(raw: str, strict: str) -> None:
    assert POLICIES["strict"].explain(raw) == strict


FOUR = "One of: No known copyright restrictions; United States Government Work; CC0; Public Domain Mark"


def test_one_of_several_is_allowed_where_each_of_them_is(tmp_path: Path) -> None:
    four = normalize(FOUR)
    assert four is not None and four.basis == "set" and len(four.one_of) == 4 and four.family == ""
    assert not POLICIES["strict"].allows(four) and POLICIES["paper"].choose(four) == four
    assert normalize(four.id) == four  # as license-filter writes it
    assert normalize("one of: CC0;CC-BY-4.0") == normalize("LicenseRef-OneOf..CC0-1.0..CC-BY-4.0")
    assert POLICIES["strict"].allows(normalize("One of: CC0; CC BY 4.0; PDDL"))
    (tmp_path / "mine.toml").write_text('extends = "paper"\ndeny = ["CC-PDM-1.0"]\n')
    assert not load_policy(str(tmp_path / "mine.toml")).allows(four)


@pytest.mark.parametrize(
    "text", ["One of:", "One of: CC0;", "One of: CC0; ask me", "One of: One of: CC0; CC BY 4.0", "one of CC0 and CC BY 4.0",
             "LicenseRef-OneOf..", "LicenseRef-OneOf..CC0-1.0..", "LicenseRef-OneOf..CC0-1.0.CC-BY-4.0",
             "CC0 OR LicenseRef-OneOf..CC0-1.0..MIT"],
)  # fmt: skip
def test_one_of_several_that_are_not_all_known_is_unknown(text: str) -> None:
    assert normalize(text) is None


@pytest.mark.parametrize("other", ["CC0", "CC-PDM-1.0", "CC BY-NC 4.0", "One of: CC0; Public Domain Mark"])
def test_no_statement_of_a_set_agrees_with_another(other: str) -> None:
    """A work's own statement takes its place, and does not narrow it down."""
    assert said(resolve_license("", FOUR, other)) == "license_conflict"


def test_explain_says_that_it_is_not_known_which() -> None:
    refused, allowed = (POLICIES[name].explain(FOUR) for name in ("strict", "paper"))
    assert (
        "is one of 4 (set), not known which, so that each must be allowed, and it does not name LicenseRef-Flickr"
        in refused
    )
    assert allowed.startswith(f"paper: allowed. {FOUR!r} is one of 4 (set)") and "17 U.S.C. 105" in allowed


def test_family_never_widens() -> None:
    for license in known_licenses().values():
        if license.id.removeprefix("LicenseRef-").startswith("CC-BY"):
            restrictions = {part for part in license.id.lower().split("-") if part in ELEMENTS}
            assert restrictions == set(license.family.lower().split("-")) & set(ELEMENTS), license


def test_unknown_id_has_no_family_in_common_with_an_allowed_one() -> None:
    assert License("CC-BY-NC-4.0", "", "licence").family == "CC-BY-NC"
    assert License("Apache-2.0", "", "licence").family == "Apache"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("CC0: license_conflict", "license_conflict"),
        ("license_conflict", "license_conflict"),
        ("CC BY 4.0: license_restricted:nonfree", "license_restricted:nonfree"),
        ("CC0: license_accepted", "license_unknown"),
    ],
)
def test_what_fetch_refused_is_refused_for_the_same_reason_again(raw: str, expected: str) -> None:
    assert resolve_license("", raw, "") == (None, expected)
