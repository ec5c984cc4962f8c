"""The page of `commonart vote`, built with Gradio: two images of one prompt, four buttons, four keys.

It never says which model made an image: files have names without meaning and no marks, and the pixels are all that is sent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from commonart.core.errors import CommonArtError
from commonart.core.log import warn
from commonart.core.voting.study import Comparison, Side, Study, picture
from commonart.core.voting.votes import VoteFile

MAX_NAME = 60  # characters of a voter's name
TOO_FAST = 0.3  # seconds after a pair is shown in which nobody has seen it: a key pressed twice
TEXTS = {
    "en": {
        "lead": "Two images of the same prompt, again and again: choose the better one. You are not told which model made which.",
        "rules": "Judge both how well an image shows what the prompt says, and how good it looks. Now and then one of the two "
        "is broken on purpose, so that we know that you are looking. You may stop at any time, and go on under the same name.",
        "name": "Your name, or any name that you will remember", "start": "Start",
        "left": "← Left", "tie": "↑ Tie", "both_bad": "↓ Both bad", "right": "Right →",
        "keys": "Or press the arrow keys: ← left, → right, ↑ tie, ↓ both bad.",
        "done": "That was the last pair. Thank you!",
        "progress": "{done} of {all} done", "no_prompt": "Which image is better?",
        "need_name": "Type a name first.", "reload": "Reload this page to go on.",
    },
    "ja": {
        "lead": "同じプロンプトから生成した 2 枚の画像を見比べて、良いほうを選んでください。"
        "どちらがどのモデルの画像かは、投票中には分かりません。",
        "rules": "プロンプトの内容がどれだけ正しく表れているかと、画像そのものの出来映えの、両方で判断してください。"
        "注意して見ていただいているかを確かめるため、ときどき、わざと壊した画像が混ざります。"
        "いつでも中断でき、同じ名前を入力すれば続きから再開できます。",
        "name": "お名前（覚えやすい仮名でもかまいません）", "start": "はじめる",
        "left": "← 左", "tie": "↑ 同じくらい", "both_bad": "↓ どちらも悪い", "right": "右 →",
        "keys": "矢印キーでも選べます：← 左、→ 右、↑ 同じくらい、↓ どちらも悪い",
        "done": "これですべて終わりです。ご協力ありがとうございました。",
        "progress": "{all} 組中 {done} 組が終わりました", "no_prompt": "どちらの画像が良いですか。",
        "need_name": "先に名前を入力してください。", "reload": "続けるには、このページを再読み込みしてください。",
    },
}  # fmt: skip
CSS = """
#left, #right, #left *, #right * { border-color: transparent !important }
#left :has(img), #right :has(img), #left img, #right img { width: 100% !important; height: auto !important }
#left img, #right img { max-height: 62vh !important; object-fit: contain !important }
#prompt { text-align: center; overflow-wrap: anywhere } #prompt div { font-size: 1.25rem; line-height: 1.5 }
#progress, #keys { text-align: center; opacity: .75 }
#done { text-align: center; font-size: 1.25rem }
@media (pointer: coarse) { #keys { display: none } }
@media (max-width: 640px) { #choices button { padding-inline: .2rem; font-size: .85rem; min-height: 3.5rem } }
"""
# Keys press the buttons, once each and only when both images are there.
JS = """() => document.addEventListener('keydown', event => {
  const id = {ArrowLeft: 'left-button', ArrowRight: 'right-button', ArrowUp: 'tie-button', ArrowDown: 'both_bad-button'}[event.key];
  const button = id && document.getElementById(id);
  if (!button || !button.offsetParent || ['INPUT', 'TEXTAREA'].includes(event.target.tagName)) return;
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const images = [...document.querySelectorAll('#left img, #right img')];
  if (!event.repeat && images.length == 2 && images.every(image => image.complete && image.naturalWidth)) button.click();
})"""


def page(study: Study, file: VoteFile, cache: Path) -> gr.Blocks:
    """Build the page. Labels follow the browser's language by `gr.I18n`, the rest the request's header."""
    text = gr.I18n(**TEXTS)
    sequence = lru_cache(maxsize=256)(study.sequence)
    broken = set[str]()  # pointers of images that cannot be read

    def shown(side: Side) -> str | None:
        """The file of one side; None where its image cannot be read."""
        if side.pointer in broken:
            return None
        name = hashlib.sha256(f"{study.id}\n{side.model}\n{side.pointer}".encode()).hexdigest()[:20]
        path = cache / f"{name}.png"
        if not path.exists():
            try:
                pixels = picture(side)
            except CommonArtError as error:
                broken.add(side.pointer)
                warn(f"{error.what} Nobody is asked about it.")
                return None
            part = cache / f"{name}-{time.monotonic_ns()}.part"
            pixels.save(part, "PNG", compress_level=1)
            part.replace(path)
        return str(path)

    def following(voter: str) -> tuple[Comparison | None, str, str, int, int]:
        """The next comparison of a voter with the files of both sides, and how many are done, of how many."""
        answered, todo = file.answered(voter), sequence(voter)
        usable = [each for each in todo if not {each.left.pointer, each.right.pointer} & broken]
        for each in usable:
            if each.id not in answered and (left := shown(each.left)) and (right := shown(each.right)):
                return each, left, right, sum(one.id in answered for one in usable), len(usable)
        return None, "", "", len(usable), len(usable)

    def show(voter: str, request: gr.Request) -> list[Any]:
        words = _words(request)
        each, left, right, done, count = following(voter)
        progress = f"<div>{escape(words['progress'].format(done=f'{done:,}', all=f'{count:,}'))}</div>"
        state = {"voter": voter, "id": each.id if each else "", "shown": time.monotonic()}
        prompt = f"<div>{escape(each.prompt or words['no_prompt'])}</div>" if each else ""
        panels = [gr.Column(visible=False), gr.Column(visible=each is not None), gr.Column(visible=each is None)]
        return [state, progress, prompt, left or None, right or None, *panels]

    def start(name: str, request: gr.Request) -> list[Any]:
        voter = "".join(c for c in " ".join((name or "").split()) if c.isprintable())[:MAX_NAME]
        if not voter:
            raise gr.Error(_words(request)["need_name"], print_exception=False)
        return _told(lambda: show(voter, request))

    def choose(choice: str, state: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        if not state:  # of a page that outlived its server
            raise gr.Error(_words(request)["reload"], print_exception=False)
        seconds = time.monotonic() - state["shown"]
        each = next((one for one in sequence(state["voter"]) if one.id == state["id"]), None)
        if each is not None and seconds >= TOO_FAST:
            vote = {
                "study": study.id, "voter": state["voter"], "comparison": each.id, "prompt": each.prompt,
                "left": each.left.model, "right": each.right.model, "vote": choice, "check": each.check,
                "left_image": each.left.pointer, "right_image": each.right.pointer, "seconds": round(seconds, 1),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }  # fmt: skip
            _told(lambda: file.add(vote))
        return _told(lambda: show(state["voter"], request))

    def chooser(choice: str) -> Callable[[dict[str, Any] | None, gr.Request], list[Any]]:
        def chosen(state: dict[str, Any] | None, request: gr.Request) -> list[Any]:
            return choose(choice, state, request)

        return chosen

    with gr.Blocks(title="commonart", analytics_enabled=False) as blocks:
        state = gr.State()
        with gr.Column(visible=True, elem_id="welcome") as welcome:
            gr.Markdown("# commonart")
            gr.Markdown(text("lead"))
            gr.Markdown(text("rules"))
            name = gr.Textbox(label=text("name"), elem_id="name", max_length=MAX_NAME, autofocus=True)
            begin = gr.Button(text("start"), variant="primary", elem_id="start")
        with gr.Column(visible=False, elem_id="vote") as voting:
            progress = gr.HTML(elem_id="progress")
            prompt = gr.HTML(elem_id="prompt")
            with gr.Row():
                look: dict[str, Any] = {"show_label": False, "interactive": False, "min_width": 120, "container": False}
                left = gr.Image(elem_id="left", alt_text="←", buttons=["fullscreen"], **look)
                right = gr.Image(elem_id="right", alt_text="→", buttons=["fullscreen"], **look)
            with gr.Row(elem_id="choices"):
                choices = {
                    choice: gr.Button(text(choice), elem_id=f"{choice}-button", min_width=60)
                    for choice in ("left", "tie", "both_bad", "right")
                }
            gr.Markdown(text("keys"), elem_id="keys")
        with gr.Column(visible=False) as finished:
            gr.Markdown(text("done"), elem_id="done")
        outputs = [state, progress, prompt, left, right, welcome, voting, finished]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "once"}
        gr.on([begin.click, name.submit], start, inputs=name, outputs=outputs, **hidden)
        for choice, button in choices.items():
            button.click(chooser(choice), inputs=state, outputs=outputs, **hidden)
    return blocks.queue(default_concurrency_limit=8)


def _words(request: gr.Request) -> dict[str, str]:
    return TEXTS["ja" if request.headers.get("accept-language", "").startswith("ja") else "en"]


def _told(call: Callable[[], Any]) -> Any:
    """Call; an error that the voter's host can mend becomes a sentence on the page."""
    try:
        return call()
    except CommonArtError as error:
        raise gr.Error(escape(f"{error.what} {error.fix}"), print_exception=False) from None
