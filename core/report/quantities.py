"""Numbers as people read them: few digits, no exponent in ASCII, a unit."""

from __future__ import annotations

from decimal import Decimal

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS = {"d": ("days", "日"), "h": ("hours", "時間"), "min": ("minutes", "分"), "s": ("seconds", "秒")}


def share(part: float) -> str:
    """Return a percentage."""
    return f"{100 * part:.1f} %"


def amount(value: float) -> str:
    """Return a number in three digits, without an exponent."""
    return f"{Decimal(f'{value:.3g}'):,f}"


def power(value: float, digits: int = 2) -> str:
    """Return a large or small number in a few digits and a power of ten, as 5.6 × 10¹²."""
    head, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{head}\u00a0×\u00a010{str(int(exponent)).translate(SUPERSCRIPT)}"


def duration(seconds: float) -> tuple[str, str]:
    """Return a time, in English and in Japanese, in the largest unit of which it has at least one and a half."""
    unit, length = next(((u, n) for u, n in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= 1.5 * n), ("s", 1))
    number = f"{seconds / length:,.1f}" if length > 1 else amount(seconds) if seconds < 1 else f"{seconds:,.0f}"
    return f"{number} {UNITS[unit][0]}", f"{number} {UNITS[unit][1]}"


def rounded(number: float) -> tuple[str, str]:
    """Return a large number in three digits, in English and in Japanese: 2.18 million, 218 万."""
    english = f"{number / 1e9:.3g} billion" if number >= 1e9 else f"{number / 1e6:.3g} million"
    japanese = f"{number / 1e8:.3g} 億" if number >= 1e8 else f"{number / 1e4:.3g} 万"
    return (english, japanese) if number >= 1e6 else (f"{number:,.0f}",) * 2
