"""Web addresses that name a licence: deeds and legal codes in every version, port and language, badges, statements.

The whole address must match: a page that only mentions a licence does not name one.
"""

import re

from commonart.core.licenses import table
from commonart.core.licenses.creative_commons import creative_commons
from commonart.core.licenses.license import License
from commonart.core.licenses.table import CC0, PDDC, PDM, known_licenses

_LEAD = r"(?:https?:)?(?://)?(?:www\.)?"
# The languages of deeds and legal codes: named one by one, or "deed.ja-nc" would be one more.
_LANGUAGE = r"""(?:
    af|an|ar|ast|az|be|bg|bn|br|bs|ca|cs|cy|da|de|de_at|de_ch|el|en|en[-_]ca|en[-_]gb|en[-_]us|eo|es|es[-_]ar|es[-_]cl|
    es[-_]co|es[-_]ec|es[-_]es|es[-_]gt|es[-_]mx|es[-_]pe|es[-_]pr|es[-_]ve|et|eu|fa|fi|fil|fr|fr[-_]ca|fr[-_]ch|fr[-_]lu|
    fy|ga|gl|he|hi|hr|hu|hy|id|is|it|it[-_]ch|ja|jv|ka|kk|km|ko|lt|lv|mi|mk|ms|mt|my|nb|nl|nn|no|nso|oc|oc-aranes|oci|pl|
    pt|pt[-_]br|pt[-_]pt|ro|ru|si|sk|sl|sq|sr|sr[-_]cyrl|sr[-_@]latn|st|sv|sw|ta|te|th|tk|tl|tr|uk|ur|vi|zh|zh[-_]cn|
    zh[-_]hans|zh[-_]hant|zh[-_]hk|zh[-_]tw|zu)""".replace("\n    ", "")
_PAGE = rf"(?:(?:deed|legalcode)(?:\.{_LANGUAGE})?(?:\.html)?|legalcode\.txt|legalcode-plain|rdf)"
# The harmless ways in which tools mark a link.
_QUERY = rf"(?:\?(?:ref=[\w.-]*|lang={_LANGUAGE})?)?(?:#[\w.-]*)?"
_TAIL = rf"/?(?:(?<=/){_PAGE}/?)?{_QUERY}"


def _address(pattern: str) -> re.Pattern[str]:
    return re.compile(_LEAD + pattern, re.ASCII)


_CC = r"creativecommons\.org/"
_CC_LICENCE = _address(
    _CC + r"licenses/([a-z]{2}(?:-[a-z]{2}){0,3})(?:/(\d\.\d)(?:/([a-z]{2,8}(?<!deed)(?<!rdf)))?)?" + _TAIL
)
_CC_PUBLIC = _address(
    _CC + r"(?:publicdomain/(zero|mark)/1\.0|(licenses/publicdomain|publicdomain/certification/1\.0/us))" + _TAIL
)
_CC_SAMPLING = _address(_CC + r"licenses/(sampling|sampling\+|nc-sampling\+)/1\.0(?:/(?:br|de|tw))?" + _TAIL)
# The badge itself: i.creativecommons.org/l/by/4.0/88x31.png.
_CC_BADGE = _address(
    r"(?:i\.creativecommons\.org|licensebuttons\.net)/(?:l/([a-z]{2}(?:-[a-z]{2}){0,3})/(\d\.\d)(?:/([a-z]{2,8}))?"
    r"|[lp]/(zero|mark)/1\.0)/\d\dx\d\d\.png"
)
_RIGHTS = _address(r"rightsstatements\.org/(?:vocab|page|data)/([a-z-]{3,9})/1\.0/?(?:\?language=\w\w)?")
_EUROPEANA = _address(r"europeana\.eu/(?:portal/)?rights/([a-z-]{4,40})(?:/|\.html)?")
_PAGES: tuple[tuple[re.Pattern[str], License], ...] = tuple(
    (_address(pattern), license)
    for pattern, license in (
        (r"opendatacommons\.org/licenses/pddl(?:/1[-.]0)?(?:/|\.html)?", table.PDDL),
        (r"opendatacommons\.org/licenses/by(?:/1[-.]0)?(?:/|\.html)?", table.ODC_BY),
        (r"opendatacommons\.org/licenses/odbl(?:/1[-.]0)?(?:/|\.html)?", table.ODBL),
        (r"flickr\.com/commons/usage/?", table.NO_KNOWN),
        (r"usa\.gov/(?:copyright\.shtml|government-works|government-copyright)/?", table.US_GOVERNMENT),
        (r"en\.wikipedia\.org/wiki/public_domain", table.PUBLIC_DOMAIN),
    )
)
_SPDX = _address(r"spdx\.org/licenses/([a-z0-9.+-]+?)(?:\.html|\.json)?/?")
# Pages of a work or of a data set: some sources put one where the licence belongs, and it says nothing about rights.
WORK_PAGE = re.compile(
    r"https?://(?:www\.)?(?:flickr\.com/photos/[\w@.-]+/\d+/?|commons\.wikimedia\.org/wiki/File:\S+"
    r"|huggingface\.co/datasets/[\w.-]+/[\w.-]+/?)",
    re.IGNORECASE,
)


def from_url(url: str) -> License | None:
    """Return the licence of an address in lower case, or None."""
    if match := _SPDX.fullmatch(url):
        return known_licenses().get(match[1])
    if match := _CC_LICENCE.fullmatch(url):
        return creative_commons(match[1], match[2] or "", match[3] or "")
    if match := _CC_PUBLIC.fullmatch(url):
        return PDDC if match[2] else CC0 if match[1] == "zero" else PDM
    if match := _CC_SAMPLING.fullmatch(url):
        return table.SAMPLINGS[match[1]]
    if match := _CC_BADGE.fullmatch(url):
        if match[4]:
            return CC0 if match[4] == "zero" else PDM
        return creative_commons(match[1], match[2], match[3] or "")
    if match := _RIGHTS.fullmatch(url):
        return table.RIGHTS_STATEMENTS.get(match[1])
    if match := _EUROPEANA.fullmatch(url):
        return table.EUROPEANA.get(match[1])
    return next((license for pattern, license in _PAGES if pattern.fullmatch(url)), None)
