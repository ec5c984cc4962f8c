"""The licences and statements that follow no grammar, one a row, with the names that sources give them.

Sources: the SPDX licence list 3.27, creativecommons.org, rightsstatements.org, Flickr's `flickr.photos.licenses.getInfo`,
opendatacommons.org, Smithsonian Open Access, pro.europeana.eu, and the licence templates of Wikimedia Commons.
"""

from functools import cache

from commonart.core.licenses.creative_commons import COMBINATIONS, PORTS, VERSIONS, creative_commons, names
from commonart.core.licenses.license import License

CC0 = License("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/", "dedication")
PDM = License("CC-PDM-1.0", "https://creativecommons.org/publicdomain/mark/1.0/", "mark")
PDDC = License("CC-PDDC", "https://creativecommons.org/licenses/publicdomain/", "dedication")
PDDL = License("PDDL-1.0", "https://opendatacommons.org/licenses/pddl/1-0/", "dedication")
ODC_BY = License("ODC-By-1.0", "https://opendatacommons.org/licenses/by/1-0/", "licence")
ODBL = License("ODbL-1.0", "https://opendatacommons.org/licenses/odbl/1-0/", "licence")
US_GOVERNMENT = License("LicenseRef-US-Government-Work", "https://www.usa.gov/government-works", "statute")
NO_KNOWN = License("LicenseRef-Flickr-No-Known-Restrictions", "https://www.flickr.com/commons/usage/", "statement")
RESERVED = License("LicenseRef-All-Rights-Reserved", "", "statement")
# "Public domain" is a claim; these two say why: the term has run out, or the author gave the work away (in no form that
# a lawyer has checked, as CC0 is).
PUBLIC_DOMAIN = License("LicenseRef-Public-Domain", "", "statement")
PD_EXPIRED = License("LicenseRef-Public-Domain-Expired", "", "statute")
PD_AUTHOR = License("LicenseRef-Public-Domain-Author", "", "dedication")
SI_CONDITIONS = License("LicenseRef-Smithsonian-Usage-Conditions-Apply", "https://www.si.edu/termsofuse", "statement")
FREE_USE = License("LicenseRef-Wikimedia-Copyrighted-Free-Use", "", "statement")
ATTRIBUTION = License("LicenseRef-Wikimedia-Attribution", "", "statement")
# The retired Sampling licences of Creative Commons, by the name in their URL.
SAMPLINGS = {
    name: License(f"LicenseRef-CC-{title}-1.0", f"https://creativecommons.org/licenses/{name}/1.0/", "licence")
    for name, title in (("sampling", "Sampling"), ("sampling+", "Sampling-Plus"), ("nc-sampling+", "NC-Sampling-Plus"))
}

# rightsstatements.org vocabulary 1.0: statements about rights, never licences; and the titles of their pages, as in TEXTS.
_RIGHTS_TITLES = {
    "InC": "in copyright", "InC-OW-EU": "in copyright eu orphan work",
    "InC-EDU": "in copyright educational use permitted", "InC-NC": "in copyright non commercial use permitted",
    "InC-RUU": "in copyright rights holder s unlocatable or unidentifiable",
    "NoC-CR": "no copyright contractual restrictions", "NoC-NC": "no copyright non commercial use only",
    "NoC-OKLR": "no copyright other known legal restrictions", "NoC-US": "no copyright united states",
    "CNE": "copyright not evaluated", "UND": "copyright undetermined", "NKC": "no known copyright",
}  # fmt: skip
RIGHTS_STATEMENTS = {
    code.lower(): License(
        f"LicenseRef-RightsStatements-{code}-1.0", f"http://rightsstatements.org/vocab/{code}/1.0/", "statement"
    )
    for code in _RIGHTS_TITLES
}
# Europeana's own statements, from before rightsstatements.org: rights reserved (free, paid, restricted access), ...
EUROPEANA = {
    name: License(f"LicenseRef-Europeana-{name}", f"http://www.europeana.eu/rights/{name}/", "statement")
    for name in names("rr-f rr-p rr-r unknown orphan-work-eu out-of-copyright-non-commercial test-orphan-work-test")
}

