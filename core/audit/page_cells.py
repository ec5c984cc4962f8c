"""How the audit's page says a sentence in two languages, and how it writes numbers."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from commonart.core.audit import page_text as words
from commonart.core.audit.page_names import SHORT_JA, terms
from commonart.core.output.html import Number, Page

Result = Mapping[str, Any]  # the content of mia.json
EMBEDDED = "nano"  # the encoder of the package


def say(page: Page, result: Result, sentence: tuple[str, str], **values: Any) -> None:
    """Add a sentence in both languages, with what the members are called, and `values`, in its braces."""
    english, japanese = (text.format(**terms(result), level=result["level"], **values) for text in sentence)
    page.text(english)
    page.text(japanese, lang="ja")


def found(page: Page, result: Result, found: Mapping[str, Any], **values: Any) -> None:
    """Add the verdict of a part of the audit, where it has one; `values` in the braces of its sentence."""
    if "verdict" in found:
        shown = "" if found["verdict"] == "groups differ" else p(found["p_value"])
        page.text(f"Verdict: {found['verdict']}{shown and f' (p {shown})'}.", strong=True)
        page.text(f"判定：{SHORT_JA[found['verdict']]}{shown and f'（p {shown}）'}", lang="ja", strong=True)
        say(page, result, words.PARTS[found["verdict"]], **values)


def judge(part: Mapping[str, Any]) -> dict[str, str]:
    """Return who judged likeness, in both languages; the embedded encoder and the embedded model have one name."""
    name = f"{part['judge']}, {part['judge_revision']}"
    return {"judge": f"image encoder {name}", "judge_ja": f"画像エンコーダ {name}"}


def p(value: float) -> Number:
    """Return a p-value with three digits after the point, or as many as it takes to see it."""
    return Number(f"{value:.3f}" if value >= 0.0005 else f"{value:.3g}")


def percent(value: float) -> Number:
    """Return "11.3 %" of 0.1125: half is rounded up, as by hand."""
    return Number(f"{Decimal(repr(100 * value)).quantize(Decimal('0.1'), ROUND_HALF_UP)} %")


def share(values: Mapping[str, float]) -> Number:
    """Return "11.3 % [5.3 %, 20.3 %]"."""
    return Number(f"{percent(values['value'])} [{percent(values['low'])}, {percent(values['high'])}]")


def interval(values: Mapping[str, float] | None) -> Number:
    """Return "0.500 [0.400, 0.600]", and a dash for what could not be measured."""
    return Number("-" if values is None else f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]")


def spread(values: Mapping[str, float]) -> Number:
    """Return "0.500 (0.400 to 0.600)"."""
    return Number(f"{values['mean']:.3f} ({values['low']:.3f} to {values['high']:.3f})")


def decimal(value: float) -> Number:
    """Return "0.500", with as many digits as the numbers beside it."""
    return Number(f"{value:.3f}")
