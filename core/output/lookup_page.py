"""The page of `commonart lookup --serve`, built with Gradio: an address, a name, a hash or an image, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from commonart.core.errors import CommonArtError
from commonart.core.output.lookup_text import COVERS, LINKS, fields

MAX_UPLOAD = 64 << 20  # bytes of an image
MAX_CHARACTERS = 2000  # of an address or a name
KINDS = ("url", "author", "sha256", "key")
WAITING = 32  # requests in the queue; more are refused
STYLE = """
.found { border-top: 1px solid #8884; padding: .6rem 0 }
.found dl { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .1rem 1rem; margin: .3rem 0 }
.found dt { color: #777 } .found dd { margin: 0; overflow-wrap: anywhere }
"""
TEXTS = {
    "en": {
        "title": "Was this image in the training set?",
        "lead": "Give one of these: the address of an image, of its page or of its author; an author's name; a SHA-256; the "
        "key of a record; or an image, of which resized copies are found, too.",
        "url": "Address (URL)", "author": "Author", "sha256": "SHA-256 of the file", "key": "Key", "upload": "Image file",
        "search": "Look up", "result": "Result",
    },
    "ja": {
        "title": "この画像は学習に使われましたか",
        "lead": "次のうち一つを入力してください：画像・作品ページ・作者のアドレス、作者名、SHA-256、記録のキー、または画像ファイル"
        "（縮小などされた複製も見つかります）。",
        "url": "アドレス（URL）", "author": "作者名", "sha256": "ファイルの SHA-256", "key": "キー", "upload": "画像ファイル",
        "search": "照会する", "result": "結果",
    },
}  # fmt: skip
ANSWERS = {
    "en": {
        "none": "Not found among {count:,} records.", "some": "Found: {found:,} of {count:,} records.",
        "shown": "The first {shown} are shown.", "removed": "Removed on {at}: {keys}.",
        "runs": "It was in the training data of {runs}; what a model has learned stays in it.",
        "conflict": "These records state different licences for one image.", "covers": COVERS,
        "one": "Fill in one of the fields.", "wrong": "That cannot be looked for: {what}",
        "match": "Match", "title": "Title", "author": "Author", "licence": "Licence", "page": "Page", "image": "Image",
        "sha256": "SHA-256", "split": "Split", "opt-out": "Opt-out", "caption": "Caption", "features": "Features", "run": "Run",
    },
    "ja": {
        "none": "{count:,} 件の記録の中には見つかりませんでした。", "some": "{count:,} 件中 {found:,} 件が一致しました。",
        "shown": "最初の {shown} 件を表示しています。", "removed": "{at} に削除済み：{keys}。",
        "runs": "{runs} の学習データに含まれていました。学習済みのモデルから取り除くことはできません。",
        "conflict": "同じ画像について、記録ごとに異なるライセンスが記されています。",
        "covers": "ファイルの内容と画像の見た目で検索しました。縮小や再保存をした複製はたいてい見つかりますが（平坦な図では"
        "見つからないこともあります）、切り抜き、左右反転、回転、白黒化、加筆をした複製は見つかりません。",
        "one": "いずれか一つの欄に入力してください。", "wrong": "照会できません：{what}",
        "match": "一致", "title": "題名", "author": "作者", "licence": "ライセンス", "page": "作品ページ", "image": "画像",
        "sha256": "SHA-256", "split": "分割", "opt-out": "オプトアウト", "caption": "キャプション", "features": "特徴量",
        "run": "学習",
    },
}  # fmt: skip

# What is said in other words on the Japanese page: (the lines of the command, Japanese).
PHRASES = (
    ("exact", "完全一致"), ("near: ", "類似："), (" of 64 bits differ", " ビット相違（64 ビット中）"),
    ("in its training data", "学習データに含まれています"), ("no: held out", "含まれていません（評価用）"),
    ("no: it has no captions", "含まれていません（キャプションなし）"),
    ("not yet: no checkpoint was written", "まだ学習されていません"),
    ("not known: its shards changed since it was trained", "不明（学習後にシャードが変わっています）"),
)  # fmt: skip

Found = tuple[list[dict[str, Any]], int, int, bool]  # what is shown, how many were found, of how many, licences differ


def page(answer: Callable[[Mapping[str, str]], Found]) -> gr.Blocks:
    """Build the page; `answer` looks up {kind: value}, "image" the path of an upload, and raises CommonArtError."""
    text = gr.I18n(**TEXTS)

    def look_up(url: str, author: str, sha256: str, key: str, image: str | None, request: gr.Request) -> str:
        words = ANSWERS["ja" if request.headers.get("accept-language", "").startswith("ja") else "en"]
        given = {"url": url, "author": author, "sha256": sha256, "key": key, "image": image or ""}
        asked = {kind: value.strip() for kind, value in given.items() if value and value.strip()}
        if len(asked) != 1:
            raise gr.Error(words["one"], print_exception=False)
        try:
            covers = f"<p>{escape(words['covers'])}</p>" if "image" in asked else ""
            return results(*answer(asked), words) + covers
        except CommonArtError as error:
            what = error.what.replace(asked.get("image", "--image"), "").replace("--", "")
            raise gr.Error(escape(words["wrong"].format(what=what)), print_exception=False) from None

    with gr.Blocks(title="commonart", analytics_enabled=False) as blocks:
        gr.Markdown("# commonart")
        gr.Markdown(text("title"))
        gr.Markdown(text("lead"))
        with gr.Row():
            with gr.Column():
                boxes = [gr.Textbox(label=text(kind), elem_id=kind, max_length=MAX_CHARACTERS) for kind in KINDS]
            with gr.Column():
                # Not "image", under which Gradio keeps texts of its own.
                image = gr.File(label=text("upload"), elem_id="image", file_count="single", type="filepath")
        button = gr.Button(text("search"), variant="primary", elem_id="search")
        found = gr.HTML(label=text("result"), elem_id="result")
        gr.on(
            [button.click, *(box.submit for box in boxes)], look_up, inputs=[*boxes, image], outputs=found,
            concurrency_limit=1, trigger_mode="once", api_visibility="private",
        )  # fmt: skip
    return blocks.queue(max_size=WAITING)


def results(
    shown: Sequence[Mapping[str, Any]], found: int, count: int, conflict: bool, words: Mapping[str, str]
) -> str:
    """Return what was found as HTML. Every string of a record is escaped, and set apart from the direction of its neighbours."""
    parts = [f"<p>{escape(words['some' if found else 'none'].format(found=found, count=count))}</p>"]
    records = [each for each in shown if each["match"] != "removed"]
    if found > len(records):
        parts.append(f"<p>{escape(words['shown'].format(shown=len(records)))}</p>")
    if conflict:
        parts.append(f"<p>{escape(words['conflict'])}</p>")
    for each in shown:
        if each["match"] == "removed":
            lines = [words["removed"].format(at=each["at"], keys=", ".join(each["keys"]))]
            lines += [words["runs"].format(runs=", ".join(each["runs"]))] if each["runs"] else []
            parts.append(f"<p>{escape(' '.join(lines))}</p>")
        else:
            parts.append(_record(each, words))
    return "".join(parts)


def _record(found: Mapping[str, Any], words: Mapping[str, str]) -> str:
    links = {found[name] for name in LINKS if str(found.get(name, "")).lower().startswith(("http://", "https://"))}

    def cell(label: str, value: str) -> str:
        for english, japanese in PHRASES if words is ANSWERS["ja"] and label in ("match", "run") else ():
            value = value.replace(english, japanese)
        shown = f"<bdi>{escape(value)}</bdi>"
        return f'<a href="{escape(value)}" rel="noreferrer nofollow">{shown}</a>' if value in links else shown

    rows: Iterable[str] = (
        f"<dt>{escape(words[label])}</dt><dd>{cell(label, value)}</dd>" for label, value in fields(found)
    )
    return f'<div class="found"><strong><bdi>{escape(found["where"])}</bdi></strong><dl>{"".join(rows)}</dl></div>'
