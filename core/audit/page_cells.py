"""How the audit's page says a sentence in two languages, and how it writes numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonart.core.audit import page_text as words
from commonart.core.audit.page_text import terms
from commonart.core.output.html import Page

Result = Mapping[str, Any]  # the content of mia.json


def say(page: Page, result: Result, sentence: tuple[str, str], *, strong: bool = False, **values: Any) -> None:
    """Add a sentence in both languages, with what the members are called, and `values`, in its braces."""
    english, japanese = (text.format(**terms(result), **values) for text in sentence)
    page.text(english, strong=strong)
    page.text(japanese, lang="ja", strong=strong)


def found(page: Page, result: Result, found: Mapping[str, Any]) -> None:
    """Add the verdict of a part of the audit, where it has one."""
    if "verdict" in found:
        page.text(f"Verdict: {found['verdict']} (p {p(found['p_value'])}).", strong=True)
        page.text(f"判定：{words.SHORT_JA[found['verdict']]}", lang="ja", strong=True)
        say(page, result, words.VERDICTS[found["verdict"]])


def verdict(name: str) -> str:
    """Return a verdict in both languages."""
    return f"{name} / {words.SHORT_JA[name]}"


def p(value: float) -> str:
    """Return a p-value with three digits after the point, or as many as it takes to see it."""
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.3g}"


def interval(values: Mapping[str, float] | None) -> str:
    """Return "0.500 [0.400, 0.600]", and a dash for what could not be measured."""
    return "-" if values is None else f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


def mean(values: Mapping[str, float] | None) -> str:
    """Return "0.500 (0.400 to 0.600)", and a dash for what could not be measured."""
    return "-" if not values else f"{values['mean']:.3f} ({values['low']:.3f} to {values['high']:.3f})"
