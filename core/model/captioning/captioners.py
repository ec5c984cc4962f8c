"""Models that describe images, one adapter per family: images in, one caption each out.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/

The embedded nano captioner is a Florence-2 and uses the same adapter as the large one. Decoding is deterministic
(greedy, or the checkpoint's own number of beams).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from commonart.core.data.drops import Problem
from commonart.core.model.captioning.generate import RETRY, Generated, LoadedModel, TextGenerator

Images = Sequence[Image.Image]
Options = dict[str, Any]  # of generate(): max_new_tokens, and what a retry changes


def _florence2(loaded: LoadedModel, images: Images, prompt: str, options: Options) -> list[Generated]:
    # The prompt is a task token (<CAPTION>, <MORE_DETAILED_CAPTION>), which the processor turns into its sentence.
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    return loaded.generate(inputs, **options)


def _blip2(loaded: LoadedModel, images: Images, prompt: str, options: Options) -> list[Generated]:
    loaded.processor.num_query_tokens = loaded.model.config.num_query_tokens  # absent from older processor files
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    decoder_only = not loaded.model.language_model.config.is_encoder_decoder
    return loaded.generate(inputs, skip=inputs["input_ids"].shape[1] if decoder_only else 0, **options)


def _chat(loaded: LoadedModel, images: Images, prompt: str, options: Options) -> list[Generated]:
    """Ask Qwen2-VL, Qwen2.5-VL or Qwen3-VL in a chat turn with one image and one question."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    question = loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return _continue(loaded, images, question, options)


def _llava(loaded: LoadedModel, images: Images, prompt: str, options: Options) -> list[Generated]:
    # Processor files older than transformers 4.46 do not say how many tokens an image takes; the model's config does.
    config, processor = loaded.model.config, loaded.processor
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    return _continue(loaded, images, prompt, options)


def _continue(loaded: LoadedModel, images: Images, prompt: str, options: Options) -> list[Generated]:
    # A decoder continues from the last token, so shorter prompts are padded on the left.
    inputs = loaded.processor(
        text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True, padding_side="left"
    )
    return loaded.generate(inputs, skip=inputs["input_ids"].shape[1], num_beams=1, **options)


# Class of transformers -> its adapter.
ADAPTERS: dict[str, Callable[[LoadedModel, Images, str, Options], list[Generated]]] = {
    "Florence2ForConditionalGeneration": _florence2,
    "Blip2ForConditionalGeneration": _blip2,
    "Qwen2VLForConditionalGeneration": _chat,
    "Qwen2_5_VLForConditionalGeneration": _chat,
    "Qwen3VLForConditionalGeneration": _chat,
    "LlavaForConditionalGeneration": _llava,
}


class Captioner(TextGenerator):
    """A model that describes images."""

    ROLE = "caption"
    PROCESSOR = "AutoProcessor"
    MODEL_CLASSES = ADAPTERS
    MAX_NEW_TOKENS = 160  # a paragraph; Florence-2's longest captions have about 120

    def caption(self, images: Images, prompt: str, *, retry: bool = False) -> list[Generated | Problem]:
        """Describe RGB images: one caption each, in order.

        Args:
            prompt: one of the texts of `model.prompts`.
            retry: decode in another way than the first time.
        """
        adapter = ADAPTERS[self.model.cls]
        options: Options = {"max_new_tokens": self.max_new_tokens, **(RETRY if retry else {})}
        return self._generate(images, lambda part: adapter(self.loaded, part, prompt, options))
