"""The page of `commonart serve`, built with Gradio: prompt, settings, progress, and a gallery with each image's settings."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from commonart.core.errors import CommonArtError
from commonart.core.generation.request import DEFAULT_CONFIG, GenerationConfig
from commonart.core.generation.worker import MAX_CHARACTERS, MAX_IMAGES, GenerationWorker

WAITING = 32  # requests in the queue; more are refused
ASPECTS = ("1:1", "4:3", "3:2", "16:9", "3:4", "2:3", "9:16")
REUSED = ("prompt", "negative", "steps", "guidance", "seed")  # settings that go back into the form
TEXTS = {
    "en": {
        "lead": "Each image carries the mark of synthetic media, its prompt and its settings.",
        "prompt": "Prompt", "negative": "Negative prompt", "steps": "Sampling steps", "guidance": "Guidance scale",
        "seed": "Seed (empty: a new one each time)", "size": "Size in pixels", "aspect": "Aspect ratio",
        "count": "Number of images", "generate": "Generate", "stop": "Stop", "images": "Images",
        "settings": "Settings of the selected image", "reuse": "Use these settings",
        "loading": "Loading the model", "step": "Image {done} of {count}: step {step} of {steps}",
    },
    "ja": {
        "lead": "画像には、合成メディアであることを示す印と、プロンプト、生成時の設定が埋め込まれます。",
        "prompt": "プロンプト", "negative": "ネガティブプロンプト", "steps": "ステップ数", "guidance": "ガイダンススケール",
        "seed": "シード（空欄なら毎回変わります）", "size": "サイズ（ピクセル）", "aspect": "アスペクト比",
        "count": "生成枚数", "generate": "生成", "stop": "停止", "images": "画像",
        "settings": "選択した画像の設定", "reuse": "この設定を使う",
        "loading": "モデルを読み込んでいます", "step": "{count} 枚中 {done} 枚目: ステップ {step} / {steps}",
    },
}  # fmt: skip


def page(worker: GenerationWorker) -> gr.Blocks:
    """Build the page. Labels follow the browser's language by `gr.I18n(**TEXTS)`, progress by the request's header."""
    text = gr.I18n(**TEXTS)
    generator = worker.session.generator

    def generate(
        prompt: str,
        negative: str,
        steps: float,
        guidance: float,
        seed: str,
        size: str,
        aspect: str | None,
        count: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how Gradio learns of it)
    ) -> Iterator[list[tuple[str, str]]]:
        language = TEXTS["ja" if request.headers.get("accept-language", "").startswith("ja") else "en"]

        def report(done: int, step: int) -> None:
            line = language["step"] if step else language["loading"]
            share = (done + step / steps) / count
            progress(min(share, 1.0), desc=line.format(done=done + 1, count=int(count), step=step, steps=int(steps)))

        try:
            config = GenerationConfig(
                steps=int(steps), guidance=guidance, negative=(negative or "").strip(), size=(size or "").strip() or None,
                aspect=(aspect or "").strip() or None,
            )  # fmt: skip
            first = int(seed) if (seed or "").strip() else secrets.randbelow(2**31)
            browser = str(request.session_hash)
            for _ in worker.generate((prompt or "").strip(), config, first, int(count), browser, report):
                yield worker.gallery()
        except CommonArtError as error:
            raise gr.Error(escape(f"{error.what} {error.fix}"), print_exception=False) from None
        except (TypeError, ValueError):
            message = "Steps, guidance, seed and number of images must be numbers."
            raise gr.Error(message, print_exception=False) from None
        yield worker.gallery()

    def stop(request: gr.Request) -> None:
        worker.stop(str(request.session_hash))

    def reuse(settings: dict[str, Any] | None) -> list[Any]:
        settings = settings or {}
        size = f"{settings['width']}x{settings['height']}" if {"width", "height"} <= settings.keys() else ""
        values = [settings.get(name, "") for name in REUSED]
        return [str(value) if name == "seed" else value for name, value in zip(REUSED, values, strict=True)] + [size]

    def named(name: str) -> dict[str, Any]:
        return {"label": text(name), "elem_id": name}

    with gr.Blocks(title="commonart", analytics_enabled=False) as blocks:
        gr.Markdown(f"# commonart\n`{escape(worker.name)}` · `{generator.device}`")
        gr.Markdown(text("lead"))
        with gr.Row():
            with gr.Column():
                prompt = gr.Textbox(**named("prompt"), lines=3, max_length=MAX_CHARACTERS, autofocus=True)
                negative = gr.Textbox(**named("negative"), max_length=MAX_CHARACTERS)
                with gr.Row():
                    steps = gr.Number(DEFAULT_CONFIG.steps, **named("steps"), precision=0, minimum=1, maximum=999)
                    guidance = gr.Number(DEFAULT_CONFIG.guidance, **named("guidance"), minimum=0, maximum=100, step=0.1)
                    count = gr.Slider(1, MAX_IMAGES, value=1, step=1, **named("count"))
                with gr.Row():
                    seed = gr.Textbox(**named("seed"))
                    size = gr.Textbox(**named("size"), placeholder=f"{generator.size}x{generator.size}")
                    aspect = gr.Dropdown(["", *ASPECTS], value="", **named("aspect"), allow_custom_value=True)
                with gr.Row():
                    button = gr.Button(text("generate"), variant="primary", elem_id="generate")
                    end = gr.Button(text("stop"), variant="stop", elem_id="stop")
            with gr.Column():
                buttons = ["download", "fullscreen"]
                look: dict[str, Any] = {"columns": 3, "object_fit": "contain", "interactive": False, "buttons": buttons}
                gallery = gr.Gallery(label=text("images"), elem_id="gallery", **look)
                settings = gr.JSON(**named("settings"))
                again = gr.Button(text("reuse"), elem_id="reuse")
        form = [prompt, negative, steps, guidance, seed, size]
        hidden: dict[str, Any] = {"api_visibility": "private"}
        blocks.load(worker.gallery, outputs=gallery, show_progress="hidden", **hidden)
        blocks.unload(stop)  # a page that is closed stops what it asked for
        job = gr.on(
            [button.click, prompt.submit], generate, inputs=[*form, aspect, count], outputs=gallery,
            concurrency_limit=1, concurrency_id="model", trigger_mode="once", **hidden,
        )  # fmt: skip
        end.click(stop, queue=False, cancels=[job], **hidden)

        def select(event: gr.SelectData) -> dict[str, Any]:
            return worker.images.get(event.value["image"]["orig_name"], {})

        gallery.select(select, outputs=settings, queue=False, show_progress="hidden", **hidden)
        again.click(reuse, inputs=settings, outputs=form, queue=False, show_progress="hidden", **hidden)
    return blocks.queue(max_size=WAITING)
