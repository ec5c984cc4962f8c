"""Models that describe images, one adapter per family: images in, one caption each out.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/

The embedded nano captioner is a Florence-2 and uses the same adapter as the large one. Decoding is deterministic
(greedy, or the checkpoint's own number of beams).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from commonart.core.model.captioning.generate import LoadedModel, TextGenerator

Images = Sequence[Image.Image]


def _florence2(loaded: LoadedModel, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # The prompt is a task token (<CAPTION>, <MORE_DETAILED_CAPTION>), which the processor turns into its sentence.
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    ids = loaded.generate(inputs, max_new_tokens=max_new_tokens)
    return loaded.decode(ids)


def _blip2(loaded: LoadedModel, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    loaded.processor.num_query_tokens = loaded.model.config.num_query_tokens  # absent from older processor files
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    ids = loaded.generate(inputs, max_new_tokens=max_new_tokens)
    if not loaded.model.language_model.config.is_encoder_decoder:
        ids = ids[:, inputs["input_ids"].shape[1] :]
    return loaded.decode(ids)


def _chat(loaded: LoadedModel, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    """Ask Qwen2-VL, Qwen2.5-VL or Qwen3-VL in a chat turn with one image and one question."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    question = loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return _continue(loaded, images, question, max_new_tokens)


def _llava(loaded: LoadedModel, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # Processor files older than transformers 4.46 do not say how many tokens an image takes; the model's config does.
    config, processor = loaded.model.config, loaded.processor
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    return _continue(loaded, images, prompt, max_new_tokens)


def _continue(loaded: LoadedModel, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # A decoder continues from the last token, so shorter prompts are padded on the left.
    inputs = loaded.processor(
        text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True, padding_side="left"
    )
    ids = loaded.generate(inputs, num_beams=1, max_new_tokens=max_new_tokens)
    return loaded.decode(ids[:, inputs["input_ids"].shape[1] :])


# Class of transformers -> its adapter.
ADAPTERS: dict[str, Callable[[LoadedModel, Images, str, int], list[str]]] = {
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

    @property
    def lang(self) -> str:
        """The language of its captions."""
        return next(iter(self.model.langs), "en")

    def caption(self, images: Images) -> list[str]:
        """Describe RGB images: one caption each, in order; "" where the model wrote nothing."""
        adapter = ADAPTERS[self.model.cls]

        def batch(part: Images) -> list[str]:
            return adapter(self.loaded, part, self.model.prompt, self.max_new_tokens)

        return self._generate(images, batch)