# Licences that are met on images; no policy allows them, but a drop can name them.
_NAMED = names("""
    Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause GFDL-1.1 GFDL-1.2 GFDL-1.3 GPL-2.0 GPL-2.0-only
    GPL-2.0-or-later GPL-3.0 GPL-3.0-only GPL-3.0-or-later LGPL-2.1 LGPL-3.0 MIT OGL-UK-1.0 OGL-UK-2.0 OGL-UK-3.0
    GFDL-1.2-only GFDL-1.2-or-later GFDL-1.3-only GFDL-1.3-or-later ISC LAL-1.3 Unlicense WTFPL etalab-2.0
    """)
_OTHER = {name: License(name, f"https://spdx.org/licenses/{name}.html", "licence") for name in sorted(_NAMED)}
_SINGLES = (
    CC0, PDM, PDDC, PDDL, ODC_BY, ODBL, US_GOVERNMENT, NO_KNOWN, RESERVED, PUBLIC_DOMAIN, PD_EXPIRED, PD_AUTHOR,
    SI_CONDITIONS, FREE_USE, ATTRIBUTION, *SAMPLINGS.values(),
)  # fmt: skip

# Exceptions of the SPDX list that images carry: each only adds a permission to the licence before WITH.
EXCEPTIONS = names("""
    autoconf-exception-3.0 bison-exception-2.2 classpath-exception-2.0 font-exception-2.0 gcc-exception-3.1 gpl-cc-1.0
    llvm-exception openjdk-assembly-exception-1.0
    """)


def _cc_2_0(elements: str) -> License:
    license = creative_commons(elements, "2.0")
    assert license is not None  # the table below is a literal
    return license


# flickr.photos.licenses.getInfo: number -> licence. 0..10 since 2013, 11..16 (the 4.0 suite) since 2025.
FLICKR: dict[int, License] = {
    0:  RESERVED,
    1:  _cc_2_0("by-nc-sa"),
    2:  _cc_2_0("by-nc"),
    3:  _cc_2_0("by-nc-nd"),
    4:  _cc_2_0("by"),
    5:  _cc_2_0("by-sa"),
    6:  _cc_2_0("by-nd"),
    7:  NO_KNOWN,
    8:  US_GOVERNMENT,
    9:  CC0,
    10: PDM,
}  # fmt: skip
# The numbers of the 4.0 suite: the set is known, their order is not established, so the name or URL must say which.
FLICKR_4_0 = range(11, 17)

