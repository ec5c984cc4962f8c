"""The licences and statements this toolchain knows by name, as tables.

    commonart license-filter --policy strict raw/

Creative Commons licences are a grammar (elements x version x port) and are built by `creative_commons`; everything
else is a row. Sources: the SPDX licence list 3.27, creativecommons.org, rightsstatements.org, Flickr's
`flickr.photos.licenses.getInfo`, opendatacommons.org, and the Smithsonian Open Access metadata model.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class License:
    """One normalised licence: `id` is an SPDX id or `LicenseRef-...`, `url` the canonical page ("" when none)."""

    id: str
    url: str
    basis: str  # licence | dedication | mark | statement | statute

    @property
    def family(self) -> str:
        """The id without version and port: `CC-BY` for `CC-BY-3.0-AT`, `LicenseRef-CC-BY-2.1-JP` and `CC-BY-4.0`."""
        name = self.id.removeprefix("LicenseRef-") if self.id.startswith("LicenseRef-CC-") else self.id
        return name.split("-1.")[0].split("-2.")[0].split("-3.")[0].split("-4.")[0]


# --- Creative Commons ------------------------------------------------------------------------------------------------

# The order in which Creative Commons writes the elements of a licence in its URLs.
ELEMENTS = ("by", "nc", "nd", "sa")
VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")

# Combinations that were ever published; those without `by` exist in version 1.0 alone.
COMBINATIONS = frozenset({"by", "by-nc", "by-nc-nd", "by-nc-sa", "by-nd", "by-sa"})
COMBINATIONS_1_0 = frozenset({"nc", "nc-sa", "nd", "nd-nc", "sa"})


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Jurisdictions that ported a licence, by version (creativecommons.org/licenses/list.en). 1.0 and 2.x ports are listed
# together because a port's text never widens what the licence allows; 4.0 has none.
PORTS_2 = _names("""
    ar at au be bg br ca ch cl cn co de dk es fi fr hr hu il in it jp kr mk mt mx my nl pe ph pl pt scotland se si tw uk
    us za
    """)
PORTS_3 = _names("""
    am at au az br ca ch cl cn cr cz de ec ee eg es fr ge gr gt hk hr ie igo it lu nl no nz ph pl pr pt ro rs sg th tw
    ug us ve vn za
    """)
PORTS = {"1.0": PORTS_2, "2.0": PORTS_2, "2.1": PORTS_2, "2.5": PORTS_2, "3.0": PORTS_3, "4.0": frozenset[str]()}

# Ported licences that SPDX lists; every other port becomes a LicenseRef.
SPDX_PORTED = _names("""
    CC-BY-2.5-AU CC-BY-3.0-AT CC-BY-3.0-AU CC-BY-3.0-DE CC-BY-3.0-IGO CC-BY-3.0-NL CC-BY-3.0-US CC-BY-NC-3.0-DE
    CC-BY-NC-ND-3.0-DE CC-BY-NC-ND-3.0-IGO CC-BY-NC-SA-2.0-DE CC-BY-NC-SA-2.0-FR CC-BY-NC-SA-2.0-UK CC-BY-NC-SA-3.0-DE
    CC-BY-NC-SA-3.0-IGO CC-BY-ND-3.0-DE CC-BY-SA-2.0-UK CC-BY-SA-2.1-JP CC-BY-SA-3.0-AT CC-BY-SA-3.0-DE CC-BY-SA-3.0-IGO
    """)


def creative_commons(elements: str, version: str = "", port: str = "") -> License | None:
    """The licence of a URL path such as `by-nc/3.0/at`; None when Creative Commons never published it.

    Without a version the family alone is known (`LicenseRef-CC-BY`): any version allows what the family allows.
    """
    parts = set(elements.split("-"))
    ordered = "-".join(part for part in ELEMENTS if part in parts)
    if len(parts) != len(elements.split("-")) or not parts <= set(ELEMENTS):
        return None
    if not version:
        return (
            License(f"LicenseRef-CC-{ordered.upper()}", "", "licence") if ordered in COMBINATIONS and not port else None
        )
    if version not in VERSIONS:
        return None
    if ordered not in COMBINATIONS:
        if version != "1.0" or port or elements not in COMBINATIONS_1_0 | {"nc-nd"}:
            return None
        ordered = "nd-nc" if ordered == "nc-nd" else ordered
    if port and port not in PORTS[version]:
        return None
    # Version 2.1 was only ever ported (Australia, Spain, Japan); the bare form is a mistake of the source.
    if version == "2.1" and not port:
        return None
    path = "by-nd-nc" if (ordered, version) == ("by-nc-nd", "1.0") else ordered
    name = f"CC-{ordered}-{version}".upper() + (f"-{port.upper()}" if port else "")
    listed = name in SPDX_PORTED if port else (ordered in COMBINATIONS or ordered == "sa")
    url = f"https://creativecommons.org/licenses/{path}/{version}/" + (f"{port}/" if port else "")
    return License(name if listed else f"LicenseRef-{name}", url, "licence")


# --- Everything else -------------------------------------------------------------------------------------------------

CC0 = License("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/", "dedication")
PDM = License("CC-PDM-1.0", "https://creativecommons.org/publicdomain/mark/1.0/", "mark")
PDDC = License("CC-PDDC", "https://creativecommons.org/licenses/publicdomain/", "dedication")
PDDL = License("PDDL-1.0", "https://opendatacommons.org/licenses/pddl/1-0/", "dedication")
ODC_BY = License("ODC-By-1.0", "https://opendatacommons.org/licenses/by/1-0/", "licence")
ODBL = License("ODbL-1.0", "https://opendatacommons.org/licenses/odbl/1-0/", "licence")
US_GOVERNMENT = License("LicenseRef-US-Government-Work", "https://www.usa.gov/government-works", "statute")
NO_KNOWN = License("LicenseRef-Flickr-No-Known-Restrictions", "https://www.flickr.com/commons/usage/", "statement")
RESERVED = License("LicenseRef-All-Rights-Reserved", "", "statement")
PUBLIC_DOMAIN = License("LicenseRef-Public-Domain", "", "statement")
SI_CONDITIONS = License("LicenseRef-Smithsonian-Usage-Conditions-Apply", "https://www.si.edu/termsofuse", "statement")

# rightsstatements.org vocabulary 1.0: statements about rights, never licences.
_STATEMENTS = _names("InC InC-OW-EU InC-EDU InC-NC InC-RUU NoC-CR NoC-NC NoC-OKLR NoC-US CNE UND NKC")
RIGHTS_STATEMENTS = {
    code.lower(): License(
        f"LicenseRef-RightsStatements-{code}-1.0", f"http://rightsstatements.org/vocab/{code}/1.0/", "statement"
    )
    for code in _STATEMENTS
}

# Licences that are met on images and are only named so that a drop can say what it dropped.
_NAMED = _names("""
    Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause FAL-1.3 GFDL-1.1 GFDL-1.2 GFDL-1.3 GPL-2.0 GPL-2.0-only
    GPL-2.0-or-later GPL-3.0 GPL-3.0-only GPL-3.0-or-later LGPL-2.1 LGPL-3.0 MIT OGL-UK-1.0 OGL-UK-2.0 OGL-UK-3.0
    Unlicense
    """)
OTHERS = tuple(License(name, f"https://spdx.org/licenses/{name}.html", "licence") for name in sorted(_NAMED))
SINGLES = (CC0, PDM, PDDC, PDDL, ODC_BY, ODBL, US_GOVERNMENT, NO_KNOWN, RESERVED, PUBLIC_DOMAIN, SI_CONDITIONS)


def _versioned(elements: str, version: str) -> License:
    found = creative_commons(elements, version)
    assert found is not None  # the two tables below are literals
    return found


# flickr.photos.licenses.getInfo: number -> licence. 0..10 since 2013, 11..16 (the 4.0 suite) since 2025.
FLICKR: dict[int, License] = {
    0:  RESERVED,
    1:  _versioned("by-nc-sa", "2.0"),
    2:  _versioned("by-nc", "2.0"),
    3:  _versioned("by-nc-nd", "2.0"),
    4:  _versioned("by", "2.0"),
    5:  _versioned("by-sa", "2.0"),
    6:  _versioned("by-nd", "2.0"),
    7:  NO_KNOWN,
    8:  US_GOVERNMENT,
    9:  CC0,
    10: PDM,
}  # fmt: skip
# The numbers of the 4.0 suite: the set is known, their order is not established, so the name or URL must say which.
FLICKR_4_0 = range(11, 17)

# Whole texts, compared after `parse.fold` (case, width, punctuation and blanks do not count) -> licence.
TEXTS: dict[str, License] = {
    # Creative Commons tools that are no licence
    "cc0": CC0, "cc 0": CC0, "cc zero": CC0, "creative commons zero": CC0, "creative commons 0": CC0,
    "public domain dedication cc0": CC0, "cc0 public domain dedication": CC0, "cc0 public domain": CC0,
    "creative commons cc0": CC0, "creative commons cc0 public domain dedication": CC0,
    "creative commons zero public domain dedication": CC0,
    "cc0 universal": CC0, "creative commons cc0 universal": CC0,
    "cc0 universal public domain dedication": CC0, "cc0 universal cc0 public domain dedication": CC0,
    "cc0 全世界": CC0, "クリエイティブコモンズ ゼロ": CC0,
    "creative commons cc0 universal public domain dedication": CC0,
    "クリエイティブコモンズ cc0": CC0, "cc0 パブリックドメイン提供": CC0,
    "public domain mark": PDM, "pdm": PDM, "cc pdm": PDM, "cc public domain mark": PDM,
    "creative commons public domain mark": PDM, "パブリックドメインマーク": PDM, "パブリックドメイン マーク": PDM,
    "cc pddc": PDDC, "cc public domain dedication and certification": PDDC,
    "public domain dedication and certification": PDDC,
    # Open Data Commons
    "pddl": PDDL, "odc pddl": PDDL, "open data commons public domain dedication and": PDDL,  # "license" is a filler
    "odc by": ODC_BY, "open data commons attribution": ODC_BY, "odbl": ODBL, "odc odbl": ODBL,
    "open data commons open database": ODBL, "open database": ODBL,
    # Flickr, as its interface and its programming interface have named them
    "attribution noncommercial sharealike license": FLICKR[1], "attribution noncommercial license": FLICKR[2],
    "attribution noncommercial noderivs license": FLICKR[3], "attribution license": FLICKR[4],
    "attribution sharealike license": FLICKR[5], "attribution noderivs license": FLICKR[6],
    "no known copyright restrictions": NO_KNOWN, "no known restrictions": NO_KNOWN, "既知の著作権制限なし": NO_KNOWN,
    "知られている著作権制限なし": NO_KNOWN,
    "united states government work": US_GOVERNMENT, "us government work": US_GOVERNMENT,
    "u s government work": US_GOVERNMENT,
    "work of the us government": US_GOVERNMENT, "work of the u s government": US_GOVERNMENT,
    "work of the united states government": US_GOVERNMENT, "us government works": US_GOVERNMENT,
    "アメリカ合衆国政府作品": US_GOVERNMENT, "アメリカ合衆国政府の著作物": US_GOVERNMENT,
    "米国政府著作物": US_GOVERNMENT,
    "米国政府の著作物": US_GOVERNMENT, "pd usgov": US_GOVERNMENT,
    "all rights reserved": RESERVED, "copyright all rights reserved": RESERVED,
    "in copyright": RIGHTS_STATEMENTS["inc"],
    "無断転載禁止": RESERVED, "無断転載を禁じます": RESERVED, "禁無断転載": RESERVED,
    # Wikimedia and others: a claim, without who makes it and why
    "public domain": PUBLIC_DOMAIN, "pd": PUBLIC_DOMAIN, "パブリックドメイン": PUBLIC_DOMAIN,
    "著作権なし": PUBLIC_DOMAIN,
    "著作権保護期間満了": PUBLIC_DOMAIN,
    # Smithsonian Open Access: online_media.media[].usage.access
    "usage conditions apply": SI_CONDITIONS,
}  # fmt: skip

# Words of a Creative Commons licence's name -> the element it stands for, in English and Japanese; longest first.
WORDS: tuple[tuple[str, str], ...] = (
    ("attribution", "by"), ("by", "by"), ("表示", "by"),
    ("non commercial", "nc"), ("noncommercial", "nc"), ("nc", "nc"), ("非営利", "nc"),
    ("no derivative works", "nd"), ("no derivatives", "nd"), ("noderivatives", "nd"), ("no derivs", "nd"),
    ("noderivs", "nd"), ("nd", "nd"), ("改変禁止", "nd"),
    ("share alike", "sa"), ("sharealike", "sa"), ("sa", "sa"), ("継承", "sa"),
)  # fmt: skip
# Names of jurisdictions as they stand in a licence's title -> port code of the URL.
PLACES = {
    "australia": "au", "austria": "at", "brazil": "br", "canada": "ca", "france": "fr", "germany": "de", "igo": "igo",
    "italy": "it", "japan": "jp", "日本": "jp", "netherlands": "nl", "new zealand": "nz", "spain": "es",
    "taiwan": "tw",
    "台湾": "tw", "uk": "uk", "us": "us", "united states": "us", "アメリカ合衆国": "us", "jp": "jp", "de": "de",
    "at": "at",
    "au": "au", "fr": "fr", "nl": "nl",
}  # fmt: skip
# Words that add nothing about rights.
FILLERS = (
    "international", "unported", "generic", "license", "licence", "public license",
    "国際", "非移植", "一般", "ライセンス",
)  # fmt: skip
