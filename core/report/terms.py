"""LICENSES.md: how many works are under which licence, and what each asks of whoever uses the model or the data."""

from __future__ import annotations

from typing import NamedTuple

from commonart.core.licenses.license import PREFIX, License
from commonart.core.licenses.parse import normalize
from commonart.core.report.facts import Facts
from commonart.core.report.limits import FIELDS
from commonart.core.report.markdown import escaped, license_name, many, plain, table

NAME = "LICENSES.md"


class Asks(NamedTuple):
    """What a licence asks, in two languages."""

    english: str
    japanese: str


_NOTHING = Asks("nothing: the author gave up all rights", "なし（作者が権利を放棄）")
_BY = Asks(
    "name author, source and licence, and say what was changed: keep ATTRIBUTION with the model and its copies",
    "作者・出典・ライセンス・改変の表示。モデルとその複製に ATTRIBUTION を添える",
)
_UNKNOWN = Asks("not known here: read it before you use the work", "この表にない。利用前に原文を確認のこと")
# By the families of `licenses.license.License.family`.
ASKS: dict[str, Asks] = {
    "CC0": _NOTHING, "PDDL": _NOTHING,
    "CC-PDDC": Asks("nothing: dedicated to, or certified as, the public domain", "なし（パブリックドメイン）"),
    "CC-PDM": Asks("nothing known: marked as free of copyright, which is no promise", "既知の要件なし（保証ではない）"),
    "LicenseRef-US-Government-Work": Asks(
        "nothing in the United States (17 U.S.C. 105); other countries may protect the work",
        "米国内では要件なし（17 U.S.C. 105）。他国では保護されうる",
    ),
    "LicenseRef-Flickr-No-Known-Restrictions": Asks(
        "nothing known: the institution knows of no restriction, which is no promise", "既知の制限なし（保証ではない）"
    ),
    "CC-BY": _BY, "ODC-By": _BY,
    "CC-BY-SA": Asks(f"{_BY.english}; adaptations under the same licence", f"{_BY.japanese}。翻案は同じライセンスで"),
    "CC-BY-NC": Asks(f"{_BY.english}; no commercial use", f"{_BY.japanese}。営利利用不可"),
    "CC-BY-ND": Asks(f"{_BY.english}; adaptations may not be shared", f"{_BY.japanese}。翻案の共有不可"),
    "CC-BY-NC-SA": Asks(
        f"{_BY.english}; no commercial use, and adaptations under the same licence",
        f"{_BY.japanese}。営利利用不可、翻案は同じライセンスで",
    ),
    "CC-BY-NC-ND": Asks(
        f"{_BY.english}; no commercial use, and adaptations may not be shared",
        f"{_BY.japanese}。営利利用不可、翻案の共有不可",
    ),
}  # fmt: skip


def asks(license: License | None) -> Asks:
    """Return what a licence asks; of several at once, or of one of several, what all of them ask together."""
    if license is None:
        return _UNKNOWN
    parts = license.all_of or license.one_of or license.any_of
    if not parts:
        return ASKS.get(license.family, _UNKNOWN)
    each = list(dict.fromkeys(asks(part) for part in parts))
    how = (" or ", "または") if license.any_of else ("; and ", "かつ")
    return Asks(how[0].join(one.english for one in each), how[1].join(one.japanese for one in each))


def render(facts: Facts) -> str:
    """Return LICENSES.md."""
    rows = []
    for name, count in facts.licenses.items():
        license = normalize(name)
        shown = escaped(license_name(name)) or "not stated"
        linked = f"[{shown}]({license.url})" if license is not None and license.url else shown
        rows.append((linked, count, *asks(license)))
    lines = [
        f"# Licences of the works of {escaped(facts.name)} / 作品のライセンス", "",
        f"{many(facts.works, 'work')}, each with a line in [ATTRIBUTION](ATTRIBUTION){_lacking(facts)[0]}. /",
        f"全 {facts.works:,} 点。[ATTRIBUTION](ATTRIBUTION) に一点ずつ記した{_lacking(facts)[1]}。", "",
        *table(("licence / ライセンス", "works / 点数", "what it asks", "求められること"), rows),
        "Whether a trained model, or an image that it makes, is an adaptation of these works is not settled by law in most",
        "countries. ATTRIBUTION holds what the records state of each work; whether that is all that a licence asks for is for",
        "whoever publishes the model to judge. This table is a summary, not legal advice: the licences' own texts count.", "",
        "学習済みモデルや生成画像が元の作品の翻案に当たるかは、多くの国でまだ定まっていない。ATTRIBUTION には",
        "各作品の記録にある事項を記した。それでライセンスの求める表示が足りるかは、公開者が判断する。",
        "この表は要約であり、法的助言ではない。", "",
    ]  # fmt: skip
    if other := [name for name in facts.licenses if name.startswith(PREFIX)]:
        lines += [
            f"An id that begins with {PREFIX} is of a licence that the list of SPDX does not have. The records, ATTRIBUTION and",
            "the bills of materials write it so; here, in README.md and on the page it stands without that prefix. /",
            f"{PREFIX} で始まる識別子は SPDX の一覧にないライセンスを指す。記録・ATTRIBUTION・部品表ではこの形で書き、",
            "ここと README.md とページでは接頭辞を省く。", "",
            *table(("here / ここでの名前", "id / 識別子"), [(escaped(license_name(name)), f"`{plain(name)}`") for name in other]),
        ]  # fmt: skip
    if facts.conflicting:
        lines += [
            "## One image under different licences / 同じ画像に異なるライセンス", "",
            f"Images that are in the data more than once, under different licences: {facts.conflicting:,}"
            + (f" (the first {len(facts.conflicts):,}):" if facts.conflicting > len(facts.conflicts) else "."), "",
            *table(
                ("sha256", "keys", "licences"),
                [(f"`{c.sha256[:16]}`", escaped(", ".join(c.keys)), escaped(", ".join(map(license_name, c.licenses))))
                 for c in facts.conflicts],
            ),
        ]  # fmt: skip
    return "\n".join(lines)


def _lacking(facts: Facts) -> tuple[str, str]:
    """What ATTRIBUTION cannot say of how many works, in two languages; "" where it says all."""
    lacking = {name: facts.untraced[name] for name in FIELDS if name != "sha256" and facts.untraced.get(name)}
    if not lacking:
        return " with its author and its address", "（作者と所在を含む）"
    english = ", ".join(f"{count:,} without {FIELDS[name][0]}" for name, count in lacking.items())
    return f" ({english})", f"（{'、'.join(f'{FIELDS[name][1]}なし {count:,} 点' for name, count in lacking.items())}）"