# Whole texts, compared after `parse.simplify` (case, width, punctuation and blanks do not count) and without version and
# `FILLERS` -> licence. Those with "license" in them are compared before fillers go: Flickr's own names mean 2.0.
TEXTS: dict[str, License] = {
    # Creative Commons tools that are not licences
    "cc sampling": SAMPLINGS["sampling"], "cc sampling plus": SAMPLINGS["sampling+"],
    "cc sampling+": SAMPLINGS["sampling+"],
    **dict.fromkeys(("cc0", "cc 0", "cc zero", "creative commons zero", "creative commons 0",
        "public domain dedication cc0", "cc0 public domain dedication", "cc0 public domain",
        "creative commons cc0", "creative commons cc0 public domain dedication", "cc cc0",
        "creative commons zero public domain dedication", "creative commons public domain dedication cc0",
        "cc0 cc0 public domain dedication", "creative commons zero cc0", "creative commons cc zero",
        "cc0 全世界", "クリエイティブコモンズ ゼロ", "クリエイティブコモンズゼロ", "クリエイティブコモンズ cc0",
        "cc ゼロ", "cc0 パブリックドメイン提供", "クリエイティブコモンズ cc0 パブリックドメイン提供",
        "クリエイティブコモンズ cc0 全世界", "cc0 全世界 パブリックドメイン提供",
        "cc0 全世界 cc0 パブリックドメイン提供"), CC0),
    **dict.fromkeys(("public domain mark", "pdm", "cc pdm", "cc public domain mark", "cc pd mark",
        "creative commons public domain mark", "パブリックドメインマーク", "パブリックドメイン マーク",
        "クリエイティブコモンズ パブリックドメインマーク", "cc パブリックドメインマーク", "pd mark"), PDM),
    **dict.fromkeys(("cc pddc", "cc public domain dedication and certification",
        "public domain dedication and certification"), PDDC),
    # Open Data Commons
    "odc by": ODC_BY, "open data commons attribution": ODC_BY,
    **dict.fromkeys(("pddl", "odc pddl", "open data commons public domain dedication and",
        "public domain dedication and license pddl", "open data commons public domain dedication and pddl"), PDDL),
    **dict.fromkeys(("odbl", "odc odbl", "open data commons open database", "open database"), ODBL),
    # Flickr, as its interface and its programming interface have named them
    "attribution noncommercial sharealike license": FLICKR[1], "attribution noncommercial license": FLICKR[2],
    "attribution noncommercial noderivs license": FLICKR[3], "attribution license": FLICKR[4],
    "attribution sharealike license": FLICKR[5], "attribution noderivs license": FLICKR[6],
    **dict.fromkeys(("no known copyright restrictions", "no known restrictions",
        "no known copyright restriction", "flickr no known copyright restrictions", "既知の著作権制限なし",
        "知られている著作権制限なし", "既知の著作権上の制限なし"), NO_KNOWN),
    **dict.fromkeys(("united states government work", "us government work", "u s government work", "usgov",
        "work of the us government", "work of the u s government", "work of the united states government",
        "us government works", "u s government works", "united states government works",
        "アメリカ合衆国政府作品", "アメリカ合衆国政府の著作物", "米国政府著作物", "米国政府の著作物",
        "米国政府作品", "pd usgov"), US_GOVERNMENT),
    **dict.fromkeys(("all rights reserved", "copyright all rights reserved", "copyrighted", "copyright",
        "rights reserved", "無断転載禁止", "無断転載を禁じます", "禁無断転載", "無断転載を禁ず", "無断使用禁止",
        "無断複製禁止", "無断複写転載を禁じます", "著作権所有", "版権所有"), RESERVED),
    **{f"flickr license {number}": license for number, license in FLICKR.items()},  # as fetch writes a bare number
    # rightsstatements.org, as the pages are titled
    **{title: RIGHTS_STATEMENTS[code.lower()] for code, title in _RIGHTS_TITLES.items()},
    # Wikimedia and others: a claim, without who makes it and why
    "copyrighted free use": FREE_USE, "gfdl": _OTHER["GFDL-1.2-or-later"],
    "gnu free documentation": _OTHER["GFDL-1.2-or-later"],
    **dict.fromkeys(("fal", "fal 1.3", "free art", "free art license 1.3", "licence art libre",
        "licence art libre 1.3"), _OTHER["LAL-1.3"]),
    "mit": _OTHER["MIT"], "the mit": _OTHER["MIT"], "apache": _OTHER["Apache-2.0"],
    **dict.fromkeys(("public domain", "pd", "パブリックドメイン", "公有", "in the public domain", "著作権なし",
        "public domain work"), PUBLIC_DOMAIN),
    **dict.fromkeys(("著作権保護期間満了", "著作権の保護期間満了", "copyright expired"), PD_EXPIRED),
    # Smithsonian Open Access: online_media.media[].usage.access
    "usage conditions apply": SI_CONDITIONS,
}  # fmt: skip

# Words that say nothing about rights.
FILLERS = (
    "international", "unported", "generic", "universal", "license", "licence", "public license", "public licence", "deed",
    "legal code", "国際", "非移植", "一般", "ユニバーサル", "ライセンス", "パブリックライセンス",
)  # fmt: skip

