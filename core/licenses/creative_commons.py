"""Creative Commons licences as a grammar: elements x version x port, and the names of each in URLs and titles.

Source: Creative Commons' own table of its legal tools (creativecommons/cc-legal-tools-data, config/cc-legal-tools.csv),
and the SPDX licence list 3.27 for which of them have an SPDX id.
"""

from commonart.core.licenses.license import License

# The order in which Creative Commons writes the elements of a licence in its URLs.
ELEMENTS = ("by", "nc", "nd", "sa")
VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")

# Combinations that were ever published; those without `by` exist in version 1.0 alone.
COMBINATIONS = frozenset({"by", "by-nc", "by-nc-nd", "by-nc-sa", "by-nd", "by-sa"})
COMBINATIONS_1_0 = frozenset({"nc", "nc-sa", "nd", "nd-nc", "sa"})


def names(text: str) -> frozenset[str]:
    """Return the words of a literal as a set."""
    return frozenset(text.split())


# Jurisdictions that ported a licence, by version.
PORTS = {
    "1.0": names("fi il nl"),
    "2.0": names("at au be br ca cl de es fr hr it jp kr nl pl tw uk za"),
    "2.1": names("au ca es jp"),
    "2.5": names("ar au bg br ca ch cn co dk es hr hu il in it mk mt mx my nl pe pl pt scotland se si tw za"),
    "3.0": names("""
        am at au az br ca ch cl cn cr cz de ec ee eg es fr ge gr gt hk hr ie igo it lu nl no nz ph pl pr pt ro rs sg th
        tw ug us ve vn za
        """),
    "4.0": frozenset[str](),
}

# Ported licences that SPDX lists; every other port becomes a LicenseRef.
SPDX_PORTED = names("""
    CC-BY-2.5-AU CC-BY-3.0-AT CC-BY-3.0-AU CC-BY-3.0-DE CC-BY-3.0-IGO CC-BY-3.0-NL CC-BY-3.0-US CC-BY-NC-3.0-DE
    CC-BY-NC-ND-3.0-DE CC-BY-NC-ND-3.0-IGO CC-BY-NC-SA-2.0-DE CC-BY-NC-SA-2.0-FR CC-BY-NC-SA-2.0-UK CC-BY-NC-SA-3.0-DE
    CC-BY-NC-SA-3.0-IGO CC-BY-ND-3.0-DE CC-BY-SA-2.0-UK CC-BY-SA-2.1-JP CC-BY-SA-3.0-AT CC-BY-SA-3.0-DE CC-BY-SA-3.0-IGO
    """)

# Jurisdictions as a licence's title names them, after `parse.simplify` -> port code of the URL.
JURISDICTIONS = {
    "argentina": "ar", "armenia": "am", "australia": "au", "austria": "at", "azerbaijan": "az", "belgium": "be",
    "brazil": "br", "bulgaria": "bg", "canada": "ca", "chile": "cl", "china mainland": "cn", "mainland china": "cn",
    "colombia": "co", "costa rica": "cr", "croatia": "hr", "czech republic": "cz", "denmark": "dk", "ecuador": "ec",
    "egypt": "eg", "england and wales": "uk", "england & wales": "uk", "estonia": "ee", "finland": "fi", "france": "fr",
    "georgia": "ge", "germany": "de", "greece": "gr", "guatemala": "gt", "hong kong": "hk", "hungary": "hu",
    "india": "in", "intergovernmental organisation": "igo", "intergovernmental organization": "igo", "ireland": "ie",
    "israel": "il", "italy": "it", "japan": "jp", "luxembourg": "lu", "macedonia": "mk", "malaysia": "my", "malta": "mt",
    "mexico": "mx", "netherlands": "nl", "new zealand": "nz", "norway": "no", "peru": "pe", "philippines": "ph",
    "poland": "pl", "portugal": "pt", "puerto rico": "pr", "romania": "ro", "serbia": "rs", "singapore": "sg",
    "slovenia": "si", "south africa": "za", "south korea": "kr", "korea": "kr", "spain": "es", "sweden": "se",
    "switzerland": "ch", "taiwan": "tw", "thailand": "th", "uganda": "ug", "uk england & wales": "uk",
    "uk england and wales": "uk", "uk scotland": "scotland", "united kingdom": "uk", "united states": "us",
    "venezuela": "ve", "vietnam": "vn",
    "日本": "jp", "台湾": "tw", "アメリカ合衆国": "us", "アメリカ": "us", "米国": "us", "ドイツ": "de", "フランス": "fr",
    "オーストラリア": "au", "カナダ": "ca", "イギリス": "uk", "スペイン": "es", "イタリア": "it", "韓国": "kr",
}  # fmt: skip
# The codes themselves; `no` is left out because a text that ends in "no" may also say no.
JURISDICTIONS |= {code: code for codes in PORTS.values() for code in codes if code != "no"}

# Words of a licence's name, after `parse.simplify` -> the element that they stand for.
ELEMENT_NAMES = {
    "attribution": "by", "by": "by", "表示": "by", "帰属": "by", "アトリビューション": "by",
    "non commercial": "nc", "noncommercial": "nc", "nc": "nc", "非営利": "nc", "ノンコマーシャル": "nc",
    "no derivative works": "nd", "no derivatives": "nd", "noderivatives": "nd", "no derivs": "nd", "noderivs": "nd",
    "noderivativeworks": "nd", "nd": "nd", "改変禁止": "nd", "派生禁止": "nd", "ノーデリブス": "nd",
    "share alike": "sa", "sharealike": "sa", "sa": "sa", "継承": "sa", "同一条件許諾": "sa", "シェアアライク": "sa",
}  # fmt: skip


def creative_commons(elements: str, version: str = "", port: str = "") -> License | None:
    """Return the licence of a URL path such as `by-nc/3.0/at`; None when Creative Commons never published it.

    Without a version the family alone is known (`LicenseRef-CC-BY`): any version allows what the family allows.
    """
    names = elements.split("-")
    ordered = "-".join(element for element in ELEMENTS if element in names)
    if len(set(names)) != len(names) or not set(names) <= set(ELEMENTS):
        return None
    if not version:
        family = License(f"LicenseRef-CC-{ordered.upper()}", "", "licence")
        return family if ordered in COMBINATIONS and not port else None
    if version not in VERSIONS or (port and port not in PORTS[version]):
        return None
    if ordered not in COMBINATIONS:
        if version != "1.0" or port == "il" or elements not in COMBINATIONS_1_0 | {"nc-nd"}:
            return None
        ordered = "nd-nc" if ordered == "nc-nd" else ordered
    # Version 2.1 was only ever ported; the bare form is a mistake of the source.
    if version == "2.1" and not port:
        return None
    path = "by-nd-nc" if (ordered, version) == ("by-nc-nd", "1.0") else ordered
    name = f"CC-{ordered}-{version}".upper() + (f"-{port.upper()}" if port else "")
    listed = name in SPDX_PORTED if port else (ordered in COMBINATIONS or ordered == "sa")
    url = f"https://creativecommons.org/licenses/{path}/{version}/" + (f"{port}/" if port else "")
    return License(name if listed else f"LicenseRef-{name}", url, "licence")
