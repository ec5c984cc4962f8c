"""Whether a generated caption or translation is fit to train on: a reason code, or "".

    commonart caption --model qwen2-vl raw/ -o captioned/    # "missing": {"looping": 12, "refusal": 3} in its summary

What a sign in the picture says may be in any language and say anything, so text in quotation marks is not judged. How
often these rules are right is measured in tests/benchmarks/README.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from commonart.core.data.text import count_scripts, language_of, language_scores
from commonart.core.model.captioning import phrases
from commonart.core.model.captioning.numerals import lost_number

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_HAS_WORD = re.compile(r"[^\W\d_ー]{2}|[\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uac00-\ud7af]")
_WRAPS = {'"': '"', "“": "”", "「": "」", "『": "』", "'": "'", "`": "`"}
_ASIDE = re.compile(r"\([^()]{1,60}\)|（[^（）]{1,60}）")
_THINKING = re.compile(r"^<think>.*?</think>\s*")  # of a server that does not take it out
DENSITY = 2.2  # letters of English that say what one kana or kanji does, as in translated captions


def clean(text: str, prompt: str = "") -> str:
    """Return a generated text on one line, without prompt echo, boilerplate opening and emphasis.

    Markup that orders the text (headings, labels, lists, tags) stays, and is a `problem`.

    Args:
        prompt: what the model was asked.
    """
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<=[。！？、」])\s", "", text)
    for echo in (prompt.strip(), _instruction(prompt)):
        if echo and text.casefold().startswith(echo.casefold()):
            text = text[len(echo) :].lstrip(" :.")
    text = _THINKING.sub("", text)
    text = phrases.EDGES.sub("", text)
    if not phrases.STRUCTURE.search(text):
        text = phrases.EMPHASIS.sub(r"\2", text)
    before = ""
    while text and text != before:
        before = text
        if _WRAPS.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
            text = text[1:-1].strip()
        if opening := phrases.OPENING.match(text):
            text = text[opening.end() :]
            text = text[:1].upper() + text[1:] if before[0].isupper() else text
    return text


def problem(text: str, *, lang: str, finished: bool, prompt: str = "") -> str:
    """Return why a caption is not kept: empty, looping, refusal, prompt_leaked, markup, wrong_language, cut_off; or "".

    Args:
        text: as `clean` returns it.
        lang: the language that was asked for.
        finished: the model ended the text itself.
        prompt: what the model was asked.
    """
    if not _HAS_WORD.search(text):
        return "empty" if finished else "cut_off"
    own = _without_quotes(text)
    if loops(own) or (2 * len(own) < len(text) and loops(text)):
        return "looping"
    if phrases.REFUSAL.search(own):
        return "refusal"
    if phrases.LEAK.search(own) or _shares_a_piece(own, _instruction(prompt)):
        return "prompt_leaked"
    if phrases.MARKUP.search(own) or phrases.MARKUP.match(text):
        return "markup"
    if not is_written_in(own, lang):
        return "wrong_language"
    return "" if finished else "cut_off"


def translation_problem(text: str, original: str, source: str, target: str, *, finished: bool) -> str:
    """Return why a translation is not kept: as `problem`, and unchanged, too_long, too_short, lost_number, answer; or "".

    What the original does itself (a list that repeats itself, a sign that apologises) is no problem of its translation.
    """
    if not _HAS_WORD.search(text):
        return "empty"
    if source != target and _letters(text) == _letters(original):
        return "unchanged"
    own, given = _without_quotes(text), _without_quotes(original)
    if loops(own) and not loops(given):
        return "looping"
    tables = {
        "refusal": phrases.REFUSAL,
        "prompt_leaked": phrases.LEAK,
        "answer": phrases.ANSWER,
        "markup": phrases.MARKUP,
    }
    for reason, table in tables.items():
        if table.search(own) and not table.search(original):
            return reason
    if target == "ja" and phrases.ROMAJI.search(own) and "(" not in original:
        return "answer"
    size, expected = _size(text), _size(original)
    if size > 2.5 * expected + 24:
        return "too_long"
    if size < 0.4 * expected - 4:
        return "too_short"
    if not is_written_in(own, target):
        return "wrong_language"
    if lost_number(original, text, source, target):
        return "lost_number"
    return "" if finished else "cut_off"


def _without_quotes(text: str) -> str:
    own = phrases.QUOTED.sub(" ", text)
    return own if _HAS_WORD.search(own) else text


def _letters(text: str) -> str:
    return "".join(_WORD.findall(text.casefold()))


def _size(text: str) -> float:
    """The letters that a text would have in English, about."""
    scripts = count_scripts(text)
    return len(text) + (DENSITY - 1) * (scripts.kana + scripts.han + scripts.hangul)


def _instruction(prompt: str) -> str:
    """The words of a prompt, without its task tokens, image tokens and names of speakers."""
    return re.sub(r"<[^<>]*>|\b(?:USER|ASSISTANT|Question|Answer)\s*:", " ", prompt).strip()


def _shares_a_piece(text: str, prompt: str) -> bool:
    """Whether a text holds five words in a row of its prompt, or twelve characters of a Japanese one."""
    if language_of(prompt) == "ja":
        return any(prompt[i : i + 12] in text for i in range(len(prompt) - 11))
    words, asked = f" {' '.join(_WORD.findall(text.casefold()))} ", _WORD.findall(prompt.casefold())
    return any(f" {' '.join(asked[i : i + 5])} " in words for i in range(len(asked) - 4))


# -- loops -------------------------------------------------------------------------------------------------------------

_LETTERS_AGAIN = re.compile(r"([^\W\d]{1,4}?)\1{15,}|([にのを])\2{2,}")
_WORDS_AGAIN = re.compile(r"(?<!\S)((?:\S+ ){1,20}?)\1{2,}")
_CHARACTERS_AGAIN = re.compile(r"(.{1,40}?)\1{2,}")
_SENTENCE = re.compile(r"[.!?。！？]+\s*")
_CLAUSE = re.compile(r"[,.!?;。！？、，]+\s*")


def loops(text: str) -> bool:
    """Return whether a text says the same again and again, as greedy decoding does.

    It is counted in words, in Japanese in characters. A list may repeat its words (a red cup, a blue cup, a green cup),
    a sentence may not be repeated.
    """
    japanese = language_of(text) in ("ja", "zh")
    words = _WORD.findall(text.casefold())
    units: Sequence[str] = "".join(words) if japanese else words
    if _LETTERS_AGAIN.search(text) or _repeats_in_place(units, japanese):
        return True
    # Sentences and clauses that come again apart from each other: (how often, at least how long).
    short, long = (6, 16) if japanese else (3, 8)
    for splitter, limits in ((_SENTENCE, ((3, short), (2, long))), (_CLAUSE, ((4, short + 2),))):
        for part, count in Counter(part.casefold() for part in splitter.split(text)).items():
            size = len(part) if japanese else len(part.split())
            if any(count >= times and size >= least for times, least in limits):
                return True
    # And all that goes on with other numbers or words in between.
    width = 8 if japanese else 4
    if len(units) < 5 * width:
        return False
    # Few words in ever other orders: of 50 in a row, a long caption has 32 different ones at the least.
    if not japanese and any(len(set(words[i : i + 50])) < 20 for i in range(len(words) - 49)):
        return True
    alike = [re.sub(r"\d+", "0", unit) for unit in units]
    pieces = [tuple(alike[i : i + width]) for i in range(len(alike) - width + 1)]
    return len(set(pieces)) < 0.45 * len(pieces)


def _repeats_in_place(units: Sequence[str], japanese: bool) -> bool:
    line = units if isinstance(units, str) else "".join(f"{unit} " for unit in units)
    for match in (_CHARACTERS_AGAIN if japanese else _WORDS_AGAIN).finditer(line):
        piece, run = (len(part) if japanese else part.count(" ") for part in (match[1], match[0]))
        times, most = run // piece, 2 * run > len(units)
        if japanese:
            again = run >= 12 and times >= (3 if piece >= 6 else 4)
        else:
            again = times >= (3 if piece >= 3 else 4 if piece == 2 else 5) or (most and len(units) > 3)
        if again or (most and times >= 4 and 8 * piece > len(units)):
            return True
    return False


# -- languages ---------------------------------------------------------------------------------------------------------


def is_written_in(text: str, lang: str) -> bool:
    """Return whether a text is in a language; names and single words of others may stand in it.

    The script decides where it can, the identifier where it is sure: of two words it seldom is.
    """
    aside = _ASIDE.sub(" ", text)
    text = aside if _HAS_WORD.search(aside) else text
    scripts = count_scripts(text)
    east = scripts.kana + scripts.han
    if lang == "ja":
        foreign = scripts.hangul + scripts.other
        if east <= scripts.latin_words or foreign > east or len(phrases.ENGLISH.findall(text)) > 4:
            return False
        return 8 * scripts.kana >= east or not is_chinese(text)
    if lang in ("zh", "ko"):
        return language_of(text, lang) == lang
    foreign = east + scripts.hangul + scripts.other
    if not scripts.latin_words or foreign > 2 * scripts.latin_words or (foreign and re.search("[。，]", text)):
        return False
    words = _WORD.findall(text.casefold())
    found, score = max(language_scores(" ".join(words)).items(), key=lambda entry: entry[1], default=(lang, 0.0))
    if found == lang or (lang == "en" and 6 * len(phrases.ENGLISH.findall(text)) >= len(words)):
        return True
    return score < (0.9 if len(words) < 5 else 0.7 if len(words) < 10 else 0.5)


def is_chinese(text: str) -> bool:
    """Return whether Han characters with few kana or none are Chinese, in traditional characters too."""
    if language_of(text) != "ja":
        return True
    han = re.sub("[A-Za-z]+", " ", text)
    hits = sum(map(han.count, phrases.CHINESE))
    scores = language_scores(han)
    return hits > 1 or (len(han) > 5 and (hits > 0 or len(han) > 12) and scores.get("zh", 0.0) > scores.get("ja", 0.0))