# Wikimedia Commons: names of licence templates (lower case, `_` as blank) other than those of Creative Commons.
_US_AGENCIES = (
    "", "atf", "blm", "bor", "cia", "congress", "dea", "dhs", "dia", "doc", "doc-census", "doc-noaa", "dod", "doe", "doi",
    "doj", "dol", "dos", "dot", "dva", "education", "epa", "faa", "fbi", "fda", "federal reserve", "fema", "fsa", "fws",
    "gsa", "hhs", "hhs-cdc", "hhs-nih", "house", "interior", "interior-blm", "interior-fws", "interior-nps",
    "interior-usgs", "judiciary", "military", "military-air force", "military-army", "military-army-usace",
    "military-coast guard", "military-marines", "military-national guard", "military-navy", "military-space force",
    "nara", "nasa", "nga", "nih", "nist", "noaa", "nps", "nro", "nsa", "nsf", "nws", "potus", "senate", "state",
    "treasury", "usaid", "uscg", "usda", "usda-ars", "usda-fs", "usda-nrcs", "usgs", "usfs", "usfws", "va",
    "white house", "wh", "wpa",
)  # fmt: skip
_EXPIRED = names("""
    pd-1923 pd-1996 pd-anon-1923 pd-anon-70 pd-anon-70-eu pd-anon-expired pd-anon-auto-expired pd-japan pd-japan-oldphoto
    pd-old pd-old-50 pd-old-50-1923 pd-old-70 pd-old-70-1923 pd-old-70-1996 pd-old-70-expired pd-old-75 pd-old-80
    pd-old-80-expired pd-old-90 pd-old-90-expired pd-old-95 pd-old-100 pd-old-100-1923 pd-old-100-1996 pd-old-100-expired
    pd-old-assumed pd-old-assumed-expired pd-old-auto pd-old-auto-1923 pd-old-auto-1996 pd-old-auto-expired pd-uk-unknown
    pd-us pd-us-expired pd-us-expired-abroad pd-us-1978-89 pd-us-1996 pd-ussr pd-russia-expired pd-argentina-photo
    pd-sweden-photo pd-italy pd-france pd-canada pd-australia pd-china pd-india pd-mexico pd-austria
    """)
TEMPLATES: dict[str, License] = {
    **{f"pd-usgov-{agency}".rstrip("-"): US_GOVERNMENT for agency in _US_AGENCIES},
    **{name: US_GOVERNMENT for name in ("pd-nasa", "pd-usaf", "pd-usarmy", "pd-uscg", "pd-usmc", "pd-usn", "pd-usda")},
    **dict.fromkeys(_EXPIRED, PD_EXPIRED),
    **{name: PD_EXPIRED for name in ("pd-us-not renewed", "pd-us-no notice", "pd-us-no-notice")},
    **{name: PD_AUTHOR for name in ("pd-self", "pd-user", "pd-author", "pd-heirs", "pd-release", "pd-retouched-user")},
    **{name: PUBLIC_DOMAIN for name in (
        "pd", "pd-art", "pd-scan", "pd-ineligible", "pd-shape", "pd-text", "pd-textlogo", "pd-simple", "pd-because",
        "pd-reason", "pd-chart", "pd-logo", "pd-font", "pd-medical", "pd-map", "pd-gov", "pd-ukgov", "pd-loc",
    )},
    "cc0": CC0, "cc-zero": CC0, "cc-0": CC0, "cc-pd-mark": PDM, "cc-pd": PDDC,
    "flickr-no known copyright restrictions": NO_KNOWN, "no known copyright restrictions": NO_KNOWN,
    "gfdl": _OTHER["GFDL-1.2-or-later"], "gfdl-1.2": _OTHER["GFDL-1.2-only"], "gfdl-1.3": _OTHER["GFDL-1.3-only"],
    "fal": _OTHER["LAL-1.3"], "gpl": _OTHER["GPL-2.0-or-later"], "gplv2+": _OTHER["GPL-2.0-or-later"],
    "gplv3": _OTHER["GPL-3.0-or-later"], "mit": _OTHER["MIT"], "apache": _OTHER["Apache-2.0"], "odbl": ODBL,
    "attribution": ATTRIBUTION, "copyrighted free use": FREE_USE,
}  # fmt: skip


@cache
def known_licenses() -> dict[str, License]:
    """Return every identifier that this package can answer with, and other spellings, in lower case -> its licence."""
    licenses = [*_SINGLES, *_OTHER.values(), *RIGHTS_STATEMENTS.values(), *EUROPEANA.values()]
    for elements in [*COMBINATIONS, "nc", "nc-sa", "nd", "nc-nd", "sa"]:
        for version in ("", *VERSIONS):
            ports = ("", *PORTS.get(version, ()))
            licenses += filter(None, (creative_commons(elements, version, port) for port in ports))
    # SPDX names the Free Art License by its French initials; other sources, and the records of earlier versions, do not.
    return {license.id.lower(): license for license in licenses} | {"fal-1.3": _OTHER["LAL-1.3"]}
