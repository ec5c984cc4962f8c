"""The languages that translators know, under the names that each of them gives them.

language_tokens(tokenizer.get_vocab())    # NLLB: {"ja": "jpn_Jpan", ...}; M2M100: "__ja__"; MADLAD: "<2ja>"; Marian: ">>jpn<<"
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# ISO 639-1, as captions and --to have it -> its name in a prompt, and its names of ISO 639-3 and of checkpoints.
_TABLE = {
    "ar": ("Arabic", "ara", "arb"), "bn": ("Bengali", "ben"), "cs": ("Czech", "ces"), "da": ("Danish", "dan"),
    "de": ("German", "deu"), "el": ("Greek", "ell"), "en": ("English", "eng"), "es": ("Spanish", "spa"),
    "fa": ("Persian", "fas", "pes"), "fi": ("Finnish", "fin"), "fr": ("French", "fra"), "he": ("Hebrew", "heb"),
    "hi": ("Hindi", "hin"), "hu": ("Hungarian", "hun"), "id": ("Indonesian", "ind"), "it": ("Italian", "ita"),
    "ja": ("Japanese", "jpn", "jap"), "ko": ("Korean", "kor"), "nl": ("Dutch", "nld"), "no": ("Norwegian", "nor", "nob"),
    "pl": ("Polish", "pol"), "pt": ("Portuguese", "por"), "ro": ("Romanian", "ron"), "ru": ("Russian", "rus"),
    "sv": ("Swedish", "swe"), "th": ("Thai", "tha"), "tr": ("Turkish", "tur"), "uk": ("Ukrainian", "ukr"),
    "vi": ("Vietnamese", "vie"), "zh": ("Chinese", "zho", "cmn"),
}  # fmt: skip
LANGUAGES = {code: names[0] for code, names in _TABLE.items()}
_CODES = {other: code for code, names in _TABLE.items() for other in (code, *names[1:])}
_TOKEN = re.compile(r"__([a-z]{2,3})__|<2([a-z]{2,3})>|>>([a-z]{2,4})<<|([a-z]{3})_[A-Z][a-z]{3}|([a-z]{2})_[A-Z]{2}")


def language_code(name: str | None) -> str:
    """Return the code of a language that a checkpoint calls `name`: jpn, jap -> ja; a name that is not known stays."""
    return _CODES.get(name or "", name or "")


def language_tokens(vocabulary: Iterable[str]) -> dict[str, str]:
    """Return the tokens of a vocabulary that stand for a language, by its code; of two scripts, the first in the alphabet."""
    found = {token: match for token in vocabulary if (match := _TOKEN.fullmatch(token))}
    tokens = {language_code(next(filter(None, found[token].groups()))): token for token in sorted(found, reverse=True)}
    return dict(sorted(tokens.items()))
