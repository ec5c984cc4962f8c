"""What captioners and translators say beside what they were asked for: the tables that the guards search.

    OPENING.match("The image shows a cat")      # boilerplate at the start, which is taken off
    REFUSAL.search("申し訳ありませんが、できません")    # says that there is no caption

Patterns ignore blanks and line ends in their text, as `re.VERBOSE` does.
"""

from __future__ import annotations

import re

SPECIAL = r"(?: <\|[\w.-]{1,30}\|> | </?s> | <pad> | <unk> | <image> )"
_PICTURE = r"(?:image|picture|photo|photograph)"
_SHOWS = r"""(?: shows? | depicts? | features? | displays? | captures? | presents? | portrays? | showcases? | contains?
    | illustrates? | represents? | consists\s+of | showing | depicting )"""
_THIS_JA = "(?:この|こちらの|提供された)"


def _any(*patterns: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.VERBOSE | flags)


EDGES = _any(rf"^ (?: {SPECIAL} \s* )+", rf"(?: \s* {SPECIAL} )+ $")
EMPHASIS = re.compile(r"(\*\*|__|\*|`)(?=[^\s*_`])([^*_`]{1,200}?)(?<=\S)\1")
QUOTED = _any(
    r'"[^"]{1,80}"', r"“[^”]{1,80}”", r"«[^»]{1,80}»", r"「[^」]{1,80}」", r"『[^』]{1,80}』",
    r"(?<!\w)'[^']{1,80}'(?!\w)", r"(?<!\w)‘[^’]{1,80}’(?!\w)",
)  # fmt: skip
OPENING = _any(
    r"(?: sure | certainly | of\s+course | absolutely ) \s*[!,.:]+\s*",
    r"here (?:'s|’s|\s+is) \s [^:.]{0,60} \b (?:captions?|descriptions?|paragraph|sentence|translations?) \b [^:.]{0,60} :\s*",
    r"(?: assistant | answer | caption | description | response | output | translation | a"
    r" | (?:japanese|english)(?:\s+translation)? ) \s*:\s+",
    rf"(?:the|this|an?) \s+ (?:(?:provided|given|attached)\s+)? {_PICTURE} \s+"
    rf" (?:(?:prominently|clearly|primarily|appears\s+to)\s+)? {_SHOWS} (?:\s+|$) (?! (?:that|how|what|why|where|off)\b )",
    rf"(?:the|this) \s+ {_PICTURE} \s+is\s+ (?= (?:an?|the)\s+ (?:[\w-]+\s+){{1,6}}? (?:of|showing|depicting|featuring|taken)\b )",
    rf"(?:the|this) \s+ {_PICTURE} \s+is\s+of\s+",
    rf"in\s+(?:the|this)\s+ {_PICTURE} (?: ,\s* | \s+(?= (?:there|we|you|an?|the)\b ) )"
    r" (?: (?:we|you|one)\s+can\s+see\s+ (?! (?:that|how)\b ) )?",
    r"(?: an? | the | this\s+is\s+an? ) \s+ (?:image|picture|photo) \s+of\s+",
    r"はい[、。]\s*",
    r"(?: 以下[はにが] | こちら[はが] ) [^。：:]{0,30} (?:説明|翻訳|キャプション|訳) [^。：:、]{0,12} [：:。]\s*",
    r"(?: 説明文? | キャプション | 翻訳(?:結果|文)? | 日本語訳? | 和訳 | 英訳 | 訳文? | 回答 | 答え ) \s*[：:]\s*",
    rf"{_THIS_JA}? (?:画像|写真) に (?:写|映) っている [のも]の?は [、，]?\s*",
    rf"{_THIS_JA} (?:画像|写真) (?:の中)? (?: には | では | は | に ) [、，]?\s*",
    r"(?:画像|写真) (?:の中)? (?: には | では ) [、，]?\s*",
)  # fmt: skip
REFUSAL = _any(
    r"\bI (?:['’]m|\s+am) \s+ (?:\w+\s+)? (?: sorry | unable | not\s+able | afraid\s+I )\b",
    r"\bI\s+apologi[sz]e\b",
    r"\bI\s+ (?: cannot | can['’]?t | can\s+not | am\s+not | do\s+not | don['’]t | won['’]t | couldn['’]t ) \s+ (?:\w+\s+)?"
    r" (?: see | view | have | identify | describe | provide | assist | help | fulfil | answer | process | access | analy[sz]e"
    r" | comply | translate | determine | generate | offer | know )\b",
    r"\bas\s+an?\s+ (?: AI | artificial\s+intelligence | language\s+model )\b",
    r"\b(?:AI|large)\s+language\s+model\b",
    r"\bplease\s+ (?:upload|provide|share|attach|send)\b",
    r"\bno\s+ (?:image|picture|photo|text|caption) \s+ (?:was|is|has\s+been|were) \s+ (?:provided|attached|uploaded|given|visible)",
    r"^(?: 申し訳 | すみません | ごめんなさい | 恐れ入りますが )",
    r"申し訳(?:あり|ござ|ない) [^。]* (?: できま | できな | かね )",
    r"(?: お[答応こ]た?え | お手伝い | 提供 | 説明 | 翻訳 | 特定 | 識別 | 確認 | 回答 ) [^。、]{0,12}"
    r" (?: できません | できかね | いたしかね | しかねます )",
    r"(?: 私は | AI | 人工知能 ) [^。]{0,20} (?: AI | 言語モデル | アシスタント ) [^。]{0,12} (?: です | として | なので | ため )",
    r"^AI(?:アシスタント)?として",
    r"画像[がをは] [^。]{0,20}"
    r" (?: 見ることが?でき(?:ない|ません) | (?:添付|提供|表示)されていません | アップロードして | 見られません | 表示できません )",
)  # fmt: skip
LEAK = _any(
    r"(?: ^ | [.!?。！？]\s* | \n ) (?: USER|User|ASSISTANT|Assistant|Human|SYSTEM|System ) \s*[:：]",
    r"\bQuestion\s*: .{0,300} \bAnswer\s*:",
    r"\[/?INST\]",
    r"\#{2,}\s* (?:Instruction|Response|Input)",
    r"<(?:MORE_DETAILED_|DETAILED_)?CAPTION>",
    r"<\|?(?:im_start|user|assistant|system)\|?>",
    r"\b[Dd]escribe\s+ (?:this|the)\s+ (?:image|picture|photo) \s+in\b",
    r"\b[Dd]escribe\s+with\s+a\s+paragraph",
    r"\b[Ww]hat\s+does\s+ (?:this|the)\s+ image\s+ (?:show|describe)",
    r"\b[Tt]ranslate\s+the\s+following",
    r"\b[Aa]nswer\s+with\s+ (?:one|the|a)\b",
    r"\b(?:[Ww]rite|[Gg]enerate|[Pp]rovide)\s+an?\s+ (?:\w+\s+)? (?:caption|description)\s+ (?:of|for)\b",
    r"(?: この | 次の | 以下の ) (?: 英語の | 日本語の )? (?: 画像 | 写真 | 文章? | 英文 | 和文 ) を [^。]{0,30}"
    r" (?: 説明 | 翻訳 | 記述 | 描写 | 訳 ) (?: して | せよ | しなさい )",
    r"(?: 一文 | 一段落 | 日本語 | 英語 ) で [^。]{0,12} (?: 答え | 説明し | 翻?訳し ) て (?: ください | 下さい | 。 | $ )",
    flags=0,
)  # fmt: skip
_ITEM = r"(?: \* | - | • | ・ ) \s+\S .{1,300}? \s"
MARKUP = _any(
    r"</? (?: p|br|b|i|em|strong|div|span|img|a|ul|ol|li|h\d|html|body|table|tr|td|code|pre|box|ref|obj|quad|point|think )\b"
    r" [^<>]{0,200} >",
    r"<loc_\d+>",
    SPECIAL,
    r"```",
    r"\]\(\s*https?:",
    r"!\[ [^\]]* \]\(",
    r"\|\s*:?-{3,}",
    r"\\ (?: begin | text\w* | frac | boxed ) \{",
    r"& (?: nbsp|amp|lt|gt|quot ) ;",
    r"(?:^|\s) \#{1,6} \s+\S",
    r"\*\* [^*]{1,80} (?: [:：]\*\* | \*\*\s*[:：] )",
    rf"(?:^|\s) {_ITEM} {_ITEM} [*•・-]\s+\S",
    r"(?: ^ | [:：.。]\s* ) 1[.)．]\s*\S .{1,300}? [\s。.] 2[.)．]\s*\S .{1,300}? [\s。.] 3[.)．]\s*\S",
    r"^ [\[{] \s* [{\"']",
    flags=0,
)  # fmt: skip
STRUCTURE = _any(r"\*\* [^*]{1,60} (?: [:：]\*\* | \*\*\s*[:：] )", r"(?:^|\s) \#{1,6} \s\S", "```", flags=0)
# What a chat model writes around a translation.
ANSWER = _any(
    r"\b(?: note | explanation | alternatively | literally | romaji | pronunciation ) \s*:",
    r"[(（] \s* (?: note\b | 注 | 訳注 | 原文 )",
    r"(?: ^ | [（(。\s] ) (?: 訳?注 | 補足 | 備考 | 解説 | 説明 | 別の?訳 | 直訳 | 意訳 | 読み方 ) \s*[：:]",
    r"\b(?: the | this | here\s+is\s+the | my ) \s+translation\b",
    r"\btranslat(?:es|ed)\s+ (?:to|as|into)\b",
    r"\blet\s+me\s+know\b",
    r"\bhope\s+this\s+helps\b",
    r"\bin\s+ (?:japanese|english) \s*[,:]",
    r"翻訳 (?: は | すると | した | 文は | 結果 )",
    r"と訳(?:し|され|せ)",
    r"という意味 (?: です | になり )",
    r"お役に立て",
    r"ご (?: 不明 | 質問 | 要望 )",
    r"他に .{0,20} (?: ください | ありますか )",
    r"(?:日本|英)語 (?: では | で「 | に訳 )",
)  # fmt: skip
ROMAJI = re.compile(r"[(（][A-Za-zāīūēō' -]{4,80}[)）]$")
# Words of English sentences that stand in no name: what tells English from a sentence with English names in it.
ENGLISH = _any(
    r"\b(?: the|of|and|with|an|are|is|on|in|at|from|to|that|this|there|their|by|which|near|wearing|sitting|standing )\b"
)
# Of these, Japanese without kana has at most one (現在, 目的, 有名人).
CHINESE = ("的", "是", "在", "了", "著", "們", "隻", "很", "她", "它", "這", "那", "裡", "與", "沒", "一個", "一張")
