"""What a caption must be."""

from __future__ import annotations

import re


def clean(text: str, prompt: str) -> str:
    """Strip the prompt's echo and space."""
    return re.sub(r"\s+", " ", text.removeprefix(prompt)).strip()


def problem(text: str, *, lang: str, finished: bool, prompt: str = "") -> str:
    """Return why a caption is not kept: a reason code, or ""."""
    if not text:
        return "empty"
    if re.search(r"(.{2,40}?)\1{4,}", text):
        return "looping"
    return "" if finished else "cut_off"
