"""Which language a prompt or a caption is in, told by its script: the one answer for every stage.

lang_of("富士山")      # "ja"
lang_of("红色的圆形")  # "zh"
"""

from __future__ import annotations

import re

# Letters only: the middle dot and the long-vowel mark of the same block also stand in Chinese and Latin text.
_KANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d]")
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")


def lang_of(text: str) -> str:
    """Return "ja", "zh" or "en", the language that the text's script points to.

    Kana is Japanese. Han characters without kana are Japanese too, unless one of them is written in simplified Chinese
    only, or they are a name inside a text of Latin words. Everything else counts as English, the language of most
    captions. Traditional Chinese that has no such character cannot be told from Japanese.
    """
    if _KANA.search(text):
        return "ja"
    han = _HAN.findall(text)
    if not han or len(han) < len(_LATIN_WORD.findall(text)):
        return "en"
    return "zh" if any(map(_simplified_only, set(han))) else "ja"


def _simplified_only(character: str) -> bool:
    return _encodes(character, "gb2312") and not _encodes(character, "cp932")


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
