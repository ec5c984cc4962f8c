"""Models that describe pictures, one adapter per family, behind one call: images in, one caption each out.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/

The embedded nano captioner is a Florence-2 and goes through the same adapter as the large one. Decoding is
deterministic (greedy, or the checkpoint's own number of beams).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from commonart.core.model.captioning import generate
from commonart.core.model.captioning.generate import Loaded, Writer
from commonart.core.registry.hub import ResolvedModel

MAX_NEW_TOKENS = 160  # a paragraph; Florence-2's longest captions have about 120

Images = Sequence[Image.Image]


class Captioner(Writer):
    """One model. `caption` is all that a stage needs beside what records keep about it."""

    def __init__(self, resolved: ResolvedModel, *, max_new_tokens: int = MAX_NEW_TOKENS, **options: Any) -> None:
        super().__init__(resolved, FAMILIES, "AutoProcessor", max_new_tokens, **options)
        self.lang = next(iter(resolved.model.langs), "en")
        self._write = FAMILIES[resolved.model.cls]

    def caption(self, images: Images) -> list[str]:
        """One caption for each RGB image, in order; "" where the model wrote nothing."""
        if not images:
            return []

        def work(part: Images) -> list[str]:
            return self._write(self.loaded, part, self.model.prompt, self.max_new_tokens)

        return [generate.tidy(text) for text in generate.halving(self.loaded, images, work)]


def open_captioner(
    name: str,
    *,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    **options: Any,
) -> Captioner:
    """The captioner that `--model NAME` means. Raises UsageError (unknown, refused) and CommonArtError."""
    resolved, accepted = generate.found(name, "caption", accept_terms, allow_pickle)
    return Captioner(resolved, accepted=accepted, **options)


def _florence2(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # The prompt is a task token (<CAPTION>, <MORE_DETAILED_CAPTION>), which the processor turns into its sentence.
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    written = loaded.model.generate(**loaded.to_device(inputs), do_sample=False, max_new_tokens=max_new_tokens)
    return _decoded(loaded, written)


def _blip2(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    loaded.processor.num_query_tokens = loaded.model.config.num_query_tokens  # absent from older processor files
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    written = loaded.model.generate(**loaded.to_device(inputs), do_sample=False, max_new_tokens=max_new_tokens)
    if not loaded.model.language_model.config.is_encoder_decoder:
        written = written[:, inputs["input_ids"].shape[1] :]
    return _decoded(loaded, written)


def _chat(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a chat turn with one image and one question."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    asked = loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return _continued(loaded, images, asked, max_new_tokens)


def _llava(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # Processor files from before transformers 4.46 do not say how many tokens an image takes; the model's config does.
    config, processor = loaded.model.config, loaded.processor
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    return _continued(loaded, images, prompt, max_new_tokens)


def _continued(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # A decoder goes on from the last token, so shorter prompts are padded on the left.
    inputs = loaded.processor(
        text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True, padding_side="left"
    )
    written = loaded.model.generate(
        **loaded.to_device(inputs), do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
    )
    return _decoded(loaded, written[:, inputs["input_ids"].shape[1] :])


def _decoded(loaded: Loaded, written: Any) -> list[str]:
    texts: list[str] = loaded.processor.batch_decode(
        written, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


# Class of transformers -> how it is asked.
FAMILIES: dict[str, Callable[[Loaded, Images, str, int], list[str]]] = {
    "Florence2ForConditionalGeneration": _florence2,
    "Blip2ForConditionalGeneration": _blip2,
    "Qwen2VLForConditionalGeneration": _chat,
    "Qwen2_5_VLForConditionalGeneration": _chat,
    "Qwen3VLForConditionalGeneration": _chat,
    "LlavaForConditionalGeneration": _llava,
}
